//! Anonymous memory, mapped and unmapped, moved, dropped, protected.

use crate::pattern::{Expect, PAGE, Rng, Texture};
use crate::region::{Mapping, READ_WRITE, Region, Wrong};
use crate::world::{Maker, Shape};
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, mremap_fixed, munmap,
};
use std::ptr::null_mut;

pub fn makers() -> Vec<Maker> {
    vec![
        (250, |rng, pages, key| Box::new(Anonymous::new(rng, pages, key))),
        (100, |rng, pages, key| Box::new(Remap::new(rng, pages, key))),
        (100, |rng, pages, key| Box::new(Advised(several(rng, pages, key)))),
        (150, |rng, pages, key| Box::new(Huge::new(rng, pages, key))),
        (50, |rng, pages, key| Box::new(Guarded::new(rng, pages, key))),
        (50, |rng, pages, key| Box::new(Again(several(rng, pages, key)))),
        (30, |_, pages, key| Box::new(Zeros(Mapping::new(pages, key)))),
    ]
}

/// A mapping with content.
pub fn furnished(rng: &mut Rng, pages: usize, key: u64) -> Mapping {
    let mut mapping = Mapping::new(pages, key);
    mapping.furnish(rng);
    mapping
}

/// The same in memory that belongs to nobody else and is never given back.
pub fn furnished_in(rng: &mut Rng, at: *mut u8, pages: usize, key: u64) -> Region {
    let mut region = Region::over(at, pages, key);
    // It need not be zeros: variables have a first value, and heaps are used again.
    (0..pages).for_each(|page| region.write(page, Texture::any(rng)));
    region
}

/// Four mappings that share `pages`.
fn several(rng: &mut Rng, pages: usize, key: u64) -> Vec<Mapping> {
    (0..4).map(|number| furnished(rng, pages.div_ceil(4), key ^ number)).collect()
}

fn regions(mappings: &[Mapping]) -> Vec<&Region> {
    mappings.iter().map(|mapping| &**mapping).collect()
}

/// Mappings big and small that come and go.
struct Anonymous {
    mappings: Vec<Mapping>,
    key: u64,
    /// How many there ever were.
    made: u64,
}

impl Anonymous {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let mut shape = Anonymous { mappings: Vec::new(), key, made: 0 };
        let mut left = pages;
        while left > 0 {
            let size = if rng.once_in(4) { 1 + pages / 4 } else { 1 + rng.below(16) }.min(left);
            let mapping = shape.another(rng, size);
            shape.mappings.push(mapping);
            left -= size;
        }
        shape
    }

    fn another(&mut self, rng: &mut Rng, pages: usize) -> Mapping {
        self.made += 1;
        furnished(rng, pages, self.key.wrapping_add(self.made))
    }
}

impl Shape for Anonymous {
    fn name(&self) -> &'static str {
        "anonymous"
    }

    fn regions(&self) -> Vec<&Region> {
        regions(&self.mappings)
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.mappings.len());
        if !rng.once_in(4) {
            self.mappings[index].scribble(rng);
            return Ok(());
        }
        let old = self.mappings.swap_remove(index);
        old.check()?;
        let pages = old.pages.len();
        drop(old);
        let mapping = self.another(rng, pages);
        self.mappings.push(mapping);
        Ok(())
    }
}

/// Mappings that grow, shrink and move with mremap.
struct Remap {
    mappings: Vec<Mapping>,
    /// Pages of one of them.
    most: usize,
}

impl Remap {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        Remap { mappings: several(rng, pages, key), most: pages.div_ceil(2) }
    }

    fn resize(mapping: &mut Mapping, pages: usize, flags: MremapFlags) -> rustix::io::Result<()> {
        // SAFETY: this mapping alone; its address and its model follow.
        let at = unsafe { mremap(mapping.address(), mapping.bytes(), pages * PAGE, flags) }?;
        mapping.at = at.cast();
        mapping.pages.resize(pages, Expect::ZERO);
        Ok(())
    }

    /// To another address, over a reservation made for it.
    fn relocate(mapping: &mut Mapping) {
        let bytes = mapping.bytes();
        let flags = MremapFlags::MAYMOVE;
        // SAFETY: the target is a mapping made here for nothing else; the model follows.
        let at = unsafe {
            let target = mmap_anonymous(null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE).expect("mmap");
            mremap_fixed(mapping.address(), bytes, bytes, flags, target)
        };
        mapping.at = at.expect("mremap").cast();
    }
}

