//! The log of what crosses trust domains: a JSON object a line, beside the socket. Only its end is kept.

use crate::paths::io;
use agentmem_core::Result;
use agentmem_store::GrantEvent;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

/// What the log is called behind the socket's name, and what the one before it.
pub const LOG: &str = "grants";
const OLDER: &str = "grants.1";
/// At this length a new one is begun.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the log is, and who may write to it.
#[derive(Debug)]
pub struct GrantLog {
    /// The file now, and the one before.
    paths: Mutex<[PathBuf; 2]>,
}

impl GrantLog {
    /// The one beside the socket, of which `beside` gives paths by their ending.
    pub fn beside(beside: impl Fn(&str) -> PathBuf) -> Self {
        GrantLog { paths: Mutex::new([beside(LOG), beside(OLDER)]) }
    }

    /// Appends one line.
    pub fn write(&self, event: &GrantEvent) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("plain fields always encode");
        line.push(b'\n');
        let paths = self.paths.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let [path, older] = &*paths;
        let write = || {
            if std::fs::metadata(path).is_ok_and(|found| found.len() + line.len() as u64 > FILE_BYTES_MAX) {
                std::fs::rename(path, older)?;
            }
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            let len = file.metadata()?.len();
            // Half a line would spoil the next one.
            file.write_all(&line).inspect_err(|_| drop(file.set_len(len)))
        };
        write().map_err(|error| io(path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> GrantEvent {
        GrantEvent {
            unix_ms: number,
            event: "granted",
            grant: format!("{number:016x}"),
            from_domain: String::new(),
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
        let [now, before] = [LOG, OLDER].map(read);
        assert!(now.len() as u64 <= FILE_BYTES_MAX && before.len() as u64 <= FILE_BYTES_MAX);
        let all = before + &now;
        let numbers: Vec<u64> = all
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["unix_ms"].as_u64().unwrap())
            .collect();
        assert!(numbers.iter().zip(&numbers[1..]).all(|(one, next)| one + 1 == *next));
        assert_eq!(*numbers.last().unwrap(), count - 1);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let log = GrantLog::beside(|ending| folder.path().join("none").join(ending));
        let error = log.write(&event(1)).unwrap_err();
        assert!(error.kind() == agentmem_core::ErrorKind::Io && error.subject().contains("none/grants"), "{error}");
    }
}
