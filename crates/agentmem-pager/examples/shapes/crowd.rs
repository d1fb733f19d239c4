//! Many small mappings in a row, as allocators leave them behind: used, not used yet, hidden, given back.

use crate::pattern::{PAGE, Rng};
use crate::region::{READ_WRITE, Region, Wrong};
use crate::world::{Maker, Shape};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ptr::null_mut;

pub fn makers() -> Vec<Maker> {
    vec![(60, |rng, pages, key| Box::new(Crowd::new(rng, pages, key)))]
}

/// Pages of one mapping.
const PAGES: usize = 3;
/// One place in so many is not mapped.
const HOLE_EVERY: usize = 5;

/// Neighbours differ in what Linux was told of them, so that it keeps them apart.
struct Crowd(Vec<Cell>);

struct Cell {
    region: Region,
    is_hidden: bool,
    is_dumped: bool,
}

impl Crowd {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let places = (pages / PAGES).max(2 * HOLE_EVERY);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, which lives as long as the process does.
        let base =
            unsafe { mmap_anonymous(null_mut(), places * PAGES * PAGE, ProtFlags::empty(), flags) }.expect("mmap");
        let mut cells = Vec::new();
        for place in 0..places {
            let at = base.cast::<u8>().wrapping_add(place * PAGES * PAGE);
            if place % HOLE_EVERY == 0 {
                // SAFETY: a part of the mapping above that nobody uses.
                unsafe { munmap(at.cast(), PAGES * PAGE) }.expect("munmap");
                continue;
            }
            let region = Region::over(at, PAGES, key.wrapping_add(place as u64));
            let mut cell = Cell { region, is_hidden: false, is_dumped: place % 2 == 0 };
            cell.renew(rng);
            cells.push(cell);
        }
        Crowd(cells)
    }
}

impl Cell {
    /// Mapped anew: hidden, or visible; if visible, written or not.
    fn renew(&mut self, rng: &mut Rng) {
        self.is_hidden = rng.once_in(4);
        let protection = if self.is_hidden { ProtFlags::empty() } else { READ_WRITE };
        let (at, bytes) = (self.region.at.cast(), self.region.bytes());
        // SAFETY: over pages of this cell alone.
        unsafe {
            mmap_anonymous(at, bytes, protection, MapFlags::PRIVATE | MapFlags::FIXED).expect("mmap");
            let advice = if self.is_dumped { Advice::LinuxDoDump } else { Advice::LinuxDontDump };
            madvise(at, bytes, advice).expect("madvise");
        }
        self.region.zeroed(0..PAGES);
        if !self.is_hidden && !rng.once_in(3) {
            self.region.furnish(rng);
        }
    }
}

impl Shape for Crowd {
    fn name(&self) -> &'static str {
        "crowd"
    }

    fn regions(&self) -> Vec<&Region> {
        self.0.iter().filter(|cell| !cell.is_hidden).map(|cell| &cell.region).collect()
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.0.len());
        let cell = &mut self.0[index];
        if !cell.is_hidden {
            cell.region.check()?;
        }
        if cell.is_hidden || rng.once_in(3) {
            cell.renew(rng);
        } else {
            cell.region.scribble(rng);
        }
        Ok(())
    }
}
