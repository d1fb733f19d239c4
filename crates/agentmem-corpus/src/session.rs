//! One generated conversation: JSON lines like those that coding agents write.

use crate::code::CodeFile;
use crate::random::Random;
use crate::words::{Vocabulary, push_random, uneven};
use std::fmt::Write;

/// Message lengths by share of messages below them; between two rows the logarithm is interpolated.
const MESSAGE_BYTES: [(f64, f64); 14] = [
    (0.0, 340.0),
    (0.05, 370.0),
    (0.10, 520.0),
    (0.25, 680.0),
    (0.50, 1_020.0),
    (0.75, 2_000.0),
    (0.85, 3_500.0),
    (0.90, 6_000.0),
    (0.95, 17_000.0),
    (0.97, 30_000.0),
    (0.98, 39_000.0),
    (0.99, 51_000.0),
    (0.999, 100_000.0),
    (1.0, 200_000.0),
];

/// Messages up to this are notes of the program, and the results of tools start to appear.
const NOTE_BYTES_MAX: usize = 620;

/// Shorter messages have no room for the head of an assistant's message.
const ASSISTANT_BYTES_MIN: usize = 900;

/// Longer messages are results of tools that hold files.
const FILE_BYTES_MIN: usize = 5_000;

const DECK_CARDS: usize = 200;
const WORDS: usize = 3_000;
/// Prose is made of phrases, so many of which are remembered.
const PHRASES_MAX: usize = 1_000;
const PHRASE_BYTES: usize = 100;
const PHRASE_AGAIN_CHANCE: f64 = 0.6;

const OUTPUT_CHANCE: f64 = 0.3;
const READ_CHANCE: f64 = 0.3;
const NEW_FILE_CHANCE: f64 = 0.065;
const SAME_FILE_CHANCE: f64 = 0.85;

const HEX: &[u8] = b"0123456789abcdef";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE62: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The state of a conversation while it is written.
pub(crate) struct Session {
    random: Random,
    vocabulary: Vocabulary,
    deck: Vec<usize>,
    files: Vec<CodeFile>,
    current: usize,
    /// What was said lately, to be said again.
    phrases: Vec<String>,
    cwd: String,
    session_id: String,
    /// What the program calls around every tool; always the same.
    hook: String,
    parent: String,
    request: String,
    tool_use: String,
    cached_tokens: usize,
    /// Milliseconds of the day.
    clock: u64,
}

impl Session {
    pub(crate) fn new(seed: u64) -> Session {
        let mut random = Random::new(seed);
        let vocabulary = Vocabulary::new(&mut random, WORDS);
        let cwd = format!(
            "/home/{}/{}/{}",
            vocabulary.word(&mut random),
            vocabulary.word(&mut random),
            vocabulary.word(&mut random)
        );
        let session_id = uuid(&mut random);
        let mut hook = String::new();
        vocabulary.prose(&mut random, NOTE_BYTES_MAX, &mut hook);
        let hook = hook.replace("\\n", " ");
        let parent = uuid(&mut random);
        Session {
            random,
            vocabulary,
            deck: Vec::new(),
            files: Vec::new(),
            current: 0,
            phrases: Vec::new(),
            cwd,
            session_id,
            hook,
            parent,
            request: String::new(),
            tool_use: String::new(),
            cached_tokens: 20_000,
            clock: 30_000_000,
        }
    }

    /// Appends messages until there are `bytes`.
    pub(crate) fn write(&mut self, bytes: usize, out: &mut String) {
        while out.len() < bytes {
            let message_bytes = self.message_bytes();
            let end = out.len() + message_bytes;
            match message_bytes {
                0..NOTE_BYTES_MAX => self.note(end, out),
                NOTE_BYTES_MAX..ASSISTANT_BYTES_MIN => self.output(end, out),
                FILE_BYTES_MIN.. => self.file_result(end, out),
                _ if self.random.chance(OUTPUT_CHANCE) => self.output(end, out),
                _ => self.assistant(end, out),
            }
        }
    }

    /// The length of the next message. Lengths are dealt from a deck with one card for each equal share of messages, so
    /// that few messages have the quantiles of many.
    fn message_bytes(&mut self) -> usize {
        if self.deck.is_empty() {
            self.deck.extend(0..DECK_CARDS);
            self.random.shuffle(&mut self.deck);
        }
        let card = self.deck.pop().unwrap_or_default();
        interpolate(&MESSAGE_BYTES, (card as f64 + self.random.unit()) / DECK_CARDS as f64) as usize
    }

