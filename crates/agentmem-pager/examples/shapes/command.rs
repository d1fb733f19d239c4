//! What can be asked, and what is answered.

use crate::region::Wrong;
use crate::world::Place;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Change so many things.
    Step(usize),
    /// Look at everything.
    Check,
    /// Say where everything is.
    Places,
    Quit,
}

impl Command {
    pub fn parse(line: &str) -> Option<Self> {
        let (word, number) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match word {
            "step" => number.parse().ok().map(Command::Step),
            "check" => Some(Command::Check),
            "places" => Some(Command::Places),
            "quit" => Some(Command::Quit),
            _ => None,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Step(steps) => write!(out, "step {steps}"),
            Command::Check => write!(out, "check"),
            Command::Places => write!(out, "places"),
            Command::Quit => write!(out, "quit"),
        }
    }
}

/// What a world, a thread or a process has to say.
#[derive(Default)]
pub struct Report {
    pub digest: u64,
    pub places: Vec<Place>,
}

impl Report {
    /// The answer in a line.
    pub fn line(&self, steps: u64) -> String {
        let places = self.places.iter().map(|place| {
            let Place { pid, name, at, len } = place;
            format!(" {pid}:{name}:{at:#x}:{len}")
        });
        format!("ok {steps} {:016x}", self.digest) + &places.collect::<String>()
    }

    /// The answer of another process. None: not an answer.
    pub fn parse(line: &str) -> Option<Result<Self, Wrong>> {
        if let Some(told) = line.strip_prefix("wrong ") {
            return Some(Err(Wrong::told(told)));
        }
        let mut words = line.strip_prefix("ok ")?.split(' ').skip(1);
        let digest = u64::from_str_radix(words.next()?, 16).ok()?;
        let places = words.map(parse_place).collect::<Option<_>>()?;
        Some(Ok(Report { digest, places }))
    }
}

fn parse_place(word: &str) -> Option<Place> {
    let mut parts = word.split(':');
    let (pid, name) = (parts.next()?.parse().ok()?, parts.next()?.to_owned());
    let at = usize::from_str_radix(parts.next()?.strip_prefix("0x")?, 16).ok()?;
    Some(Place { pid, name, at, len: parts.next()?.parse().ok()? })
}
