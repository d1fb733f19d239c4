//! Writes down whom the kernel is to kill first: oom.rs decides, and this remembers how it was before.
//!
//! The memory of that is kept outside of the engine's process, so that one that is started again puts back what the
//! one before had changed. A score that somebody else has changed meanwhile is left alone.

use crate::oom;
use agentmem_store::SessionProcess;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SCORE: &str = "oom_score_adj";
/// Process, score before, and when it started: one row of what is remembered.
const ROW_BYTES: usize = 16;
/// Rows that are remembered; there are fewer connections than that.
const ROWS_MAX: usize = 65_536;

/// A process: its number, and when it started.
type Key = (u32, u64);

/// Scores of processes with sessions.
#[derive(Debug)]
pub struct Scores {
    proc: PathBuf,
    /// What the engine has itself.
    engine: i32,
    changed: BTreeMap<Key, Changed>,
    /// Rows of those that were changed.
    memory: File,
    /// Rows below `rows` that are free.
    free: Vec<usize>,
    rows: usize,
}

/// One that was changed.
#[derive(Debug)]
struct Changed {
    row: usize,
    start: i32,
    /// What was written last; nothing once somebody else has written there.
    written: Option<i32>,
}

impl Scores {
    /// Of the processes in /proc. `memory` is empty, or what an engine that was killed remembered.
    pub fn new(memory: File) -> Self {
        Self::at(Path::new("/proc"), memory)
    }

    fn at(proc: &Path, memory: File) -> Self {
        let engine = score_of(&proc.join("self")).unwrap_or(0);
        let (proc, changed) = (proc.to_owned(), BTreeMap::new());
        let mut scores = Scores { proc, engine, changed, memory, free: Vec::new(), rows: 0 };
        let mut bytes = [0; ROW_BYTES];
        while scores.rows < ROWS_MAX && scores.memory.read_exact_at(&mut bytes, at(scores.rows)).is_ok() {
            let row = scores.rows;
            scores.rows += 1;
            match parse(&bytes) {
                ((0, _), _) => scores.free.push(row),
                (key, start) => {
                    let written = scores.process(key).and_then(|folder| read_score(&folder));
                    scores.changed.insert(key, Changed { row, start, written });
                }
            }
        }
        scores
    }

    /// How many differ from what they were.
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    /// Brings scores up to date with the sessions that there are: of each of `processes`, and of those that have none
    /// any more.
    pub fn follow(&mut self, processes: &[SessionProcess]) {
        let mut wanted: BTreeMap<Key, u8> = BTreeMap::new();
        for process in processes.iter().filter(|process| process.pid != std::process::id()) {
            let importance = wanted.entry((process.pid, process.started)).or_default();
            *importance = process.importance.max(*importance);
        }
        let over: Vec<Key> = self.changed.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        over.into_iter().for_each(|key| self.put_back(key));
        wanted.into_iter().for_each(|(key, importance)| self.set(key, importance));
    }

    /// Puts all of them back.
    pub fn put_all_back(&mut self) {
        self.follow(&[]);
    }

    fn set(&mut self, key: Key, importance: u8) {
        let Some(folder) = self.process(key) else { return };
        let Some(now) = read_score(&folder) else { return };
        let start = match self.changed.get_mut(&key) {
            // Somebody knows better.
            Some(changed) if changed.written != Some(now) => return changed.written = None,
            Some(changed) => changed.start,
            None => now,
        };
        let score = oom::wanted(start, importance, self.engine);
        if score == now {
            return;
        }
        if !self.changed.contains_key(&key) {
            // Remembered first.
            let Some(row) = self.remember(key, start) else { return };
            self.changed.insert(key, Changed { row, start, written: Some(now) });
        }
        // What is lower than it was takes rights that the daemon may lack; then it is as it was.
        let written = [score, start].into_iter().find(|&score| score == now || write_score(&folder, score));
        match (written, self.changed.get_mut(&key)) {
            (Some(written), _) if written == start => self.forget(key),
            (Some(_), Some(changed)) => changed.written = written,
            _ => self.forget(key),
        }
    }

