//! What is fuzzed on nightly, on a few thousand inputs of the stable toolchain, and the seeds for both.

#[path = "../../../fuzz/src/lib.rs"]
mod bodies;
mod common;

use agentmem_core::codec;
use agentmem_core::frame::{self, Item, Meta};
use common::{Random, noise, text};
use std::path::Path;

/// As many mutations of each target's seeds as this says; few where it says nothing.
const TURNS: &str = "AGENTMEM_FUZZ_TURNS";
const TURNS_USUAL: u64 = 3000;

type Body = fn(&[u8]);

fn seeds() -> Vec<(&'static str, Body, Vec<Vec<u8>>)> {
    let framed = |count: u64, bytes: usize, of: fn(u64, usize) -> Vec<u8>| {
        let contents: Vec<Vec<u8>> = (0..count).map(|seed| of(seed, bytes)).collect();
        let meta = |at: usize| match bytes {
            0..=2 => Meta::default(),
            _ => Meta { is_value: at.is_multiple_of(3), lead_bytes: (at % 2) as u32, trail_bytes: 1 },
        };
        let items: Vec<Item<'_>> =
            contents.iter().enumerate().map(|(at, bytes)| Item { bytes, meta: meta(at) }).collect();
        frame::encode(&items, 3).unwrap()
    };
    let stream = |bytes: usize| {
        let (one, other) = (text(1, bytes), text(2, bytes));
        let stored = codec::Compressor::new(3).unwrap().compress(&[&one, &other]).unwrap();
        [&(bytes as u16 * 2).to_le_bytes()[..], &stored].concat()
    };
    let messages = r#"{"role":"user","content":"a \"b\" [c] {d}"},{"role":"tool","content":[{"type":"text"}]}"#;
    let transcripts: Vec<Vec<u8>> = [
        format!("[{messages}]"),
        format!("{{\"id\":7,\"messages\":[{messages}],\"tools\":[{{\"n\":1}}]}}"),
        messages.replace("},{", "}\n{") + "\n\n",
        format!("[{{\"task\":1,\"steps\":[{messages}]}},{{\"task\":2,\"steps\":[]}}]"),
        "just\ntext\n".into(),
        format!("[{{\"task\":1,\"steps\":[{messages}]}},{{\"task\":2,\"steps\":[{messages}]}}]"),
        format!("{{\"task\":1,\"state\":{{\"steps\":[{messages}]}}}}\n\n{{\"task\":2,\"steps\":[{messages}]}}\n"),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    let cells = [[1u64, 0, 0, 0, 100], [0x32_0001, 3, 0, 9, 100], [2, 5, 1 << 32 | 1, 0, 10], [3, 77, 0, 1, 0]];
    let cells = cells.iter().map(|words| words.iter().flat_map(|word| word.to_le_bytes()).collect()).collect();
    vec![
        (
            "frame",
            bodies::frame,
            vec![framed(1, 0, text), framed(5, 300, text), framed(40, 20, text), framed(2, 200, noise)],
        ),
        ("transcript", bodies::transcript, transcripts),
        ("stream", bodies::stream, vec![stream(0), stream(50), stream(2000)]),
        ("cell", bodies::cell, cells),
        ("protocol", bodies::protocol, conversations_with_a_daemon()),
        ("arena", bodies::arena, arenas()),
    ]
}

/// Calls as frames, behind a byte that says whether a descriptor comes along.
fn conversations_with_a_daemon() -> Vec<Vec<u8>> {
    let frame = |call: u16, descriptors: u16, body: &[u8]| {
        [&(body.len() as u32).to_le_bytes()[..], &call.to_le_bytes(), &descriptors.to_le_bytes(), body].concat()
    };
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let said = |first: u8, frames: &[Vec<u8>]| [&[first], &frames.concat()[..]].concat();
    // Agents, lists, figures; then conversations of agent 1, and what is none of its business: agent 0.
    vec![
        said(0, &[frame(1, 0, &[text("a"), vec![1, 70, 1, 200, 1, 0]].concat()), frame(2, 0, &[]), frame(4, 0, &[])]),
        said(
            0,
            &[frame(29, 0, &[vec![1, 1], text("b")].concat()), frame(61, 0, &[1, 0, 5]), frame(62, 0, &[1, 1, 0, 0])],
        ),
        said(
            0,
            &[frame(29, 0, &[1, 0]), frame(31, 0, &[1, 1]), frame(30, 0, &[1]), frame(60, 0, &[0]), frame(28, 0, &[1])],
        ),
        said(
            0,
            &[
                frame(40, 0, &[0, 0, 1]),
                frame(43, 0, &[0, 0, 1]),
                frame(22, 0, &[1, 0, 0, 1]),
                frame(45, 0, &[0, 0, 1, 1]),
            ],
        ),
        said(0, &[frame(20, 0, &[vec![1], vec![7; 32]].concat()), frame(21, 0, &[vec![1], text("c")].concat())]),
        said(1, &[frame(10, 1, &[0x88, 0x27]), frame(8, 0, &[]), frame(9, 0, &[0]), frame(6, 0, &[1, 0])]),
        said(0, &[frame(25, 0, &[1, 90]), frame(26, 0, &[1, 1, 100]), frame(27, 0, &[1]), frame(24, 0, &[1, 2])]),
        said(
            0,
            &[
                frame(80, 0, &text("neighbour/talk")),
                frame(82, 0, &[0, 0, 9]),
                frame(83, 0, &text("")),
                frame(7, 0, &[]),
            ],
        ),
        said(
            0,
            &[
                frame(84, 0, &[text("liar"), vec![1, 5]].concat()),
                frame(23, 0, &[1]),
                frame(11, 0, &[]),
                frame(3, 0, &[]),
            ],
        ),
    ]
}

/// Words of an arena, each behind its place; the head is the first, and cells begin at 512.
fn arenas() -> Vec<Vec<u8>> {
    const DRAINS: (u16, u64) = (u16::MAX, 0);
    let cell = |at: u16, fields: [u64; 6]| {
        let words = [1, 2, 3, 4, 5, 7].map(|word| 512 + at * 8 + word).into_iter().zip(fields);
        words.chain([(512 + at * 8, u64::from(at) + 1)]).collect::<Vec<_>>()
    };
    // Start, operation with its agent, target, length, around, key.
    let put = |start, len| [start, 1 | 2 << 8 | 50 << 16 | 1 << 32, 3, len, 0, 0];
    let append = |start, conversation, around| [start, 2 | 1 << 32, conversation, 100, around, 0];
    let release = |slot| [0, 3 | 1 << 32, slot, 0, 0, 1];
    let head = |cells: u64, units: u64| vec![(0, cells << 40 | units)];
    let arenas = [
        vec![cell(0, put(0, 100)), head(1, 2), vec![DRAINS], cell(1, put(2, 70)), cell(2, release(64)), head(3, 4)],
        vec![cell(0, append(0, 0, 0)), cell(1, append(2, 1, 1 << 32 | 1)), head(2, 4), vec![DRAINS]],
        vec![cell(0, [0, 2 | 1 << 32, 0, 10, 90 << 32, 5]), cell(1, [0, 1 | 1 << 32, 0, 0, 0, 9]), head(2, 1)],
        vec![vec![(8, u64::MAX), (16, 1), (24, 7)], cell(0, put(1023, 9000)), head(1, 9), vec![DRAINS, (1024, 1)]],
    ];
    let bytes = |(place, word): (u16, u64)| [&place.to_le_bytes()[..], &word.to_le_bytes()].concat();
    arenas.into_iter().map(|writes| writes.concat().into_iter().flat_map(bytes).collect()).collect()
}

#[test]
fn mutated_seeds_are_survived() {
    let turns = std::env::var(TURNS).map_or(TURNS_USUAL, |turns| turns.parse().expect("a number"));
    for (name, body, seeds) in seeds() {
        let mut random = Random::new(name.len() as u64);
        seeds.iter().for_each(|seed| body(seed));
        for turn in 0..turns {
            let mut data = seeds[random.below(seeds.len() as u64) as usize].clone();
            for _ in 0..=random.below(4) {
                let at = random.below(data.len() as u64 + 1) as usize;
                match random.below(5) {
                    0 => data.insert(at, random.next() as u8),
                    1 if at < data.len() => drop(data.remove(at)),
                    2 => data.truncate(at),
                    // A structure repeated, or spliced into another one.
                    3 => {
                        let other = &seeds[random.below(seeds.len() as u64) as usize];
                        data.extend_from_slice(&other[at.min(other.len())..]);
                    }
                    _ if at < data.len() => data[at] = [0, 0x7f, 0x80, 0xff, random.next() as u8][turn as usize % 5],
                    _ => {}
                }
            }
            body(&data);
        }
        (0..turns).for_each(|turn| body(&noise(turn, random.below(200) as usize)));
    }
}

// Writes the seeds for nightly anew: cargo test -p agentmem-store --test fuzzed -- --ignored
#[test]
#[ignore = "writes into the source tree"]
fn write_seeds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    for (name, _, seeds) in seeds() {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(name).join(number.to_string()), seed).unwrap();
        }
    }
}
