//! The pager of agentmem: unmodified process trees page out, freeze, and wake with everything
//! still there.
//!
//! One supervisor per tree. ARCHITECTURE.md says how the parts fit together and which order of
//! steps cannot lose memory.

pub mod agent;
pub mod arguments;
pub mod calls;
pub mod cgroup;
pub mod control;
pub mod copies;
pub mod equip;
pub mod event;
pub mod fleet;
pub mod frames;
pub mod freeze;
pub mod gate;
pub mod idle;
pub mod launch;
pub mod managed;
pub mod memory;
pub mod observer;
pub mod os;
pub mod pager;
pub mod paging;
pub mod peek;
pub mod peers;
pub mod proc;
pub mod process;
pub mod refusals;
pub mod regions;
pub mod registers;
pub mod registry;
pub mod rings;
pub mod root;
pub mod sample;
pub mod session;
pub mod start;
pub mod status;
pub mod supervisor;
pub mod sys;
pub mod target;
pub mod terminal;
pub mod tracing;
pub mod tree;
pub mod userfault;
pub mod waits;
pub mod watch;

#[cfg(test)]
#[path = "../tests/group/mod.rs"]
mod group;
