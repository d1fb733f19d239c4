//! A corpus for machines without transcripts. It is synthetic, and has to be called so wherever it shows.
//!
//! Conversations resemble those of a coding agent in what matters to a store: the lengths of messages and conversations, and how
//! they compress alone, in blocks, as a stream and as a whole. The test of this file measures all of it.

use crate::random::{Random, mix};
use crate::reader::{Class, Corpus, SourceFile};
use crate::session::{Session, interpolate};
use crate::words::Vocabulary;
use std::fmt::Write;

/// The source of generated files.
pub const SOURCE: &str = "synthetic";

/// Conversation lengths by share of conversations below them.
const CONVERSATION_BYTES: [(f64, f64); 7] =
    [(0.0, 20e3), (0.10, 120e3), (0.25, 380e3), (0.50, 0.87e6), (0.75, 1.85e6), (0.90, 3.4e6), (1.0, 5.5e6)];

/// The mean of [`CONVERSATION_BYTES`].
const CONVERSATION_BYTES_MEAN: f64 = 1.39e6;

/// Different prompts, and different groups of tools, that are generated.
const PROMPT_FILES: u64 = 24;
const PROMPT_BYTES: usize = 14 << 10;
const TOOLS_IN_FILE: usize = 20;

/// What a seed is used for, so that streams of one seed differ.
const FOR_SIZES: u64 = 11;
const FOR_SESSION: u64 = 12;
const FOR_PROMPT: u64 = 13;

impl Corpus {
    /// Generates conversations of about `bytes` together, with prompts and tool definitions.
    pub fn generate(seed: u64, bytes: u64) -> Corpus {
        let count = ((bytes as f64 / CONVERSATION_BYTES_MEAN).round() as usize).max(1);
        // One from each of `count` equal shares, so that few conversations have the quantiles of many.
        let mut lengths: Vec<f64> =
            (0..count).map(|index| interpolate(&CONVERSATION_BYTES, (index as f64 + 0.5) / count as f64)).collect();
        Random::new(mix(&[seed, FOR_SIZES])).shuffle(&mut lengths);
        let mut files: Vec<SourceFile> = lengths
            .iter()
            .enumerate()
            .map(|(index, &length)| conversation_file(seed, index, length as usize))
            .collect();
        files.extend(prompt_files(seed, Class::Prompt));
        files.extend(prompt_files(seed, Class::Tool));
        Corpus::synthetic(files)
    }
}

fn conversation_file(seed: u64, index: usize, bytes: usize) -> SourceFile {
    let mut text = String::with_capacity(bytes + (bytes >> 3));
    Session::new(mix(&[seed, index as u64, FOR_SESSION])).write(bytes, &mut text);
    SourceFile {
        source: SOURCE.to_owned(),
        path: format!("{SOURCE}/{index:06}.jsonl"),
        class: Class::Conversation,
        bytes: text.into_bytes(),
    }
}

/// Generated prompts, or generated tool definitions.
pub(crate) fn prompt_files(seed: u64, class: Class) -> Vec<SourceFile> {
    let file = |index| {
        let mut random = Random::new(mix(&[seed, index, class as u64, FOR_PROMPT]));
        let vocabulary = Vocabulary::new(&mut random, 2_000);
        let (extension, text) = match class {
            Class::Tool => ("json", tools(&mut random, &vocabulary)),
            _ => ("md", prompt(&mut random, &vocabulary)),
        };
        SourceFile {
            source: format!("prompts/{SOURCE}"),
            path: format!("prompts/{SOURCE}/{index:03}.{extension}"),
            class,
            bytes: text.into_bytes(),
        }
    };
    (0..PROMPT_FILES).map(file).collect()
}

/// Sections with a heading and a paragraph or some points.
fn prompt(random: &mut Random, vocabulary: &Vocabulary) -> String {
    let mut text = String::with_capacity(PROMPT_BYTES + 2_000);
    while text.len() < PROMPT_BYTES {
        let _ = writeln!(text, "# {} {}\n", vocabulary.word(random), vocabulary.word(random));
        for _ in 0..2 + random.below(6) {
            text.push_str("- ");
            let bytes = 60 + random.below(200);
            vocabulary.prose(random, bytes, &mut text);
            text.push('\n');
        }
        text.push('\n');
    }
    text.replace("\\n", "\n")
}

