//! All that a process consists of, and the loop that answers commands.

use crate::children::Child;
use crate::command::{Command, Report};
use crate::pattern::{Rng, fold};
use crate::region::Wrong;
use crate::relatives::brief_life;
use crate::stack::{Frame, deep};
use crate::threads::Worker;
use crate::world::{Owner, World};
use crate::{Options, agentlike};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::mem::{self, ManuallyDrop};
use std::os::fd::FromRawFd;
use std::thread;
use std::time::{Duration, Instant};

/// Pages of a MiB.
const MIB: usize = 256;
/// Bytes of a command at most.
const LINE: u64 = 64;
/// Frames of the main stack at most.
const DEPTH: usize = 1500;

/// A process: the world of its main thread, its other threads, its children.
pub struct Fleet {
    world: World,
    workers: Vec<Worker>,
    children: Vec<Child>,
    rng: Rng,
    steps: u64,
    /// Of an executed child.
    child_mib: usize,
}

impl Fleet {
    pub fn new(options: &Options) -> Self {
        let pages = options.mib * MIB;
        let mut rng = Rng::new(options.seed ^ 0x5a);
        let own = if options.threads == 0 { pages } else { pages / 2 };
        let world = if options.agent_like {
            agentlike::world(options.seed, own)
        } else {
            // Without a forked child, nothing is shared copy-on-write, and all can be paged out.
            let owner = if options.children > 1 { Owner::Parent } else { Owner::Process };
            World::new(options.seed, own, owner)
        };
        let worker = |index| Worker::start(index, rng.next(), own / options.threads);
        let mut workers: Vec<Worker> = (0..options.threads).map(worker).collect();
        if options.ticking {
            workers.push(Worker::ticking(rng.next(), MIB));
        }
        let child_mib = (options.mib / 8).max(4);
        let mut fleet = Fleet { world, workers, children: Vec::new(), rng, steps: 0, child_mib };
        for index in 0..options.children {
            let child = fleet.child(index);
            fleet.children.push(child);
        }
        fleet
    }

    fn child(&mut self, index: usize) -> Child {
        let (seed, mib) = (self.rng.next(), self.child_mib);
        Child::start(self, index, seed, mib)
    }

    /// In a forked child: the parent's threads are not here, its other children not this one's.
    pub fn forked(&mut self, seed: u64) {
        mem::forget(mem::take(&mut self.workers));
        self.children.clear();
        self.world.forked(seed);
        self.rng = Rng::new(!seed);
        self.steps = 0;
    }

    /// `steps` changes by anybody, all at the same time.
    fn step(&mut self, steps: usize) -> Result<Report, Wrong> {
        let parties = 1 + self.workers.len() + self.children.len();
        let mut shares = vec![0; parties];
        (0..steps).for_each(|_| shares[self.rng.below(parties)] += 1);
        self.steps += steps as u64;
        let (of_workers, of_children) = shares[1..].split_at(self.workers.len());
        self.workers.iter().zip(of_workers).for_each(|(worker, share)| worker.post(Command::Step(*share)));
        // In the midst of what the threads do.
        if !self.children.is_empty() && self.rng.once_in(8) {
            let index = self.rng.below(self.children.len());
            self.replace(index)?;
        }
        let mut children = self.children.iter_mut().zip(of_children);
        children.try_for_each(|(child, share)| child.tell(Command::Step(*share)))?;
        self.world.step(shares[0])?;
        self.gather()
    }

    fn replace(&mut self, index: usize) -> Result<(), Wrong> {
        self.children.remove(index).end()?;
        let child = self.child(index);
        self.children.insert(index, child);
        Ok(())
    }

    /// Everybody looks at everything, or lists it.
    fn look(&mut self, command: Command, frame: &Frame<'_>) -> Result<Report, Wrong> {
        self.workers.iter().for_each(|worker| worker.post(command));
        self.children.iter_mut().try_for_each(|child| child.tell(command))?;
        if command == Command::Check {
            frame.check()?;
            self.world.check()?;
            return self.gather();
        }
        let mut report = self.gather()?;
        report.places = [self.world.places(), frame.places(), report.places].concat();
        Ok(report)
    }

