//! Memory that other threads and processes have a hand in.

use crate::memory::furnished;
use crate::pattern::{Expect, PAGE, Rng, Texture, mix};
use crate::region::{Mapping, Region, Wrong, bytes, compare_copy};
use crate::stack::deep;
use crate::world::{Make, Maker, Owner, Place, Shape};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

pub fn makers(owner: Owner) -> Vec<Maker> {
    let mut makers: Vec<Maker> = vec![
        (20, |rng, pages, key| Box::new(Lent::new(rng, pages, key))),
        (10, |_, pages, key| Box::new(Brief::new(pages, key))),
    ];
    if owner == Owner::Parent {
        makers.push((20, |rng, pages, key| Box::new(Inherited::new(rng, pages, key))));
        // So that there is a visitor in every other of some ten steps.
        makers.extend([(0, (|_, _, _| Box::new(Visited { visitor: None })) as Make); 3]);
    }
    makers
}

/// Waits for the end of a child.
pub fn reap(pid: Pid) {
    while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
}

/// Ends the calling process when its parent ends, however that happens.
pub fn end_with_parent() {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("prctl");
}

/// Memory written by a child of vfork: another process, with this one's memory, while this thread cannot be stopped.
struct Lent {
    mapping: Mapping,
    stack: Vec<u64>,
}

impl Lent {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        Lent { mapping: furnished(rng, pages, key), stack: vec![0; 16 << 10] }
    }
}

struct Errand<'a> {
    region: &'a mut Region,
    rng: &'a mut Rng,
}

extern "C" fn run_errand(errand: *mut c_void) -> c_int {
    // SAFETY: the parent waits, and its errand stays where it is, until this process ends.
    let errand = unsafe { &mut *errand.cast::<Errand<'_>>() };
    errand.region.scribble(errand.rng);
    if errand.rng.once_in(16) {
        thread::sleep(Duration::from_millis(10));
    }
    errand.region.scribble(errand.rng);
    0
}

impl Shape for Lent {
    fn name(&self) -> &'static str {
        "lent"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.mapping]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let mut errand = Errand { region: &mut self.mapping, rng };
        let top = self.stack.as_mut_ptr_range().end;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child has a stack of its own and ends before this returns; it neither allocates nor locks.
        let pid = unsafe { libc::clone(run_errand, top.cast(), flags, (&raw mut errand).cast()) };
        reap(Pid::from_raw(pid).expect("clone"));
        self.mapping.check()
    }
}

/// All memory, shared until the next check with a child that does nothing.
struct Visited {
    visitor: Option<Pid>,
}

impl Visited {
    fn end(&mut self) {
        if let Some(pid) = self.visitor.take() {
            rustix::process::kill_process(pid, Signal::KILL).expect("a child");
            reap(pid);
        }
    }
}

impl Shape for Visited {
    fn name(&self) -> &'static str {
        "visited"
    }

    fn mutate(&mut self, _: &mut Rng) -> Result<(), Wrong> {
        self.end();
        // SAFETY: the child makes system calls alone.
        match unsafe { libc::fork() } {
            0 => {
                end_with_parent();
                loop {
                    // SAFETY: it has no arguments.
                    unsafe { libc::pause() };
                }
            }
            pid => self.visitor = Some(Pid::from_raw(pid).expect("fork")),
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Wrong> {
        self.end();
        Ok(())
    }

    /// The visitor is the parent's.
    fn forked(&mut self) -> bool {
        false
    }
}

/// Threads that live for a moment.
struct Brief {
    pages: usize,
    key: u64,
    made: u64,
}

impl Brief {
    fn new(pages: usize, key: u64) -> Self {
        Brief { pages: pages.min(64), key, made: 0 }
    }
}

/// The life of such a thread: memory, a deep stack, and all of it right.
pub fn brief_life(pages: usize, key: u64) -> Result<(), Wrong> {
    let mut rng = Rng::new(key);
    let mut mapping = furnished(&mut rng, pages, key);
    deep(rng.below(200), key, None, &mut |frame| {
        (0..4).for_each(|_| mapping.scribble(&mut rng));
        thread::yield_now();
        frame.check()?;
        mapping.check()
    })
}

impl Shape for Brief {
    fn name(&self) -> &'static str {
        "brief"
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let spawn = |_| {
            self.made += 1;
            let (pages, key) = (self.pages, mix(self.key.wrapping_add(self.made)));
            let builder = thread::Builder::new().stack_size(1 << 20);
            builder.spawn(move || brief_life(pages, key)).expect("a thread")
        };
        let threads: Vec<_> = (0..1 + rng.below(3)).map(spawn).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread that ends"))
    }

    fn check(&mut self) -> Result<(), Wrong> {
        Ok(())
    }

    fn digest(&self) -> u64 {
        self.made
    }
}

