//! Handles: Rust values that JavaScript holds as external values, until the garbage collector finds that nobody does.

use napi::bindgen_prelude::{FromNapiValue, ToNapiValue};
use napi::{Error, Result, Status, check_status, sys};
use std::any::TypeId;
use std::ffi::c_void;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

/// A value of Rust's, of which JavaScript has one reference, and calls that are under way have others.
///
/// napi's own external values look each one up in a table behind a lock, for modules that are given values of other
/// modules. This one is given its own alone: only `lib/native.ts` loads it, and keeps what it gets to the package.
pub struct Handle<T: 'static>(Arc<Tagged<T>>);

#[repr(C)]
struct Tagged<T: 'static> {
    /// First, so that a handle of another kind is told by it.
    kind: TypeId,
    value: T,
}

impl<T: 'static> Handle<T> {
    /// A handle of `value`, to be given to JavaScript.
    pub fn new(value: T) -> Self {
        Handle(Arc::new(Tagged { kind: TypeId::of::<T>(), value }))
    }
}

impl<T: 'static> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: 'static> ToNapiValue for Handle<T> {
    unsafe fn to_napi_value(env: sys::napi_env, handle: Self) -> Result<sys::napi_value> {
        let data = Arc::into_raw(handle.0);
        let mut value = ptr::null_mut();
        // SAFETY: `env` is as the caller says; `finalize` takes back what is handed over here.
        let status = unsafe {
            sys::napi_create_external(env, data.cast_mut().cast(), Some(finalize::<T>), ptr::null_mut(), &mut value)
        };
        if status != sys::Status::napi_ok {
            // SAFETY: nobody has taken it.
            drop(unsafe { Arc::from_raw(data) });
        }
        check_status!(status)?;
        Ok(value)
    }
}

/// # Safety
/// Node calls it once, with the data of an external value that `to_napi_value` made.
unsafe extern "C" fn finalize<T: 'static>(_env: sys::napi_env, data: *mut c_void, _hint: *mut c_void) {
    // SAFETY: as above.
    drop(unsafe { Arc::from_raw(data.cast::<Tagged<T>>()) });
}

impl<T: 'static> FromNapiValue for Handle<T> {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> Result<Self> {
        let mut data = ptr::null_mut();
        // SAFETY: `env` and `value` are as the caller says; napi says whether it is an external value.
        check_status!(unsafe { sys::napi_get_value_external(env, value, &mut data) })?;
        // SAFETY: the values that this module is given are handles (see above), and a handle begins with its kind. The
        // reference that JavaScript has is there while the value is, and so for as long as this takes.
        unsafe {
            if data.cast::<TypeId>().read() != TypeId::of::<T>() {
                return Err(Error::new(Status::InvalidArg, "a handle of another kind"));
            }
            let data = data.cast::<Tagged<T>>();
            Arc::increment_strong_count(data);
            Ok(Handle(Arc::from_raw(data)))
        }
    }
}
