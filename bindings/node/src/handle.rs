//! Handles: Rust values that JavaScript holds as external values, until the garbage collector finds that nobody does.

use napi::bindgen_prelude::{FromNapiRef, ToNapiValue};
use napi::{Error, Result, Status, check_status, sys};
use std::any::TypeId;
use std::ffi::c_void;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

/// A value of Rust's, of which JavaScript has one reference and work that is under way may have others.
///
/// napi's own external values look each one up in a table behind a lock, for modules that are given values of other
/// modules. This one is given its own alone: only `lib/native.ts` loads it, and keeps what it gets to the package.
#[repr(C)]
pub struct Handle<T: 'static> {
    /// First, so that a handle of another kind is told by it.
    kind: TypeId,
    value: T,
}

impl<T: 'static> Handle<T> {
    /// A handle of `value`, to be given to JavaScript.
    pub fn new(value: T) -> Self {
        Handle { kind: TypeId::of::<T>(), value }
    }

    /// A reference that another thread can have.
    pub fn share(&self) -> Arc<Self> {
        // SAFETY: whoever has a handle by reference has it from `from_napi_ref`, so it lies in an `Arc`.
        unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        }
    }
}

impl<T: 'static> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: 'static> ToNapiValue for Handle<T> {
    unsafe fn to_napi_value(env: sys::napi_env, handle: Self) -> Result<sys::napi_value> {
        let data = Arc::into_raw(Arc::new(handle));
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
    drop(unsafe { Arc::from_raw(data.cast::<Handle<T>>()) });
}

impl<T: 'static> FromNapiRef for Handle<T> {
    unsafe fn from_napi_ref(env: sys::napi_env, value: sys::napi_value) -> Result<&'static Self> {
        let mut data = ptr::null_mut();
        // SAFETY: `env` and `value` are as the caller says; napi says whether it is an external value.
        check_status!(unsafe { sys::napi_get_value_external(env, value, &mut data) })?;
        // SAFETY: the values that this module is given are handles (see above), and a handle begins with its kind. It
        // lives for the call at least, since the value does.
        unsafe {
            match data.cast::<TypeId>().read() == TypeId::of::<T>() {
                true => Ok(&*data.cast::<Self>()),
                false => Err(Error::new(Status::InvalidArg, "a handle of another kind")),
            }
        }
    }
}
