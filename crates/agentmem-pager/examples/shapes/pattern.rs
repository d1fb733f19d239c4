//! What a page should hold: a function of a key, so that a model of it takes eight bytes a page.

use crate::text;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Words of a page.
pub const WORDS: usize = PAGE / 8;

/// Bijective, and every bit of the result depends on every bit of `value`.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The word at `index` of the noise that belongs to `key`: does not compress.
pub fn noise(key: u64, index: u64) -> u64 {
    mix(key.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Adds `value` to a digest; order matters.
pub fn fold(digest: u64, value: u64) -> u64 {
    mix(digest.rotate_left(9) ^ value)
}

/// Everything random comes from seeds, so that a run can be repeated.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(mix(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A run within `0..len`, of at most `most`.
    pub fn run(&mut self, len: usize, most: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        start..start + 1 + self.below(most.min(len - start))
    }
}

/// What the words of a page look like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Texture {
    Zero,
    /// Does not compress.
    Noise,
    /// Compresses well.
    Repeating,
    /// A word here and there; the rest was never written.
    Sparse,
    /// Text of an agent.
    Json,
    /// Objects of a runtime: pointers, lengths, hashes.
    Records,
}

impl Texture {
    /// One of those that tests need.
    pub fn any(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Texture::Zero,
            1 | 2 => Texture::Noise,
            3 | 4 => Texture::Sparse,
            _ => Texture::Repeating,
        }
    }
}

/// The model of one page.
#[derive(Clone, Copy)]
pub struct Expect {
    /// Of its last write as a whole: no content ever comes back.
    pub generation: u32,
    pub texture: Texture,
    /// How many words from the start on were changed one by one since.
    pub pokes: u8,
    /// The program told Linux that it may forget the page (MADV_FREE): then zeros are right as well.
    pub maybe_zero: bool,
}

impl Expect {
    pub const ZERO: Expect = Expect { generation: 0, texture: Texture::Zero, pokes: 0, maybe_zero: false };

    pub fn written(generation: u32, texture: Texture) -> Self {
        Expect { generation, texture, ..Expect::ZERO }
    }

    /// The key of page `page` of the region whose key is `region`.
    fn key(&self, region: u64, page: usize) -> u64 {
        noise(region ^ mix(u64::from(self.generation)), page as u64)
    }

    /// The word that the last poke left at `index`.
    pub fn poked(&self, region: u64, page: usize, index: usize) -> u64 {
        noise(!self.key(region, page), index as u64)
    }

    /// All that the page should hold.
    pub fn content(&self, region: u64, page: usize) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let key = self.key(region, page);
        match self.texture {
            Texture::Zero => {}
            Texture::Noise => (0..WORDS).for_each(|at| words[at] = noise(key, at as u64)),
            Texture::Sparse => (3..WORDS).step_by(97).for_each(|at| words[at] = noise(key, at as u64)),
            Texture::Json => text::json(key, &mut words),
            Texture::Records => text::records(key, &mut words),
            Texture::Repeating => {
                (0..16).for_each(|at| words[at] = noise(key, at as u64));
                (16..WORDS).step_by(16).for_each(|at| words.copy_within(0..16, at));
                // Blocks within a page differ as well, or swapped ones would go unseen.
                (0..WORDS).step_by(64).for_each(|at| words[at] ^= at as u64);
            }
        }
        (0..usize::from(self.pokes)).for_each(|at| words[at] = self.poked(region, page, at));
        words
    }

    /// Stands for the content in a digest.
    pub fn digest(&self, region: u64, page: usize) -> u64 {
        self.key(region, page) ^ u64::from(self.pokes) << 8 ^ self.texture as u64
    }
}