impl Shape for Remap {
    fn name(&self) -> &'static str {
        "remap"
    }

    fn regions(&self) -> Vec<&Region> {
        regions(&self.mappings)
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.mappings.len());
        let mapping = &mut self.mappings[index];
        let pages = mapping.pages.len();
        let grown = (pages + 1 + rng.below(8)).min(self.most);
        match rng.below(5) {
            // Whether there is room behind it is luck, and must not show in the digest.
            0 if pages < grown => Remap::resize(mapping, grown, MremapFlags::empty())
                .or_else(|_| Remap::resize(mapping, grown, MremapFlags::MAYMOVE))
                .expect("mremap"),
            1 if pages < grown => Remap::resize(mapping, grown, MremapFlags::MAYMOVE).expect("mremap"),
            2 if pages > 1 => Remap::resize(mapping, pages - pages.div_ceil(8), MremapFlags::MAYMOVE).expect("mremap"),
            3 => Remap::relocate(mapping),
            _ => mapping.scribble(rng),
        }
        if rng.once_in(4) { mapping.check() } else { Ok(()) }
    }
}

/// Mappings about which the program tells Linux this and that.
struct Advised(Vec<Mapping>);

impl Advised {
    /// Advice that loses nothing. Linux may not know some: what it thinks of them is no concern here.
    const HARMLESS: [Advice; 6] = [
        Advice::LinuxHugepage,
        Advice::LinuxNoHugepage,
        Advice::LinuxCold,
        Advice::LinuxPageOut,
        Advice::LinuxPopulateRead,
        Advice::LinuxPopulateWrite,
    ];
}

impl Shape for Advised {
    fn name(&self) -> &'static str {
        "advised"
    }

    fn regions(&self) -> Vec<&Region> {
        regions(&self.0)
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.0.len());
        let mapping = &mut self.0[index];
        let pages = rng.run(mapping.pages.len(), 32);
        match rng.below(4) {
            0 => {
                mapping.drop_pages(pages.clone());
                // Some read the zeros at once; for the others, a page comes back first, or does not.
                return if rng.once_in(2) { mapping.check_pages(pages) } else { Ok(()) };
            }
            1 => {
                mapping.advise(pages.clone(), Advice::LinuxFree).expect("madvise");
                mapping.pages[pages].iter_mut().for_each(|expect| expect.maybe_zero = true);
            }
            2 => {
                let _ = mapping.advise(pages, Self::HARMLESS[rng.below(Self::HARMLESS.len())]);
            }
            _ => mapping.scribble(rng),
        }
        Ok(())
    }
}

/// Memory in huge pages, where Linux has some.
struct Huge(Mapping);

impl Huge {
    const PAGES: usize = (2 << 20) / PAGE;

    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let pages = pages.next_multiple_of(Self::PAGES);
        let reserved = (pages + Self::PAGES) * PAGE;
        // SAFETY: a new mapping, of which all but the aligned part is given back.
        let at = unsafe {
            let at = mmap_anonymous(null_mut(), reserved, READ_WRITE, MapFlags::PRIVATE).expect("mmap");
            let before = at.align_offset(Self::PAGES * PAGE);
            let behind = reserved - before - pages * PAGE;
            if before > 0 {
                munmap(at, before).expect("munmap");
            }
            munmap(at.byte_add(before + pages * PAGE), behind).expect("munmap");
            at.byte_add(before)
        };
        let mut mapping = Mapping::adopt(at, pages, key);
        // Without huge pages in this kernel, it is a mapping like any other.
        let _ = mapping.advise(0..pages, Advice::LinuxHugepage);
        mapping.furnish(rng);
        Huge(mapping)
    }
}

