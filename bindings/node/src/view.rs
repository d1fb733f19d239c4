//! Views: content as buffers of JavaScript, without copying it.
//!
//! A pin has a number in the table of its thread. The buffer that shows what is pinned is external memory to V8, whose
//! finalizer gives the pin back: V8 calls it when nobody has the buffer any more, nor a part of it or its memory.
//! Releasing a view does not wait for that. It takes the memory away from the buffer (which detaches it: its length is
//! 0 from then on) before it gives the pin back, so that nobody reads what the engine puts there next.

use crate::errors::answer;
use crate::promise::{Promise, promise_unless};
use crate::smu::SmuHandle;
use agentmem_core::{Error, ErrorKind, Result};
use agentmem_store::View;
use napi::bindgen_prelude::{JsValue, Unknown};
use napi::{Env, check_status, sys};
use napi_derive::napi;
use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

/// Views that nobody released and the garbage collector has not found yet, in one thread.
const PINS_MAX: usize = 1 << 20;
/// Together with a place of 20 bits, what a number of JavaScript's holds exactly.
const GENERATIONS: u64 = 1 << 32;

/// The pins of a thread, each under a number that is never used again.
#[derive(Default)]
struct Pins {
    places: Vec<Place>,
    free: Vec<u32>,
}

struct Place {
    view: Option<View>,
    generation: u64,
}

impl Pins {
    fn add(&mut self, view: View) -> Result<u64> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() == PINS_MAX => {
                return Err(Error::new(ErrorKind::LimitReached, format!("{PINS_MAX} views that nobody released")));
            }
            None => {
                self.places.push(Place { view: None, generation: 0 });
                self.places.len() as u32 - 1
            }
        };
        let at = &mut self.places[place as usize];
        at.view = Some(view);
        Ok(at.generation * PINS_MAX as u64 + u64::from(place))
    }

    fn at(&mut self, pin: u64) -> Option<&mut Place> {
        let place = self.places.get_mut((pin % PINS_MAX as u64) as usize)?;
        (place.view.is_some() && place.generation == pin / PINS_MAX as u64).then_some(place)
    }

    /// Gives a pin back; does nothing where that was done.
    fn remove(&mut self, pin: u64) {
        if let Some(place) = self.at(pin) {
            place.view = None;
            place.generation = (place.generation + 1) % GENERATIONS;
            self.free.push((pin % PINS_MAX as u64) as u32);
        }
    }
}

thread_local! {
    static PINS: RefCell<Pins> = RefCell::default();
}

fn add(view: View) -> Result<f64> {
    PINS.with_borrow_mut(|pins| pins.add(view)).map(|pin| pin as f64)
}

/// Pins something that can be shown without asking the engine; nothing where that is not so.
#[napi]
pub fn pin_now(env: Env, smu: &SmuHandle) -> napi::Result<Option<f64>> {
    answer(&env, || smu.view_now()?.map(add).transpose())
}

/// Pins, and promotes first what is not hot.
#[napi]
pub fn pin(smu: &SmuHandle) -> Promise<View, f64> {
    let smu = Arc::clone(smu);
    promise_unless(move || smu.view(), add)
}

fn shown(pin: f64) -> napi::Result<(*const u8, usize)> {
    let found = PINS.with_borrow_mut(|pins| {
        let view = pins.at(pin as u64)?.view.as_ref()?;
        Some((view.as_ptr(), view.len()))
    });
    found.ok_or_else(|| napi::Error::from_reason("the pin was given back"))
}

/// A buffer of what is pinned, which gives the pin back when it goes; nothing where external memory is forbidden.
#[napi]
pub fn show(env: &Env, pin: f64) -> napi::Result<Option<Unknown<'_>>> {
    let (start, len) = shown(pin)?;
    let mut buffer = ptr::null_mut();
    let hint = ptr::without_provenance_mut(pin as usize);
    // SAFETY: the bytes stay where they are while they are pinned, and the pin goes by `finalize`, or by `unpin` after
    // the buffer has lost them. That nobody writes to them is the contract of views.
    let status = unsafe {
        sys::napi_create_external_buffer(env.raw(), len, start.cast_mut().cast(), Some(finalize), hint, &mut buffer)
    };
    if status == sys::Status::napi_no_external_buffers_allowed {
        return Ok(None);
    }
    check_status!(status)?;
    // SAFETY: a value that was just made.
    Ok(Some(unsafe { Unknown::from_raw_unchecked(env.raw(), buffer) }))
}

/// A copy of what is pinned, instead; the pin goes.
#[napi]
pub fn copy(env: &Env, pin: f64) -> napi::Result<Unknown<'_>> {
    let (start, len) = shown(pin)?;
    let mut buffer = ptr::null_mut();
    // SAFETY: the pin is still held.
    check_status!(unsafe { sys::napi_create_buffer_copy(env.raw(), len, start.cast(), ptr::null_mut(), &mut buffer) })?;
    PINS.with_borrow_mut(|pins| pins.remove(pin as u64));
    // SAFETY: a value that was just made.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), buffer) })
}

/// # Safety
/// Node calls it with the hint that the buffer was made with, on the thread where that was.
unsafe extern "C" fn finalize(_env: sys::napi_env, _data: *mut c_void, hint: *mut c_void) {
    // A thread that is ending has given back all its pins.
    let _ = PINS.try_with(|pins| pins.borrow_mut().remove(hint.addr() as u64));
}

/// Takes the memory away from a buffer and gives its pin back.
#[napi]
pub fn unpin(env: &Env, pin: f64, buffer: Unknown<'_>) -> napi::Result<()> {
    let (mut memory, mut is_detached) = (ptr::null_mut(), false);
    // SAFETY: values of this call; napi says whether they are what they should be.
    unsafe {
        check_status!(sys::napi_get_typedarray_info(
            env.raw(),
            buffer.raw(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            &mut memory,
            ptr::null_mut()
        ))?;
        check_status!(sys::napi_is_detached_arraybuffer(env.raw(), memory, &mut is_detached))?;
        if is_detached {
            // Somebody has moved the memory elsewhere: it keeps the pin until it goes there.
            return Ok(());
        }
        check_status!(sys::napi_detach_arraybuffer(env.raw(), memory))?;
    }
    PINS.with_borrow_mut(|pins| pins.remove(pin as u64));
    Ok(())
}
