//! The one door to atomics, so that loom can stand behind it.
//!
//! Everything that two processes may touch at once is an array of 64-bit words. Outside of loom
//! the array lies in a mapping; under loom it is a vector of loom's atomics.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
pub use loom::thread::yield_now;
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub use std::thread::yield_now;

/// A counter outside of every protocol, with a `const` constructor that loom's lacks.
#[cfg(feature = "faults")]
pub use std::sync::atomic::AtomicI64 as PlainI64;

#[cfg(not(loom))]
mod words {
    use super::AtomicU64;
    use crate::sys::Mapping;
    use agentmem_core::Result;
    use std::ops::Deref;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    /// Shared 64-bit words, zero at first.
    #[derive(Debug)]
    pub struct Words {
        start: *const AtomicU64,
        count: usize,
        mapping: Arc<Mapping>,
    }

    // SAFETY: all access is atomic, and the mapping stays while this does.
    unsafe impl Send for Words {}
    // SAFETY: as above.
    unsafe impl Sync for Words {}

    impl Words {
        /// `count` words in a memfd called `name`; pages appear when first touched.
        pub fn new(name: &str, count: usize) -> Result<Self> {
            Ok(Self::within(&Arc::new(Mapping::memfd(name, count * 8)?), 0, count))
        }

        /// The same, whose descriptor is kept where it `lends`.
        pub fn kept(name: &str, count: usize, lends: bool) -> Result<Self> {
            if !lends {
                return Self::new(name, count);
            }
            let mapping = Mapping::writable(name, count * 8)?;
            mapping.fix_len()?;
            Ok(Self::within(&Arc::new(mapping), 0, count))
        }

        /// A descriptor for reading them, for another process.
        pub fn lend(&self) -> Result<OwnedFd> {
            self.mapping.read_only()
        }

        /// `count` words of `mapping`, from `offset_bytes` on.
        pub fn within(mapping: &Arc<Mapping>, offset_bytes: usize, count: usize) -> Self {
            assert!(offset_bytes.is_multiple_of(8) && offset_bytes + count * 8 <= mapping.len());
            let start = mapping.as_ptr().wrapping_add(offset_bytes).cast();
            Words { start, count, mapping: mapping.clone() }
        }
    }

    impl Deref for Words {
        type Target = [AtomicU64];

        #[inline]
        fn deref(&self) -> &[AtomicU64] {
            // SAFETY: the range lies inside the mapping and is aligned, as checked when it was made; it is
            // mapped while `self` lives, and every access to it, here or in another process, is atomic.
            unsafe { std::slice::from_raw_parts(self.start, self.count) }
        }
    }
}

#[cfg(loom)]
mod words {
    use super::AtomicU64;
    use crate::sys::Mapping;
    use agentmem_core::Result;
    use std::ops::Deref;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    /// Words as loom wants them.
    #[derive(Debug)]
    pub struct Words(Vec<AtomicU64>);

    impl Words {
        /// `count` words.
        pub fn new(_name: &str, count: usize) -> Result<Self> {
            Ok(Words((0..count).map(|_| AtomicU64::new(0)).collect()))
        }

        /// `count` words, which loom lends to nobody.
        pub fn kept(name: &str, count: usize, _lends: bool) -> Result<Self> {
            Self::new(name, count)
        }

        /// There are no other processes under loom.
        pub fn lend(&self) -> Result<OwnedFd> {
            unreachable!("loom has one process")
        }

        /// `count` words, wherever loom keeps them.
        pub fn within(_mapping: &Arc<Mapping>, _offset_bytes: usize, count: usize) -> Self {
            Words((0..count).map(|_| AtomicU64::new(0)).collect())
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
