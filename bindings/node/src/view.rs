//! Views: content as buffers of JavaScript, without copying it.
//!
//! The buffer that shows something is external memory to V8, whose finalizer gives the pin back: it is called when nobody
//! has the buffer any more, nor a part of it or its memory. Releasing a view does not wait for that. It takes the memory
//! away from the buffer (which detaches it: its length is 0 from then on) before it gives the pin back, so that nobody
//! reads what the engine puts there next.

use crate::errors::{answer, raise};
use crate::promise::{Promise, promise};
use crate::smu::SmuHandle;
use agentmem_core::{Error, ErrorKind};
use agentmem_store::View;
use napi::bindgen_prelude::{JsValue, ToNapiValue, Unknown};
use napi::{Env, Result, check_status, sys};
use napi_derive::napi;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

/// Views of one thread that nobody has released and the garbage collector has not found yet.
const PINS_MAX: usize = 1 << 18;

thread_local! {
    /// What buffers of this thread show, by numbers that JavaScript gives and never gives again.
    static PINS: RefCell<HashMap<u64, View>> = RefCell::default();
    /// How often JavaScript was told where its numbers begin.
    static BEGUN: Cell<u32> = const { Cell::new(0) };
}

/// Where the numbers begin that an evaluation of the JavaScript gives: a thread may evaluate it again, as test runners do
/// for each file, while buffers of the one before live on. Each has 2^32 of them.
#[napi]
pub fn first_pin() -> f64 {
    let begun = BEGUN.get();
    BEGUN.set(begun + 1);
    (u64::from(begun) << 32) as f64
}

fn remove(pin: u64) {
    // A thread that is ending has given back all its pins.
    drop(PINS.try_with(|pins| pins.borrow_mut().remove(&pin)));
}

/// What becomes a buffer, under the number of its pin.
pub struct Shown {
    view: View,
    pin: u64,
}

impl ToNapiValue for Shown {
    unsafe fn to_napi_value(env: sys::napi_env, shown: Self) -> Result<sys::napi_value> {
        let Shown { view, pin } = shown;
        let (start, len) = (view.as_ptr().cast_mut().cast(), view.len());
        let hint = ptr::without_provenance_mut(pin as usize);
        let mut buffer = ptr::null_mut();
        let refused = PINS.with_borrow(|pins| match (pins.len(), pins.contains_key(&pin)) {
            (PINS_MAX, _) => Some((ErrorKind::LimitReached, format!("{PINS_MAX} views that nobody has released"))),
            // What another buffer shows would go.
            (_, true) => Some((ErrorKind::InvalidArgument, format!("pin {pin} again"))),
            _ => None,
        });
        if let Some((kind, what)) = refused {
            return Err(raise(&Env::from_raw(env), &Error::new(kind, what)));
        }
        // SAFETY: the bytes stay where they are until the pin goes: by `finalize`, or by `unpin` after the buffer has
        // lost them. That nobody writes to them is the contract of views.
        let status = unsafe { sys::napi_create_external_buffer(env, len, start, Some(finalize), hint, &mut buffer) };
        if status == sys::Status::napi_no_external_buffers_allowed {
            // SAFETY: the pin is held until the copy is made.
            check_status!(unsafe { sys::napi_create_buffer_copy(env, len, start, ptr::null_mut(), &mut buffer) })?;
        } else {
            check_status!(status)?;
            PINS.with_borrow_mut(|pins| pins.insert(pin, view));
        }
        Ok(buffer)
    }
}

/// # Safety
/// Node calls it with the hint that a buffer was made with, on the thread where that was.
unsafe extern "C" fn finalize(_env: sys::napi_env, _start: *mut c_void, hint: *mut c_void) {
    remove(hint.addr() as u64);
}

/// Shows what can be shown without asking the engine; nothing where that is not so.
#[napi]
pub fn view_now(env: Env, smu: SmuHandle, pin: f64) -> Result<Option<Shown>> {
    let view = answer(&env, || smu.view_now())?;
    Ok(view.map(|view| Shown { view, pin: pin as u64 }))
}

/// Shows content; what is not hot is promoted first.
#[napi]
pub fn view(smu: SmuHandle, pin: f64) -> Promise<View, Shown> {
    promise(move || smu.view(), move |view| Shown { view, pin: pin as u64 })
}

/// Whether a buffer has this pin; a copy has none.
#[napi]
pub fn is_pinned(pin: f64) -> bool {
    PINS.with_borrow(|pins| pins.contains_key(&(pin as u64)))
}

/// Takes its memory away from a buffer and gives its pin back.
#[napi]
pub fn unpin(env: Env, buffer: Unknown<'_>, pin: f64) -> Result<()> {
    let (mut len, mut start, mut memory) = (0, ptr::null_mut(), ptr::null_mut());
    let none: *mut c_void = ptr::null_mut();
    let Some(pinned) = PINS.with_borrow(|pins| pins.get(&(pin as u64)).map(|view| (view.as_ptr(), view.len()))) else {
        return Ok(());
    };
    // SAFETY: values of this call; napi says whether they are what they should be, and does not fill in what is null.
    unsafe {
        check_status!(sys::napi_get_typedarray_info(
            env.raw(),
            buffer.raw(),
            none.cast(),
            &mut len,
            &mut start,
            &mut memory,
            none.cast(),
        ))?;
        if (start.cast_const().cast(), len) != pinned && pinned.1 > 0 {
            // Its memory was moved to another buffer, which gives the pin back when it goes; or it is another one.
            return Ok(());
        }
        check_status!(sys::napi_detach_arraybuffer(env.raw(), memory))?;
    }
    remove(pin as u64);
    Ok(())
}
