//! Finds the lists of one JSON value, in one pass and without building it.

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

/// One conversation in a JSON value.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Start and end of every message, in order and disjoint.
    pub messages: Vec<(usize, usize)>,
    /// Behind what belongs to it; what comes after leads the next one.
    pub end: usize,
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
    /// Elements that look like messages or like records of a log.
    records: u32,
    /// Elements that hold a dialogue.
    dialogues: u32,
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

    /// Whether it is one conversation: at least two elements, and most of them messages.
    fn is_dialogue(&self) -> bool {
        self.elements >= 2 && !self.mixed && self.messages * 2 > self.elements
    }

    /// Whether what is worth cutting lies in the lists of its elements.
    fn holds_lists(&self) -> bool {
        self.records * 2 <= self.elements && self.inner_bytes > (self.end - self.start) / 2
    }

    /// Whether its elements are runs, most of which hold a conversation of their own.
    fn holds_runs(&self) -> bool {
        self.holds_lists() && self.dialogues * 2 > self.elements
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
    is_record: bool,
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
pub(super) struct Scan {
    pub start: usize,
    pub end: usize,
    lists: Vec<List>,
    elements: Vec<Element>,
    root_is_object: bool,
    /// The root has a key that only messages have.
    pub root_is_message: bool,
    /// The root has a key that messages and records of a log have.
    pub root_is_record: bool,
}

impl Scan {
    /// Scans the first value of `data`, an object or array. `None` if it is not complete and well formed.
    pub fn of(data: &[u8]) -> Option<Scan> {
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
                records: 0,
                dialogues: 0,
                mixed: false,
                inner: NONE,
                inner_bytes: 0,
            });
            (self.lists.len() - 1) as u32
        } else {
            NONE
        };
        stack.push(Frame { start, is_object, list, owner, is_message: false, is_record: false });
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
            frame.is_message |= is_message;
            frame.is_record |= is_record;
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
            list.records += u32::from(frame.is_record);
            let inner = std::mem::replace(&mut list.inner, NONE);
            self.elements.push(Element { list: parent.list, start: frame.start, end, inner });
            let (bytes, is_dialogue) = (self.list_bytes(inner), self.is_dialogue(inner));
            let list = &mut self.lists[parent.list as usize];
            list.inner_bytes += bytes;
            list.dialogues += u32::from(is_dialogue);
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

    fn is_dialogue(&self, id: u32) -> bool {
        self.lists.get(id as usize).is_some_and(List::is_dialogue)
    }

    /// Whether there is a conversation in it, and not only lists of something.
    pub fn holds_dialogue(&self) -> bool {
        self.outer_lists().iter().any(|&id| self.is_dialogue(id) || self.lists[id as usize].holds_runs())
    }

    /// The conversations in it, none of them without a message. Several if its list holds runs; all that is cut makes one
    /// otherwise, the steps of a single run above all.
    pub fn runs(&self) -> Vec<Run> {
        let mut outer = self.outer_lists();
        let holds_runs = |id: &u32| self.lists[*id as usize].holds_runs();
        // Beside its messages, however short, a run can have a list of steps that each repeat what was said before.
        let is_several = outer.iter().any(holds_runs) && !self.outermost().any(|id| self.is_dialogue(id));
        if is_several {
            // What else there is, such as descriptions of tasks, surrounds them.
            outer.retain(holds_runs);
        }
        let mut taken = vec![false; self.lists.len()];
        let mut descended = vec![false; self.lists.len()];
        for &id in &outer {
            taken[id as usize] = true;
            descended[id as usize] = self.lists[id as usize].holds_lists();
        }
        for element in &self.elements {
            if descended[element.list as usize] && element.inner != NONE {
                taken[element.inner as usize] = true;
            }
        }
        let (mut runs, mut run) = (Vec::new(), Run::default());
        // Elements are recorded when they end, so disjoint ones are in order, and a run follows what is in it.
        for element in &self.elements {
            let is_descended = descended[element.list as usize];
            if taken[element.list as usize] && (!is_descended || element.inner == NONE) {
                run.messages.push((element.start, element.end));
            }
            run.end = element.end;
            if is_several && is_descended {
                runs.push(std::mem::take(&mut run));
            }
        }
        if !run.messages.is_empty() {
            runs.push(run);
        }
        runs
    }

    /// The lists that hold the messages, or the runs around them.
    fn outer_lists(&self) -> Vec<u32> {
        let longest = self.outermost().map(|id| self.list_bytes(id)).max().unwrap_or(0);
        if longest < (self.end - self.start) / COVER_DIVISOR {
            return Vec::new();
        }
        self.outermost().filter(|&id| self.list_bytes(id) >= longest / PEER_DIVISOR).collect()
    }

    /// The root if it is a list, else the lists of objects in it that lie in no other list.
    fn outermost(&self) -> impl Iterator<Item = u32> {
        let root = &self.lists[0];
        let is_list = root.is_list_of_objects() && (!self.root_is_object || root.elements >= MAP_MEMBERS_MIN);
        let owner = if is_list { NONE } else { 0 };
        (0..self.lists.len() as u32).filter(move |&id| {
            let list = &self.lists[id as usize];
            list.owner == owner && list.is_list_of_objects() && (is_list || self.root_is_object)
        })
    }
}

pub(super) fn skip_space(data: &[u8], mut at: usize) -> usize {
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

pub(super) fn find_newline(data: &[u8], at: usize) -> Option<usize> {
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
