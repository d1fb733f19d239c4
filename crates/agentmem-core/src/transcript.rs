//! Where one message ends and the next begins, in the text of a conversation.
//!
//! [`split`] cuts a transcript into consecutive pieces, one for each message, without changing a byte: the
//! concatenation of the pieces is the input. It is a scanner, not a parser. It looks for the boundaries of JSON
//! values and never builds them, so its cost is one pass over the bytes and its memory is the list of boundaries.
//!
//! What is understood:
//!
//! - JSON lines: one piece a line. A line above [`DESCEND_BYTES`] that is no message itself but holds a list of
//!   messages is cut into those.
//! - A JSON document: the list of messages in it, which is its top-level array, or the largest array of objects
//!   that is reachable through objects (`{"messages": [...]}`), together with its peers of similar length. When the elements
//!   are not messages but runs that each hold a list of their own, those lists are taken.
//! - Anything else is one piece, or, when it is long text, pieces that end at newlines.

/// A JSON line longer than this is searched for a list of messages inside it.
pub const DESCEND_BYTES: usize = 64 << 10;

/// Text that is not understood and is longer than this is cut at newlines.
pub const WHOLE_BYTES_MAX: usize = 1 << 20;

/// Pieces of text that is not understood end at the last newline within this many bytes.
pub const TEXT_PIECE_BYTES: usize = 64 << 10;

/// Documents nested more deeply than this are not understood.
pub const DEPTH_MAX: usize = 256;

/// An object counts as a list when it has at least this many members, all of them objects.
const MAP_MEMBERS_MIN: u32 = 8;

/// Lists shorter than the longest one divided by this are not worth cutting.
const PEER_DIVISOR: usize = 4;

/// A document whose lists are shorter than the document divided by this has no list of messages.
const COVER_DIVISOR: usize = 8;

/// No list.
const NONE: u32 = u32::MAX;

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

/// Cuts a transcript into pieces whose concatenation is `data`.
pub fn split(data: &[u8]) -> Vec<Piece> {
    if data.is_empty() {
        return Vec::new();
    }
    // `lead` and `trail` have 32 bits.
    if u32::try_from(data.len()).is_err() {
        return vec![whole(0, data.len())];
    }
    let Some(scan) = Scan::of(data) else {
        return split_text(data);
    };
    let after = skip_space(data, scan.end);
    if after == data.len() {
        return split_document(data, &scan);
    }
    // More follows the first value: JSON lines if it ended with its line.
    if find_newline(data, scan.start).is_some_and(|newline| scan.end <= newline && newline < after) {
        return split_lines(data);
    }
    split_text(data)
}

fn whole(start: usize, end: usize) -> Piece {
    Piece { start, end, lead: 0, trail: 0 }
}

fn split_document(data: &[u8], scan: &Scan) -> Vec<Piece> {
    if scan.root_is_message {
        return vec![trimmed(data, 0, data.len())];
    }
    let messages = scan.messages();
    if messages.is_empty() {
        return split_text(data);
    }
    let mut pieces = Vec::with_capacity(messages.len());
    tile(0, data.len(), &messages, &mut pieces);
    pieces
}

/// A piece over `start..end` whose message is what lies between the white space at both ends.
fn trimmed(data: &[u8], start: usize, end: usize) -> Piece {
    let text = data[start..end].trim_ascii_start();
    let lead = end - start - text.len();
    let trail = text.len() - text.trim_ascii_end().len();
    Piece { start, end, lead: lead as u32, trail: trail as u32 }
}

/// Covers `start..end` with one piece for each message; what lies between two messages leads the later one.
fn tile(start: usize, end: usize, messages: &[(usize, usize)], pieces: &mut Vec<Piece>) {
    let mut at = start;
    for (index, &(message_start, message_end)) in messages.iter().enumerate() {
        let piece_end = if index + 1 == messages.len() { end } else { message_end };
        pieces.push(Piece {
            start: at,
            end: piece_end,
            lead: (message_start - at) as u32,
            trail: (piece_end - message_end) as u32,
        });
        at = piece_end;
    }
}

