//! What is fuzzed on nightly, on a few thousand inputs of the stable toolchain, and the seeds for both.

#[path = "../../../fuzz/src/lib.rs"]
mod bodies;
mod common;

use agentmem_core::codec;
use agentmem_core::frame::{self, Item, Meta};
use common::{Random, noise, text};
use std::path::Path;

const TURNS: u64 = 3000;

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
    ]
}

#[test]
fn mutated_seeds_are_survived() {
    for (name, body, seeds) in seeds() {
        let mut random = Random::new(name.len() as u64);
        seeds.iter().for_each(|seed| body(seed));
        for turn in 0..TURNS {
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
        (0..TURNS).for_each(|turn| body(&noise(turn, random.below(200) as usize)));
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