/// An array of tools with a schema of their parameters.
fn tools(random: &mut Random, vocabulary: &Vocabulary) -> String {
    let mut text = String::from("[");
    for index in 0..TOOLS_IN_FILE {
        let separator = if index == 0 { "" } else { "," };
        let _ = write!(
            text,
            "{separator}{{\"name\":\"{}_{}\",\"description\":\"",
            vocabulary.word(random),
            vocabulary.word(random)
        );
        let bytes = 100 + random.below(700);
        vocabulary.prose(random, bytes, &mut text);
        text.push_str("\",\"inputSchema\":{\"type\":\"object\",\"properties\":{");
        for parameter in 0..1 + random.below(6) {
            let separator = if parameter == 0 { "" } else { "," };
            let _ = write!(text, "{separator}\"{}\":{{\"type\":\"string\",\"description\":\"", vocabulary.word(random));
            let bytes = 40 + random.below(100);
            vocabulary.prose(random, bytes, &mut text);
            text.push_str("\"}");
        }
        text.push_str("}}}");
    }
    text.push_str("]\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Tally, quantile};
    use agentmem_core::transcript::split;

    /// What a coding agent's conversations measure, and how far a generated corpus may be off.
    const RATIOS: [(&str, f64); 4] = [("message", 2.95), ("block", 4.80), ("stream", 8.31), ("whole", 8.9)];
    const TOLERANCE: f64 = 0.1;

    fn assert_close(what: &str, measured: f64, target: f64) {
        let off = measured / target - 1.0;
        assert!(off.abs() < TOLERANCE, "{what}: {measured:.2} is {:+.1} % off {target:.2}", off * 100.0);
    }

    #[test]
    fn sizes_and_ratios_are_those_of_a_coding_agent() {
        let corpus = Corpus::generate(2, 40_000_000);
        let (mut tally, mut messages, mut conversations) = (Tally::default(), Vec::new(), Vec::new());
        for file in corpus.of_class(Class::Conversation) {
            let pieces = split(&file.bytes);
            tally.add(pieces.iter().map(|piece| piece.bytes(&file.bytes))).unwrap();
            messages.extend(pieces.iter().map(|piece| piece.message(&file.bytes).len()));
            conversations.push(file.bytes.len());
        }
        assert_eq!(corpus.originals().count(), conversations.len());
        for ((name, measured), (expected, target)) in tally.ratios().named().into_iter().zip(RATIOS) {
            assert_eq!(name, expected);
            assert_close(name, measured, target);
        }
        for (share, target) in [(0.5, 1_000.0), (0.9, 6_000.0), (0.99, 51_000.0)] {
            assert_close("message bytes", quantile(&mut messages, share) as f64, target);
        }
        for (share, target) in [(0.5, 0.9e6), (0.9, 3.4e6)] {
            assert_close("conversation bytes", quantile(&mut conversations, share) as f64, target);
        }
    }

    #[test]
    fn everything_is_valid_json() {
        let corpus = Corpus::generate(3, 3_000_000);
        for file in corpus.of_class(Class::Conversation) {
            for piece in split(&file.bytes) {
                let message: Result<serde_json::Value, _> = serde_json::from_slice(piece.message(&file.bytes));
                assert!(message.is_ok_and(|message| message["type"].is_string()));
            }
        }
        for file in corpus.of_class(Class::Tool) {
            assert!(serde_json::from_slice::<serde_json::Value>(&file.bytes).is_ok());
        }
        assert!(corpus.is_synthetic() && corpus.of_class(Class::Prompt).count() > 0);
    }

    #[test]
    fn a_seed_gives_the_same_corpus() {
        let texts = |seed| -> Vec<Vec<u8>> {
            Corpus::generate(seed, 2_000_000).files().iter().map(|file| file.bytes.clone()).collect()
        };
        assert_eq!(texts(4), texts(4));
        assert_ne!(texts(4), texts(5));
    }
}
