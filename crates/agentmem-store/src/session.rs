//! Sessions, as a process that puts and views has them.

use crate::arena::{Arena, Shape};
use crate::call::Call;
use crate::calls::store::MapSegment;
use crate::engine::Engine;
use crate::link::Link;
use crate::options::OnFull;
use crate::raw::LARGE_BYTES;
use crate::remote::Secret;
use crate::segments::Segments;
use crate::slots::Slots;
use crate::sys::{ForkGuard, Mapping};
use agentmem_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// What handles need to put and to view without asking the engine, and the way to ask it.
pub struct Session {
    /// Its number.
    pub number: u32,
    /// What it writes to.
    pub arena: Arc<Arena>,
    /// Where each SMU is.
    pub slots: Arc<Slots>,
    /// Mappings by number.
    pub segments: Arc<Segments>,
    /// What a put does when the arena is full, unless it says otherwise.
    pub on_full: OnFull,
    /// The engine's budget when the session began.
    pub memory_max_bytes: u64,
    /// Who is asked for everything else.
    pub link: Link,
    guard: ForkGuard,
}

impl Session {
    /// A session with an engine in the same process.
    pub fn embedded(engine: &Arc<Engine>, shape: Shape) -> Result<Self> {
        let (number, arena) = engine.add_session(shape, std::process::id(), true, Secret::default())?;
        Ok(Session {
            number,
            arena,
            slots: engine.slots.clone(),
            segments: engine.segments.clone(),
            on_full: engine.options.on_full,
            memory_max_bytes: engine.memory_max_bytes(),
            link: Link::Embedded(engine.clone()),
            guard: ForkGuard::new()?,
        })
    }

    /// One whose engine is reached over `link`, and whose tables were lent.
    pub fn over(
        link: Link,
        number: u32,
        arena: Arena,
        slots: Slots,
        segments: Arc<Segments>,
        on_full: OnFull,
        memory_max_bytes: u64,
    ) -> Result<Self> {
        Ok(Session {
            number,
            arena: Arc::new(arena),
            slots: Arc::new(slots),
            segments,
            on_full,
            memory_max_bytes,
            link,
            guard: ForkGuard::new()?,
        })
    }

    /// Asks the engine.
    pub fn call<C: Call>(&self, call: C) -> Result<C::Answer> {
        self.check_usable()?;
        // Whoever asks sees what it put before. An engine of the same process sees to that itself.
        let is_behind = matches!(self.link, Link::Remote(_)) && self.is_behind();
        self.link.call(self.number, call, is_behind).map_err(|error| self.unless_closed(error))
    }

    /// `error`, unless the store was closed meanwhile, which took away what the caller still holds.
    #[cold]
    pub fn unless_closed(&self, error: Error) -> Error {
        self.check_usable().err().unwrap_or(error)
    }

    /// Whether something that was published here is not taken in yet. What other threads are still copying is waited
    /// for: the engine waits only for threads of its own process.
    fn is_behind(&self) -> bool {
        let ring = &self.arena.ring;
        let head = ring.head();
        while !ring.is_published_to(head) {
            std::thread::yield_now();
        }
        !ring.is_drained_to(head)
    }

    /// Fails in a forked child, and after close.
    #[inline]
    pub fn check_usable(&self) -> Result<()> {
        if !self.is_same_process() {
            return Err(Error::new(ErrorKind::ForkedChild, "this store"));
        }
        self.link.check_usable()
    }

    /// Whether the process is still the one that it was made in.
    #[inline]
    pub fn is_same_process(&self) -> bool {
        self.guard.is_same_process()
    }

    /// Whether content of `len` bytes goes into a memfd of its own instead of through the ring.
    #[inline]
    pub fn is_large(&self, len: usize) -> bool {
        len >= LARGE_BYTES || len + 256 > self.arena.ring.data_bytes_max()
    }

    /// Takes in what was published here.
    pub fn drain(&self) -> Result<()> {
        let head = self.arena.ring.head();
        self.link.drain(self.number)?;
        // Another thread may still be copying what it put before. The engine waits only for threads of its own
        // process.
        while !self.arena.ring.is_drained_to(head) {
            std::thread::yield_now();
            self.link.drain(self.number)?;
        }
        Ok(())
    }

    /// Whether all that was published is taken in.
    pub fn is_drained(&self) -> bool {
        let ring = &self.arena.ring;
        ring.is_drained_to(ring.head())
    }

    /// Maps what slot words call `segment`, if it is not mapped yet.
    pub fn map(&self, segment: u32) -> Result<()> {
        if let Link::Remote(remote) = &self.link {
            let (facts, descriptor) = remote.call(&MapSegment { segment }, false, None)?;
            let none = || Error::new(ErrorKind::Version, "the daemon's answer lacks a descriptor");
            let mapping = Mapping::lent(descriptor.ok_or_else(none)?, facts.len_bytes as usize)?;
            self.segments.adopt(segment, facts.incarnation, mapping)?;
        }
        Ok(())
    }
}
