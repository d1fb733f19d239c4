//! The daemon of agentmem: one engine for all agents of a user, and the keeper that what they hold survives
//! it by.
//!
//! ```text
//! arguments, config   what was asked for            keeper   the parent: restarts, shelf, lock
//! start               foreground, background, stop   inbox    hears the engine
//! paths, lock         one daemon per socket          notify   the engine's side, for systemd as well
//! server              the engine process             sys      calls to Linux that rustix lacks
//! fleet trees         one budget with managed trees  metrics http   what Prometheus is told
//! grant_log           what crossed trust domains
//! ```

pub mod amounts;
pub mod arguments;
pub mod config;
pub mod fleet;
pub mod grant_log;
pub mod http;
pub mod inbox;
pub mod keeper;
pub mod lock;
pub mod message;
pub mod metrics;
pub mod notify;
pub mod paths;
pub mod restarts;
pub mod server;
pub mod shelf;
pub mod start;
pub mod sys;
pub mod trees;