    /// A note of the program about its own doings.
    fn note(&mut self, end: usize, out: &mut String) {
        let id = uuid(&mut self.random);
        let time = self.time();
        let _ = write!(
            out,
            "{{\"parentUuid\":\"{}\",\"sessionId\":\"{}\",\"type\":\"progress\",\"uuid\":\"{id}\",\"timestamp\":\"{time}\",\
             \"toolUseID\":\"{}\",\"data\":{{\"type\":\"hook_progress\",\"command\":\"",
            self.parent, self.session_id, self.tool_use,
        );
        let bytes = end.saturating_sub(out.len() + 4).min(self.hook.len());
        out.push_str(&self.hook[..bytes]);
        out.push_str("\"}}\n");
        self.parent = id;
    }

    /// The head that messages of assistant and user share.
    fn head(&mut self, kind: &str, out: &mut String) {
        let id = uuid(&mut self.random);
        let time = self.time();
        let _ = write!(
            out,
            "{{\"parentUuid\":\"{}\",\"isSidechain\":false,\"userType\":\"external\",\"cwd\":\"{}\",\"sessionId\":\"{}\",\
             \"version\":\"1.0.7\",\"gitBranch\":\"main\",\"type\":\"{kind}\",\"uuid\":\"{id}\",\"timestamp\":\"{time}\",\"message\":",
            self.parent, self.cwd, self.session_id,
        );
        self.parent = id;
    }

    /// Text, a thought or a call of a tool.
    fn assistant(&mut self, end: usize, out: &mut String) {
        self.head("assistant", out);
        // Several messages belong to one answer of the model.
        if self.request.is_empty() || self.random.chance(0.5) {
            self.request.clear();
            push_random(&mut self.random, BASE62, 22, &mut self.request);
            self.cached_tokens += self.random.below(2_000);
        }
        let _ = write!(
            out,
            "{{\"model\":\"synthetic\",\"id\":\"msg_{0}\",\"type\":\"message\",\"role\":\"assistant\",\"stop_reason\":null,\
             \"usage\":{{\"input_tokens\":{1},\"cache_read_input_tokens\":{2},\"output_tokens\":{3},\"service_tier\":\"standard\"}},\
             \"content\":[",
            self.request,
            self.random.below(20),
            self.cached_tokens,
            self.random.below(400),
        );
        let end = end.saturating_sub(6);
        match self.random.below(10) {
            0..3 => self.text(end, out),
            3..6 => self.thought(end, out),
            6..8 => self.command(end, out),
            _ => self.change(end, out),
        }
        out.push_str("}]}}\n");
    }

    fn text(&mut self, end: usize, out: &mut String) {
        out.push_str("{\"type\":\"text\",\"text\":\"");
        self.prose(end, out);
        out.push('"');
    }

    fn thought(&mut self, end: usize, out: &mut String) {
        out.push_str("{\"type\":\"thinking\",\"thinking\":\"");
        let room = end.saturating_sub(out.len());
        self.prose(out.len() + room * 4 / 5, out);
        out.push_str("\",\"signature\":\"");
        let rest = end.saturating_sub(out.len());
        push_random(&mut self.random, BASE64, rest, out);
        out.push('"');
    }

    fn tool_call(&mut self, name: &str, out: &mut String) {
        self.tool_use.clear();
        push_random(&mut self.random, BASE62, 24, &mut self.tool_use);
        let _ =
            write!(out, "{{\"type\":\"tool_use\",\"id\":\"toolu_{}\",\"name\":\"{name}\",\"input\":{{", self.tool_use);
    }

    fn command(&mut self, end: usize, out: &mut String) {
        self.tool_call("Bash", out);
        let _ = write!(out, "\"command\":\"cd {} && ", self.cwd);
        self.prose(end, out);
        out.push_str("\"}");
    }

    /// A change to the current file: the lines before and after.
    fn change(&mut self, end: usize, out: &mut String) {
        self.tool_call("Edit", out);
        self.choose_file();
        let _ = write!(out, "\"file_path\":\"{}/{}\",\"old_string\":\"", self.cwd, self.files[self.current].path);
        let room = end.saturating_sub(out.len());
        let first = self.random.below(200);
        let last = self.lines(first, out.len() + room / 2, out);
        out.push_str("\",\"new_string\":\"");
        self.files[self.current].edit(&mut self.random, &self.vocabulary);
        self.lines_between(first, last, out);
        out.push_str("\"}");
    }

    /// What a command printed.
    fn output(&mut self, end: usize, out: &mut String) {
        self.head("user", out);
        let _ = write!(
            out,
            "{{\"role\":\"user\",\"content\":[{{\"tool_use_id\":\"toolu_{}\",\"type\":\"tool_result\",\"content\":\"",
            self.tool_use
        );
        let start = out.len();
        let room = end.saturating_sub(out.len() + 90);
        self.prose(start + room / 2, out);
        let printed = out[start..].to_owned();
        let _ = writeln!(
            out,
            "\"}}]}},\"toolUseResult\":{{\"stdout\":\"{printed}\",\"stderr\":\"\",\"interrupted\":false,\"isImage\":false}}}}"
        );
    }

