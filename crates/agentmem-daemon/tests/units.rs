//! What the daemon relies on in the units for systemd.

use agentmem_daemon::notify::SOCKET;
use agentmem_daemon::shelf::DESCRIPTORS_MAX;
use std::path::Path;
use std::process::Command;

fn unit(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("units").join(name)).unwrap()
}

fn has(unit: &str, line: &str) {
    assert!(unit.lines().any(|found| found == line), "{line} is missing");
}

#[test]
fn the_units_say_what_the_daemon_relies_on() {
    let (service, socket) = (unit("agentmem.service"), unit("agentmem.socket"));
    has(&socket, &format!("FileDescriptorName={SOCKET}"));
    has(&socket, "ListenStream=%t/agentmem/agentmem.sock");
    has(&socket, "DirectoryMode=0700");
    has(&socket, "SocketMode=0600");
    for line in
        ["Type=notify", "NotifyAccess=main", "Restart=on-failure", "StartLimitIntervalSec=0", "OOMPolicy=continue"]
    {
        has(&service, line);
    }
    has(&service, &format!("FileDescriptorStoreMax={DESCRIPTORS_MAX}"));
    for line in ["KillMode=mixed", "TimeoutStartSec=infinity", "FileDescriptorStorePreserve=restart"] {
        has(&service, line);
    }
    has(&service, "ExecStart=agentmemd --no-keeper");
}

#[test]
fn systemd_understands_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_agentmemd");
    for name in ["agentmem.service", "agentmem.socket"] {
        let text = unit(name).replace("ExecStart=agentmemd", &format!("ExecStart={program}"));
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let units = ["agentmem.service", "agentmem.socket"].map(|name| folder.path().join(name));
    let verify = Command::new("systemd-analyze")
        .args(["--user", "verify", "--man=no"])
        .args(&units)
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output();
    let Ok(verify) = verify else { return println!("no systemd-analyze: not verified") };
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    println!("{said}");
    // Older versions pass over what they do not know yet, and say so.
    let newer = ["FileDescriptorStorePreserve", "RestartSteps", "RestartMaxDelaySec"];
    let is_ours = |line: &&str| line.contains("agentmem") && !newer.iter().any(|key| line.contains(key));
    assert_eq!(said.lines().filter(is_ours).collect::<Vec<_>>(), Vec::<&str>::new());
}
