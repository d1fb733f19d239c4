//! A heap like that of an agent, for benchmarks: half of it next to empty, the rest JSON, records and a little that
//! does not shrink. Blocks of 64 KiB shrink to about a sixth with zstd 3, as heaps of real agents do.

use crate::pattern::{Rng, Texture, noise};
use crate::region::{Mapping, Region, Wrong};
use crate::world::{Shape, World};

/// Pages of a block of one kind, and of a mapping.
const BLOCK: usize = 16;
const CHUNK: usize = 256;

pub fn world(seed: u64, pages: usize) -> World {
    let mut rng = Rng::new(seed);
    let chunks = (0..pages.div_ceil(CHUNK)).map(|number| chunk(&mut rng, noise(seed, number as u64)));
    World::of(vec![Box::new(Heap(chunks.collect()))], seed)
}

fn chunk(rng: &mut Rng, key: u64) -> Mapping {
    let mut mapping = Mapping::new(CHUNK, key);
    for block in (0..CHUNK).step_by(BLOCK) {
        let texture = match rng.below(100) {
            0..20 => Texture::Zero,
            20..50 => Texture::Sparse,
            50..73 => Texture::Json,
            73..95 => Texture::Records,
            _ => Texture::Noise,
        };
        (block..block + BLOCK).for_each(|page| mapping.write(page, texture));
    }
    mapping
}

struct Heap(Vec<Mapping>);

impl Shape for Heap {
    fn name(&self) -> &'static str {
        "heap"
    }

    fn regions(&self) -> Vec<&Region> {
        self.0.iter().map(|chunk| &**chunk).collect()
    }

    /// A page changes, and stays of its kind.
    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.0.len());
        let page = rng.below(CHUNK);
        let texture = self.0[index].pages[page].texture;
        self.0[index].write(page, texture);
        Ok(())
    }
}
