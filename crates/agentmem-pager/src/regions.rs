//! Which of a process's mappings may be paged out, and why the others are left alone.

use std::ops::Range;

/// Mappings of one process; above it, the process is left alone (the kernel's own default limit is 65,530).
pub const MAPPINGS_MAX: usize = 1 << 17;

/// One mapping, as /proc/PID/smaps tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<u64>,
    /// `rwxp` or `rwxs`.
    pub permissions: [u8; 4],
    /// Its inode, 0 if there is none.
    pub inode: u64,
    /// Its name: empty, `[heap]`, `[anon:...]`, or a path.
    pub name: String,
    /// Bytes of private anonymous memory that are resident.
    pub anonymous_bytes: u64,
    /// The kernel's two-letter flags.
    pub flags: Vec<[u8; 2]>,
}

/// What becomes of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It may be paged out.
    Page,
    /// It holds nothing of its own.
    Empty,
    /// It stays, for this reason.
    Stay(&'static str),
}

impl Mapping {
    /// Whether it has one of the kernel's flags.
    fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Whether writes to it are recorded already, by a userfaultfd.
    pub fn is_tracked(&self) -> bool {
        self.has(b"uw")
    }

    /// Whether it may be paged out: only what is private, anonymous and readable, and nothing that the
    /// kernel treats in a way of its own.
    pub fn fate(&self) -> Fate {
        if self.anonymous_bytes == 0 {
            return Fate::Empty;
        }
        const SPECIAL: [(&[u8; 2], &str); 7] = [
            (b"lo", "locked in memory"),
            (b"ht", "huge pages of hugetlbfs"),
            (b"io", "a device's memory"),
            (b"pf", "a device's memory"),
            (b"gd", "a stack that grows"),
            (b"ss", "a shadow stack"),
            (b"sl", "sealed against changes"),
        ];
        let is_anonymous =
            self.inode == 0 && (self.name.is_empty() || self.name == "[heap]" || self.name.starts_with("[anon:"));
        if self.name == "[stack]" {
            Fate::Stay("the main stack")
        } else if self.permissions[3] != b'p' {
            Fate::Stay("shared memory")
        } else if !is_anonymous {
            Fate::Stay("private pages of a file")
        } else if let Some((_, why)) = SPECIAL.iter().find(|(flag, _)| self.has(flag)) {
            Fate::Stay(why)
        } else if self.permissions[0] != b'r' {
            Fate::Stay("not readable")
        } else {
            Fate::Page
        }
    }
}

/// Reads the text of /proc/PID/smaps. Lines that are not understood are skipped: a mapping without flags
/// says nothing that would let it be paged out wrongly, because those are always last and always there.
pub fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = header(line) {
            mappings.push(mapping);
        } else if let (Some(mapping), Some((key, value))) = (mappings.last_mut(), line.split_once(':')) {
            match key {
                "Anonymous" => mapping.anonymous_bytes = kib(value),
                "VmFlags" => {
                    mapping.flags =
                        value.split_whitespace().filter_map(|flag| flag.as_bytes().try_into().ok()).collect();
                }
                _ => {}
            }
        }
    }
    mappings.retain(|mapping| !mapping.flags.is_empty());
    mappings
}

fn kib(value: &str) -> u64 {
    value.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// `start-end perms offset device inode  name`
fn header(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let mut words = rest.splitn(5, ' ');
    let permissions = words.next()?.as_bytes().try_into().ok()?;
    let (_offset, _device) = (words.next()?, words.next()?);
    let inode = words.next()?.parse().ok()?;
    let name = words.next().unwrap_or_default().trim().to_owned();
    Some(Mapping { range, permissions, inode, name, anonymous_bytes: 0, flags: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smaps(header: &str, anonymous_kib: u64, flags: &str) -> Mapping {
        let text = format!("{header}\nSize: 8 kB\nRss: 8 kB\nAnonymous:   {anonymous_kib} kB\nVmFlags: {flags}\n");
        let mut mappings = parse(&text);
        assert_eq!(mappings.len(), 1, "{text}");
        mappings.remove(0)
    }

    #[test]
    fn only_private_anonymous_readable_memory_is_paged() {
        let cases = [
            ("7f00-7f20 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac", Fate::Page),
            ("7f00-7f20 rw-p 00000000 00:00 0                          [heap]", "rd wr", Fate::Page),
            ("7f00-7f20 rwxp 00000000 00:00 0   [anon:JS JIT code]", "rd wr ex", Fate::Page),
            ("7f00-7f20 r--p 00000000 00:00 0", "rd mr", Fate::Page),
            ("7f00-7f20 ---p 00000000 00:00 0", "mr", Fate::Stay("not readable")),
            ("7f00-7f20 rw-p 00000000 00:00 0 [stack]", "rd wr gd", Fate::Stay("the main stack")),
            ("7f00-7f20 rw-p 00000000 00:00 0", "rd wr gd", Fate::Stay("a stack that grows")),
            ("7f00-7f20 rw-p 00000000 00:00 0", "rd wr lo", Fate::Stay("locked in memory")),
            (
                "7f00-7f20 rw-p 00000000 00:0e 77 /anon_hugepage (deleted)",
                "rd wr ht",
                Fate::Stay("private pages of a file"),
            ),
            ("7f00-7f20 rw-p 00000000 fd:01 12 /usr/lib/with space.so", "rd wr", Fate::Stay("private pages of a file")),
            ("7f00-7f20 rw-s 00000000 00:01 9 /dev/zero (deleted)", "rd wr sh", Fate::Stay("shared memory")),
        ];
        for (header, flags, fate) in cases {
            assert_eq!(smaps(header, 8, flags).fate(), fate, "{header}");
        }
        assert_eq!(smaps("7f00-7f20 rw-p 0 00:00 0", 0, "rd wr").fate(), Fate::Empty);
        assert_eq!(smaps("7f00-7f20 rw-p 0 00:00 12 /with space.so", 8, "rd").name, "/with space.so");
    }

    #[test]
    fn cut_and_odd_text_is_skipped() {
        assert_eq!(parse("7f00-7f20 rw-p 00000000 00:00 0\nAnonymous: 4 kB\n"), []);
        assert_eq!(parse("zz-7f20 rw-p\nVmFlags: rd\nAnonymous: x kB"), []);
        assert_eq!(parse(""), []);
    }
}
