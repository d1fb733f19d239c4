//! Memory that is not only this process's: shared, of files, and filled by Linux.

use crate::memory::furnished;
use crate::pattern::{Expect, PAGE, Rng, Texture};
use crate::region::{Mapping, READ_WRITE, Region, Wrong, bytes, compare};
use crate::world::{Maker, Place, Shape};
use rustix::mm::{Advice, MapFlags, ProtFlags, mmap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;

pub fn makers() -> Vec<Maker> {
    vec![
        (20, |rng, pages, key| Box::new(Shared::new(rng, pages, key))),
        (30, |rng, pages, key| Box::new(OfFile::new(rng, pages, key))),
        (0, |_, _, _| Box::new(Program::new())),
        (30, |rng, pages, key| Box::new(Received::new(rng, pages, key))),
    ]
}

/// Shared memory, without a file and with one of memfd.
struct Shared(Vec<Mapping>);

impl Shared {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let pages = pages.div_ceil(2);
        let mut mappings = vec![Mapping::with(pages, key, READ_WRITE, MapFlags::SHARED), of_memory(pages, !key)];
        mappings.iter_mut().for_each(|mapping| mapping.furnish(rng));
        Shared(mappings)
    }
}

fn of_memory(pages: usize, key: u64) -> Mapping {
    let file = rustix::fs::memfd_create("shapes", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::fs::ftruncate(&file, (pages * PAGE) as u64).expect("ftruncate");
    // SAFETY: a new mapping of a file that nobody else knows.
    let at = unsafe { mmap(null_mut(), pages * PAGE, READ_WRITE, MapFlags::SHARED, &file, 0) };
    Mapping::adopt(at.expect("mmap"), pages, key)
}

impl Shape for Shared {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn regions(&self) -> Vec<&Region> {
        self.0.iter().map(|mapping| &**mapping).collect()
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let index = rng.below(self.0.len());
        self.0[index].scribble(rng);
        Ok(())
    }

    /// What the parent writes, the child would have to know.
    fn forked(&mut self) -> bool {
        false
    }
}

/// A private mapping of a file, partly written to.
struct OfFile {
    mapping: Mapping,
    /// What the file holds.
    original: Vec<Expect>,
}

impl OfFile {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let mut file = unnamed();
        let expect = |_| Expect::written(u32::MAX, Texture::any(rng));
        let original: Vec<Expect> = (0..pages).map(expect).collect();
        for (page, expect) in original.iter().enumerate() {
            file.write_all(bytes(&expect.content(key, page))).expect("write");
        }
        // SAFETY: a new mapping of a file that nobody else knows.
        let at = unsafe { mmap(null_mut(), pages * PAGE, READ_WRITE, MapFlags::PRIVATE, &file, 0) };
        let mut mapping = Mapping::adopt(at.expect("mmap"), pages, key);
        mapping.pages.copy_from_slice(&original);
        OfFile { mapping, original }
    }
}

/// A file without a name, on disk if there is one.
fn unnamed() -> File {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)
        .or_else(|_| rustix::fs::memfd_create("shapes", rustix::fs::MemfdFlags::CLOEXEC))
        .expect("a file")
        .into()
}

impl Shape for OfFile {
    fn name(&self) -> &'static str {
        "file"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.mapping]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        if !rng.once_in(4) {
            self.mapping.scribble(rng);
            return Ok(());
        }
        // What was written is forgotten, and the file shows again.
        let pages = rng.run(self.original.len(), 16);
        self.mapping.advise(pages.clone(), Advice::LinuxDontNeed).expect("madvise");
        self.mapping.pages[pages.clone()].copy_from_slice(&self.original[pages.clone()]);
        self.mapping.check_pages(pages)
    }
}

/// The program's own file, mapped once more.
struct Program {
    at: *const u8,
    content: Vec<u8>,
}

impl Program {
    const MOST: usize = 1 << 20;

    fn new() -> Self {
        let file = File::open("/proc/self/exe").expect("the program's file");
        let len = Self::MOST.min(file.metadata().expect("its size").len() as usize);
        let mut content = vec![0; len];
        file.read_exact_at(&mut content, 0).expect("read");
        // SAFETY: a new mapping, read only, of a file that Linux keeps from being written.
        let at = unsafe { mmap(null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, &file, 0) };
        Program { at: at.expect("mmap").cast(), content }
    }
}

impl Shape for Program {
    fn name(&self) -> &'static str {
        "program"
    }

    fn mutate(&mut self, _: &mut Rng) -> Result<(), Wrong> {
        Ok(())
    }

    fn check(&mut self) -> Result<(), Wrong> {
        compare(self.at, &self.content)
    }

    fn digest(&self) -> u64 {
        0
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::here(self.at as usize, self.content.len())]
    }
}

/// Memory that Linux writes, not the program: what it reads from a pipe.
struct Received {
    mapping: Mapping,
    read: File,
    write: File,
}

impl Received {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        Received { mapping: furnished(rng, pages, key), read: read.into(), write: write.into() }
    }

    fn receive(&mut self, page: usize, texture: Texture) {
        let expect = self.mapping.next(texture);
        self.write.write_all(bytes(&expect.content(self.mapping.key, page))).expect("write");
        // SAFETY: a page of this mapping, to which nothing else refers.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.mapping.page(page), PAGE) };
        self.read.read_exact(memory).expect("read");
        self.mapping.pages[page] = expect;
    }
}

impl Shape for Received {
    fn name(&self) -> &'static str {
        "received"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.mapping]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        for page in rng.run(self.mapping.pages.len(), 8) {
            self.receive(page, Texture::any(rng));
        }
        Ok(())
    }

    /// The pipe is the parent's: two readers would take each other's pages.
    fn forked(&mut self) -> bool {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        (self.read, self.write) = (read.into(), write.into());
        true
    }
}
