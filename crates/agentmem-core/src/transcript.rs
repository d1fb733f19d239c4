//! Where one conversation ends and the next begins in a transcript, and one message in a conversation.
//!
//! [`conversations`] cuts a transcript into consecutive pieces, one for each message, without changing a byte: the
//! concatenation of all pieces is the input. It is a scanner, not a parser. It looks for the boundaries of JSON
//! values and never builds them, so its cost is a pass over the bytes, two at most, and its memory is the list of
//! boundaries.
//!
//! What is understood:
//!
//! - JSON lines: one piece a line. A line above [`DESCEND_BYTES`] that is no message itself but holds a list of
//!   messages is cut into those.
//! - A JSON document: the list of messages in it, which is its top-level array, or the largest array of objects
//!   that is reachable through objects (`{"messages": [...]}`), together with its peers of similar length. When the elements
//!   are not messages but each hold a list of their own, those lists are taken.
//! - Runs: when most elements of such a list, or most lines, each hold a conversation, each of them is one, with all
//!   that is said about it around the messages. Everything else makes one conversation.
//! - Anything else is one piece, or, when it is long text, pieces that end at newlines.

mod scan;

pub use scan::DEPTH_MAX;
use scan::{Run, Scan, find_newline, skip_space};

/// A JSON line longer than this is searched for a list of messages inside it.
pub const DESCEND_BYTES: usize = 64 << 10;

/// Text that is not understood and is longer than this is cut at newlines.
pub const WHOLE_BYTES_MAX: usize = 1 << 20;

/// Pieces of text that is not understood end at the last newline within this many bytes.
pub const TEXT_PIECE_BYTES: usize = 64 << 10;

/// One piece of a transcript: a message and the bytes that surround it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset of the first byte of the piece.
    pub start: usize,
    /// Offset behind the last byte of the piece.
    pub end: usize,
    /// Bytes at the start of the piece that precede the message: brackets, separators, the head of a document.
    pub lead: u32,
    /// Bytes at the end of the piece that follow the message: the newline of a JSON line, the foot of a document.
    pub trail: u32,
}

impl Piece {
    /// The whole piece, surroundings included.
    pub fn bytes<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.start..self.end]
    }

    /// The message's own text.
    pub fn message<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.start + self.lead as usize..self.end - self.trail as usize]
    }
}

/// Cuts a transcript into pieces whose concatenation is `data`, whichever conversation they belong to.
pub fn split(data: &[u8]) -> Vec<Piece> {
    conversations(data).concat()
}

/// Cuts a transcript into its conversations, and each into pieces. No conversation is empty, and the concatenation of
/// all pieces of all conversations is `data`.
pub fn conversations(data: &[u8]) -> Vec<Vec<Piece>> {
    if data.is_empty() {
        return Vec::new();
    }
    // `lead` and `trail` have 32 bits.
    if u32::try_from(data.len()).is_err() {
        return vec![vec![whole(0, data.len())]];
    }
    let Some(scan) = Scan::of(data) else {
        return vec![split_text(data)];
    };
    let after = skip_space(data, scan.end);
    if after == data.len() {
        return split_document(data, &scan);
    }
    // More follows the first value: JSON lines if it ended with its line.
    if find_newline(data, scan.start).is_some_and(|newline| scan.end <= newline && newline < after) {
        return split_lines(data, &scan);
    }
    vec![split_text(data)]
}

fn whole(start: usize, end: usize) -> Piece {
    Piece { start, end, lead: 0, trail: 0 }
}

fn split_document(data: &[u8], scan: &Scan) -> Vec<Vec<Piece>> {
    if scan.root_is_message {
        return vec![vec![trimmed(data, 0, data.len())]];
    }
    let runs = scan.runs();
    if runs.is_empty() { vec![split_text(data)] } else { tile_runs(0, data.len(), &runs) }
}

/// A piece over `start..end` whose message is what lies between the white space at both ends.
fn trimmed(data: &[u8], start: usize, end: usize) -> Piece {
    let text = data[start..end].trim_ascii_start();
    let lead = end - start - text.len();
    let trail = text.len() - text.trim_ascii_end().len();
    Piece { start, end, lead: lead as u32, trail: trail as u32 }
}

