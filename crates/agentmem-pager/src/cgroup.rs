//! A cgroup (version 2) of a tree's own: who belongs to the tree, and a freezer that nobody in it sees.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often its removal is tried: a process that ended leaves it a moment later.
const REMOVALS_MAX: u32 = 50;

/// A cgroup that this process made below its own. Removed when dropped; who is still in it goes back to where this
/// process is.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    parent: PathBuf,
}

/// Where the cgroup with this text of /proc/self/cgroup lies, by the text of /proc/self/mountinfo.
fn own(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    let below = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ').skip(3);
        let (root, mount) = (words.next()?, words.next()?);
        // Of a mount that shows a part only, what lies below that part.
        let inside = Path::new(below).strip_prefix(root).ok()?;
        after.starts_with("cgroup2 ").then(|| Path::new(mount).join(inside))
    })
}

/// Where the cgroup that this process is in lies; `None` where there are none of version 2.
pub fn own_folder() -> Option<PathBuf> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    own(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"))
}

impl Cgroup {
    /// Makes one for an agent; `None` where this user may not, or there is no freezer.
    pub fn create(name: &str) -> Option<Self> {
        let parent = own_folder()?;
        sweep(&parent);
        let path = parent.join(format!("agentmem-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let made = Cgroup { path, parent };
        made.path.join("cgroup.freeze").exists().then_some(made)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends it once `wake` has brought back who is in it. If that fails, all stays as it is, frozen: where this process
    /// is, they would run with pages missing.
    pub fn end_after(cgroup: Option<Self>, wake: impl FnOnce() -> bool) {
        // Not dropped, even should waking panic.
        let cgroup = cgroup.map(ManuallyDrop::new);
        if wake() {
            drop(cgroup.map(ManuallyDrop::into_inner));
        }
    }

    /// Moves a process into it.
    pub fn take(&self, pid: i32) -> io::Result<()> {
        std::fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }
}

/// Removes what supervisors that were killed left behind. Who still lives in one keeps it.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker =
            name.to_str().and_then(|name| name.strip_prefix("agentmem-")?.rsplit_once('-')?.1.parse::<i32>().ok());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVALS_MAX {
            let left = std::fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
            for pid in left.lines() {
                let _ = std::fs::write(self.parent.join("cgroup.procs"), pid);
            }
            match std::fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_woken_stays_in_it() {
        let moved_out = |wake: fn() -> bool| {
            let parent = tempfile::tempdir().unwrap();
            let path = parent.path().join("agent");
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("cgroup.procs"), "7\n").unwrap();
            let cgroup = Cgroup { path, parent: parent.path().to_owned() };
            let _ = std::panic::catch_unwind(|| Cgroup::end_after(Some(cgroup), wake));
            parent.path().join("cgroup.procs").exists()
        };
        assert!(moved_out(|| true));
        assert!(!moved_out(|| false));
        assert!(!moved_out(|| panic!("waking")));
    }

    const HYBRID: &str = "30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        31 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_cgroup_is_found_where_it_is_mounted() {
        let own = |cgroup: &str, mounts: &str| own(cgroup, mounts).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(own("3:cpu:/x\n0::/user/a\n", HYBRID).as_deref(), Some("/sys/fs/cgroup/unified/user/a"));
        assert_eq!(
            own("0::/\n", HYBRID).map(|path| path.trim_end_matches('/').to_owned()).as_deref(),
            Some("/sys/fs/cgroup/unified")
        );
        assert_eq!(own("3:cpu:/x\n", HYBRID), None);
        assert_eq!(own("0::/\n", "31 24 0:27 / /sys rw - sysfs sysfs rw\n"), None);
        let part = "31 24 0:27 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own("0::/pod/a\n", part).as_deref(), Some("/sys/fs/cgroup/a"));
        assert_eq!(own("0::/other\n", part), None);
    }
}
