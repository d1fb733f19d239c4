//! The one door to atomics, so that loom can stand behind it.
//!
//! Everything that two processes may touch at once is an array of 64-bit words. Outside of loom
//! the array lies in a mapping; under loom it is a vector of loom's atomics.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// A counter outside of every protocol, with a `const` constructor that loom's lacks.
#[cfg(feature = "faults")]
pub use std::sync::atomic::AtomicI64 as PlainI64;

#[cfg(not(loom))]
mod words {
    use super::AtomicU64;
    use crate::sys::Mapping;
    use agentmem_core::Result;
    use std::ops::Deref;

    /// Shared 64-bit words, zero at first.
    #[derive(Debug)]
    pub struct Words {
        mapping: Mapping,
    }

    impl Words {
        /// `count` words in a memfd called `name`; pages appear when first touched.
        pub fn new(name: &str, count: usize) -> Result<Self> {
            Ok(Words { mapping: Mapping::memfd(name, count * 8)? })
        }
    }

    impl Deref for Words {
        type Target = [AtomicU64];

        fn deref(&self) -> &[AtomicU64] {
            let count = self.mapping.len() / 8;
            // SAFETY: the mapping is page-aligned, readable and writable for its whole length while
            // `self` lives, and every access to it, here or in another process, is atomic.
            unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().cast(), count) }
        }
    }
}

#[cfg(loom)]
mod words {
    use super::AtomicU64;
    use agentmem_core::Result;
    use std::ops::Deref;

    /// Words as loom wants them.
    #[derive(Debug)]
    pub struct Words(Vec<AtomicU64>);

    impl Words {
        /// `count` words.
        pub fn new(_name: &str, count: usize) -> Result<Self> {
            Ok(Words((0..count).map(|_| AtomicU64::new(0)).collect()))
        }
    }

    impl Deref for Words {
        type Target = [AtomicU64];

        fn deref(&self) -> &[AtomicU64] {
            &self.0
        }
    }
}

pub use words::Words;
