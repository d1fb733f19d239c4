//! The pager of agentmem: unmodified process trees page out, freeze, and wake with everything
//! still there.
//!
//! One supervisor per tree. ARCHITECTURE.md says how the parts fit together and which order of
//! steps cannot lose memory.

pub mod frames;
pub mod freeze;
pub mod pager;
pub mod process;
pub mod refusals;
pub mod regions;
mod registers;
pub mod sys;
pub mod target;
pub mod userfault;
