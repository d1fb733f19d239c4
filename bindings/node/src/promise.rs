//! Calls that can wait: they run on a thread of libuv's pool, and JavaScript gets a promise.

use crate::errors::{caught, raise};
use agentmem_core::Result;
use napi::bindgen_prelude::{AsyncTask, ToNapiValue, TypeName};
use napi::{Env, Task, ValueType, sys};

type Work<T> = Box<dyn FnOnce() -> Result<T> + Send>;
type Give<T, V> = Box<dyn FnOnce(T) -> V + Send>;

/// A promise of `V`, made of the `T` that some work gives.
pub type Promise<T, V> = AsyncTask<Waiting<T, V>>;

/// Does `work` elsewhere, and makes of it, back on JavaScript's thread, what `give` says.
pub fn promise<T: Send + 'static, V: ToNapiValue + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
    give: impl FnOnce(T) -> V + Send + 'static,
) -> Promise<T, V> {
    AsyncTask::new(Waiting { work: Some(Box::new(work)), give: Some(Box::new(give)) })
}

/// What is done, and then.
pub struct Waiting<T, V> {
    work: Option<Work<T>>,
    give: Option<Give<T, V>>,
}

impl<T: Send + 'static, V: ToNapiValue + 'static> Task for Waiting<T, V> {
    type Output = Result<T>;
    type JsValue = Given<V>;

    fn compute(&mut self) -> napi::Result<Result<T>> {
        let work = self.work.take().expect("a task runs once");
        Ok(caught(work))
    }

    fn resolve(&mut self, env: Env, output: Result<T>) -> napi::Result<Given<V>> {
        let give = self.give.take().expect("a task ends once");
        output.map(|done| Given(give(done))).map_err(|error| raise(&env, &error))
    }
}

/// What a promise is kept with: napi wants a name of its type, which nobody reads.
pub struct Given<V>(V);

impl<V> TypeName for Given<V> {
    fn type_name() -> &'static str {
        "Given"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl<V: ToNapiValue> ToNapiValue for Given<V> {
    unsafe fn to_napi_value(env: sys::napi_env, given: Self) -> napi::Result<sys::napi_value> {
        // SAFETY: as the caller says.
        unsafe { V::to_napi_value(env, given.0) }
    }
}
