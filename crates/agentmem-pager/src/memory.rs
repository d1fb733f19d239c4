//! How large a process is, as the kernel shares it out.

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// PSS: what it would free, and its part of what it shares.
    pub resident_bytes: u64,
    /// Anonymous memory, its part of it.
    pub private_bytes: u64,
    /// Its part of memory without a file: of a supervisor, the frames that it has mapped.
    pub shared_bytes: u64,
}

/// Of a process; nothing if it is gone, or may not be looked at.
pub fn of(pid: i32) -> Memory {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default())
}

/// About the private memory of a process, for little work: what is resident without files' pages.
pub fn private_bytes(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let (resident, shared) = (pages.get(1).copied().unwrap_or(0), pages.get(2).copied().unwrap_or(0));
    resident.saturating_sub(shared) * crate::sys::PAGE_BYTES
}

/// Whether this machine has swap.
pub fn has_swap() -> bool {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("SwapTotal:"));
    total.and_then(|rest| rest.split_whitespace().next()).is_some_and(|kib| kib != "0")
}

/// Reads the text of /proc/PID/smaps_rollup.
fn parse(rollup: &str) -> Memory {
    let bytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
    };
    let [resident_bytes, private_bytes, shared_bytes] = ["Pss", "Pss_Anon", "Pss_Shmem"].map(bytes);
    Memory { resident_bytes, private_bytes, shared_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read_and_an_odd_one_is_nothing() {
        let text = "7f00-7fff ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 500 kB\nPss_Anon:   300 kB\nPss_Shmem: 20 kB\n";
        let memory = Memory { resident_bytes: 500 << 10, private_bytes: 300 << 10, shared_bytes: 20 << 10 };
        assert_eq!(parse(text), memory);
        assert_eq!(parse("Pss: x kB\n"), Memory::default());
        assert!(of(std::process::id() as i32).resident_bytes > 0);
    }
}
