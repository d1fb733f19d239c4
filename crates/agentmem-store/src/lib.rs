//! The engine of agentmem: arenas, slots and pins, content, conversations, tiers, and the files
//! of the cold one.
//!
//! [`Store`] is where to start. Everything below it is public for benchmarks, fuzzers and the
//! processes that will share it, and says in its own words what it relies on.

pub mod agents;
pub mod cold;
pub mod conversation;
pub mod counters;
pub mod dense;
pub mod engine;
pub mod flush;
pub mod frames;
pub mod handle;
pub mod heap;
pub mod index;
pub mod ingest;
pub mod ledger;
pub mod lifetime;
pub mod options;
pub mod pack;
pub mod ranges;
pub mod raw;
pub mod read;
pub mod reclaim;
pub mod ring;
pub mod seal;
pub mod segments;
pub mod slots;
pub mod smus;
pub mod splice;
pub mod stats;
pub mod store;
pub mod sync;
pub mod sys;
pub mod tree;
pub mod verify;

pub use conversation::Conversation;
pub use options::{OnFull, Options};
pub use read::StoredMessage;
pub use store::{Agent, Smu, Store, View};