fn split_lines(data: &[u8]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < data.len() {
        let end = find_newline(data, at).map_or(data.len(), |newline| newline + 1);
        if data[at..end].iter().all(u8::is_ascii_whitespace) {
            // Blank lines trail the line before them, or lead the first one.
            if let Some(last) = pieces.last_mut() {
                last.end = end;
                last.trail += (end - at) as u32;
                start = end;
            }
        } else {
            split_line(data, start, end, &mut pieces);
            start = end;
        }
        at = end;
    }
    pieces
}

fn split_line(data: &[u8], start: usize, end: usize, pieces: &mut Vec<Piece>) {
    if end - start > DESCEND_BYTES
        && let Some(messages) = messages_of_line(&data[start..end])
    {
        let first = pieces.len();
        tile(0, end - start, &messages, pieces);
        for piece in &mut pieces[first..] {
            piece.start += start;
            piece.end += start;
        }
        return;
    }
    pieces.push(trimmed(data, start, end));
}

/// The messages inside a long line, if it is a conversation and not one long message.
fn messages_of_line(line: &[u8]) -> Option<Vec<(usize, usize)>> {
    let scan = Scan::of(line)?;
    if scan.root_is_record || skip_space(line, scan.end) != line.len() {
        return None;
    }
    let messages = scan.messages();
    let covered: usize = messages.iter().map(|(start, end)| end - start).sum();
    (messages.len() >= 2 && covered > line.len() / 2).then_some(messages)
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

/// A list of objects on the way from the root, down to the lists in its elements.
struct List {
    start: usize,
    end: usize,
    /// The list in whose element this one lies.
    owner: u32,
    depth: u8,
    elements: u32,
    /// Elements that look like messages.
    messages: u32,
    /// Whether some element is no object.
    mixed: bool,
    /// The longest list in the element being scanned.
    inner: u32,
    /// Bytes in the longest lists of all elements.
    inner_bytes: usize,
}

impl List {
    fn is_list_of_objects(&self) -> bool {
        self.elements > 0 && !self.mixed
    }

    /// Whether the elements are runs, whose lists hold the messages.
    fn holds_runs(&self) -> bool {
        self.messages * 2 <= self.elements && self.inner_bytes > (self.end - self.start) / 2
    }
}

/// One object in a list.
struct Element {
    list: u32,
    start: usize,
    end: usize,
    /// The longest list of objects in it.
    inner: u32,
}

/// An object or array that is open while scanning.
struct Frame {
    start: usize,
    is_object: bool,
    /// The list that this frame is, if it is one that is looked at.
    list: u32,
    /// The innermost list around this frame.
    owner: u32,
    is_message: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    ValueOrClose,
    Value,
    KeyOrClose,
    Key,
    CommaOrClose,
}

/// The lists of one JSON value. Once it exists the value is complete: brackets match and strings end.
struct Scan {
    start: usize,
    end: usize,
    lists: Vec<List>,
    elements: Vec<Element>,
    root_is_object: bool,
    /// The root has a key that only messages have.
    root_is_message: bool,
    /// The root has a key that messages and records of a log have.
    root_is_record: bool,
}

impl Scan {
    /// Scans the first value of `data`, an object or array. `None` if it is not complete and well formed.
    fn of(data: &[u8]) -> Option<Scan> {
        let start = skip_space(data, 0);
        let root_is_object = match data.get(start)? {
            b'{' => true,
            b'[' => false,
            _ => return None,
        };
        let mut scan = Scan {
            start,
            end: start,
            lists: Vec::new(),
            elements: Vec::new(),
            root_is_object,
            root_is_message: false,
            root_is_record: false,
        };
        scan.run(data)?;
        Some(scan)
    }

    fn run(&mut self, data: &[u8]) -> Option<()> {
        let mut stack = Vec::with_capacity(16);
        let mut expect = self.open(&mut stack, self.start, self.root_is_object);
        let mut at = self.start + 1;
        loop {
            at = skip_space(data, at);
            let byte = *data.get(at)?;
            let can_be_value = matches!(expect, Expect::Value | Expect::ValueOrClose);
            match byte {
                b'"' => {
                    let end = string_end(data, at + 1)?;
                    if can_be_value {
                        self.plain_value(&stack);
                        expect = Expect::CommaOrClose;
                        at = end;
                    } else if matches!(expect, Expect::Key | Expect::KeyOrClose) {
                        self.key(&mut stack, &data[at + 1..end - 1]);
                        at = skip_space(data, end);
                        if *data.get(at)? != b':' {
                            return None;
                        }
                        at += 1;
                        expect = Expect::Value;
                    } else {
                        return None;
                    }
                }
                b'{' | b'[' if can_be_value => {
                    if stack.len() == DEPTH_MAX {
                        return None;
                    }
                    if byte == b'[' {
                        self.plain_value(&stack);
                    }
                    expect = self.open(&mut stack, at, byte == b'{');
                    at += 1;
                }
                b'}' | b']' if !matches!(expect, Expect::Value | Expect::Key) => {
                    at += 1;
                    self.close(&mut stack, at, byte == b'}')?;
                    if stack.is_empty() {
                        self.end = at;
                        return Some(());
                    }
                    expect = Expect::CommaOrClose;
                }
                b',' if expect == Expect::CommaOrClose => {
                    expect = if stack.last()?.is_object { Expect::Key } else { Expect::Value };
                    at += 1;
                }
                b'-' | b'0'..=b'9' | b'a'..=b'z' if can_be_value => {
                    self.plain_value(&stack);
                    expect = Expect::CommaOrClose;
                    at = scalar_end(data, at);
                }
                _ => return None,
            }
        }
    }

    /// A value that is no object, so the frame it lies in is no list of objects.
    fn plain_value(&mut self, stack: &[Frame]) {
        if let Some(frame) = stack.last()
            && let Some(list) = self.lists.get_mut(frame.list as usize)
        {
            list.mixed = true;
        }
    }

    fn open(&mut self, stack: &mut Vec<Frame>, start: usize, is_object: bool) -> Expect {
        let owner = match stack.last() {
            None => NONE,
            Some(frame) if frame.list != NONE => frame.list,
            Some(frame) => frame.owner,
        };
        let list = if self.is_watched(stack.len(), owner, is_object) {
            let depth = self.lists.get(owner as usize).map_or(0, |list| list.depth + 1);
            self.lists.push(List {
                start,
                end: start,
                owner,
                depth,
                elements: 0,
                messages: 0,
                mixed: false,
                inner: NONE,
                inner_bytes: 0,
            });
            (self.lists.len() - 1) as u32
        } else {
            NONE
        };
        stack.push(Frame { start, is_object, list, owner, is_message: false });
        if is_object { Expect::KeyOrClose } else { Expect::ValueOrClose }
    }

    /// The root is a list whether array or object; below it arrays are, down to the lists in elements of lists.
    fn is_watched(&self, depth: usize, owner: u32, is_object: bool) -> bool {
        if depth == 0 {
            return true;
        }
        let depth_max = if self.root_is_object { 1 } else { 0 };
        !is_object && self.lists.get(owner as usize).is_some_and(|list| list.depth <= depth_max)
    }

    fn key(&mut self, stack: &mut [Frame], key: &[u8]) {
        let is_root = stack.len() == 1;
        let is_element = stack.len() >= 2 && stack[stack.len() - 2].list != NONE;
        if !is_root && !is_element {
            return;
        }
        let is_message = matches!(key, b"role" | b"content" | b"message");
        let is_record = is_message || key == b"type";
        if is_root {
            self.root_is_message |= is_message;
            self.root_is_record |= is_record;
        }
        if let Some(frame) = stack.last_mut() {
            frame.is_message |= is_record;
        }
    }

    fn close(&mut self, stack: &mut Vec<Frame>, end: usize, is_object: bool) -> Option<()> {
        let frame = stack.pop().filter(|frame| frame.is_object == is_object)?;
        if let Some(list) = self.lists.get_mut(frame.list as usize) {
            list.end = end;
            self.offer_to_owner(frame.list);
        }
        if let Some(parent) = stack.last()
            && is_object
            && let Some(list) = self.lists.get_mut(parent.list as usize)
        {
            list.elements += 1;
            list.messages += u32::from(frame.is_message);
            let inner = std::mem::replace(&mut list.inner, NONE);
            self.elements.push(Element { list: parent.list, start: frame.start, end, inner });
            let inner_bytes = self.list_bytes(inner);
            self.lists[parent.list as usize].inner_bytes += inner_bytes;
        }
        Some(())
    }

    /// Makes a list that has ended the longest of the element around it, if it is.
    fn offer_to_owner(&mut self, id: u32) {
        let list = &self.lists[id as usize];
        let owner = list.owner;
        if !list.is_list_of_objects() || owner == NONE {
            return;
        }
        let longest = self.lists[owner as usize].inner;
        if self.list_bytes(id) > self.list_bytes(longest) {
            self.lists[owner as usize].inner = id;
        }
    }

    fn list_bytes(&self, id: u32) -> usize {
        self.lists.get(id as usize).map_or(0, |list| list.end - list.start)
    }

    /// Start and end of every message, in order and disjoint.
    fn messages(&self) -> Vec<(usize, usize)> {
        let outer = self.outer_lists();
        let mut taken = vec![false; self.lists.len()];
        let mut descended = vec![false; self.lists.len()];
        for &id in &outer {
            taken[id as usize] = true;
            descended[id as usize] = self.lists[id as usize].holds_runs();
        }
        for element in &self.elements {
            if descended[element.list as usize] && element.inner != NONE {
                taken[element.inner as usize] = true;
            }
        }
        // Elements are recorded when they end, so disjoint ones are in order.
        self.elements
            .iter()
            .filter(|element| taken[element.list as usize])
            .filter(|element| !descended[element.list as usize] || element.inner == NONE)
            .map(|element| (element.start, element.end))
            .collect()
    }

    /// The lists that hold the messages, or the runs around them.
    fn outer_lists(&self) -> Vec<u32> {
        let root = &self.lists[0];
        if root.is_list_of_objects() && (!self.root_is_object || root.elements >= MAP_MEMBERS_MIN) {
            return vec![0];
        }
        let reachable = || {
            (0..self.lists.len() as u32).filter(|&id| {
                let list = &self.lists[id as usize];
                self.root_is_object && list.owner == 0 && list.is_list_of_objects()
            })
        };
        let longest = reachable().map(|id| self.list_bytes(id)).max().unwrap_or(0);
        if longest < (self.end - self.start) / COVER_DIVISOR {
            return Vec::new();
        }
        reachable().filter(|&id| self.list_bytes(id) >= longest / PEER_DIVISOR).collect()
    }
}

fn skip_space(data: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = data.get(at) {
        at += 1;
    }
    at
}

/// Behind a number or literal.
fn scalar_end(data: &[u8], mut at: usize) -> usize {
    while let Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.') = data.get(at) {
        at += 1;
    }
    at
}

