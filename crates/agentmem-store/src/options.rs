//! How a store is opened.

use crate::keeping::Keeping;
use crate::quota::DomainQuota;
use agentmem_core::policy::{self, Policy};
use agentmem_core::{Backend, Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// What a put does when the arena is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Waits until the engine has made room.
    Wait,
    /// Fails with `ArenaFull`.
    Fail,
}

/// How a store is opened.
pub struct Options {
    /// Folder of the cold tier; `None` for a temporary one that is removed at close.
    pub path: Option<PathBuf>,
    /// Budget for everything that the engine keeps in RAM.
    pub memory_max_bytes: u64,
    /// Whether there is a cold tier.
    pub cold: bool,
    /// Unused for so long, hot content is compressed.
    pub warm_after_ms: u64,
    /// Unused for so long, warm content goes to SSD.
    pub cold_after_ms: u64,
    /// What a put does when the arena is full.
    pub on_full: OnFull,
    /// Size of the ring that puts are written to, a power of two; lowered to an eighth of the
    /// budget where that is less.
    pub arena_bytes: u64,
    /// zstd level from hot to warm.
    pub warm_level: i32,
    /// zstd level for content that ages into the cold tier.
    pub cold_level: i32,
    /// Whether to heed the kernel's pressure stall information.
    pub pressure: bool,
    /// What goes first.
    pub policy: Box<dyn Policy>,
    /// What holds sealed SMUs of a page or more in RAM. A store whose memory is kept has them itself, as has a trust
    /// domain beside the user's own.
    pub backend: Backend,
    /// For tests: something that behaves like the kernel module is used in its place.
    #[cfg(feature = "faults")]
    #[doc(hidden)]
    pub fakes_module: bool,
    /// Whether other processes are to have sessions: their memory is then of a kind that can be lent.
    pub lends: bool,
    /// Name of the trust domain, for errors; empty for the user's own.
    pub domain: String,
    /// What its agents may hold together at most. Only who has a session from another process is held to it.
    pub quota: DomainQuota,
    /// Contents of 1 MiB or more that may be raw in RAM: each takes a descriptor.
    pub large_max: u64,
    /// Who keeps the memory of an engine that `lends` beyond its death, and what was kept. If an engine was
    /// killed, this one goes on from there.
    pub keeping: Option<Arc<Keeping>>,
}

/// Least budget: below this the engine's own tables do not fit.
pub const MEMORY_MAX_BYTES_MIN: u64 = 16 << 20;

impl Default for Options {
    fn default() -> Self {
        Options {
            path: None,
            memory_max_bytes: 2 << 30,
            cold: true,
            warm_after_ms: 5 * 60 * 1000,
            cold_after_ms: 2 * 24 * 60 * 60 * 1000,
            on_full: OnFull::Wait,
            arena_bytes: 32 << 20,
            warm_level: 3,
            cold_level: 9,
            pressure: true,
            policy: policy::by_name("semantic").expect("a built-in policy"),
            backend: Backend::User,
            #[cfg(feature = "faults")]
            fakes_module: false,
            lends: false,
            domain: String::new(),
            quota: DomainQuota::default(),
            large_max: u64::MAX,
            keeping: None,
        }
    }
}

impl Options {
    /// Refuses what makes no sense, and fits the arena to the budget.
    pub fn checked(mut self) -> Result<Self> {
        let refuse = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
        if self.memory_max_bytes < MEMORY_MAX_BYTES_MIN {
            return refuse(format!("memory_max {} is under {MEMORY_MAX_BYTES_MIN} bytes", self.memory_max_bytes));
        }
        if !(1..=19).contains(&self.warm_level) || !(1..=19).contains(&self.cold_level) {
            return refuse("a compression level is outside of 1..=19".into());
        }
        if self.path.is_some() && !self.cold {
            return refuse("a path is where the cold tier lives, and cold is off".into());
        }
        if self.keeping.is_some() && self.backend == Backend::Kernel {
            let what = "backend=\"kernel\" of a daemon whose memory is kept, since an engine that is killed leaves \
                        nothing of what the kernel module held for it: open stores with it in the processes of the agents";
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        if self.arena_bytes < 1 << 16 || self.arena_bytes > 1 << 30 {
            return refuse(format!("arena_bytes {} is outside of 64 KiB..=1 GiB", self.arena_bytes));
        }
        let fitting = self.arena_bytes.min(self.memory_max_bytes / 8);
        self.arena_bytes = 1 << fitting.ilog2();
        Ok(self)
    }
}