    fn put_back(&mut self, key: Key) {
        let Some(changed) = self.changed.get(&key) else { return };
        if let Some(folder) = self.process(key)
            && read_score(&folder) == changed.written
        {
            write_score(&folder, changed.start);
        }
        self.forget(key);
    }

    /// The folder of a process, if it still is the same: of another one that has the number later, nothing is written
    /// there.
    fn process(&self, (pid, started): Key) -> Option<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let folder = openat(CWD, self.proc.join(pid.to_string()), flags, Mode::empty()).ok()?;
        let mut stat = String::new();
        File::from(openat(&folder, "stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?)
            .read_to_string(&mut stat)
            .ok()?;
        // The name may hold anything; the start is the 20th field behind it.
        let found: u64 = stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
        (found == started).then_some(folder)
    }

    fn remember(&mut self, (pid, started): Key, start: i32) -> Option<usize> {
        let row = self.free.pop().unwrap_or(self.rows);
        let mut bytes = [0; ROW_BYTES];
        bytes[..4].copy_from_slice(&pid.to_le_bytes());
        bytes[4..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..].copy_from_slice(&started.to_le_bytes());
        if row >= ROWS_MAX || self.memory.write_all_at(&bytes, at(row)).is_err() {
            return None;
        }
        self.rows = self.rows.max(row + 1);
        Some(row)
    }

    fn forget(&mut self, key: Key) {
        if let Some(changed) = self.changed.remove(&key)
            && self.memory.write_all_at(&[0; ROW_BYTES], at(changed.row)).is_ok()
        {
            self.free.push(changed.row);
        }
    }
}

/// Where a row lies.
fn at(row: usize) -> u64 {
    (row * ROW_BYTES) as u64
}

fn parse(row: &[u8; ROW_BYTES]) -> (Key, i32) {
    let word = |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
    ((word(0), u64::from(word(12)) << 32 | u64::from(word(8))), word(4) as i32)
}

fn read_score(folder: &OwnedFd) -> Option<i32> {
    let mut text = String::new();
    let file = openat(folder, SCORE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    File::from(file).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_score(folder: &OwnedFd, score: i32) -> bool {
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let Ok(file) = openat(folder, SCORE, flags, Mode::empty()) else { return false };
    File::from(file).write_all(score.to_string().as_bytes()).is_ok()
}

fn score_of(process: &Path) -> Option<i32> {
    std::fs::read_to_string(process.join(SCORE)).ok()?.trim().parse().ok()
}

/// Lowers the score of this process to the first of `scores` that is lower and may be. Returns the one before, if it
/// was lowered.
pub fn lower_own(scores: &[i32]) -> Option<i32> {
    let before = score_of(Path::new("/proc/self"))?;
    let mut lower = scores.iter().take_while(|&&lower| lower < before);
    lower.find(|&&lower| set_own(lower)).map(|_| before)
}

/// Sets the score of this process; whether it could be.
pub fn set_own(score: i32) -> bool {
    std::fs::write(Path::new("/proc/self").join(SCORE), score.to_string()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A /proc of these processes: number, start, score.
    struct Fake(tempfile::TempDir, File);

    impl Fake {
        fn new(processes: &[(u32, u64, i32)]) -> Self {
            let fake = Fake(tempfile::tempdir().unwrap(), tempfile::tempfile().unwrap());
            processes.iter().for_each(|&(pid, started, score)| fake.start(pid, started, score));
            fake
        }

        fn start(&self, pid: u32, started: u64, score: i32) {
            let folder = self.0.path().join(pid.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            let fields = format!("{pid} (a ) b) S{} {started} 0 0", " 1".repeat(18));
            std::fs::write(folder.join("stat"), fields).unwrap();
            self.write(pid, score);
        }

        fn write(&self, pid: u32, score: i32) {
            std::fs::write(self.0.path().join(format!("{pid}/{SCORE}")), format!("{score}\n")).unwrap();
        }

        fn score(&self, pid: u32) -> i32 {
            score_of(&self.0.path().join(pid.to_string())).unwrap()
        }

        fn scores(&self) -> Scores {
            Scores { engine: -850, ..Scores::at(self.0.path(), self.1.try_clone().unwrap()) }
        }
    }

    fn process(pid: u32, started: u64, importance: u8) -> SessionProcess {
        SessionProcess { pid, started, importance }
    }

    #[test]
    fn scores_follow_importance_and_are_put_back() {
        let fake = Fake::new(&[(10, 5, 0), (11, 5, 200), (12, 5, 0), (13, 5, 7)]);
        let mut scores = fake.scores();
        scores.follow(&[process(10, 5, 0), process(11, 5, 100), process(12, 5, 50)]);
        assert_eq!([10, 11, 12, 13].map(|pid| fake.score(pid)), [300, -100, 0, 7]);
        assert_eq!(scores.changed(), 2, "one of the usual importance is as it was");
        // Of several agents of a process the most important counts.
        scores.follow(&[process(10, 5, 0), process(10, 5, 25), process(11, 5, 50)]);
        assert_eq!([10, 11].map(|pid| fake.score(pid)), [150, 200]);
        scores.put_all_back();
        assert_eq!([10, 11, 12, 13].map(|pid| fake.score(pid)), [0, 200, 0, 7]);
        assert_eq!(scores.changed(), 0);
    }

    #[test]
    fn what_somebody_else_wrote_is_left_alone() {
        let fake = Fake::new(&[(10, 5, 0)]);
        let mut scores = fake.scores();
        scores.follow(&[process(10, 5, 0)]);
        fake.write(10, 555);
        scores.follow(&[process(10, 5, 25)]);
        assert_eq!(fake.score(10), 555);
        scores.put_all_back();
        assert_eq!(fake.score(10), 555);
    }

    #[test]
    fn another_process_of_the_number_is_not_touched() {
        let fake = Fake::new(&[(10, 5, 0), (11, 5, 0)]);
        let mut scores = fake.scores();
        scores.follow(&[process(10, 4, 0), process(11, 5, 0), process(12, 5, 0)]);
        assert_eq!(fake.score(10), 0);
        fake.start(11, 6, 9);
        scores.put_all_back();
        assert_eq!(fake.score(11), 9);
    }

    #[test]
    fn the_next_engine_knows_how_it_was() {
        let fake = Fake::new(&[(10, 5, 20), (11, 5, 30), (12, 5, 40)]);
        let mut killed = fake.scores();
        killed.follow(&[process(10, 5, 0), process(11, 5, 0), process(12, 5, 0)]);
        killed.follow(&[process(10, 5, 0), process(12, 5, 25)]);
        drop(killed);
        let mut next = fake.scores();
        assert_eq!(next.changed(), 2);
        next.follow(&[process(10, 5, 50), process(12, 5, 25)]);
        assert_eq!([10, 11, 12].map(|pid| fake.score(pid)), [20, 30, 190]);
        next.put_all_back();
        assert_eq!([10, 11, 12].map(|pid| fake.score(pid)), [20, 30, 40]);
        assert_eq!(fake.scores().changed(), 0);
    }

    #[test]
    fn this_process_is_raised_and_lowered_again() {
        let before = score_of(Path::new("/proc/self")).unwrap();
        assert!(set_own(before + 1));
        assert_eq!(score_of(Path::new("/proc/self")), Some(before + 1));
        assert_eq!(lower_own(&[before]), Some(before + 1));
        assert_eq!(score_of(Path::new("/proc/self")), Some(before));
    }
}