    /// A file that was read or changed.
    fn file_result(&mut self, end: usize, out: &mut String) {
        self.choose_file();
        self.head("user", out);
        let _ = write!(
            out,
            "{{\"role\":\"user\",\"content\":[{{\"tool_use_id\":\"toolu_{}\",\"type\":\"tool_result\",\"content\":\"",
            self.tool_use
        );
        if self.random.chance(READ_CHANCE) {
            self.read_file(end, out);
        } else {
            self.changed_file(end, out);
        }
    }

    /// The text with line numbers, and once more without.
    fn read_file(&mut self, end: usize, out: &mut String) {
        let first = 0;
        let room = end.saturating_sub(out.len());
        let middle = out.len() + room * 11 / 20;
        let mut index = first;
        while out.len() < middle {
            let _ = write!(out, "{:>6}→", index + 1);
            out.push_str(self.files[self.current].line(index, &mut self.random, &self.vocabulary));
            index += 1;
        }
        let _ = write!(
            out,
            "\"}}]}},\"toolUseResult\":{{\"type\":\"text\",\"file\":{{\"filePath\":\"{}\",\"content\":\"",
            self.files[self.current].path
        );
        self.lines_between(first, index, out);
        out.push_str("\"}}}\n");
    }

    /// A note of what changed, and the whole file as it was.
    fn changed_file(&mut self, end: usize, out: &mut String) {
        let path = &self.files[self.current].path;
        let _ = write!(out, "The file {path} has been updated.\\n");
        let first = self.random.below(100);
        let last = self.lines(first, out.len() + 400, out);
        let _ = write!(
            out,
            "\"}}]}},\"toolUseResult\":{{\"filePath\":\"{}\",\"originalFile\":\"",
            self.files[self.current].path
        );
        self.lines(0, end.saturating_sub(700), out);
        out.push_str("\",\"newString\":\"");
        self.files[self.current].edit(&mut self.random, &self.vocabulary);
        self.lines_between(first, last, out);
        out.push_str("\"}}\n");
    }

    /// Stays with the current file, goes back to an earlier one, or opens a new one.
    fn choose_file(&mut self) {
        if self.files.is_empty() || self.random.chance(NEW_FILE_CHANCE) {
            self.files.push(CodeFile::new(&mut self.random, &self.vocabulary));
            self.current = self.files.len() - 1;
        } else if !self.random.chance(SAME_FILE_CHANCE) {
            self.current = self.files.len() - 1 - uneven(&mut self.random, self.files.len());
        }
    }

    /// Appends lines of the current file until `out` is `end` long; returns the line behind the last one.
    fn lines(&mut self, first: usize, end: usize, out: &mut String) -> usize {
        let mut index = first;
        while out.len() < end {
            out.push_str(self.files[self.current].line(index, &mut self.random, &self.vocabulary));
            index += 1;
        }
        index
    }

    fn lines_between(&mut self, first: usize, last: usize, out: &mut String) {
        for index in first..last {
            out.push_str(self.files[self.current].line(index, &mut self.random, &self.vocabulary));
        }
    }

    /// Phrases until `out` is `end` long, some of them said before.
    fn prose(&mut self, end: usize, out: &mut String) {
        while out.len() < end {
            let bytes = (end - out.len()).min(PHRASE_BYTES);
            let again = uneven(&mut self.random, PHRASES_MAX);
            if bytes == PHRASE_BYTES && self.random.chance(PHRASE_AGAIN_CHANCE) && again < self.phrases.len() {
                out.push_str(&self.phrases[self.phrases.len() - 1 - again]);
                continue;
            }
            let start = out.len();
            self.vocabulary.prose(&mut self.random, bytes, out);
            if self.phrases.len() == PHRASES_MAX {
                self.phrases.swap_remove(0);
            }
            self.phrases.push(out[start..].to_owned());
        }
    }

    fn time(&mut self) -> String {
        self.clock += self.random.below(9_000) as u64;
        let seconds = self.clock / 1_000;
        format!(
            "2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            1 + seconds / 86_400 % 28,
            seconds / 3_600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            self.clock % 1_000
        )
    }
}

fn uuid(random: &mut Random) -> String {
    let mut id = String::with_capacity(36);
    for (index, digits) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            id.push('-');
        }
        push_random(random, HEX, digits, &mut id);
    }
    id
}

/// The value at `share` of a table of shares and values.
pub(crate) fn interpolate(table: &[(f64, f64)], share: f64) -> f64 {
    let above = table.partition_point(|row| row.0 <= share).clamp(1, table.len() - 1);
    let ((from, low), (to, high)) = (table[above - 1], table[above]);
    low * (high / low).powf((share - from) / (to - from))
}
