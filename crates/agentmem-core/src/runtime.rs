//! Where a user's agents, supervisors and daemon find each other. Asking the system is the caller's part;
//! the rule is the same in Python (`registry.py`), and both are held to `spec/runtime_folder.json`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folder of everything that lives as long as this user's agents do. `variable` reads the environment,
/// `user` is who asks, and `is_ours` tells whether something is a folder that belongs to them.
pub fn folder(variable: impl Fn(&str) -> Option<OsString>, user: u32, is_ours: impl Fn(&Path) -> bool) -> PathBuf {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("AGENTMEM_RUNTIME_DIR") {
        return folder;
    }
    if let Some(folder) = set("XDG_RUNTIME_DIR") {
        return folder.join("agentmem");
    }
    let run = PathBuf::from(format!("/run/user/{user}"));
    if is_ours(&run) { run.join("agentmem") } else { PathBuf::from(format!("/tmp/agentmem-{user}")) }
}

/// The daemon's socket: where `AGENTMEM_SOCKET` says, else in [`folder`].
pub fn socket(variable: impl Fn(&str) -> Option<OsString>, user: u32, is_ours: impl Fn(&Path) -> bool) -> PathBuf {
    match variable("AGENTMEM_SOCKET").filter(|value| !value.is_empty()) {
        Some(socket) => socket.into(),
        None => folder(variable, user, is_ours).join("agentmem.sock"),
    }
}

/// What is wrong with a folder that must be `user`'s alone, if anything is.
pub fn distrust(is_folder: bool, owner: u32, mode: u32, user: u32) -> Option<&'static str> {
    if !is_folder {
        Some("is no folder")
    } else if owner != user {
        Some("belongs to another user")
    } else if mode & 0o077 != 0 {
        Some("is open to other users (chmod 700 mends it)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_or_it_is_refused() {
        assert_eq!(distrust(true, 7, 0o40700, 7), None);
        for (is_folder, owner, mode) in [(false, 7, 0o700), (true, 8, 0o700), (true, 7, 0o710), (true, 7, 0o701)] {
            assert!(distrust(is_folder, owner, mode, 7).is_some());
        }
    }
}
