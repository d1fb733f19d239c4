//! What a C library hands out: malloc, brk, static and thread-local variables.

use crate::memory::furnished_in;
use crate::pattern::{PAGE, Rng, WORDS, fold, noise};
use crate::region::{Region, Wrong, bytes, compare};
use crate::world::{Maker, Owner, Place, Shape};
use std::cell::UnsafeCell;

pub fn makers(owner: Owner) -> Vec<Maker> {
    let mut makers: Vec<Maker> = vec![
        (60, |rng, pages, key| Box::new(Malloc::new(rng, pages, key))),
        (0, |rng, _, key| Box::new(Held::new("thread-local", vec![thread_local()], rng, key))),
    ];
    if owner != Owner::Thread {
        makers.push((30, |rng, pages, key| Box::new(Brk::new(rng, pages, key))));
        makers.push((0, |rng, _, key| Box::new(Held::new("static", vec![UNSET.memory(), SET.memory()], rng, key))));
    }
    makers
}

const VARIABLE_PAGES: usize = 8;

/// A variable that only the main thread of a process touches.
struct Variable(UnsafeCell<[u64; WORDS * VARIABLE_PAGES]>);

// SAFETY: only the shape "static" refers to it, which is made once, by the main thread.
unsafe impl Sync for Variable {}

impl Variable {
    fn memory(&self) -> (*mut u8, usize) {
        (self.0.get().cast(), VARIABLE_PAGES)
    }
}

/// In .bss.
static UNSET: Variable = Variable(UnsafeCell::new([0; WORDS * VARIABLE_PAGES]));
/// In .data: private pages of a file, once they are written.
static SET: Variable = Variable(UnsafeCell::new([0x5eed; WORDS * VARIABLE_PAGES]));

fn thread_local() -> (*mut u8, usize) {
    thread_local! {
        static LOCAL: UnsafeCell<[u64; 2 * WORDS]> = const { UnsafeCell::new([0; 2 * WORDS]) };
    }
    (LOCAL.with(UnsafeCell::get).cast(), 2)
}

/// Variables: memory that is never given back.
struct Held(&'static str, Vec<Region>);

impl Held {
    fn new(name: &'static str, memory: Vec<(*mut u8, usize)>, rng: &mut Rng, key: u64) -> Self {
        let mut number = key;
        let hold = |(at, pages): (*mut u8, usize)| {
            number += 1;
            furnished_in(rng, at, pages, number)
        };
        Held(name, memory.into_iter().map(hold).collect())
    }
}

impl Shape for Held {
    fn name(&self) -> &'static str {
        self.0
    }

    fn regions(&self) -> Vec<&Region> {
        self.1.iter().collect()
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.1.len());
        self.1[index].scribble(rng);
        Ok(())
    }
}

/// The program break, moved by hand.
struct Brk {
    chunks: Vec<Region>,
    key: u64,
    made: u64,
    most: usize,
    /// Moving the break is safe only while no other thread allocates: at first, and in a forked child.
    alone: bool,
}

impl Brk {
    const CHUNK: usize = 16;

    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let most = pages.div_ceil(Self::CHUNK);
        let mut shape = Brk { chunks: Vec::new(), key, made: 0, most, alone: false };
        (0..most).for_each(|_| shape.grow(rng));
        shape
    }

    fn grow(&mut self, rng: &mut Rng) {
        // Also what the allocator left of its page: it does not mind a stranger, but wants its alignment.
        // SAFETY: asks where the break is.
        let now = unsafe { libc::sbrk(0) } as usize;
        let bytes = now.next_multiple_of(PAGE) - now + Self::CHUNK * PAGE;
        // SAFETY: the break only grows here, with no other thread doing so at the same time.
        let at = unsafe { libc::sbrk(bytes as isize) } as usize;
        assert_eq!(at, now, "the break was moved by somebody else");
        self.made += 1;
        let key = self.key.wrapping_add(self.made);
        self.chunks.push(furnished_in(rng, at.next_multiple_of(PAGE) as *mut u8, Self::CHUNK, key));
    }

    /// Gives the last chunk back if nothing was allocated behind it. Whether that is so must not show in the digest.
    fn regrow(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let last = self.chunks.last_mut().expect("a chunk");
        let bytes = last.bytes();
        // SAFETY: asks where the break is.
        if unsafe { libc::sbrk(0) }.cast() == last.at.wrapping_add(bytes) {
            // SAFETY: the chunk lies at the end of the heap and is this shape's alone; it comes back as zeros.
            let (back, again) = unsafe { (libc::sbrk(-(bytes as isize)), libc::sbrk(bytes as isize)) };
            assert!(back.cast() == last.at.wrapping_add(bytes) && again.cast() == last.at);
        } else {
            // SAFETY: the chunk is this shape's alone.
            unsafe { last.at.write_bytes(0, bytes) };
        }
        last.zeroed(0..Self::CHUNK);
        last.scribble(rng);
        last.check()
    }
}

