//! Invented words: a vocabulary that is used as unevenly as a natural one.

use crate::random::Random;

const ONSETS: [&str; 24] = [
    "t", "s", "r", "n", "l", "d", "c", "m", "p", "f", "h", "b", "w", "g", "v", "st", "th", "tr", "pr", "ch", "sh", "k",
    "cl", "qu",
];
const VOWELS: [&str; 12] = ["e", "a", "i", "o", "u", "ea", "ou", "io", "ai", "ee", "y", "ie"];
const CODAS: [&str; 14] = ["", "n", "r", "s", "t", "l", "nd", "d", "ng", "st", "m", "ck", "nt", "x"];

/// Words in the order of their frequency.
pub(crate) struct Vocabulary {
    words: Vec<String>,
}

impl Vocabulary {
    pub(crate) fn new(random: &mut Random, words: usize) -> Vocabulary {
        let word = |rank| {
            // Frequent words are short.
            let syllables = match rank {
                0..40 => 1,
                40..300 => 1 + random.below(2),
                _ => 2 + random.below(3),
            };
            (0..syllables).map(|_| syllable(random)).collect()
        };
        Vocabulary { words: (0..words).map(word).collect() }
    }

    /// A word, each about as often as one over its rank.
    pub(crate) fn word(&self, random: &mut Random) -> &str {
        &self.words[uneven(random, self.words.len())]
    }

    /// Words with spaces between them and a full stop now and then, at least `bytes` long.
    pub(crate) fn prose(&self, random: &mut Random, bytes: usize, out: &mut String) {
        let end = out.len() + bytes;
        let mut begins = true;
        while out.len() < end {
            let word = self.word(random);
            if begins {
                push_capitalised(word, out);
            } else {
                out.push_str(word);
            }
            begins = random.chance(0.08);
            out.push_str(match (begins, random.below(12)) {
                (true, 0..3) => ".\\n\\n",
                (true, _) => ". ",
                (false, 0) => ", ",
                (false, _) => " ",
            });
        }
    }
}

/// A number below `bound`, each about as often as one over it.
pub(crate) fn uneven(random: &mut Random, bound: usize) -> usize {
    ((bound as f64 + 1.0).powf(random.unit()) as usize - 1).min(bound - 1)
}

pub(crate) fn push_capitalised(word: &str, out: &mut String) {
    let mut letters = word.chars();
    if let Some(first) = letters.next() {
        out.push(first.to_ascii_uppercase());
        out.push_str(letters.as_str());
    }
}

/// Random characters of an alphabet, for identifiers and signatures.
pub(crate) fn push_random(random: &mut Random, alphabet: &[u8], count: usize, out: &mut String) {
    out.extend((0..count).map(|_| char::from(alphabet[random.below(alphabet.len())])));
}

fn syllable(random: &mut Random) -> String {
    let onset = ONSETS[uneven(random, ONSETS.len())];
    let vowel = VOWELS[uneven(random, VOWELS.len())];
    let coda = CODAS[uneven(random, CODAS.len())];
    format!("{onset}{vowel}{coda}")
}