/// A region shared copy-on-write with a child of fork, which shows its pages through a pipe.
struct Inherited {
    mapping: Mapping,
    child: Option<Reader>,
}

/// The child, and what it inherited.
struct Reader {
    pid: Pid,
    ask: File,
    hear: File,
    pages: Vec<Expect>,
    at: usize,
}

/// Asked for instead of a page: the child should end.
const GOODBYE: u64 = u64::MAX;

impl Reader {
    fn start(region: &Region) -> Self {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        let ((asked, ask), (hear, heard)) = (pipe(), pipe());
        // SAFETY: the child only reads its memory and two pipes: no lock that another thread held is ever taken.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            end_with_parent();
            show_pages(region, &mut asked.into(), &mut heard.into());
        }
        let (ask, hear) = (ask.into(), hear.into());
        Reader {
            pid: Pid::from_raw(pid).expect("fork"),
            ask,
            hear,
            pages: region.pages.clone(),
            at: region.at as usize,
        }
    }

    fn check(&mut self, key: u64, page: usize) -> Result<(), Wrong> {
        let mut got = [0; PAGE];
        self.ask.write_all(&(page as u64).to_le_bytes()).expect("a child that reads");
        self.hear.read_exact(&mut got).expect("a child that answers");
        compare_copy(self.at + page * PAGE, &got, bytes(&self.pages[page].content(key, page)))
    }

    fn end(mut self) {
        self.ask.write_all(&GOODBYE.to_le_bytes()).expect("a child that reads");
        reap(self.pid);
    }
}

/// What the child does.
fn show_pages(region: &Region, asked: &mut File, heard: &mut File) -> ! {
    let mut page = [0; 8];
    while asked.read_exact(&mut page).is_ok() && page != GOODBYE.to_le_bytes() {
        let at = std::hint::black_box(region.page(u64::from_le_bytes(page) as usize));
        // SAFETY: a page of the region.
        let content = unsafe { std::slice::from_raw_parts(at, PAGE) };
        if heard.write_all(content).is_err() {
            break;
        }
    }
    // SAFETY: ends the process without running what the parent meant to run at its end.
    unsafe { libc::_exit(0) }
}

impl Inherited {
    fn new(rng: &mut Rng, pages: usize, key: u64) -> Self {
        let mapping = furnished(rng, pages, key);
        let child = Some(Reader::start(&mapping));
        Inherited { mapping, child }
    }

    fn child(&mut self) -> &mut Reader {
        self.child.as_mut().expect("a child")
    }
}

impl Shape for Inherited {
    fn name(&self) -> &'static str {
        "inherited"
    }

    fn regions(&self) -> Vec<&Region> {
        vec![&self.mapping]
    }

    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
        let (key, pages) = (self.mapping.key, self.mapping.pages.len());
        match rng.below(16) {
            0 => {
                self.child.take().expect("a child").end();
                self.child = Some(Reader::start(&self.mapping));
            }
            1..=7 => rng.run(pages, 16).try_for_each(|page| self.child().check(key, page))?,
            8 => self.mapping.write(rng.below(pages), Texture::Zero),
            _ => self.mapping.scribble(rng),
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Wrong> {
        let (key, pages) = (self.mapping.key, self.mapping.pages.len());
        (0..pages).try_for_each(|page| self.child().check(key, page))?;
        self.mapping.check()
    }

    fn places(&self) -> Vec<Place> {
        let here = Place::here(self.mapping.at as usize, self.mapping.bytes());
        let child = self.child.as_ref().expect("a child");
        let there = Place { pid: child.pid.as_raw_nonzero().get() as u32, ..here.clone() };
        vec![here, there]
    }

    /// The child is the parent's.
    fn forked(&mut self) -> bool {
        self.child = None;
        false
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.end();
        }
    }
}
