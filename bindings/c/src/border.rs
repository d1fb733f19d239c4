//! What C hands over, and where it wants its results.
//!
//! `agentmem.h` says of each pointer what it must point to, or that it may be NULL. NULL is checked here; the rest is
//! the caller's promise, and each block below that is unsafe relies on it.

use crate::errors::invalid;
use crate::sys;
use agentmem_core::smu::check_importance;
use agentmem_core::{Advice, AgentState, Backend, ContentId, Kind, Result};
use agentmem_store::OnFull;
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::mem::{MaybeUninit, size_of};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A handle that must be there.
#[inline]
pub fn needed<'a, T>(given: Option<&'a T>, name: &str) -> Result<&'a T> {
    given.ok_or_else(|| is_null(name))
}

#[cold]
fn is_null(name: &str) -> agentmem_core::Error {
    invalid(format!("{name} is NULL"))
}

/// A text that ends with NUL, or NULL.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// None.
    pub const NULL: Text = Text(std::ptr::null());

    fn c_str(&self) -> Option<&CStr> {
        // SAFETY: the caller promises a text that ends with NUL and stays as it is during the call.
        (!self.0.is_null()).then(|| unsafe { CStr::from_ptr(self.0) })
    }

    /// The text, if there is one.
    pub fn optional(&self, name: &str) -> Result<Option<&str>> {
        let text = self.c_str().map(CStr::to_str).transpose();
        text.map_err(|_| invalid(format!("{name} is not UTF-8")))
    }

    /// The text.
    pub fn needed(&self, name: &str) -> Result<&str> {
        self.optional(name)?.ok_or_else(|| is_null(name))
    }

    /// A path, if there is one: any bytes.
    pub fn path(&self) -> Option<&Path> {
        self.c_str().map(|text| Path::new(OsStr::from_bytes(text.to_bytes())))
    }
}

/// Bytes, whose length is another argument.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Bytes(*const c_void);

impl Bytes {
    /// Those that begin at `start`.
    pub fn at(start: *mut c_void) -> Self {
        Bytes(start)
    }

    /// `len` bytes; NULL where there are none will do.
    #[inline]
    pub fn slice(&self, len: usize, name: &str) -> Result<&[u8]> {
        if len == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(is_null(name));
        }
        if isize::try_from(len).is_err() {
            return Err(invalid(format!("{name} with {len} bytes")));
        }
        // SAFETY: the caller promises that many readable bytes there, which nobody writes during the call.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), len) })
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

/// Where a result goes. All zeros is what C finds there after an error.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Fails for NULL, and zeroes what is there.
    #[inline]
    pub fn clear(&self, name: &str) -> Result<()> {
        if self.0.is_null() {
            return Err(is_null(name));
        }
        // SAFETY: the caller promises room for a T; only C reads what is written here.
        unsafe { self.0.write_bytes(0, 1) };
        Ok(())
    }

    /// Writes `value` to what was cleared.
    #[inline]
    pub fn write(&self, value: T) {
        debug_assert!(!self.0.is_null());
        // SAFETY: `clear` found it not to be NULL, and the caller promises room for a T.
        unsafe { self.0.write(value) };
    }

    /// What `make` gives goes there.
    #[inline]
    pub fn fill(&self, name: &str, make: impl FnOnce() -> Result<T>) -> Result<()> {
        self.clear(name)?;
        self.write(make()?);
        Ok(())
    }

    /// The same for a struct that may grow: as much of it as C knows of, and zeros for what only C knows of.
    pub fn fill_sized(&self, name: &str, size_bytes: usize, make: impl FnOnce() -> Result<T>) -> Result<()>
    where
        T: Copy,
    {
        if self.0.is_null() {
            return Err(is_null(name));
        }
        if size_bytes == 0 || size_bytes > STRUCT_BYTES_MAX {
            return Err(invalid(format!("{name} with {size_bytes} bytes: give its sizeof")));
        }
        let start = self.0.cast::<u8>();
        // SAFETY: the caller promises room for `size_bytes`.
        unsafe { start.write_bytes(0, size_bytes) };
        let value = make()?;
        // SAFETY: as above, and no more than there is of `value`.
        unsafe { start.copy_from_nonoverlapping((&raw const value).cast(), size_bytes.min(size_of::<T>())) };
        Ok(())
    }
}

impl<T> Out<*mut T> {
    /// A new handle goes there: the caller's, until it is freed.
    #[inline]
    pub fn hand_over(&self, name: &str, make: impl FnOnce() -> Result<T>) -> Result<()> {
        self.fill(name, || Ok(Box::into_raw(Box::new(make()?))))
    }
}

impl Out<*mut c_char> {
    /// Text that the caller frees.
    pub fn hand_over_text(&self, name: &str, make: impl FnOnce() -> Result<String>) -> Result<()> {
        self.fill(name, || hand_over_bytes(make()?.as_bytes()))
    }
}

