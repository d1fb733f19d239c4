//! Anonymous memory with something special: hardly used, locked, not inherited.

use crate::memory::furnished;
use crate::pattern::{Expect, PAGE, Rng, Texture};
use crate::region::{Mapping, READ_WRITE, Region, Wrong, check_page, compare, write_page};
use crate::world::{Maker, Place, Shape, World};
use rustix::mm::{Advice, MapFlags, mmap_anonymous};
use std::collections::BTreeMap;
use std::ptr::null_mut;

pub fn makers() -> Vec<Maker> {
    vec![
        (30, |rng, pages, key| Box::new(Reservation::new(rng, pages, key))),
        (10, |rng, pages, key| Box::new(Locked::new(rng, pages, key))),
        (10, |rng, pages, key| Box::new(Wiped::new(rng, pages, key))),
    ]
}

/// Address space of which hardly anything is used, as runtimes reserve it for their heaps.
struct Reservation {
    base: *mut u8,
    key: u64,
    used: BTreeMap<usize, Expect>,
    most: usize,
    generation: u32,
}

impl Reservation {
    const PAGES: usize = (4 << 30) / PAGE;

    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, which lives as long as the process does.
        let base = unsafe { mmap_anonymous(null_mut(), Self::PAGES * PAGE, READ_WRITE, flags) }.expect("mmap").cast();
        let mut shape = Reservation { base, key, used: BTreeMap::new(), most: pages, generation: 0 };
        (0..pages / 2).for_each(|_| shape.write(rng));
        shape
    }

    fn at(&self, page: usize) -> *mut u8 {
        self.base.wrapping_add(page * PAGE)
    }

    fn write(&mut self, rng: &mut Rng) {
        let page = rng.below(Self::PAGES);
        self.generation += 1;
        let expect = Expect::written(self.generation, Texture::any(rng));
        write_page(self.at(page), self.key, page, &expect);
        self.used.insert(page, expect);
    }
}

impl Shape for Reservation {
    fn name(&self) -> &'static str {
        "reservation"
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let first = rng.below(Self::PAGES);
        let used = self.used.range(first..).next().map(|(page, _)| *page);
        match used {
            Some(page) if self.used.len() >= self.most || rng.once_in(3) => {
                // SAFETY: one page of the reservation, forgotten in the model as well.
                unsafe { rustix::mm::madvise(self.at(page).cast(), PAGE, Advice::LinuxDontNeed) }.expect("madvise");
                self.used.remove(&page);
                compare(self.at(page), &[0; PAGE])
            }
            _ if self.used.len() < self.most => {
                self.write(rng);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check(&mut self) -> Result<(), Wrong> {
        for (&page, expect) in &self.used {
            check_page(self.at(page), self.key, page, expect)?;
            // Now and then a neighbour that is not used. Reading all of the rest would take page tables of megabytes.
            let next = (page + 1) % Self::PAGES;
            if page.is_multiple_of(8) && !self.used.contains_key(&next) {
                compare(self.at(next), &[0; PAGE])?;
            }
        }
        Ok(())
    }

    fn digest(&self) -> u64 {
        let fold =
            |digest, (page, expect): (&usize, &Expect)| crate::pattern::fold(digest, expect.digest(self.key, *page));
        self.used.iter().fold(self.key, fold)
    }

    fn places(&self) -> Vec<Place> {
        self.used.keys().map(|page| Place::here(self.at(*page) as usize, PAGE)).collect()
    }
}

/// Memory that has to stay in RAM.
struct Locked(Mapping);

impl Locked {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let mapping = furnished(rng, pages.min(16), key);
        // SAFETY: this mapping alone. A user without the right to lock has one more ordinary mapping.
        let _ = unsafe { rustix::mm::mlock(mapping.address(), mapping.bytes()) };
        Locked(mapping)
    }
}

impl Shape for Locked {
    fn name(&self) -> &'static str {
        "locked"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.0]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        self.0.scribble(rng);
        Ok(())
    }
}

/// Memory that a forked child finds empty.
struct Wiped(Mapping);

impl Wiped {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let mapping = furnished(rng, pages, key);
        mapping.advise(0..pages, Advice::LinuxWipeOnFork).expect("madvise");
        Wiped(mapping)
    }
}

impl Shape for Wiped {
    fn name(&self) -> &'static str {
        "wiped"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.0]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        self.0.scribble(rng);
        Ok(())
    }

    fn forked(&mut self) -> bool {
        let all = 0..self.0.pages.len();
        self.0.zeroed(all);
        true
    }
}

/// The world of a thread that does nothing but touch its memory.
pub fn touched(seed: u64, pages: usize) -> World {
    let mapping = furnished(&mut Rng::new(seed), pages, seed);
    World::of(vec![Box::new(Touched(mapping))], seed)
}

struct Touched(Mapping);

impl Shape for Touched {
    fn name(&self) -> &'static str {
        "touched"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.0]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        self.0.scribble(rng);
        self.0.check_pages(rng.run(self.0.pages.len(), 16))
    }
}
