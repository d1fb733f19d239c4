//! systemd as the keeper: its own user manager, in namespaces of its own, with the units that are shipped.

mod common;

use agentmem_core::Kind;
use agentmem_core::frame::Meta;
use agentmem_store::{OnFull, Smu, Store};
use common::daemon::content;
use common::{Site, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SERVICE: &str = "agentmem.service";
/// Where the second process of the test finds the folder.
const FOLDER: &str = "AGENTMEM_TEST_FOLDER";
/// A group of its own in each hierarchy, then namespaces: what the manager moves and kills is in there.
const ENTER: &str = r#"
for root in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ -e $root/cgroup.procs ] && mkdir $root/$GROUP && echo $$ > $root/$GROUP/cgroup.procs
done
exec unshare --mount --cgroup --pid --fork --kill-child --mount-proc sh -c "$INSIDE"
"#;
const INSIDE: &str = r#"
set -e
has_v1=$(grep -c name=systemd /proc/self/cgroup || true)
umount -R /sys/fs/cgroup
if [ "$has_v1" = 1 ]; then
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
/lib/systemd/systemd --user 3>&1 &
"$TEST" --exact inside --ignored --nocapture
"#;

/// What the manager says, and whether it did what it was told.
fn systemctl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("systemctl").arg("--user").args(arguments).output().expect("systemctl");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
}

fn told(arguments: &[&str]) -> String {
    let (is_done, said) = systemctl(arguments);
    assert!(is_done, "{arguments:?}: {said}");
    said
}

fn figure(name: &str) -> u64 {
    let said = told(&["show", "--value", &format!("--property={name}"), SERVICE]);
    said.parse().unwrap_or_else(|_| panic!("{name}: {said:?}"))
}

fn is_here() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    is_root && Path::new("/lib/systemd/systemd").exists() && Path::new("/sys/fs/cgroup").exists()
}

#[test]
fn systemd_keeps_what_a_killed_engine_had() {
    if !is_here() {
        return println!("no systemd, or not root: not tried");
    }
    let site = Site::new();
    let folder = site.folder.path();
    let units = folder.join(".config/systemd/user");
    std::fs::create_dir_all(&units).unwrap();
    std::fs::create_dir(folder.join("run")).unwrap();
    for name in [SERVICE, "agentmem.socket"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("units").join(name)).unwrap();
        let program = format!("ExecStart={}", env!("CARGO_BIN_EXE_agentmemd"));
        std::fs::write(units.join(name), text.replace("ExecStart=agentmemd", &program)).unwrap();
    }
    let group = format!("agentmem-test-{}", std::process::id());
    let output = Command::new("sh")
        .args(["-c", ENTER])
        .env_remove("NOTIFY_SOCKET")
        .envs([("GROUP", group.as_str()), ("INSIDE", INSIDE)])
        .envs([("HOME", folder), ("XDG_RUNTIME_DIR", &folder.join("run")), (FOLDER, folder)])
        .env("TEST", std::env::current_exe().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    for root in ["systemd", "unified", "."] {
        remove_groups(&Path::new("/sys/fs/cgroup").join(root).join(&group));
    }
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let has_begun = folder.join("begun").exists();
    if !has_begun {
        // Where namespaces or groups are not to be had.
        return println!("systemd does not run here: not tried\n{said}");
    }
    assert!(output.status.success(), "{said}");
}

/// Removes what the manager made, once its processes have gone.
fn remove_groups(group: &Path) {
    let inner: Vec<PathBuf> =
        std::fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    inner.iter().filter(|path| path.is_dir()).for_each(|path| remove_groups(path));
    let _ = std::fs::remove_dir(group);
}

#[test]
#[ignore = "a part of the other one, which runs it where systemd is the manager"]
fn inside() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let is_up = || systemctl(&["is-system-running"]).1.lines().any(|line| ["running", "degraded"].contains(&line));
    let began = std::time::Instant::now();
    while !is_up() {
        if began.elapsed() > common::PATIENCE {
            return println!("the manager does not come up");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::fs::write(folder.join("begun"), "").unwrap();
    told(&["start", "agentmem.socket"]);
    assert_eq!(systemctl(&["is-active", SERVICE]).1, "inactive");
    // Whoever connects first starts it.
    let store = Store::connect(&folder.join("run/agentmem/agentmem.sock"), None, OnFull::Wait).unwrap();
    assert_eq!(systemctl(&["is-active", SERVICE]).1, "active");
    let agent = store.agent("agent", None, None, None).unwrap();
    let talk = agent.conversation(Some("talk")).unwrap();
    let mut held: Vec<(Smu, Vec<u8>)> = Vec::new();
    for round in 0..5u64 {
        for len in [100, 40_000, 2_000_000] {
            let bytes = content(round * 10 + len as u64, len);
            held.push((agent.put(&bytes, Kind::ToolResult, None, 50, OnFull::Wait).unwrap(), bytes));
            talk.append(&round.to_le_bytes(), Meta::default(), OnFull::Wait).unwrap();
        }
        if round % 2 == 0 {
            // Some of it is in frames, and some on SSD.
            store.reclaim(None).unwrap();
        }
        let kept = figure("NFileDescriptorStore");
        assert!(kept > 8, "{kept}");
        told(&["kill", "--signal=KILL", "--kill-who=main", SERVICE]);
        for (smu, bytes) in &held {
            assert_eq!(smu.view().unwrap().bytes(), bytes);
        }
        assert_eq!(talk.len().unwrap(), 3 * (round + 1));
        assert_eq!(agent.conversation(Some("talk")).unwrap().read(3 * round, u64::MAX).unwrap().len(), 3);
        assert_eq!(figure("NRestarts"), round + 1);
    }
    assert_eq!(agent.stats().unwrap().smus, held.len() as u64);
    // A clean end keeps nothing, and the socket starts the next one.
    told(&["stop", SERVICE]);
    wait_until("nothing is kept", || figure("NFileDescriptorStore") == 0);
    assert_eq!(told(&["show", "--value", "--property=Result", SERVICE]), "success");
    let other = Store::connect(&folder.join("run/agentmem/agentmem.sock"), None, OnFull::Wait).unwrap();
    assert!(other.agents().unwrap().is_empty());
    other.close().unwrap();
    told(&["stop", "agentmem.socket", SERVICE]);
}