    /// One report of what all have to say.
    fn gather(&mut self) -> Result<Report, Wrong> {
        let mut whole = Report { digest: self.world.digest(), places: Vec::new() };
        let reports = self.workers.iter().map(Worker::outcome);
        for report in reports.chain(self.children.iter_mut().map(Child::outcome)) {
            let report = report?;
            whole.digest = fold(whole.digest, report.digest);
            whole.places.extend(report.places);
        }
        Ok(whole)
    }

    fn end(&mut self) -> Result<(), Wrong> {
        self.workers.iter().for_each(|worker| worker.post(Command::Quit));
        self.children.drain(..).try_for_each(Child::end)?;
        self.workers.drain(..).for_each(Worker::join);
        Ok(())
    }

    /// Waits deep in the stack until there is a command for which it has to be left.
    fn attend(&mut self, input: &mut dyn BufRead, frame: &Frame<'_>) -> Result<Command, Wrong> {
        loop {
            let mut line = String::new();
            if (&mut *input).take(LINE).read_line(&mut line).expect("input") == 0 {
                return Ok(Command::Quit);
            }
            match Command::parse(&line) {
                None => answer("error: step N, check, places or quit"),
                Some(command @ (Command::Check | Command::Places)) => {
                    let report = self.look(command, frame)?;
                    answer(&report.line(self.steps));
                }
                Some(command) => return Ok(command),
            }
        }
    }
}

/// Answers commands until the last one.
fn serve(fleet: &mut Fleet) -> Result<(), Wrong> {
    // SAFETY: nobody else reads descriptor 0, and the process ends with this loop.
    let mut input = BufReader::new(unsafe { File::from_raw_fd(0) });
    loop {
        let (depth, key) = (fleet.rng.below(DEPTH), fleet.rng.next());
        match deep(depth, key, None, &mut |frame| fleet.attend(&mut input, frame))? {
            Command::Step(steps) => {
                let report = fleet.step(steps)?;
                answer(&report.line(fleet.steps));
            }
            _ => {
                fleet.end()?;
                answer(&Report::default().line(fleet.steps));
                return Ok(());
            }
        }
    }
}

/// Changes and checks everything for `seconds`, with pauses in between, while other threads come and go.
fn run(fleet: &mut Fleet, seconds: u64) -> Result<(), Wrong> {
    let seed = fleet.rng.next();
    thread::spawn(move || come_and_go(seed));
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let (depth, key) = (fleet.rng.below(DEPTH), fleet.rng.next());
        deep(depth, key, None, &mut |frame| {
            match fleet.rng.below(3) {
                0 => fleet.look(Command::Check, frame).map(|_| ())?,
                1 => thread::sleep(Duration::from_millis(fleet.rng.next() % 20)),
                _ => {}
            }
            let steps = 1 + fleet.rng.below(64);
            fleet.step(steps)
        })?;
    }
    let report = deep(0, 0, None, &mut |frame| fleet.look(Command::Check, frame))?;
    fleet.end()?;
    answer(&report.line(fleet.steps));
    Ok(())
}

/// Threads start and end all the time.
fn come_and_go(seed: u64) {
    let mut rng = Rng::new(seed);
    loop {
        let (pages, key) = (1 + rng.below(32), rng.next());
        let life = thread::Builder::new().stack_size(1 << 20).spawn(move || brief_life(pages, key));
        if let Err(wrong) = life.expect("a thread").join().expect("a thread that ends") {
            fail(&wrong.within("brief"));
        }
    }
}

fn answer(line: &str) {
    // SAFETY: descriptor 1 stays open.
    let mut output = ManuallyDrop::new(unsafe { File::from_raw_fd(1) });
    // Whoever does not listen any more has ended, and so will this process.
    let _ = output.write_all(format!("{line}\n").as_bytes());
}

/// Tells what is wrong, and ends the process at once: nothing can be relied on any more.
pub fn fail(wrong: &Wrong) -> ! {
    answer(&wrong.to_string());
    // SAFETY: ends the process.
    unsafe { libc::_exit(1) }
}

/// The rest of the process's life.
pub fn to_the_end(fleet: &mut Fleet) -> ! {
    finish(serve(fleet))
}

pub fn run_to_the_end(fleet: &mut Fleet, seconds: u64) -> ! {
    finish(run(fleet, seconds))
}

fn finish(outcome: Result<(), Wrong>) -> ! {
    if let Err(wrong) = outcome {
        fail(&wrong);
    }
    // SAFETY: ends the process, and does not run twice, in a forked child, what the parent means to run at its end.
    unsafe { libc::_exit(0) }
}
