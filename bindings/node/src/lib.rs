//! Node's face of agentmem: types, errors and ownership at the border, and nothing else.
//!
//! What users see is written in TypeScript (`lib/`) and made of the functions here. A handle is an external value, which
//! the garbage collector drops. What can wait runs on a thread of libuv's pool and is a promise; the rest is plain calls.

mod agent;
mod conversation;
mod errors;
mod figures;
mod handle;
mod inspect;
mod number;
mod promise;
mod smu;
mod store;
mod view;

use agentmem_core::Kind;
use napi_derive::napi;

/// The version of the package that this belongs to.
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The kinds by number, as `put` takes them.
#[napi]
pub fn kinds() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.as_str()).collect()
}