/// Covers `start..end` with the conversations that were found in it; places in `runs` count from `start`.
fn tile_runs(start: usize, end: usize, runs: &[Run]) -> Vec<Vec<Piece>> {
    let mut at = start;
    let tiled = runs.iter().enumerate().map(|(index, run)| {
        let run_end = if index + 1 == runs.len() { end } else { start + run.end };
        let messages = run.messages.iter().map(|(from, to)| (start + from, start + to));
        tile(std::mem::replace(&mut at, run_end), run_end, messages)
    });
    tiled.collect()
}

/// Covers `start..end` with one piece for each message; what lies between two messages leads the later one.
fn tile(start: usize, end: usize, messages: impl ExactSizeIterator<Item = (usize, usize)>) -> Vec<Piece> {
    let mut at = start;
    let last = messages.len() - 1;
    let tiled = messages.enumerate().map(|(index, (message_start, message_end))| {
        let start = at;
        at = if index == last { end } else { message_end };
        Piece { start, end: at, lead: (message_start - start) as u32, trail: (at - message_end) as u32 }
    });
    tiled.collect()
}

fn split_lines(data: &[u8], first: &Scan) -> Vec<Vec<Piece>> {
    let lines = lines(data);
    // A log begins with a record: then nothing but long lines is scanned.
    if !first.root_is_record
        && let Some(conversations) = split_runs(data, &lines)
    {
        return conversations;
    }
    vec![lines.iter().flat_map(|&(start, end)| split_line(data, start, end)).collect()]
}

/// Start and end of every line, newline included. Blank lines trail the line before them, or lead the first one.
fn lines(data: &[u8]) -> Vec<(usize, usize)> {
    let mut lines: Vec<(usize, usize)> = Vec::new();
    let (mut start, mut at) = (0, skip_space(data, 0));
    while at < data.len() {
        let end = find_newline(data, at).map_or(data.len(), |newline| newline + 1);
        match lines.last_mut() {
            Some(last) if data[at..end].iter().all(u8::is_ascii_whitespace) => last.1 = end,
            _ => lines.push((start, end)),
        }
        (start, at) = (end, end);
    }
    lines
}

/// The conversations of lines most of which hold one of their own.
fn split_runs(data: &[u8], lines: &[(usize, usize)]) -> Option<Vec<Vec<Piece>>> {
    let mut conversations = Vec::with_capacity(lines.len());
    let mut others = 0;
    for &(start, end) in lines {
        match runs_of_line(&data[start..end], Scan::holds_dialogue) {
            Some(runs) => conversations.extend(tile_runs(start, end, &runs)),
            None => {
                others += 1;
                if others * 2 >= lines.len() {
                    return None;
                }
                conversations.push(split_line(data, start, end));
            }
        }
    }
    Some(conversations)
}

fn split_line(data: &[u8], start: usize, end: usize) -> Vec<Piece> {
    let is_long = end - start > DESCEND_BYTES;
    match is_long.then(|| runs_of_line(&data[start..end], |_| true)).flatten() {
        Some(runs) => tile_runs(start, end, &runs).concat(),
        None => vec![trimmed(data, start, end)],
    }
}

/// The conversations in a line, if that is what it is for and it is no message itself.
fn runs_of_line(line: &[u8], is_wanted: impl Fn(&Scan) -> bool) -> Option<Vec<Run>> {
    let scan = Scan::of(line)?;
    if scan.root_is_record || skip_space(line, scan.end) != line.len() || !is_wanted(&scan) {
        return None;
    }
    let runs = scan.runs();
    let messages = || runs.iter().flat_map(|run| &run.messages);
    let covered: usize = messages().map(|(start, end)| end - start).sum();
    (messages().count() >= 2 && covered > line.len() / 2).then_some(runs)
}

