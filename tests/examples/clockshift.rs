//! A library to preload into a process whose wall clock shall be wrong: `clock_gettime(CLOCK_REALTIME)` is off by the
//! seconds in `KANPACHI_CLOCKSHIFT`. Monotonic clocks are right, as on a machine whose battery died.

#![expect(unsafe_code, reason = "replaces a C function")]

use std::sync::OnceLock;

fn shift() -> i64 {
    static SHIFT: OnceLock<i64> = OnceLock::new();
    *SHIFT.get_or_init(|| {
        std::env::var("KANPACHI_CLOCKSHIFT")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    })
}

/// Stands before the C library's function of this name when preloaded.
///
/// # Safety
/// `time` must be valid for writing a `timespec`, as for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    // SAFETY: the caller vouches for `time`; the system call takes the same arguments.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0 && (clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE) {
        // SAFETY: the call has succeeded, so it wrote to `time`.
        unsafe { (*time).tv_sec += shift() };
    }
    result as libc::c_int
}