/// No struct of the header comes close.
const STRUCT_BYTES_MAX: usize = 1 << 12;

/// A struct whose first member is its size, as the caller knows it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Sized<T>(*const T);

impl<T: Copy> Sized<T> {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// A copy of it, laid over `basis` where C knows of less. T is made of numbers and texts.
    pub fn read(&self, name: &str, basis: T) -> Result<T> {
        let start = self.0.cast::<u8>();
        // SAFETY: the caller promises the struct, which begins with its size.
        let size_bytes = unsafe { start.cast::<usize>().read() };
        if size_bytes < size_of::<usize>() || size_bytes > STRUCT_BYTES_MAX {
            return Err(invalid(format!("{name}.size_bytes is {size_bytes}: set by agentmem_options_init")));
        }
        // SAFETY: the caller promises `size_bytes` of it.
        let given = unsafe { std::slice::from_raw_parts(start, size_bytes) };
        if given.iter().skip(size_of::<T>()).any(|&byte| byte != 0) {
            let what = format!("{name} sets what this version does not know of");
            return Err(agentmem_core::Error::new(agentmem_core::ErrorKind::Version, what));
        }
        let mut value = MaybeUninit::new(basis);
        // SAFETY: no more than there is of either; any bytes are valid numbers, and the caller promises texts.
        unsafe {
            value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(start, size_bytes.min(size_of::<T>()));
            Ok(value.assume_init())
        }
    }
}

/// Room for the 64 digits of an id and a NUL.
#[repr(transparent)]
pub struct Digits(*mut c_char);

impl Digits {
    /// Writes an id.
    pub fn write(&self, id: &ContentId) -> Result<()> {
        if self.0.is_null() {
            return Err(is_null("text"));
        }
        let text = format!("{id}\0");
        // SAFETY: the caller promises 65 bytes.
        unsafe { self.0.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        Ok(())
    }
}

/// Bytes of malloc's with a NUL behind them.
pub fn hand_over_bytes(bytes: &[u8]) -> Result<*mut c_char> {
    let start = sys::allocate(bytes.len() + 1)?;
    // SAFETY: that many bytes were just given to us.
    unsafe {
        start.copy_from_nonoverlapping(std::ptr::NonNull::from(bytes).cast(), bytes.len());
        start.add(bytes.len()).write(0);
    }
    Ok(start.as_ptr().cast())
}

/// Handles in an array of malloc's, each the caller's.
pub fn hand_over_array<T>(handles: Vec<T>) -> Result<*mut *mut T> {
    let start = sys::allocate(handles.len() * size_of::<*mut T>())?.cast::<*mut T>();
    for (index, handle) in handles.into_iter().enumerate() {
        // SAFETY: there is room for as many as there are.
        unsafe { start.add(index).write(Box::into_raw(Box::new(handle))) };
    }
    Ok(start.as_ptr())
}

/// Frees what [`hand_over_array`] gave.
pub fn free_array<T>(array: *mut *mut T, count: usize) {
    if array.is_null() {
        return;
    }
    for index in 0..count {
        // SAFETY: the caller promises an array of ours with `count` entries.
        let handle = unsafe { array.add(index).read() };
        if !handle.is_null() {
            // SAFETY: each entry is a handle of ours that nobody freed, or was set to NULL.
            drop(unsafe { Box::from_raw(handle) });
        }
    }
    // SAFETY: as above.
    unsafe { sys::free(array.cast()) };
}

/// Frees text and bytes that the library gave.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_free_text(text: *mut c_char) {
    // SAFETY: the caller promises NULL, or what a function gave to be freed with this one.
    unsafe { sys::free(text.cast()) };
}

fn small<T>(number: u32, what: &str, from: fn(u8) -> Option<T>) -> Result<T> {
    let found = u8::try_from(number).ok().and_then(from);
    found.ok_or_else(|| invalid(format!("{what} {number}")))
}

/// A kind by number.
pub fn kind(number: u32) -> Result<Kind> {
    small(number, "kind", Kind::from_u8)
}

/// A state by number.
pub fn state(number: u32) -> Result<AgentState> {
    small(number, "state", AgentState::from_u8)
}

/// Advice by number.
pub fn advice(number: u32) -> Result<Advice> {
    small(number, "advice", Advice::from_u8)
}

/// A backend by number.
pub fn backend(number: u32) -> Result<Backend> {
    small(number, "backend", Backend::from_u8)
}

/// What a put does when the arena is full, by number.
pub fn on_full(number: u32) -> Result<OnFull> {
    match number {
        0 => Ok(OnFull::Wait),
        1 => Ok(OnFull::Fail),
        _ => Err(invalid(format!("on_full {number}"))),
    }
}

/// An importance in 0 to 100.
pub fn importance(value: i32) -> Result<u8> {
    check_importance(value.into())
}

/// What `AGENTMEM_NONE` stands for.
pub fn unless_none(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}