impl Shape for Brk {
    fn name(&self) -> &'static str {
        "brk"
    }

    fn regions(&self) -> Vec<&Region> {
        self.chunks.iter().collect()
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        if self.alone && self.chunks.len() < 2 * self.most && rng.once_in(8) {
            self.grow(rng);
        }
        if self.alone && rng.once_in(8) {
            return self.regrow(rng);
        }
        let index = rng.below(self.chunks.len());
        self.chunks[index].scribble(rng);
        Ok(())
    }

    fn forked(&mut self) -> bool {
        self.alone = true;
        true
    }
}

/// A piece of malloc.
struct Block {
    at: *mut u64,
    words: usize,
    key: u64,
}

impl Block {
    fn content(&self, words: usize) -> Vec<u64> {
        (0..words).map(|index| noise(self.key, (index % 256) as u64)).collect()
    }

    fn fill(&self) {
        let content = self.content(self.words);
        // SAFETY: the block is that long, and only this shape knows it.
        unsafe { self.at.copy_from_nonoverlapping(content.as_ptr(), self.words) };
    }

    fn check(&self, words: usize) -> Result<(), Wrong> {
        compare(self.at.cast(), bytes(&self.content(words)))
    }
}

/// Blocks of all sizes, from the allocator's own heaps and from mappings.
struct Malloc {
    blocks: Vec<Block>,
    key: u64,
    made: u64,
    /// In words.
    held: usize,
    most: usize,
}

impl Malloc {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let mut shape = Malloc { blocks: Vec::new(), key, made: 0, held: 0, most: pages * WORDS };
        while shape.held < shape.most / 2 {
            shape.allocate(rng).expect("new memory is all right");
        }
        shape
    }

    fn words(&self, rng: &mut Rng) -> usize {
        let most = match rng.below(20) {
            0 => 40_000,
            1..=4 => 8_000,
            _ => 64,
        };
        2 + rng.below(most.min(self.most))
    }

    fn allocate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let words = self.words(rng);
        let zeroed = rng.once_in(3);
        // SAFETY: allocates; what comes back is checked below.
        let at: *mut u64 = unsafe { if zeroed { libc::calloc(words, 8) } else { libc::malloc(words * 8) } }.cast();
        assert!(!at.is_null(), "out of memory");
        if zeroed {
            compare(at.cast(), bytes(&vec![0; words]))?;
        }
        self.keep(at, words);
        Ok(())
    }

    fn keep(&mut self, at: *mut u64, words: usize) {
        self.made += 1;
        self.held += words;
        self.blocks.push(Block { at, words, key: self.key.wrapping_add(self.made) });
        self.blocks.last().expect("the block").fill();
    }

    fn take(&mut self, rng: &mut Rng) -> Block {
        let index = rng.below(self.blocks.len());
        let block = self.blocks.swap_remove(index);
        self.held -= block.words;
        block
    }

    fn resize(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let mut block = self.take(rng);
        let words = self.words(rng);
        // SAFETY: a block of this shape, known from here on by its new address alone.
        block.at = unsafe { libc::realloc(block.at.cast(), words * 8) }.cast();
        assert!(!block.at.is_null(), "out of memory");
        block.check(words.min(block.words))?;
        self.keep(block.at, words);
        Ok(())
    }

    fn free(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let block = self.take(rng);
        block.check(block.words)?;
        // SAFETY: a block of this shape, known to nobody any more.
        unsafe { libc::free(block.at.cast()) };
        Ok(())
    }
}

impl Shape for Malloc {
    fn name(&self) -> &'static str {
        "malloc"
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        for _ in 0..8 {
            match rng.below(4) {
                _ if self.blocks.is_empty() => self.allocate(rng)?,
                0 => self.resize(rng)?,
                1 => self.free(rng)?,
                _ if self.held > self.most => self.free(rng)?,
                _ => self.allocate(rng)?,
            }
        }
        if rng.once_in(16) {
            trim();
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Wrong> {
        self.blocks.iter().try_for_each(|block| block.check(block.words))
    }

    fn digest(&self) -> u64 {
        self.blocks.iter().fold(self.key, |digest, block| fold(fold(digest, block.key), block.words as u64))
    }

    fn places(&self) -> Vec<Place> {
        self.blocks.iter().map(|block| Place::here(block.at as usize, block.words * 8)).collect()
    }
}

/// Gives free memory back, holes in the middle included.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
