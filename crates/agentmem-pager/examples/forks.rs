//! A program with a piece of memory that it writes to, and children that share it, at the word of who tests.
//!
//! It answers each command with a line: `set N` fills the memory with the byte N; `fork` makes a child that only
//! waits; `reap` ends that; `new` has it let go of its memory for other; `get` says which bytes are there, each once.

use std::io::BufRead;

const BYTES: usize = 8 << 20;

fn main() {
    let mut memory = vec![0u8; BYTES];
    let mut child = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("set", value) => memory.fill(value.parse().expect("a byte")),
            // SAFETY: one thread; the child makes system calls alone.
            ("fork", _) => match unsafe { libc::fork() } {
                0 => loop {
                    // SAFETY: it has no arguments.
                    unsafe { libc::pause() };
                },
                pid => child = Some(pid),
            },
            ("reap", _) => {
                let pid = child.take().expect("a child");
                // SAFETY: a child of ours that nobody waited for.
                unsafe {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, std::ptr::null_mut(), 0);
                }
            }
            // The old piece is unmapped: it is larger than what an allocator keeps.
            ("new", _) => memory = vec![0; 2 * BYTES],
            ("get", _) => {}
            other => panic!("what is {other:?}?"),
        }
        let mut found: Vec<u8> = memory.chunk_by(u8::eq).map(|same| same[0]).collect();
        found.sort_unstable();
        found.dedup();
        println!("{found:?}");
    }
}
