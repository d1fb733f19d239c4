//! From arguments to a supervisor that supervises something.

use crate::arguments::Settings;
use crate::cgroup::Cgroup;
use crate::control::Control;
use crate::gate::{Bell, Gate};
use crate::launch::{Exit, Inherited, LaunchError};
use crate::observer::{Equip, Tree};
use crate::proc;
use crate::registry::{Registration, Registry};
use crate::root::Root;
use crate::supervisor::Supervisor;
use crate::terminal::Terminal;
use crate::tree;
use rustix::process::Pid;
use std::ffi::OsString;
use std::sync::Arc;

/// Starts `command` and supervises it until it ends. Returns how it ended.
pub fn run(settings: Settings, command: &[OsString], equip: &dyn Equip) -> Result<Exit, LaunchError> {
    let (mut inherited, signals) = Inherited::take().map_err(cannot)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(cannot)?;
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (registration, control) = register(&settings, &words, equip)?;
    // SAFETY: this process has one thread yet.
    unsafe { std::env::set_var("AGENTMEM_AGENT", registration.record().name) };
    let cgroup = cgroup(&settings, &registration, equip);
    if let Some(cgroup) = &cgroup {
        inherited.start_in(cgroup.path());
    }
    let (terminal, side) = Terminal::open().map_err(cannot)?.unzip();
    let root = Root::start(command, &inherited, side)?;
    inherited.let_go().map_err(cannot)?;
    let tree = tree(&settings, &registration, &root, true, cgroup).map_err(cannot)?;
    Ok(Supervisor::new(signals, control, root, terminal, tree, equip).map_err(cannot)?.supervise())
}

/// Supervises a process that runs already, until it or the supervisor is told to end.
pub fn adopt(settings: Settings, pid: i32, whole: bool, equip: &dyn Equip) -> Result<Exit, LaunchError> {
    let (inherited, signals) = Inherited::take().map_err(cannot)?;
    let pid = Pid::from_raw(pid).ok_or_else(|| LaunchError::own("adopt", "no such process"))?;
    let root = Root::adopt(pid)?;
    if !settings.best_effort {
        let check = equip.check_adopted(&settings, pid);
        check.map_err(|why| LaunchError::own(&format!("process {pid}"), why))?;
    }
    let (registration, control) = register(&settings, &command_of(pid), equip)?;
    let cgroup = cgroup(&settings, &registration, equip).filter(|cgroup| take_in(cgroup, pid, whole));
    if cgroup.is_none() && equip.wants_cgroup(&settings) && is_job_of_a_shell(pid) {
        return Err(LaunchError::own(&format!("process {pid}"), JOB_OF_A_SHELL));
    }
    inherited.let_go().map_err(cannot)?;
    let tree = tree(&settings, &registration, &root, whole, cgroup).map_err(cannot)?;
    Ok(Supervisor::new(signals, control, root, None, tree, equip).map_err(cannot)?.supervise())
}

const JOB_OF_A_SHELL: &str = "is a job of a shell, which would take its terminal back when it is stopped: start it with \
    `agentmem run`, or adopt it as root, in a cgroup";

/// Moves a process that runs already into `cgroup`, with everything below it if `whole`. All or nothing.
fn take_in(cgroup: &Cgroup, pid: Pid, whole: bool) -> bool {
    let root = pid.as_raw_nonzero().get();
    let tree = tree::Tree { root, cgroup: None, reaper: None, whole };
    // Twice: what was started meanwhile by somebody who was moved is inside already, by others it is found now.
    (0..2).all(|_| {
        tree.members()
            .is_ok_and(|members| members.iter().all(|member| cgroup.take(member.pid).is_ok() || member.stat().is_err()))
    })
}

/// Whether somebody else in its terminal's session waits for a process, and would see it stop.
fn is_job_of_a_shell(pid: Pid) -> bool {
    proc::stat(pid.as_raw_pid()).is_ok_and(|stat| stat.terminal != 0 && stat.session != stat.pid)
}

fn cannot(error: impl std::fmt::Display) -> LaunchError {
    LaunchError::own("cannot supervise", error)
}

fn cgroup(settings: &Settings, registration: &Registration, equip: &dyn Equip) -> Option<Cgroup> {
    equip.wants_cgroup(settings).then(|| Cgroup::create(&registration.record().name)).flatten()
}

fn tree(
    settings: &Settings,
    registration: &Arc<Registration>,
    root: &Root,
    whole: bool,
    cgroup: Option<Cgroup>,
) -> std::io::Result<Tree> {
    // The command runs: a record that lacks something is not worth its life.
    let _ = registration.update(|record| {
        record.root_pid = Some(root.pid().as_raw_nonzero().get());
        record.cgroup = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
    });
    Ok(Tree {
        root: root.pid(),
        cgroup,
        whole,
        leader: root.leader(),
        launched: !root.is_adopted(),
        settings: settings.clone(),
        gate: Arc::new(Gate::new(Bell::new()?)),
        registration: Arc::clone(registration),
    })
}

fn register(
    settings: &Settings,
    command: &[String],
    equip: &dyn Equip,
) -> Result<(Arc<Registration>, Control), LaunchError> {
    let own = |text: String| LaunchError { text, code: crate::launch::EXIT_OWN, errno: libc::EINVAL };
    if !settings.best_effort {
        equip.check(settings).map_err(own)?;
    }
    let registry = Arc::new(Registry::open().map_err(|error| own(error.to_string()))?);
    let (registration, listener) =
        registry.claim(settings.name.as_deref(), command).map_err(|error| own(error.to_string()))?;
    Ok((Arc::new(registration), Control::new(listener)))
}

fn command_of(pid: Pid) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}
