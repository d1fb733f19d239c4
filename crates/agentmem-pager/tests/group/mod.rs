//! A command in a process group of its own. It does not outlive its test, and neither do its children.

use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

pub struct Group(pub Child);

impl Group {
    pub fn start(command: &mut Command) -> Self {
        Group(command.process_group(0).spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
