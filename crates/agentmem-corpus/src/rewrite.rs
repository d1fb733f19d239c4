//! Consistent replacement of words and identifiers.
//!
//! Each agent speaks its own language: a seed picks a permutation of the letters and one of the digits, and every word
//! of a text becomes the word with its letters exchanged. That is a bijection on words, so the same word always becomes the
//! same other word, two words stay two, and it needs no memory. It also keeps what compression sees: every
//! repetition inside words stays one (`implement`, `implementation`), and letters are exchanged only for letters
//! that are about as frequent. Hexadecimal digits are exchanged among themselves, so an identifier stays one.
//!
//! Kept as it is: everything outside of JSON strings, keys, the values of `role` and `type`, timestamps, and whatever a
//! backslash escapes. So the text stays valid JSON with the same structure and exactly the same length.

use crate::random::Random;

/// Letters that are exchanged for each other: hexadecimal digits apart from the others, and each alike in frequency.
const LETTER_CLASSES: [&[u8]; 5] = [b"ae", b"bcdf", b"hinorst", b"glmpuwy", b"jkqvxz"];

/// Zero is left out: a number must not begin with it.
const DIGIT_CLASSES: [&[u8]; 1] = [b"123456789"];

/// Rewrites texts for one agent.
pub struct Rewriter {
    replacement: [u8; 256],
}

impl Rewriter {
    /// A rewriter whose replacements depend on `seed` only.
    pub fn new(seed: u64) -> Rewriter {
        let mut random = Random::new(seed);
        let mut replacement: [u8; 256] = std::array::from_fn(|byte| byte as u8);
        for class in LETTER_CLASSES.iter().chain(&DIGIT_CLASSES) {
            let mut target = class.to_vec();
            random.shuffle(&mut target);
            for (&from, &to) in class.iter().zip(&target) {
                replacement[from as usize] = to;
                replacement[from.to_ascii_uppercase() as usize] = to.to_ascii_uppercase();
            }
        }
        Rewriter { replacement }
    }

    /// Appends the rewritten `text` to `out`: exactly as many bytes, with every message where it was.
    ///
    /// Text that begins like JSON is taken for a document or for JSON lines, everything else for prose. A piece of
    /// a conversation must not begin or end inside a string.
    pub fn rewrite(&self, text: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(text);
        let copy = &mut out[start..];
        match text.trim_ascii_start().first() {
            Some(b'{' | b'[' | b',' | b']' | b'}') => self.rewrite_json(text, copy),
            _ => self.replace(copy),
        }
    }

    fn rewrite_json(&self, text: &[u8], copy: &mut [u8]) {
        let mut keep_value = false;
        let mut at = 0;
        while let Some(quote) = text[at..].iter().position(|&byte| byte == b'"') {
            let start = at + quote + 1;
            let end = string_end(text, start);
            let value = &text[start..end];
            if is_key(&text[end..]) {
                keep_value = matches!(value, b"role" | b"type" | b"subtype");
            } else {
                if !keep_value && !is_timestamp(value) {
                    self.replace(&mut copy[start..end]);
                }
                keep_value = false;
            }
            at = (end + 1).min(text.len());
        }
    }

    /// Replaces in place, except for what is escaped.
    fn replace(&self, text: &mut [u8]) {
        let mut at = 0;
        while at < text.len() {
            let byte = text[at];
            if byte == b'\\' {
                at = escape_end(text, at);
            } else {
                text[at] = self.replacement[byte as usize];
                at += 1;
            }
        }
    }
}

/// Behind an escape sequence. A string can hold JSON that holds strings, so any number of backslashes escapes.
fn escape_end(text: &[u8], mut at: usize) -> usize {
    while text.get(at) == Some(&b'\\') {
        at += 1;
    }
    if text.get(at) != Some(&b'u') {
        return at + 1;
    }
    // A backslash that is itself escaped can stand before any `u`: what is no digit is no part of the sequence.
    at += 1;
    let digits = text[at..].iter().take(4).take_while(|byte| byte.is_ascii_hexdigit());
    at + digits.count()
}

