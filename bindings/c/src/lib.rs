//! C face of agentmem: types, errors and ownership at the border, and nothing else.
//!
//! `include/agentmem.h` is the contract: what it asks of callers is what the functions here rely on. Pointers that
//! C hands over are given types in `border.rs`, where all that is unsafe about them is done.

mod agent;
mod border;
mod conversation;
mod errors;
mod list;
mod memory;
mod smu;
mod stats;
mod store;
mod sys;

use std::ffi::c_char;

/// Changes when a program that was compiled before could no longer use the library. Part of the soname.
pub const ABI_VERSION: u32 = 0;

/// C may use a handle on any thread, and on several at once.
const fn is_shared<T: Send + Sync>() {}
const _: () = is_shared::<store::Store>();
const _: () = is_shared::<agent::Agent>();
const _: () = is_shared::<smu::Smu>();
const _: () = is_shared::<smu::View>();
const _: () = is_shared::<conversation::Conversation>();
const _: () = is_shared::<list::List>();

/// The library's ABI.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_abi_version() -> u32 {
    ABI_VERSION
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
