//! `--count`: several supervisors of the same command, and one process that waits for them.

use crate::arguments::Settings;
use crate::gate::{Bell, Change, Gate};
use crate::launch::{self, Exit, Inherited, LaunchError};
use crate::os::{self, SignalSet};
use crate::registry;
use rustix::process::Pid;
use std::collections::HashSet;
use std::ffi::OsString;

/// Starts `count` supervisors named after the first part of their name and a number from 1 on, and
/// waits for all. Returns how the first one ended that failed.
pub fn run(settings: &Settings, count: u32, command: &[OsString]) -> Result<Exit, LaunchError> {
    let own = |error: std::io::Error| LaunchError::own("cannot start several", error);
    let (inherited, _signals) = Inherited::take().map_err(own)?;
    os::forget_stdin().map_err(own)?;
    let base = match &settings.name {
        Some(name) => name.clone(),
        None => registry::base_name(&command.first().map_or_else(Default::default, |word| word.to_string_lossy())),
    };
    let mut running = HashSet::new();
    for number in 1..=count {
        let mut line = vec![OsString::from("/proc/self/exe"), "run".into(), format!("--name={base}-{number}").into()];
        line.extend(settings.to_options());
        line.push("--".into());
        line.extend_from_slice(command);
        running.insert(launch::spawn(&line, &inherited, None)?);
    }
    inherited.let_go().map_err(own)?;
    wait_for(running).map_err(own)
}

fn wait_for(mut running: HashSet<Pid>) -> std::io::Result<Exit> {
    let gate = Gate::new(Bell::new()?);
    // A key on the terminal reaches all of them, and stops this one as it stops them.
    SignalSet::of(&[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]).unblock();
    let heard = [libc::SIGCHLD, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGINT, libc::SIGQUIT];
    let signals = SignalSet::of(&heard);
    let mut failed = None;
    while !running.is_empty() {
        let received = signals.wait();
        if received.signal != libc::SIGCHLD && !received.by_kernel {
            running.iter().for_each(|pid| os::kill(pid.as_raw_nonzero().get(), received.signal));
        }
        gate.reap(|pid, change| {
            if let Change::Ended(exit) = change {
                running.remove(&pid);
                failed = failed.or((exit != Exit::Code(0)).then_some(exit));
            }
        });
    }
    Ok(failed.unwrap_or(Exit::Code(0)))
}
