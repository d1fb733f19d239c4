//! Memory with its model, and checking the one against the other.

use crate::pattern::{Expect, PAGE, Rng, Texture, fold};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};

/// Memory that does not hold what was written into it.
#[derive(Debug)]
pub struct Wrong {
    what: String,
    how: String,
}

impl Wrong {
    pub fn new(at: usize, expected: u64, got: u64) -> Self {
        Wrong { what: String::new(), how: format!("at {at:#x} expected {expected:#x} got {got:#x}") }
    }

    /// The same as another process told it, after the word `wrong`.
    pub fn told(line: &str) -> Self {
        let (what, how) = line.split_once(' ').unwrap_or((line, "without a word"));
        Wrong { what: what.to_owned(), how: how.to_owned() }
    }

    /// Says where, from the inside out: `child0/thread1/huge`.
    pub fn within(mut self, name: &str) -> Self {
        self.what = if self.what.is_empty() { name.to_owned() } else { format!("{name}/{}", self.what) };
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "wrong {} {}", self.what, self.how)
    }
}

/// Does memory at `at` hold `expected`?
pub fn compare(at: *const u8, expected: &[u8]) -> Result<(), Wrong> {
    // SAFETY: callers pass memory of that length which is readable and which nobody writes meanwhile. The black box
    // hides where the pointer comes from: what is compared must be what memory holds now.
    let got = unsafe { std::slice::from_raw_parts(std::hint::black_box(at), expected.len()) };
    compare_copy(at as usize, got, expected)
}

/// The same of what was read at `at`. Names the first byte that differs.
pub fn compare_copy(at: usize, got: &[u8], expected: &[u8]) -> Result<(), Wrong> {
    if got == expected {
        return Ok(());
    }
    let byte = (0..got.len()).find(|&byte| got[byte] != expected[byte]).unwrap_or_default();
    Err(Wrong::new(at + byte, expected[byte].into(), got[byte].into()))
}

/// The bytes of words.
pub fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: any u64 is eight bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8) }
}

/// Is the page at `at` what `expect` says?
pub fn check_page(at: *const u8, region: u64, page: usize, expect: &Expect) -> Result<(), Wrong> {
    match compare(at, bytes(&expect.content(region, page))) {
        Err(_) if expect.maybe_zero && compare(at, &[0; PAGE]).is_ok() => Ok(()),
        outcome => outcome,
    }
}

/// Makes the page at `at` what `expect` says.
pub fn write_page(at: *mut u8, region: u64, page: usize, expect: &Expect) {
    let words = expect.content(region, page);
    if expect.texture != Texture::Sparse {
        // SAFETY: callers pass a writable page.
        unsafe { at.copy_from_nonoverlapping(words.as_ptr().cast(), PAGE) };
        return;
    }
    // Sparse: every word by itself, the way a program fills a table.
    for (index, word) in words.into_iter().enumerate() {
        // SAFETY: as above; volatile, so that this does not become the copy of a page.
        unsafe { at.cast::<u64>().add(index).write_volatile(word) };
    }
}

/// Pages, and what each of them should hold. Does not own the memory.
pub struct Region {
    pub at: *mut u8,
    pub key: u64,
    pub pages: Vec<Expect>,
    generation: u32,
}