/// Behind the quote that closes a string whose first byte is at `at`.
fn string_end(data: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = find(data, at, |word| equal_bytes(word, b'"') | equal_bytes(word, b'\\'))?;
        if data[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn find_newline(data: &[u8], at: usize) -> Option<usize> {
    find(data, at, |word| equal_bytes(word, b'\n'))
}

/// The first byte at or behind `at` that `matches` marks, eight bytes at a time.
fn find(data: &[u8], at: usize, matches: impl Fn(u64) -> u64) -> Option<usize> {
    let rest = data.get(at..)?;
    let (words, tail) = rest.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marks = matches(u64::from_le_bytes(*word));
        if marks != 0 {
            return Some(at + index * 8 + (marks.trailing_zeros() / 8) as usize);
        }
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let marks = matches(u64::from_le_bytes(last));
    let index = (marks.trailing_zeros() / 8) as usize;
    (index < tail.len()).then_some(at + words.len() * 8 + index)
}

/// Sets the high bit of the lowest byte of `word` that equals `byte`. Bits above it may be set too.
fn equal_bytes(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let difference = word ^ (LOW * u64::from(byte));
    difference.wrapping_sub(LOW) & !difference & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(text: &str) -> Vec<&str> {
        let data = text.as_bytes();
        let pieces = split(data);
        assert_tiles(data, &pieces);
        pieces.iter().map(|piece| std::str::from_utf8(piece.message(data)).unwrap()).collect()
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
    fn runs_are_descended_into() {
        let run = |n: usize| {
            format!(
                r#"{{"task":{n},"info":[{{"q":1}}],"traj":[{{"role":"u","content":"{n} and so on and so forth"}},{{"role":"a"}}]}}"#
            )
        };
        let text = format!("[{}, {}, {{\"task\":9,\"traj\":[]}}]", run(1), run(2));
        let found = messages(&text);
        assert_eq!(found.len(), 5);
        assert_eq!(found[0], r#"{"role":"u","content":"1 and so on and so forth"}"#);
        assert_eq!(found[4], r#"{"task":9,"traj":[]}"#);
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
