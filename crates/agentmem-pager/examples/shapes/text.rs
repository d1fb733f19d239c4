//! Pages like those of an agent's heap.

use crate::pattern::{PAGE, Rng, WORDS, noise};

const VOCABULARY: &str = "the file test error run function return value which module should import check path line \
    class build then message result update from this with when user tool call read write change memory agent output \
    number string because first list name request response assistant content command directory found expected data \
    version config index table server client branch commit review question answer already instead either without";

/// Messages of a conversation.
pub fn json(key: u64, words: &mut [u64; WORDS]) {
    let mut rng = Rng::new(key);
    let vocabulary: Vec<&str> = VOCABULARY.split_whitespace().collect();
    let mut text = String::with_capacity(PAGE + 1024);
    while text.len() < PAGE {
        let (id, tool) = (rng.next(), ["Bash", "Read", "Edit", "Grep"][rng.below(4)]);
        text.push_str(&format!(
            "{{\"type\":\"tool_use\",\"id\":\"toolu_{id:016x}\",\"name\":\"{tool}\",\"input\":{{\""
        ));
        for _ in 0..10 + rng.below(60) {
            // Common words are used more often than others.
            let index = rng.below(vocabulary.len()).min(rng.below(vocabulary.len()));
            text.push_str(vocabulary[index]);
            text.push(' ');
        }
        text.push_str(&format!("\"}},\"line\":{}}}\n", rng.below(2000)));
    }
    let (chunks, _) = text.as_bytes().as_chunks::<8>();
    words.iter_mut().zip(chunks).for_each(|(word, chunk)| *word = u64::from_le_bytes(*chunk));
}

/// Objects of eight words, as a runtime lays them out.
pub fn records(key: u64, words: &mut [u64; WORDS]) {
    let mut rng = Rng::new(key);
    let heap = 0x7f3a_5c00_0000 + ((key >> 40) << 16);
    let (records, _) = words.as_chunks_mut::<8>();
    for (index, record) in records.iter_mut().enumerate() {
        let class = 0x55d0_1c40_2000 + 0x140 * rng.below(6) as u64;
        let length = 1 + rng.below(40) as u64;
        let next = heap + 64 * index as u64;
        let text = heap + 16 * rng.below(4096) as u64;
        *record =
            [class, 1 + (index as u64 & 1), length, noise(key, index as u64) >> 32, next, text, 0, length << 32 | 7];
    }
}
