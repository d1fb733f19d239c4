//! A program with something about it that keeps memory of it, or all of it, from being paged out: `stubborn HABIT`.
//! What pages foreign memory out and in is tested on it.
//!
//! It answers `ready` and where its memory is (`NAME:ADDRESS:LENGTH`), or `lacks WHY` where this machine has no such
//! thing. From then on it answers every line with `ok`, or `wrong WHAT`: then it has compared every byte that it holds
//! with what should be there, has made use of its habit, and has written everything anew.
//!
//! It knows every habit that has a line in [`habit`].

mod aio;
mod faults;
mod filter;
mod memory;
mod regions;
mod relatives;
mod ring;

use memory::Memory;
use std::io;

/// Pages that have no part in the habit.
const PLAIN_PAGES: usize = 1024;

/// Something that a program does.
trait Habit {
    /// Does it, and looks whether that had the effect that it should.
    fn practise(&mut self) -> Result<(), String>;

    /// Memory with a part in it, by name.
    fn places(&self) -> Vec<(&'static str, &Memory)> {
        Vec::new()
    }
}

fn habit(name: &str) -> io::Result<Box<dyn Habit>> {
    Ok(match name {
        "aio" => Box::new(aio::Reader::new()?),
        "filter" => Box::new(filter::Filter::new()?),
        "late-filter" => Box::new(filter::Late),
        "faults" => Box::new(faults::Unwatched::new()?),
        "faults-watched" => Box::new(faults::Watched::new()?),
        "pinned" => Box::new(ring::Reader::pinned()?),
        "regions" => Box::new(regions::Regions::new()),
        "ring" => Box::new(ring::Reader::new(0)?),
        "ring-hidden" => Box::new(ring::Reader::hidden()?),
        "ring-hidden-thread" => Box::new(ring::Distant::new()?),
        "ring-polled" => Box::new(ring::Reader::new(ring::SETUP_SQPOLL)?),
        "ring-unnumbered" => Box::new(ring::Reader::unnumbered()?),
        "ring-worker" => Box::new(ring::Waiter::new()?),
        "shared" => Box::new(relatives::Sharer::new()?),
        "lent" => Box::new(relatives::Lender::new()?),
        "traced" => Box::new(relatives::Traced::new()?),
        _ => return Err(io::Error::other("no such habit")),
    })
}

fn main() {
    let mut plain = Memory::anonymous(PLAIN_PAGES);
    let mut habit = match habit(&std::env::args().nth(1).unwrap_or_default()) {
        Ok(habit) => habit,
        Err(why) => return println!("lacks {why}"),
    };
    let place = |(name, memory): (&str, &Memory)| format!(" {name}:{:#x}:{}", memory.address(), memory.bytes());
    println!("ready{}{}", place(("plain", &plain)), habit.places().into_iter().map(place).collect::<String>());
    for line in std::io::stdin().lines() {
        let outcome =
            line.map_err(|error| error.to_string()).and_then(|_| plain.check()).and_then(|()| habit.practise());
        plain.write();
        match outcome {
            Ok(()) => println!("ok"),
            Err(what) => println!("wrong {what}"),
        }
    }
}