impl Shape for Huge {
    fn name(&self) -> &'static str {
        "huge"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.0]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let pages = self.0.pages.len();
        match rng.below(8) {
            0 => {
                let whole = rng.below(pages / Self::PAGES) * Self::PAGES;
                self.0.drop_pages(whole..whole + Self::PAGES);
            }
            1 => self.0.drop_pages(rng.run(pages, 16)),
            // Splits the mapping, and joins it again.
            2 => {
                let part = rng.run(pages, Self::PAGES);
                self.0.protect(part.clone(), MprotectFlags::READ);
                self.0.check_pages(part.clone())?;
                self.0.protect(part, MprotectFlags::READ | MprotectFlags::WRITE);
            }
            _ => self.0.scribble(rng),
        }
        Ok(())
    }
}

/// Mappings that may not be read or written all the time.
struct Guarded(Vec<(Mapping, MprotectFlags)>);

impl Guarded {
    const RIGHTS: [MprotectFlags; 4] = [
        MprotectFlags::empty(),
        MprotectFlags::READ,
        MprotectFlags::READ.union(MprotectFlags::EXEC),
        MprotectFlags::READ.union(MprotectFlags::WRITE),
    ];

    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let guard = |(mapping, rights): (Mapping, MprotectFlags)| {
            mapping.protect(0..mapping.pages.len(), rights);
            (mapping, rights)
        };
        Guarded(several(rng, pages, key).into_iter().zip(Self::RIGHTS).map(guard).collect())
    }
}

impl Shape for Guarded {
    fn name(&self) -> &'static str {
        "guarded"
    }

    fn regions(&self) -> Vec<&Region> {
        self.0.iter().map(|(mapping, _)| &**mapping).collect()
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.0.len());
        let (mapping, rights) = &mut self.0[index];
        let all = 0..mapping.pages.len();
        mapping.protect(all.clone(), MprotectFlags::READ | MprotectFlags::WRITE);
        mapping.scribble(rng);
        *rights = Self::RIGHTS[rng.below(Self::RIGHTS.len())];
        mapping.protect(all, *rights);
        Ok(())
    }

    fn check(&mut self) -> Result<(), Wrong> {
        self.0.iter().try_for_each(|(mapping, rights)| {
            let all = 0..mapping.pages.len();
            mapping.protect(all.clone(), MprotectFlags::READ);
            mapping.check()?;
            mapping.protect(all, *rights);
            Ok(())
        })
    }
}

/// Mappings that are mapped again where they were, with other content: who kept the old one must not bring it back.
struct Again(Vec<Mapping>);

impl Again {
    /// At once, so that nobody else takes the place.
    fn over(mapping: &mut Mapping, pages: std::ops::Range<usize>) {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: over pages of this mapping alone.
        unsafe { mmap_anonymous(mapping.page(pages.start).cast(), pages.len() * PAGE, READ_WRITE, flags) }
            .expect("mmap");
        mapping.zeroed(pages);
    }

    /// In two steps, and elsewhere if another thread was faster.
    fn behind(mapping: &mut Mapping) {
        let (at, bytes) = (mapping.address(), mapping.bytes());
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: this mapping alone, whose address and model follow.
        let again = unsafe {
            munmap(at, bytes).expect("munmap");
            mmap_anonymous(at, bytes, READ_WRITE, flags)
                .or_else(|_| mmap_anonymous(null_mut(), bytes, READ_WRITE, MapFlags::PRIVATE))
        };
        mapping.at = again.expect("mmap").cast();
        mapping.zeroed(0..bytes / PAGE);
    }
}

impl Shape for Again {
    fn name(&self) -> &'static str {
        "again"
    }

    fn regions(&self) -> Vec<&Region> {
        regions(&self.0)
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.0.len());
        let mapping = &mut self.0[index];
        let all = 0..mapping.pages.len();
        match rng.below(4) {
            0 => Again::over(mapping, all),
            1 => Again::over(mapping, rng.run(all.end, all.end)),
            2 => Again::behind(mapping),
            _ => {}
        }
        mapping.scribble(rng);
        Ok(())
    }
}

/// Read and never written.
struct Zeros(Mapping);

impl Shape for Zeros {
    fn name(&self) -> &'static str {
        "zeros"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.0]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let pages = self.0.pages.len();
        if rng.once_in(4) {
            self.0.drop_pages(0..pages);
        }
        self.0.check_pages(rng.run(pages, 16))
    }
}
