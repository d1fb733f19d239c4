//! What is asked of the C library.

use agentmem_core::{Error, ErrorKind, Result};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Memory of malloc's for `len` bytes.
pub fn allocate(len: usize) -> Result<NonNull<u8>> {
    // SAFETY: malloc takes any length.
    let start = unsafe { libc::malloc(len.max(1)) };
    NonNull::new(start.cast()).ok_or_else(|| Error::new(ErrorKind::OutOfMemory, format!("{len} bytes of malloc's")))
}

/// The same, aligned to a cache line and zeroed.
pub fn allocate_lines(len: usize) -> Result<NonNull<u8>> {
    let none = || Error::new(ErrorKind::OutOfMemory, format!("{len} bytes of malloc's"));
    let rounded = len.checked_next_multiple_of(64).filter(|&rounded| rounded <= isize::MAX as usize);
    let rounded = rounded.ok_or_else(none)?;
    // SAFETY: a length that is a multiple of an alignment that is a power of two.
    let start = NonNull::new(unsafe { libc::aligned_alloc(64, rounded) }).ok_or_else(none)?.cast::<u8>();
    // SAFETY: that many bytes were just given to us.
    unsafe { start.write_bytes(0, rounded) };
    Ok(start)
}

/// Gives memory back.
///
/// # Safety
/// It is null, or malloc's, and nobody uses it any more.
pub unsafe fn free(start: *mut c_void) {
    // SAFETY: as the caller says.
    unsafe { libc::free(start) };
}

/// Whose process this is.
pub fn user() -> u32 {
    // SAFETY: plain system call.
    unsafe { libc::geteuid() }
}
