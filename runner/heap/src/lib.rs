//! Keeps the heap of the program as small as what lies in it.
//!
//! The only crate of this workspace with `unsafe` code: one call into the C library.

/// Blocks from this size on are given back to the system when they are freed: 512 KiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 512 << 10;

/// What may lie free at the end of a heap before it is given back: 2 MiB. glibc's own 128 KiB has the same pages taken from
/// the system again and again: twice the page faults, a twentieth of the CPU time of a load, for 10 MB less at the peak.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SPARE: libc::c_int = 2 << 20;

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
