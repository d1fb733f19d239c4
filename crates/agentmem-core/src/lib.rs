//! Decisions of agentmem: ids, kinds, layouts, framing and policy.
//!
//! Nothing here does I/O, reads a clock, starts a thread or uses `unsafe`; time and randomness
//! arrive as arguments. That makes every decision testable without a machine around it.
#![forbid(unsafe_code)]

pub mod codec;
pub mod content_id;
pub mod error;
#[rustfmt::skip]
mod error_table;
pub mod frame;
pub mod place;
pub mod policy;
pub mod runtime;
pub mod smu;
pub mod transcript;
pub mod varint;

pub use content_id::{ContentId, DomainKey};
pub use error::{Error, ErrorKind, Result};
pub use error_table::Retry;
pub use smu::{Advice, AgentState, Backend, Kind, Tier};
