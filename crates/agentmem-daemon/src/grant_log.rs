//! The log of what crosses trust domains: a JSON object a line, beside the socket. Only its end is kept, of each domain
//! its own: one that writes much pushes out what it wrote itself.

use crate::paths::io;
use agentmem_core::Result;
use agentmem_store::GrantEvent;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

/// What the log is called behind the socket's name, and what the one that takes its place.
pub const LOG: &str = "grants";
const SHORTER: &str = "grants.new";
/// At this length it is shortened to that one.
const FILE_BYTES_MAX: u64 = 2 << 20;
const SHORTENED_BYTES: usize = 1 << 20;

/// Where the log is, and who may write to it.
#[derive(Debug)]
pub struct GrantLog {
    /// The file, and the one that takes its place.
    paths: Mutex<[PathBuf; 2]>,
}

impl GrantLog {
    /// The one beside the socket, of which `beside` gives paths by their ending.
    pub fn beside(beside: impl Fn(&str) -> PathBuf) -> Self {
        GrantLog { paths: Mutex::new([beside(LOG), beside(SHORTER)]) }
    }

    /// Appends one line.
    pub fn write(&self, event: &GrantEvent) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("plain fields always encode");
        line.push(b'\n');
        let paths = self.paths.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let [path, shorter] = &*paths;
        let open = |path| OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let write = || {
            if std::fs::metadata(path).is_ok_and(|found| found.len() + line.len() as u64 > FILE_BYTES_MAX) {
                let _ = std::fs::remove_file(shorter);
                open(shorter)?.write_all(&shortened(&std::fs::read(path)?, SHORTENED_BYTES))?;
                std::fs::rename(shorter, path)?;
            }
            let mut file = open(path)?;
            let len = file.metadata()?.len();
            // Half a line would spoil the next one.
            file.write_all(&line).inspect_err(|_| drop(file.set_len(len)))
        };
        write().map_err(|error| io(path, error))
    }
}

/// The domain whose session caused the event of a line: who redeems, or who grants and revokes.
fn cause(line: &[u8]) -> String {
    let event: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    let domain = if event["event"] == "redeemed" { &event["to_domain"] } else { &event["from_domain"] };
    domain.as_str().unwrap_or_default().to_owned()
}

/// The end of a log, in `limit` bytes at most: of each domain the newest lines, in equal parts, where one that needs less
/// leaves the others more.
fn shortened(log: &[u8], limit: usize) -> Vec<u8> {
    let lines: Vec<(String, &[u8])> =
        log.split_inclusive(|&byte| byte == b'\n').map(|line| (cause(line), line)).collect();
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for (domain, line) in &lines {
        *sizes.entry(domain).or_default() += line.len();
    }
    let part = part(sizes.into_values().collect(), limit);
    let mut lefts: HashMap<&str, usize> = HashMap::new();
    let mut kept: Vec<&[u8]> = Vec::new();
    for (domain, line) in lines.iter().rev() {
        let left = lefts.entry(domain).or_insert(part);
        // Nothing older than what did not fit.
        *left = left.saturating_sub(line.len());
        if *left > 0 {
            kept.push(line);
        }
    }
    kept.reverse();
    kept.concat()
}

/// How much each may have at most so that all have `limit` together.
fn part(mut sizes: Vec<usize>, limit: usize) -> usize {
    sizes.sort_unstable();
    let mut left = limit;
    for (at, &size) in sizes.iter().enumerate() {
        let part = left / (sizes.len() - at);
        if size > part {
            return part;
        }
        left -= size;
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> GrantEvent {
        caused(number, "granted", "")
    }

    fn caused(number: u64, event: &'static str, from_domain: &str) -> GrantEvent {
        GrantEvent {
            unix_ms: number,
            event,
            grant: format!("{number:016x}"),
            from_domain: from_domain.into(),
            from_agent: "an \"agent\"\n".into(),
            to_domain: "tenant".into(),
            to_agent: None,
            content: "0".repeat(64),
            logical_bytes: 1,
            uses: 1,
            expires_unix_ms: 2,
        }
    }

    #[test]
    fn each_event_is_one_line_and_only_the_last_megabytes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let log = GrantLog::beside(|ending| folder.path().join(ending));
        let line_bytes = serde_json::to_vec(&event(0)).unwrap().len() as u64 + 1;
        let count = 3 * FILE_BYTES_MAX / line_bytes;
        for number in 0..count {
            log.write(&event(number)).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let all = read(LOG);
        assert!(all.len() as u64 <= FILE_BYTES_MAX && all.len() >= SHORTENED_BYTES - 1000);
        let numbers = numbers(&all);
        assert!(numbers.iter().zip(&numbers[1..]).all(|(one, next)| one + 1 == *next));
        assert_eq!(*numbers.last().unwrap(), count - 1);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    fn numbers(log: &str) -> Vec<u64> {
        let number = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["unix_ms"].as_u64().unwrap();
        log.lines().map(number).collect()
    }

    #[test]
    fn a_domain_that_writes_much_pushes_out_what_it_wrote_itself() {
        let folder = tempfile::tempdir().unwrap();
        let log = GrantLog::beside(|ending| folder.path().join(ending));
        for number in 0..100 {
            log.write(&caused(number, "granted", "quiet")).unwrap();
        }
        for number in 100..20_000 {
            // Whoever redeems writes too, and not into what others have.
            let (event, from) = if number % 2 == 0 { ("granted", "loud") } else { ("redeemed", "quiet") };
            log.write(&caused(number, event, from)).unwrap();
        }
        let log = std::fs::read_to_string(folder.path().join(LOG)).unwrap();
        assert!(log.len() as u64 <= FILE_BYTES_MAX);
        let numbers = numbers(&log);
        assert_eq!(numbers[..100], (0..100).collect::<Vec<_>>());
        assert_eq!(numbers[numbers.len() - 100..], (19_900..20_000).collect::<Vec<_>>());
    }

    #[test]
    fn parts_are_equal_and_what_one_does_not_need_is_left_to_others() {
        assert_eq!(part(vec![10, 10], 100), 100);
        assert_eq!(part(vec![10, 1000, 1000], 100), 45);
        assert_eq!(part(vec![1000, 1000], 100), 50);
        assert_eq!(part(vec![], 100), 100);
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let log = GrantLog::beside(|ending| folder.path().join("none").join(ending));
        let error = log.write(&event(1)).unwrap_err();
        assert!(error.kind() == agentmem_core::ErrorKind::Io && error.subject().contains("none/grants"), "{error}");
    }
}
