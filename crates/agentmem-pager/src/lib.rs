//! The pager of agentmem: unmodified process trees page out, freeze, and wake with everything
//! still there.
//!
//! One supervisor per tree. ARCHITECTURE.md says how the parts fit together and which order of
//! steps cannot lose memory.

pub mod calls;
pub mod fleet;
pub mod idle;
pub mod peek;
pub mod proc;
pub mod sample;
pub mod tree;
pub mod waits;
pub mod watch;
