//! Errors: the engine's kinds become the classes of `lib/errors.ts`.

use agentmem_core::{Error, ErrorKind, Result};
use napi::Env;
use napi::bindgen_prelude::{FnArgs, Function, FunctionRef, Unknown};
use napi_derive::napi;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Arguments = FnArgs<(u32, String)>;
type Maker = FunctionRef<Arguments, Unknown<'static>>;

/// From now on `maker` makes the errors of this environment, of a number and a text.
#[napi]
pub fn make_errors_with(env: Env, maker: Function<'static, Arguments, Unknown<'static>>) -> napi::Result<()> {
    env.set_instance_data::<Maker, _, _>(maker.create_ref()?, (), |_| {})
}

/// `error` as JavaScript throws it.
#[cold]
pub fn raise(env: &Env, error: &Error) -> napi::Error {
    let made = env.get_instance_data::<Maker>().and_then(|maker| {
        let maker = maker.ok_or_else(|| napi::Error::from_reason("nobody makes errors"))?;
        let arguments = (u32::from(error.kind().number()), error.to_string());
        maker.borrow_back(env)?.call(arguments.into())
    });
    made.map_or_else(|other| other, napi::Error::from)
}

/// Runs `call` for JavaScript.
#[inline]
pub fn answer<T>(env: &Env, call: impl FnOnce() -> Result<T>) -> napi::Result<T> {
    caught(call).map_err(|error| raise(env, &error))
}

/// Runs `call`; a panic in it is an error.
#[inline]
pub fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    // As the engine says it when it was the one that failed.
    let failed = |_| Err(Error::new(ErrorKind::Closed, "this call has failed (a bug)"));
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(failed)
}