impl Region {
    /// Over `pages` pages of zeros at `at`, aligned to words, that outlive the region and belong to it alone.
    pub fn over(at: *mut u8, pages: usize, key: u64) -> Self {
        Region { at, key, pages: vec![Expect::ZERO; pages], generation: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.pages.len() * PAGE
    }

    pub fn page(&self, page: usize) -> *mut u8 {
        debug_assert!(page < self.pages.len());
        self.at.wrapping_add(page * PAGE)
    }

    /// A model of page contents that was never there before.
    pub fn next(&mut self, texture: Texture) -> Expect {
        self.generation += 1;
        Expect::written(self.generation, texture)
    }

    pub fn write(&mut self, page: usize, texture: Texture) {
        self.pages[page] = self.next(texture);
        write_page(self.page(page), self.key, page, &self.pages[page]);
    }

    /// Changes one word of a page, if there is one left to change.
    fn poke(&mut self, page: usize) {
        let expect = &mut self.pages[page];
        let index = usize::from(expect.pokes);
        // What may be gone cannot be changed in part: nobody would know what the rest is.
        if expect.maybe_zero || index == 200 {
            return self.write(page, Texture::Sparse);
        }
        expect.pokes += 1;
        let word = expect.poked(self.key, page, index);
        // SAFETY: a writable page of this region, and index is below its 512 words.
        unsafe { self.page(page).cast::<u64>().add(index).write_volatile(word) };
    }

    /// Writes some of all pages for the first time.
    pub fn furnish(&mut self, rng: &mut Rng) {
        for page in 0..self.pages.len() {
            if !rng.once_in(5) {
                self.write(page, Texture::any(rng));
            }
        }
    }

    /// Rewrites a run of pages, of some of them a single word.
    pub fn scribble(&mut self, rng: &mut Rng) {
        let texture = Texture::any(rng);
        for page in rng.run(self.pages.len(), 16) {
            if rng.once_in(3) { self.poke(page) } else { self.write(page, texture) }
        }
    }

    /// Whatever was there is gone: zeros from now on.
    pub fn zeroed(&mut self, pages: Range<usize>) {
        self.pages[pages].fill(Expect::ZERO);
    }

    pub fn check(&self) -> Result<(), Wrong> {
        self.check_pages(0..self.pages.len())
    }

    pub fn check_pages(&self, mut pages: Range<usize>) -> Result<(), Wrong> {
        pages.try_for_each(|page| check_page(self.page(page), self.key, page, &self.pages[page]))
    }

    pub fn digest(&self) -> u64 {
        let fold_page = |digest, (page, expect): (usize, &Expect)| fold(digest, expect.digest(self.key, page));
        self.pages.iter().enumerate().fold(self.key, fold_page)
    }
}

pub const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A region of its own mapping.
pub struct Mapping(Region);

impl Mapping {
    pub fn new(pages: usize, key: u64) -> Self {
        Mapping::with(pages, key, READ_WRITE, MapFlags::PRIVATE)
    }

    pub fn with(pages: usize, key: u64, protection: ProtFlags, flags: MapFlags) -> Self {
        // SAFETY: a new mapping touches nothing that exists.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), pages * PAGE, protection, flags) };
        Mapping(Region::over(at.expect("mmap").cast(), pages, key))
    }

    /// Takes over a mapping that exists and holds zeros.
    pub fn adopt(at: *mut c_void, pages: usize, key: u64) -> Self {
        Mapping(Region::over(at.cast(), pages, key))
    }

    pub fn address(&self) -> *mut c_void {
        self.at.cast()
    }

    pub fn protect(&self, pages: Range<usize>, protection: MprotectFlags) {
        // SAFETY: pages of this mapping alone; who takes away a right gives it back before using it.
        unsafe { mprotect(self.page(pages.start).cast(), pages.len() * PAGE, protection) }.expect("mprotect");
    }

    pub fn advise(&self, pages: Range<usize>, advice: rustix::mm::Advice) -> rustix::io::Result<()> {
        // SAFETY: pages of this mapping alone; callers note what is lost.
        unsafe { rustix::mm::madvise(self.page(pages.start).cast(), pages.len() * PAGE, advice) }
    }

    /// Drops pages, and expects zeros.
    pub fn drop_pages(&mut self, pages: Range<usize>) {
        self.advise(pages.clone(), rustix::mm::Advice::LinuxDontNeed).expect("madvise");
        self.zeroed(pages);
    }
}

impl Deref for Mapping {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.0
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut Region {
        &mut self.0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping alone, and nobody holds pointers into it.
        unsafe { munmap(self.0.at.cast(), self.0.bytes()) }.expect("munmap");
    }
}
