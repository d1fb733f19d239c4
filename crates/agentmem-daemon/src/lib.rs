//! The daemon of agentmem: one engine for all agents of a user, and the keeper that what they hold survives
//! it by.
//!
//! ```text
//! arguments, config   what was asked for            keeper   the parent: restarts, shelf, lock
//! start               foreground, background, stop   inbox    hears the engine
//! paths, lock         one daemon per socket          notify   the engine's side, for systemd as well
//! server              the engine process             sys      calls to Linux that rustix lacks
//! fleet trees         one budget with managed trees  metrics http   what Prometheus is told
//! budget oversight    no more than the machine has   headroom machine, oom scores   what is decided, what is done
//! grant_log           what crossed trust domains
//! ```

pub mod amounts;
pub mod arguments;
pub mod budget;
pub mod config;
pub mod fleet;
pub mod grant_log;
pub mod headroom;
pub mod http;
pub mod inbox;
pub mod keeper;
pub mod lock;
pub mod machine;
pub mod message;
pub mod metrics;
pub mod notify;
pub mod oom;
pub mod oversight;
pub mod paths;
pub mod restarts;
pub mod scores;
pub mod server;
pub mod shelf;
pub mod start;
pub mod sys;
pub mod trees;