fn split_text(data: &[u8]) -> Vec<Piece> {
    if data.len() <= WHOLE_BYTES_MAX || !is_text(data) {
        return vec![whole(0, data.len())];
    }
    let mut pieces = Vec::with_capacity(data.len() / TEXT_PIECE_BYTES + 1);
    let mut start = 0;
    while start < data.len() {
        let end = text_piece_end(data, start);
        pieces.push(whole(start, end));
        start = end;
    }
    pieces
}

/// Behind the last newline within reach, or behind the next one if the line is longer than a piece.
fn text_piece_end(data: &[u8], start: usize) -> usize {
    let reach = start + TEXT_PIECE_BYTES;
    if reach >= data.len() {
        return data.len();
    }
    match data[start..reach].iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => start + newline + 1,
        None => find_newline(data, reach).map_or(data.len(), |newline| newline + 1),
    }
}

fn is_text(data: &[u8]) -> bool {
    match std::str::from_utf8(data) {
        Ok(_) => !data[..TEXT_PIECE_BYTES.min(data.len())].contains(&0),
        // A file that is still being written may end inside a character.
        Err(error) => error.error_len().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(text: &str) -> Vec<&str> {
        dialogues(text).concat()
    }

    /// The messages of each conversation.
    fn dialogues(text: &str) -> Vec<Vec<&str>> {
        let data = text.as_bytes();
        let conversations = conversations(data);
        assert_tiles(data, &conversations.concat());
        assert!(conversations.iter().all(|pieces| !pieces.is_empty()));
        let message = |piece: &Piece| std::str::from_utf8(piece.message(data)).unwrap();
        conversations.iter().map(|pieces| pieces.iter().map(message).collect()).collect()
    }

    /// A run with so many messages.
    fn run(number: usize, count: usize) -> String {
        let message = |n| format!(r#"{{"role":"user","content":"{number}.{n} and so on and so forth"}}"#);
        let messages: Vec<_> = (0..count).map(message).collect();
        format!(r#"{{"task":{number},"info":[{{"q":1}}],"state":{{"traj":[{}]}},"reward":1}}"#, messages.join(", "))
    }

    fn counts(text: &str) -> Vec<usize> {
        dialogues(text).iter().map(Vec::len).collect()
    }

    fn assert_tiles(data: &[u8], pieces: &[Piece]) {
        let mut at = 0;
        for piece in pieces {
            assert_eq!(piece.start, at);
            assert!(piece.start < piece.end);
            assert!(piece.lead as usize + piece.trail as usize <= piece.end - piece.start);
            at = piece.end;
        }
        assert_eq!(at, data.len());
    }

    #[test]
    fn lines_keep_their_newline_as_trail() {
        let data = b"\n{\"a\":1}\n\n \r\n {\"b\":[2]}\r\n{\"c\"";
        let pieces = split(data);
        assert_tiles(data, &pieces);
        let texts: Vec<_> = pieces.iter().map(|piece| piece.message(data)).collect();
        assert_eq!(texts, [&b"{\"a\":1}"[..], b"{\"b\":[2]}", b"{\"c\""]);
        assert_eq!((pieces[0].lead, pieces[0].trail), (1, 5));
        assert_eq!((pieces[1].lead, pieces[1].trail), (1, 2));
    }

    #[test]
    fn top_level_array() {
        let text = r#" [ {"role":"user","content":[{"type":"a"},{"type":"b"}]}, {"role":"x"} ] "#;
        assert_eq!(messages(text), [r#"{"role":"user","content":[{"type":"a"},{"type":"b"}]}"#, r#"{"role":"x"}"#]);
    }

    #[test]
    fn largest_list_reachable_through_objects() {
        let text = r#"{"tools":[{"n":1}],"state":{"history":[{"role":"a","content":"]},{"},
            {"role":"b","content":"\"\\"}, {"role":"c","content":"long enough to be no peer of the tools"}]},"n":[1]}"#;
        let found = messages(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], r#"{"role":"a","content":"]},{"}"#);
    }

    #[test]
    fn each_run_of_a_list_is_a_conversation() {
        let text = format!("[{}, {}, {{\"task\":9,\"traj\":[]}}]\n", run(1, 3), run(2, 2));
        let found = dialogues(&text);
        assert_eq!(counts(&text), [3, 2, 1]);
        assert_eq!(found[1][1], r#"{"role":"user","content":"2.1 and so on and so forth"}"#);
        assert_eq!(found[2], [r#"{"task":9,"traj":[]}"#]);
        // What is said about a run stays with it.
        let first = &conversations(text.as_bytes())[0];
        assert_eq!(text[..first[2].end], format!("[{}", run(1, 3)));

        let members: Vec<_> = (0..8).map(|n| format!("\"{n}\":{}", run(n, 2))).collect();
        assert_eq!(counts(&format!("{{{}}}", members.join(","))), [2; 8]);
        let tasks = r#"{"id":1,"actions":[{"name":"a"},{"name":"b"}]}"#;
        let listed = format!(r#"{{"tasks":[{tasks},{tasks}],"simulations":[{},{}]}}"#, run(1, 2), run(2, 3));
        assert_eq!(counts(&listed), [2, 3]);
    }

    #[test]
    fn each_line_that_holds_a_run_is_a_conversation() {
        let whole = format!("\n{}\r\n\n{}\n{{\"task\":3}}\n{}", run(1, 2), run(2, 3), run(4, 2));
        assert_eq!(counts(&whole), [2, 3, 1, 2]);
        // One that is still being written.
        let cut = format!("{}\n{}\n{}", run(1, 2), run(2, 3), &run(3, 2)[..50]);
        assert_eq!(counts(&cut), [2, 3, 1]);
        // Most lines are something else, or it is a log that begins with a record.
        assert_eq!(counts(&format!("{}\n{{\"a\":1}}\n{{\"b\":2}}\n", run(1, 2))), [3]);
        assert_eq!(counts(&format!("{{\"type\":\"meta\"}}\n{}\n{}\n", run(1, 2), run(2, 2))), [3]);
    }

    #[test]
    fn what_is_cut_otherwise_is_one_conversation() {
        // Steps that hold what was said before each, beside the messages themselves.
        let said = r#"{"role":"user","content":"much shorter"}"#;
        let steps = format!(r#"{{"trajectory":[{},{}],"history":[{said},{said}]}}"#, run(1, 9), run(2, 9));
        assert_eq!(counts(&steps), [18]);
        let tools = r#"{"type":"function","function":{"name":"f"}}"#;
        let beside = format!(r#"{{"tools":[{tools},{tools}],"runs":[{},{}]}}"#, run(1, 9), run(2, 9));
        assert_eq!(counts(&beside), [9, 9]);
        // Parts of messages are no runs.
        let parts = r#"{"role":"user","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]}"#;
        assert_eq!(counts(&format!("[{parts},{parts},{parts}]")), [3]);
        assert_eq!(counts(&format!("{parts}\n{parts}\n{parts}\n")), [3]);
        // Lists of something else.
        let rows = r#"{"name":"t","rows":[{"a":1,"b":"long enough"},{"a":2,"b":"long enough"}]}"#;
        assert_eq!(dialogues(&format!("[{rows},{rows},{rows}]")).len(), 1);
        assert_eq!(counts(&format!("{rows}\n{rows}\n{rows}\n")), [3]);
        // A single run.
        assert_eq!(counts(&format!("[{}]", run(1, 4))), [4]);
        assert_eq!(counts(&run(1, 4)), [4]);
    }

    #[test]
    fn a_map_of_many_objects_is_a_list() {
        let members: Vec<_> = (0..8).map(|n| format!(r#""{n}":{{"turns":["a","b"]}}"#)).collect();
        assert_eq!(messages(&format!("{{{}}}", members.join(","))).len(), 8);
        assert_eq!(messages(&format!("{{{}}}", members[..7].join(","))).len(), 1);
    }

    #[test]
    fn a_long_line_that_is_a_conversation_is_cut() {
        let message = format!(r#"{{"role":"user","content":"{}"}}"#, "x".repeat(40 << 10));
        let line = format!(r#"{{"id":1,"state":{{"history":[{message},{message}]}}}}"#);
        let text = format!("{{\"id\":0}}\n{line}\n{{\"type\":\"u\",\"a\":[{message},{message}]}}\n");
        let found = messages(&text);
        assert_eq!(found.len(), 4);
        assert_eq!(found[1], message);
        assert_eq!(found[2], message);
    }

    #[test]
    fn what_is_not_understood_stays_whole_or_is_cut_at_newlines() {
        assert_eq!(messages("just text\n\nmore").len(), 1);
        assert_eq!(messages(r#"{"a":[{"b":1}]"#).len(), 1);
        assert_eq!(messages(r#"{"a":[{"b":1}}]"#).len(), 1);
        let deep = "[".repeat(100_000);
        assert_eq!(messages(&deep).len(), 1);
        let long = "a line of text\n".repeat(100_000);
        let pieces = split(long.as_bytes());
        assert_tiles(long.as_bytes(), &pieces);
        assert!(pieces.len() >= long.len() / TEXT_PIECE_BYTES);
        assert!(pieces.iter().all(|piece| piece.end - piece.start <= TEXT_PIECE_BYTES));
        assert_eq!(split(&[0u8; WHOLE_BYTES_MAX + 1]).len(), 1);
        assert!(split(b"").is_empty());
    }

    fn json(depth: u32) -> BoxedStrategy<String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            (-5..99_999i64).prop_map(|n| n.to_string()),
            "[a-z {}\\[\\],:]{0,12}".prop_map(|text| format!("\"{text}\\\"\\\\\"")),
        ];
        leaf.prop_recursive(depth, 64, 6, |inner| {
            let key = prop_oneof!["[a-c]", Just("role".to_owned()), Just("type".to_owned())];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec((key, inner), 0..10).prop_map(|members| {
                    let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
        .boxed()
    }

    proptest! {
        #[test]
        fn any_bytes_are_tiled(data in prop::collection::vec(any::<u8>(), 0..600)) {
            assert_tiles(&data, &split(&data));
        }

        #[test]
        fn json_alphabet_is_tiled(text in "[\\[\\]{}\",:\\\\ a1\n]{0,300}") {
            assert_tiles(text.as_bytes(), &split(text.as_bytes()));
        }

        #[test]
        fn mutated_json_is_tiled(
            text in json(6),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut data = text.into_bytes();
            for (index, byte) in changes {
                let at = index.index(data.len());
                data[at] = byte;
            }
            assert_tiles(&data, &split(&data));
        }

        #[test]
        fn messages_of_a_document_are_values(text in json(6)) {
            let pieces = split(text.as_bytes());
            assert_tiles(text.as_bytes(), &pieces);
            if pieces.len() > 1 {
                for piece in &pieces {
                    let message = piece.message(text.as_bytes());
                    let scan = Scan::of(message).expect("a message is one complete value");
                    prop_assert_eq!(scan.end, message.len());
                }
            }
        }

        #[test]
        fn a_list_of_messages_is_found(values in prop::collection::vec(json(3), 1..12)) {
            let messages: Vec<_> =
                values.iter().map(|value| format!("{{\"role\":\"user\",\"content\":{value}}}")).collect();
            let text = format!("{{\"id\":7,\"messages\":[{}]}}", messages.join(","));
            let found = split(text.as_bytes());
            assert_tiles(text.as_bytes(), &found);
            prop_assert_eq!(found.len(), messages.len());
            for (piece, message) in found.iter().zip(&messages) {
                prop_assert_eq!(piece.message(text.as_bytes()), message.as_bytes());
            }
        }

        #[test]
        fn find_agrees_with_a_loop(data in prop::collection::vec(b'\x08'..b'\x0c', 0..40), at in 0..42usize) {
            let expected = data.get(at..).and_then(|rest| rest.iter().position(|&b| b == b'\n')).map(|n| n + at);
            prop_assert_eq!(find_newline(&data, at), expected);
        }
    }
}
