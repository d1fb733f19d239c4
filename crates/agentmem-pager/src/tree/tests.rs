use super::*;
use crate::group::Group;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn pids(tree: &Tree) -> Vec<i32> {
    tree.members().unwrap().iter().map(|member| member.pid).collect()
}

#[test]
fn descendants_belong_and_the_dead_do_not() {
    let script = "sleep 100 & echo $!; (sleep 100 & echo $!; wait); wait";
    let mut shell = Group::start(Command::new("sh").args(["-c", script]).stdout(Stdio::piped()));
    let mut output = BufReader::new(shell.0.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.trim().parse::<i32>().unwrap()
    };
    let (first, second) = (line(), line());
    let root = shell.pid();
    let tree = Tree { root, cgroup: None, reaper: None, whole: true };
    let members = pids(&tree);
    assert!([root, first, second].iter().all(|pid| members.contains(pid)), "{members:?}");
    assert!(!members.contains(&(std::process::id() as i32)));

    let member = Member::of(root).unwrap();
    assert!(member.pidfd().is_ok());
    for pid in [first, second] {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    shell.0.kill().unwrap();
    // A zombie until it is waited for: ended all the same.
    while member.stat().is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(Member::of(root), Err(Unseen::Gone));
    assert_eq!(pids(&tree), Vec::<i32>::new());
    shell.0.wait().unwrap();
    assert_eq!(member.pidfd().err(), Some(Unseen::Gone));
}

#[test]
fn who_stands_between_supervisor_and_root_is_no_member() {
    let mut leader = Group::start(Command::new("sh").args(["-c", "sleep 100 & echo $!; wait"]).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(leader.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let root: i32 = line.trim().parse().unwrap();
    let orphan = Group::start(Command::new("sleep").arg("100"));
    let me = std::process::id() as i32;
    let reaper = Reaper { pid: me, leader: Some(leader.pid()) };
    let members = pids(&Tree { root, cgroup: None, reaper: Some(reaper), whole: true });
    assert!([root, orphan.pid()].iter().all(|pid| members.contains(pid)), "{members:?}");
    assert!([me, leader.pid()].iter().all(|pid| !members.contains(pid)), "{members:?}");
}

#[test]
fn a_pid_used_again_is_another_member() {
    let me = Member::of(std::process::id() as i32).unwrap();
    let before = Member { start_ticks: me.start_ticks - 1, ..me };
    assert_eq!(before.stat(), Err(Unseen::Gone));
    assert_eq!(before.pidfd().err(), Some(Unseen::Gone));
    assert!(me.lives() && !before.lives() && !before.kill());
    assert_eq!(serde_json::to_string(&me).unwrap(), format!("[{},{}]", me.pid, me.start_ticks));
}

#[test]
fn both_ways_to_find_children_agree() {
    let child = Group::start(Command::new("sleep").arg("100"));
    let me = std::process::id() as i32;
    let mut parents: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for stat in all_processes().unwrap() {
        parents.entry(stat.ppid).or_default().push(stat.pid);
    }
    let families = [Family::Parents(parents), Family::look().unwrap()];
    let child = child.pid();
    assert!(families.iter().all(|family| family.children(me).unwrap().contains(&child)));
    assert!(families.iter().all(|family| family.children(i32::MAX).unwrap().is_empty()));
}

#[test]
fn a_cgroup_lists_itself_and_those_below() {
    let folder = tempfile::tempdir().unwrap();
    let me = std::process::id() as i32;
    std::fs::create_dir(folder.path().join("below")).unwrap();
    std::fs::write(folder.path().join("cgroup.procs"), "0\n2147483647\n").unwrap();
    std::fs::write(folder.path().join("below/cgroup.procs"), format!("{me}\n")).unwrap();
    let mut tree = Tree { root: 1, cgroup: Some(folder.path().to_owned()), reaper: None, whole: true };
    assert_eq!(pids(&tree), [me], "0 is nobody, and the other has ended");
    tree.cgroup = Some(folder.path().join("none"));
    assert_eq!(pids(&tree), Vec::<i32>::new());
}

#[test]
fn who_left_the_cgroup_is_found_while_it_lives() {
    let mut shell = Group::start(
        Command::new("sh")
            .args(["-c", "sleep 100 & echo $!; wait; read x"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut line = String::new();
    BufReader::new(shell.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (root, child) = (shell.pid(), line.trim().parse::<i32>().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let list = |pids: &str| std::fs::write(folder.path().join("cgroup.procs"), pids).unwrap();
    let mut tree = Tree { root, cgroup: Some(folder.path().to_owned()), reaper: None, whole: true };
    list(&format!("{root}\n{child}\n"));
    assert_eq!(tree.strayed(), Ok(None));
    list(&format!("{root}\n"));
    let outside = tree.strayed().unwrap().unwrap();
    assert!(outside.contains(&format!("({child})")), "{outside}");
    tree.whole = false;
    assert_eq!(tree.strayed(), Ok(None), "what is below the root is none of it");
    tree.whole = true;
    rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    while tree.strayed() != Ok(None) {
        std::thread::yield_now();
    }
}

/// Runs in the memory of the test, as a vfork child does until it calls exec.
fn in_our_memory() -> i32 {
    extern "C" fn wait(_: *mut libc::c_void) -> libc::c_int {
        // SAFETY: pause has no arguments; the process only ever gets SIGKILL.
        unsafe { libc::pause() }
    }
    let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    // SAFETY: the stack is 64 KiB, never freed, and used by the child alone, which only pauses.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        libc::clone(wait, top, libc::CLONE_VM | libc::SIGCHLD, std::ptr::null_mut())
    };
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    pid
}

#[test]
fn memory_shared_with_an_outsider_is_found() {
    let other = in_our_memory();
    let me = Member::of(std::process::id() as i32).unwrap();
    let outsider = Member::of(other).unwrap();
    let found = sharing_outside(&[me]).unwrap();
    assert!(found.contains(&Sharing { member: me, outsider: other }), "{found:?}");
    assert!(!sharing_outside(&[me, outsider]).unwrap().iter().any(|sharing| sharing.outsider == other));
    let pid = rustix::process::Pid::from_raw(other).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    assert!(!sharing_outside(&[me]).unwrap().iter().any(|sharing| sharing.outsider == other));
}
