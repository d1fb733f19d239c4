//! Which of a process's mappings may be paged out, and why the others are left alone.

use std::ops::Range;

/// Mappings of one process; above it, the process is left alone (the kernel's own default limit is 65,530).
pub const MAPPINGS_MAX: usize = 1 << 17;

const NOT_READABLE: &str = "not readable";

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

    /// Takes in a line of its own.
    fn note(&mut self, key: &str, value: &str) {
        match key {
            "Anonymous" => self.anonymous_bytes = kib(value),
            "VmFlags" => {
                self.flags = value.split_whitespace().filter_map(|flag| flag.as_bytes().try_into().ok()).collect();
            }
            _ => {}
        }
    }

    /// What becomes of it.
    pub fn fate(&self) -> Fate {
        match self.obstacle() {
            _ if self.anonymous_bytes == 0 => Fate::Empty,
            Some(why) => Fate::Stay(why),
            None => Fate::Page,
        }
    }

    /// Whether it may lie within a stretch: nothing is lost if it is registered and dropped with its neighbours.
    fn may_be_within(&self) -> bool {
        match self.obstacle() {
            None => true,
            Some(why) => self.anonymous_bytes == 0 && why == NOT_READABLE,
        }
    }

    /// What keeps it from being paged out: it may be if it is private, anonymous and readable, and nothing that the
    /// kernel treats in a way of its own.
    fn obstacle(&self) -> Option<&'static str> {
        const SPECIAL: [(&[u8; 2], &str); 8] = [
            (b"lo", "locked in memory"),
            (b"ht", "huge pages of hugetlbfs"),
            (b"io", "a device's memory"),
            (b"pf", "a device's memory"),
            (b"gd", "a stack that grows"),
            (b"ss", "a shadow stack"),
            (b"sl", "sealed against changes"),
            (b"dp", "memory that the kernel may drop"),
        ];
        let is_anonymous =
            self.inode == 0 && (self.name.is_empty() || self.name == "[heap]" || self.name.starts_with("[anon:"));
        if self.name == "[stack]" {
            Some("the main stack")
        } else if self.permissions[3] != b'p' {
            Some("shared memory")
        } else if !is_anonymous {
            Some("private pages of a file")
        } else if self.flags.is_empty() {
            Some("not understood")
        } else if let Some((_, why)) = SPECIAL.iter().find(|(flag, _)| self.has(flag)) {
            Some(why)
        } else {
            (self.permissions[0] != b'r').then_some(NOT_READABLE)
        }
    }
}

/// Neighbours that are registered, listed and dropped by one call each: runtimes cut their heaps into thousands of
/// mappings, and a tree is stopped for as long as the calls take. A stretch begins and ends with a mapping that is
/// paged out, and between those lies nothing that must stay: only what is empty, and addresses that are not mapped.
pub fn stretches(mappings: &[Mapping]) -> impl Iterator<Item = &[Mapping]> {
    let is_paged = |mapping: &Mapping| mapping.fate() == Fate::Page;
    mappings.split(|mapping| !mapping.may_be_within()).filter_map(move |row| {
        let (first, last) = (row.iter().position(is_paged)?, row.iter().rposition(is_paged)?);
        Some(&row[first..=last])
    })
}

/// Reads the text of /proc/PID/smaps. Lines that are not understood are skipped. Flags are always last and always
/// there: a mapping without them was cut off, and stays.
pub fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        // Of the 25 lines of a mapping, three say something, and there may be a hundred thousand.
        match line.as_bytes().first() {
            Some(b'0'..=b'9' | b'a'..=b'f') => mappings.extend(header(line)),
            Some(b'A' | b'V') => {
                if let (Some(mapping), Some((key, value))) = (mappings.last_mut(), line.split_once(':')) {
                    mapping.note(key, value);
                }
            }
            _ => {}
        }
    }
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
    fn odd_text_is_skipped_and_what_is_cut_off_stays() {
        let cut = parse("7f00-7f20 rw-p 00000000 00:00 0\nAnonymous: 4 kB\n");
        assert_eq!(cut.iter().map(Mapping::fate).collect::<Vec<_>>(), [Fate::Stay("not understood")]);
        assert_eq!(parse("zz-7f20 rw-p\nVmFlags: rd\nAnonymous: x kB"), []);
        assert_eq!(parse(""), []);
    }

    /// A letter for each mapping: what of them is dropped together.
    fn together(kinds: &str) -> Vec<String> {
        let mapping = |(number, kind): (usize, char)| {
            let start = number as u64 * 0x20000;
            let text = |rights: &str, kib: u64, flags: &str, name: &str| {
                smaps(&format!("{start:x}-{:x} {rights} 0 00:00 0 {name}", start + 0x10000), kib, flags)
            };
            match kind {
                'p' => text("rw-p", 8, "rd wr", ""),
                'e' => text("rw-p", 0, "rd wr", ""),
                'g' => text("---p", 0, "mr", ""),
                'h' => text("---p", 8, "mr", ""),
                'l' => text("rw-p", 0, "rd wr lo", ""),
                's' => text("rw-p", 0, "rd wr gd", "[stack]"),
                _ => text("rw-s", 0, "rd wr sh", "/dev/zero (deleted)"),
            }
        };
        let mappings: Vec<Mapping> = kinds.chars().enumerate().map(mapping).collect();
        let letter = |mapping: &Mapping| kinds.as_bytes()[(mapping.range.start / 0x20000) as usize] as char;
        stretches(&mappings).map(|row| row.iter().map(letter).collect()).collect()
    }

    #[test]
    fn neighbours_go_together_unless_something_between_them_must_stay() {
        for (kinds, expected) in [
            ("", vec![]),
            ("eg", vec![]),
            ("p", vec!["p"]),
            ("epgepe", vec!["pgep"]),
            ("pphpp", vec!["pp", "pp"]),
            ("plpspzp", vec!["p", "p", "p", "p"]),
            ("pelegpp", vec!["p", "pp"]),
        ] {
            assert_eq!(together(kinds), expected, "{kinds}");
        }
    }
}
