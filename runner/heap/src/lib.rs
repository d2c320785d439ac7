//! Keeps the heap of the program as small as what lies in it.
//!
//! The only crate of this workspace with `unsafe` code: one call into the C library.

/// Tells glibc to take large blocks from the system, and give them back, one by one, and to give back what lies free at the
/// end of a heap, in proportion to a budget of `memory` bytes.
///
/// Left to itself it raises the size from which it does so to the largest block that was freed, up to 32 MiB
/// (`mallopt(3)`, `M_MMAP_THRESHOLD`), and from then on column buffers of all sizes lie between each other in heaps that
/// never shrink: a quarter of the peak memory of a load. Given back at once (`M_TRIM_THRESHOLD`, 128 KiB), the same pages
/// are taken from the system again and again, and cleared each time: a tenth of the CPU time of a load.
///
/// A budget of 512 MiB keeps 16 MiB a heap, about what the row group of a data file leaves behind, and blocks below 2 MiB
/// in heaps: the buffers of a batch's columns come and go by the thousand. Smaller budgets keep less, larger ones no more.
/// It may be called again. Elsewhere than on glibc this does nothing.
pub fn fit(memory: u64) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let share = |part: u64, most: libc::c_int| libc::c_int::try_from(memory / part).map_or(most, |n| n.min(most));
        let (large, spare) = (share(256, 2 << 20).max(512 << 10), share(32, 16 << 20).max(2 << 20));
        // SAFETY: `mallopt` takes two integers and changes a setting of the allocator; glibc guards it by the main arena's
        // lock. A refusal (zero) leaves everything as it was, and there is nothing better to do about it.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, large);
            libc::mallopt(libc::M_TRIM_THRESHOLD, spare);
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = memory;
}
