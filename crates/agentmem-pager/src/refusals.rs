//! What keeps a whole process from being paged out: memory that somebody besides its threads may
//! write or wait for.

use std::path::Path;

/// Descriptors that are looked at; a process with more is left alone.
const DESCRIPTORS_MAX: usize = 1 << 16;

/// What /proc says of a process, stopped or not.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The text of its status.
    pub status: String,
    /// The text of its maps.
    pub maps: String,
    /// What its descriptors lead to, with their numbers.
    pub descriptors: Vec<(i32, String)>,
}

impl Facts {
    /// Reads them. What cannot be read is empty, and then it is refused.
    pub fn of(pid: i32) -> Self {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let folder = format!("/proc/{pid}/fd");
        let links = std::fs::read_dir(Path::new(&folder)).into_iter().flatten().flatten();
        let descriptors = links
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
            })
            .take(DESCRIPTORS_MAX + 1)
            .collect();
        Facts { status: text("status"), maps: text("maps"), descriptors }
    }

    fn status_field(&self, name: &str) -> Option<&str> {
        self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// The reason to leave it alone, if there is one. `is_ours` knows the userfaultfds that the pager made.
    pub fn refusal(&self, is_ours: &dyn Fn(i32) -> bool) -> Option<String> {
        match self.status_field("VmPin") {
            Some("0 kB") => {}
            Some(_) => return Some("has pages pinned for a device".into()),
            None => return Some("its status cannot be read".into()),
        }
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Some(format!("more than {DESCRIPTORS_MAX} descriptors"));
        }
        for (number, target) in &self.descriptors {
            match target.as_str() {
                "anon_inode:[io_uring]" => return Some(writes("io_uring")),
                "anon_inode:[userfaultfd]" if !is_ours(*number) => return Some("uses a userfaultfd of its own".into()),
                _ => {}
            }
        }
        // A ring is mapped for as long as it is used; its descriptor may be closed.
        let is_mapped = |name: &str| self.maps.lines().any(|line| line.contains(name));
        match (is_mapped("anon_inode:[io_uring]"), is_mapped("/[aio]")) {
            (true, _) => Some(writes("io_uring")),
            (_, true) => Some(writes("AIO")),
            _ => None,
        }
    }
}

/// The reason to leave alone who uses something of this `name`.
pub fn writes(name: &str) -> String {
    format!("uses {name}, which writes without its threads")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let status = "Name:\ta\nVmPin:\t       0 kB\nSeccomp:\t0\n".to_owned();
        let descriptors = vec![(0, "pipe:[1]".into()), (900, "anon_inode:[userfaultfd]".into())];
        Facts { status, maps: "7f00-7f20 rw-p 0 00:00 0\n".into(), descriptors }
    }

    #[test]
    fn whoever_else_may_write_is_a_reason() {
        let ours = |number: i32| number == 900;
        assert_eq!(facts().refusal(&ours), None);
        assert!(facts().refusal(&|_| false).unwrap().contains("userfaultfd"));
        type Change = fn(&mut Facts);
        let cases: [(&str, Change); 5] = [
            ("pinned", |f| f.status = f.status.replace("       0 kB", "      16 kB")),
            ("io_uring", |f| f.descriptors.push((5, "anon_inode:[io_uring]".into()))),
            ("io_uring", |f| f.maps.push_str("7f20-7f30 rw-s 0 00:0e 9 anon_inode:[io_uring]\n")),
            ("AIO", |f| f.maps.push_str("7f20-7f30 rw-s 0 00:0f 9 /[aio] (deleted)\n")),
            ("status", |f| f.status.clear()),
        ];
        for (word, change) in cases {
            let mut changed = facts();
            change(&mut changed);
            assert!(changed.refusal(&ours).unwrap().contains(word), "{word}");
        }
    }
}
