//! A daemon whose engine can be killed.

use super::{Site, lives, signal, wait_until};
use agentmem_store::{OnFull, Store};
use rustix::process::Signal;
use std::process::Output;

/// A real one: keeper and engine.
pub struct Daemon(pub Site);

impl Daemon {
    pub fn start(arguments: &[&str]) -> Self {
        let daemon = Daemon(Site::new());
        let started = daemon.run(&[&["--background"], arguments].concat());
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        daemon
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.0.command(env!("CARGO_BIN_EXE_agentmemd").as_ref()).args(arguments).output().expect("agentmemd")
    }

    pub fn holders(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.0.folder.path().join("a.sock.lock")).unwrap_or_default();
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// Kills the engine, and waits until another one is there.
    pub fn kill(&self) {
        let [_, engine] = self.holders()[..] else { panic!("no engine is there: {}", self.log()) };
        signal(engine, Signal::KILL);
        wait_until(
            "the engine is started again",
            || matches!(self.holders()[..], [_, other] if other != engine && lives(other)),
        );
    }

    pub fn connect(&self) -> Store {
        Store::connect(&self.0.socket, None, OnFull::Wait).unwrap()
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_dir(self.0.folder.path()).unwrap().flatten();
        let logs = text.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
        logs.map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.run(&["--stop"]);
    }
}