/// Where the closing quote of a string is, or the line ends in the midst of it.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' | b'\n' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// Whether what follows a string makes it a key.
fn is_key(rest: &[u8]) -> bool {
    rest.first() == Some(&b'"') && rest[1..].trim_ascii_start().first() == Some(&b':')
}

/// `2026-01-05T12:17:31.697Z` and the like.
fn is_timestamp(value: &[u8]) -> bool {
    (19..=35).contains(&value.len())
        && value[..4].iter().all(u8::is_ascii_digit)
        && value[4] == b'-'
        && value[7] == b'-'
        && matches!(value[10], b'T' | b' ')
        && value[13] == b':'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewritten(seed: u64, text: &str) -> String {
        let mut out = Vec::new();
        Rewriter::new(seed).rewrite(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The command that a rewritten tool call holds, whose arguments are JSON inside a string of JSON.
    fn nested_command(seed: u64, text: &str, command: &str) -> serde_json::Result<serde_json::Value> {
        let arguments = serde_json::json!({ "command": command }).to_string();
        let call = serde_json::json!([{ "role": "user", "content": text, "arguments": arguments }]);
        let other: serde_json::Value = serde_json::from_str(&rewritten(seed, &call.to_string()))?;
        serde_json::from_str(other[0]["arguments"].as_str().unwrap())
    }

    #[test]
    fn an_escaped_backslash_before_u_escapes_nothing() {
        // Of these, only some seeds change the letter behind the backslash.
        for seed in 0..20 {
            assert!(nested_command(seed, "", "\\uaa\t").is_ok(), "seed {seed}");
        }
    }

    #[test]
    fn structure_stays_and_words_change() {
        let text = r#"{"type":"user","n":-12.5e3,"ok":true,"content":"Error: a\tb \u00e9 \\n in file_1.rs, error",
            "id":"e77a9581-362a","timestamp":"2026-01-05T12:17:31.697Z","none":null}"#;
        let other = rewritten(1, text);
        assert_eq!(other.len(), text.len());
        for kept in [
            r#""type":"user""#,
            r#""n":-12.5e3,"ok":true"#,
            "\\t",
            "\\u00e9",
            "\\\\n",
            "2026-01-05T12:17:31.697Z",
            "null}",
        ] {
            assert!(other.contains(kept), "{kept} in {other}");
        }
        assert!(!other.contains("Error"));
        let value: serde_json::Value = serde_json::from_str(&other).unwrap();
        let id = value["id"].as_str().unwrap();
        assert!(id.chars().all(|c| c == '-' || c.is_ascii_hexdigit()));
        let content = value["content"].as_str().unwrap();
        assert_eq!(content[..5].to_lowercase(), content[content.len() - 5..]);
        assert_ne!(rewritten(2, text), other);
        assert_eq!(rewritten(1, text), other);
    }

    #[test]
    fn a_broken_line_does_not_spoil_the_next() {
        let other = rewritten(5, "{\"a\":\"cut off\n{\"content\":\"hello there\",\"key\":1}");
        assert!(other.contains("\"content\":\"") && other.contains("\",\"key\":1}"));
        assert!(!other.contains("hello"));
    }

    #[test]
    fn prose_is_rewritten_whole() {
        let other = rewritten(5, "Keep \"this: it\" short\\n");
        assert_eq!(other.len(), "Keep \"this: it\" short\\n".len());
        assert!(!other.contains("short") && other.ends_with("\\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length(data in prop::collection::vec(any::<u8>(), 0..300), seed: u64) {
            let mut out = vec![1, 2];
            Rewriter::new(seed).rewrite(&data, &mut out);
            prop_assert_eq!(out.len(), data.len() + 2);
        }

        #[test]
        fn strings_stay_strings(text in "\\PC{0,40}", inner in "[a-z\"\\\\\n\t]{0,20}", seed: u64) {
            prop_assert!(nested_command(seed, &text, &inner).is_ok());
        }

        #[test]
        fn words_map_one_to_one(a in "[a-zA-Z0-9_]{1,12}", b in "[a-zA-Z0-9_]{1,12}", seed: u64) {
            prop_assert_eq!(rewritten(seed, &a) == rewritten(seed, &b), a == b);
        }
    }
}
