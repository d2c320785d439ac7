//! Keeps the heap of the program as small as what lies in it.
//!
//! The only crate of this workspace with `unsafe` code: one call into the C library.

/// Blocks from this size on are given back to the system when they are freed: 2 MiB. The buffers of a batch's columns lie
/// below: they come and go by the thousand, and would each be fresh pages that the system has to clear.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 2 << 20;

/// What may lie free at the end of a heap before it is given back: 16 MiB, about what the row group of a data file leaves
/// behind. glibc's own 128 KiB has the same pages taken from the system again and again: two to four times the page
/// faults, a tenth of the CPU time of a load.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SPARE: libc::c_int = 16 << 20;

/// Tells glibc to take large blocks from the system, and give them back, one by one.
///
/// Left to itself it raises the size from which it does so to the largest block that was freed, up to 32 MiB
/// (`mallopt(3)`, `M_MMAP_THRESHOLD`), and from then on column buffers of all sizes lie between each other in heaps that
/// never shrink: a quarter of the peak memory of a load. Elsewhere this does nothing. To be called before other threads
/// are started.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `mallopt` takes two integers and changes a setting of the allocator; glibc guards it by the main arena's
        // lock. A refusal (zero) leaves everything as it was, and there is nothing better to do about it.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE);
        }
    }
}
