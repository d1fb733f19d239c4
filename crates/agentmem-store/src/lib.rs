//! The engine of agentmem: arenas, slots and pins, content, conversations, tiers, and the files
//! of the cold one.
//!
//! [`Store`] is where to start; ARCHITECTURE.md says how the rest fits together.

#[cfg(all(test, not(loom)))]
mod accounts;
mod agents;
mod arena;
mod budget;
mod call;
mod calls;
mod claims;
mod cold;
mod collect;
mod compress;
mod conversation;
mod counters;
mod dense;
mod dirty;
mod domains;
mod engine;
mod flush;
mod folder;
mod frames;
mod free;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod grants;
mod handle;
mod heap;
mod held;
#[cfg(all(test, not(loom)))]
mod hostile;
mod index;
mod ingest;
#[cfg(all(test, not(loom)))]
mod isolation;
mod journal;
mod keeping;
mod kept;
mod kernel;
mod latencies;
mod ledger;
mod lifetime;
#[cfg(all(test, not(loom)))]
mod limits;
mod link;
mod load;
pub mod options;
mod pack;
mod quota;
mod ranges;
mod raw;
mod read;
mod reclaim;
mod records;
mod recover;
mod remote;
mod ring;
mod seal;
mod segments;
mod server;
mod session;
mod sessions;
mod share;
mod slots;
mod smus;
mod socket;
mod splice;
pub mod stats;
mod store;
mod strangers;
mod sync;
mod sys;
mod token;
mod tree;
pub mod verify;

pub use calls::agents::AgentFigures;
pub use calls::domain::DomainNow;
pub use calls::grants::GrantFacts;
pub use calls::inspect::{ConversationDescription, Described, FrameDescription, SmuDescription};
pub use cold::{Cold, DiskPlace};
pub use conversation::Conversation;
pub use domains::{Domain, Domains, Limits, Terms, check_domain_name};
pub use grants::{GrantEvent, GrantLog};
pub use heap::{Extent, Heap};
pub use keeping::{Keep, Keeping};
pub use latencies::{BOUNDS_US, LatencyCounts};
pub use options::{OnFull, Options};
pub use quota::DomainQuota;
pub use read::StoredMessage;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub use ring::makes_sense;
pub use segments::Segments;
pub use server::{Http, Server};
pub use sessions::SessionProcess;
pub use store::{Agent, Smu, Store, View};
#[cfg(feature = "faults")]
pub use sys::faults;
pub use token::TokenHash;
