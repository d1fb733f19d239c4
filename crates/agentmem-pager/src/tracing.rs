//! Whether Linux lets this process trace others. A security module, Yama, narrows that to ancestors, to root, or to
//! nobody.

use crate::proc::{self, Unseen};

const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
const CAP_SYS_PTRACE: u32 = 19;

/// Whether what this process starts can be traced by it; if not, one line that says why and what helps.
pub fn check_own() -> Result<(), String> {
    own(scope().as_deref(), is_privileged())
}

/// Whether a process that runs already can be traced by this one; if not, one line that says why and what helps.
pub fn check(pid: i32) -> Result<(), String> {
    // The kernel shows it to whoever may trace the process, and looking changes nothing.
    match proc::syscall(pid, pid) {
        Err(Unseen::Refused(_)) => Err(other(scope().as_deref())),
        Err(Unseen::Gone) | Ok(_) => Ok(()),
    }
}

/// Yama's rule; none where there is no Yama.
fn scope() -> Option<String> {
    std::fs::read_to_string(SCOPE).ok().map(|text| text.trim().to_owned())
}

fn is_privileged() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> CAP_SYS_PTRACE & 1 == 1)
}

fn own(scope: Option<&str>, privileged: bool) -> Result<(), String> {
    let way_out = match scope {
        None | Some("0" | "1") => return Ok(()),
        Some("2") if privileged => return Ok(()),
        Some("2") => "as root, sysctl -w kernel.yama.ptrace_scope=1",
        Some(_) => "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d and restart the machine",
    };
    let scope = scope.unwrap_or_default();
    Err(format!(
        "Yama lets this user trace nothing (kernel.yama.ptrace_scope is {scope}): {way_out}, or add --best-effort to run \
         without paging"
    ))
}

fn other(scope: Option<&str>) -> String {
    match scope {
        Some("1") => "Yama lets only its ancestors trace it (kernel.yama.ptrace_scope is 1): start it with `agentmem \
            run`, adopt it as root, or allow it until the next restart: sudo sysctl -w kernel.yama.ptrace_scope=0"
            .into(),
        Some("2") => "Yama lets only root trace it (kernel.yama.ptrace_scope is 2): adopt it as root".into(),
        Some("3") => "Yama lets nobody trace it (kernel.yama.ptrace_scope is 3): set kernel.yama.ptrace_scope=1 in \
            /etc/sysctl.d and restart the machine"
            .into(),
        _ => "it may not be traced by this user: adopt it as root".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_may_be_traced_by_the_usual_rules_and_by_nobody_under_the_strictest() {
        for (scope, plain, privileged) in
            [(None, true, true), (Some("0"), true, true), (Some("1"), true, true), (Some("2"), false, true)]
        {
            assert_eq!((own(scope, false).is_ok(), own(scope, true).is_ok()), (plain, privileged), "{scope:?}");
        }
        let said = [own(Some("2"), false), own(Some("3"), true)].map(|checked| checked.unwrap_err());
        assert!(said.iter().all(|line| line.contains("ptrace_scope=1") && line.contains("--best-effort")), "{said:?}");
    }

    #[test]
    fn a_refusal_names_the_rule_and_a_way_out() {
        for (scope, way_out) in [("1", "agentmem run"), ("2", "as root"), ("3", "/etc/sysctl.d")] {
            let line = other(Some(scope));
            assert!(line.contains(&format!("ptrace_scope is {scope}")) && line.contains(way_out), "{line}");
            assert!(!line.contains('\n') && !line.contains("  "), "{line}");
        }
        assert!(!other(None).contains("Yama"));
    }

    #[test]
    fn who_is_below_us_may_be_traced_and_who_is_gone_is_no_refusal() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id() as i32;
        assert_eq!(check(pid), Ok(()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(check(pid), Ok(()));
    }
}
