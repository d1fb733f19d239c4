//! Conversations as a tree of nodes.
//!
//! A node holds consecutive messages and refers to its parent; a conversation is a node and a
//! length. Append touches the last node, fork makes a second reference to a node, and neither
//! copies a message. A node is raw while it is the growing tail of one conversation, and becomes a
//! run of a frame when it is packed; its number stays, so references to it do not notice.
//!
//! Each reference to a node says how many of its messages it can see. What no reference can see
//! is garbage, though the node lives.

use crate::raw::Raw;
use agentmem_core::frame::Meta;
use std::sync::Arc;

/// No node.
pub const NONE: u32 = u32::MAX;

/// One raw message in a tail.
#[derive(Debug, Clone, Copy)]
pub struct RawItem {
    /// Which chunk of the tail.
    pub chunk: u32,
    /// First byte in it.
    pub from: u32,
    /// Length.
    pub len: u32,
    /// How it was given.
    pub meta: Meta,
}

/// Messages that are not packed yet.
#[derive(Debug, Default)]
pub struct Tail {
    /// Tells it from every other tail: numbers of nodes are used again, and whoever worked on one
    /// without the lock must not take a later one for it.
    pub serial: u64,
    /// Where their bytes are.
    pub chunks: Vec<Arc<Raw>>,
    /// Used bytes of the last chunk.
    pub filled: usize,
    /// The messages in order.
    pub items: Vec<RawItem>,
    /// How many of them are durable.
    pub durable: u32,
    /// How many chunks and messages the journal knows.
    pub kept_chunks: usize,
    /// See `kept_chunks`.
    pub kept_items: usize,
    /// No more messages come: it is full, or is being packed.
    pub is_sealed: bool,
}

impl Tail {
    /// Bytes of message `index`.
    pub fn bytes(&self, index: usize) -> &[u8] {
        let item = self.items[index];
        let start = item.from as usize;
        match &*self.chunks[item.chunk as usize] {
            Raw::Extent(extent) => extent.slice(start, start + item.len as usize),
            whole => &whole.bytes()[start..start + item.len as usize],
        }
    }
}

/// What a node's messages are.
#[derive(Debug)]
pub enum Body {
    /// Raw.
    Tail(Box<Tail>),
    /// Items `first..first + count` of a frame.
    Run {
        /// The frame.
        frame: u32,
        /// Its first item that belongs to the node.
        first: u32,
    },
}

/// Consecutive messages.
#[derive(Debug)]
pub struct Node {
    /// Node of the messages before; [`NONE`] at the start.
    pub parent: u32,
    /// Messages before this node.
    pub start: u32,
    /// Messages in it.
    pub count: u32,
    /// Their bytes.
    pub logical_bytes: u64,
    /// The agent that wrote it.
    pub agent: u32,
    /// When it was last written or read, in milliseconds.
    pub used_ms: u64,
    /// A job works on it.
    pub is_busy: bool,
    /// What it holds.
    pub body: Body,
    /// References that see all of it.
    full: u32,
    /// What every other reference sees.
    partial: Vec<u32>,
}

impl Node {
    /// A node without references.
    pub fn new(parent: u32, start: u32, count: u32, logical_bytes: u64, agent: u32, body: Body) -> Self {
        Node {
            parent,
            start,
            count,
            logical_bytes,
            agent,
            used_ms: 0,
            is_busy: false,
            body,
            full: 0,
            partial: Vec::new(),
        }
    }

    /// Messages that some reference can see.
    pub fn visible(&self) -> u32 {
        if self.full > 0 { self.count } else { self.partial.iter().copied().max().unwrap_or(0) }
    }

    /// Whether exactly one reference exists, and sees all of it.
    pub fn has_one_full_reference(&self) -> bool {
        self.full == 1 && self.partial.is_empty()
    }

    /// Whether no reference sees only a part of it.
    pub fn has_no_partial_reference(&self) -> bool {
        self.partial.is_empty()
    }

    /// Whether the one conversation whose tail this is may append to it: nobody else sees its end.
    pub fn can_grow(&self, visible: u32) -> bool {
        matches!(&self.body, Body::Tail(tail) if !tail.is_sealed) && self.full == 1 && visible == self.count
    }

    /// Drops messages that nobody sees; returns how many stay.
    pub fn truncate(&mut self) -> u32 {
        let visible = self.visible();
        if self.full == 0 && visible < self.count {
            self.count = visible;
            self.full = self.partial.iter().filter(|&&seen| seen == visible).count() as u32;
            self.partial.retain(|&seen| seen != visible);
        }
        visible
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Option<Node>>,
    free: Vec<u32>,
    next_serial: u64,
}

impl Tree {
    /// Adds `node`, with no references to it yet; its parent must have been referred to.
    pub fn insert(&mut self, mut node: Node) -> u32 {
        self.number_tail(&mut node);
        match self.free.pop() {
            Some(number) => {
                self.nodes[number as usize] = Some(node);
                number
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() as u32 - 1
            }
        }
    }

    /// Puts `node` at `number`, as a stored tree had it.
    pub fn restore(&mut self, number: u32, mut node: Node) {
        self.number_tail(&mut node);
        if self.nodes.len() <= number as usize {
            self.nodes.resize_with(number as usize + 1, || None);
        }
        self.nodes[number as usize] = Some(node);
    }

    fn number_tail(&mut self, node: &mut Node) {
        if let Body::Tail(tail) = &mut node.body {
            tail.serial = self.next_serial;
            self.next_serial += 1;
        }
    }

    /// Node `number`, if the tail called `serial` still is in it.
    pub fn with_tail(&mut self, number: u32, serial: u64) -> Option<&mut Node> {
        self.get_mut(number).filter(|node| matches!(&node.body, Body::Tail(tail) if tail.serial == serial))
    }

    /// After all were restored: which numbers are free.
    pub fn restored(&mut self) {
        self.free = (0..self.nodes.len() as u32).filter(|&number| self.nodes[number as usize].is_none()).collect();
    }

    /// Node `number`, if it exists.
    pub fn get(&self, number: u32) -> Option<&Node> {
        self.nodes.get(number as usize)?.as_ref()
    }

    /// Node `number`, if it exists.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Node> {
        self.nodes.get_mut(number as usize)?.as_mut()
    }

    /// Node `number`, which exists.
    pub fn node(&self, number: u32) -> &Node {
        self.get(number).expect("a reference names a living node")
    }

    /// Node `number`, which exists.
    pub fn node_mut(&mut self, number: u32) -> &mut Node {
        self.get_mut(number).expect("a reference names a living node")
    }

    /// Refers to the first `visible` messages of `number`.
    pub fn refer(&mut self, number: u32, visible: u32) {
        if number == NONE {
            return;
        }
        let node = self.node_mut(number);
        assert!(visible <= node.count, "a reference cannot see more than there is");
        if visible == node.count {
            node.full += 1;
        } else {
            node.partial.push(visible);
        }
    }

    /// Takes one reference back. Returns the nodes that died, children first, and the node that
    /// lives but lost messages, if there is one.
    pub fn unrefer(&mut self, number: u32, visible: u32) -> (Vec<(u32, Node)>, Option<u32>) {
        let (mut number, mut visible) = (number, visible);
        let mut dead = Vec::new();
        while number != NONE {
            let node = self.node_mut(number);
            if visible == node.count {
                node.full -= 1;
            } else {
                let at = node.partial.iter().position(|&seen| seen == visible).expect("the reference was made");
                node.partial.swap_remove(at);
            }
            if node.full > 0 || !node.partial.is_empty() {
                return (dead, (self.node(number).visible() < self.node(number).count).then_some(number));
            }
            let node = self.nodes[number as usize].take().expect("just seen");
            self.free.push(number);
            let seen_of_parent = self.seen_of_parent(&node);
            let parent = node.parent;
            dead.push((number, node));
            (number, visible) = (parent, seen_of_parent);
        }
        (dead, None)
    }

    /// `number` takes the place of its parent as well, which only it refers to. Returns the parent,
    /// which is gone.
    pub fn absorb_parent(&mut self, number: u32, parent: u32) -> Node {
        let absorbed = self.nodes[parent as usize].take().expect("a child names a living parent");
        assert!(absorbed.has_one_full_reference(), "others see the parent");
        self.free.push(parent);
        let node = self.node_mut(number);
        assert!(node.parent == parent && node.start == absorbed.start + absorbed.count);
        node.parent = absorbed.parent;
        node.start = absorbed.start;
        node.count += absorbed.count;
        node.logical_bytes += absorbed.logical_bytes;
        node.partial.iter_mut().for_each(|seen| *seen += absorbed.count);
        absorbed
    }

    /// The first `count` messages of `number`, which nobody sees a part of, become a node of their
    /// own between it and its parent.
    pub fn split_front(&mut self, number: u32, count: u32, logical_bytes: u64, body: Body) -> u32 {
        let node = self.node_mut(number);
        assert!(node.partial.is_empty() && count < node.count);
        let mut front = Node::new(node.parent, node.start, count, logical_bytes, node.agent, body);
        front.used_ms = node.used_ms;
        front.full = 1;
        node.start += count;
        node.count -= count;
        node.logical_bytes -= logical_bytes;
        let front = self.insert(front);
        self.node_mut(number).parent = front;
        front
    }

    /// How many messages of its parent `node` sees.
    pub fn seen_of_parent(&self, node: &Node) -> u32 {
        if node.parent == NONE { 0 } else { node.start - self.node(node.parent).start }
    }

    /// The node that holds message `index` of the `len` messages ending in `head`, and the end of
    /// what they see of it.
    pub fn find(&self, head: u32, len: u32, index: u32) -> (u32, u32) {
        let (mut number, mut end) = (head, len);
        while self.node(number).start > index {
            end = self.node(number).start;
            number = self.node(number).parent;
        }
        (number, end)
    }

    /// `head` and its ancestors, last messages first.
    pub fn chain(&self, head: u32) -> impl Iterator<Item = (u32, &Node)> {
        let step = |number: u32| (number != NONE).then(|| (number, self.node(number)));
        std::iter::successors(step(head), move |(_, node)| step(node.parent))
    }

    /// Every living node.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(number, node)| Some((number as u32, node.as_ref()?)))
    }

    /// Bytes that the table takes; chunks and tails are counted where they live.
    pub fn table_bytes(&self) -> u64 {
        (self.nodes.capacity() * size_of::<Option<Node>>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(parent: u32, start: u32, count: u32) -> Node {
        Node::new(parent, start, count, u64::from(count) * 10, 0, Body::Run { frame: 1, first: 0 })
    }

    #[test]
    fn a_fork_keeps_what_it_sees() {
        let mut tree = Tree::default();
        let first = tree.insert(run(NONE, 0, 10));
        tree.refer(first, 10);
        let second = tree.insert(run(first, 10, 5));
        tree.refer(second, 5); // the conversation; its reference to `first` is now the node's
        tree.refer(first, 4); // a fork at 4
        let (dead, shrunk) = tree.unrefer(second, 5);
        assert_eq!(dead.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [second]);
        assert_eq!(shrunk, Some(first));
        assert_eq!(tree.node(first).visible(), 4);
        assert_eq!(tree.node_mut(first).truncate(), 4);
        assert!(tree.node(first).has_one_full_reference());
        let (dead, shrunk) = tree.unrefer(first, 4);
        assert_eq!((dead.len(), shrunk), (1, None));
        assert_eq!(tree.iter().count(), 0);
    }

    proptest! {
        /// Conversations fork at random places and go in random order: each sees its own messages
        /// until it goes, and nothing is left after the last.
        #[test]
        fn forks_die_in_any_order(steps in proptest::collection::vec((0..4u8, any::<u16>(), 1..6u32), 1..80)) {
            let mut tree = Tree::default();
            let mut open: Vec<(u32, u32)> = Vec::new(); // head, length
            for (what, pick, count) in steps {
                let at = if open.is_empty() { None } else { Some(pick as usize % open.len()) };
                match (what, at) {
                    (0, _) | (_, None) => {
                        let head = tree.insert(run(NONE, 0, count));
                        tree.refer(head, count);
                        open.push((head, count));
                    }
                    (1, Some(at)) => {
                        let (head, len) = open[at];
                        let node = tree.insert(run(head, len, count));
                        tree.refer(node, count);
                        open[at] = (node, len + count);
                    }
                    (2, Some(at)) => {
                        let (head, len) = open[at];
                        let cut = 1 + (u32::from(pick) * 7 + count) % len;
                        let (node, _) = tree.find(head, len, cut - 1);
                        tree.refer(node, cut - tree.node(node).start);
                        open.push((node, cut));
                    }
                    (_, Some(at)) => {
                        let (head, len) = open.swap_remove(at);
                        tree.unrefer(head, len - tree.node(head).start);
                    }
                }
                for &(head, len) in &open {
                    let mut end = len;
                    for (_, node) in tree.chain(head) {
                        prop_assert!(node.start < end && end - node.start <= node.visible());
                        end = node.start;
                    }
                    prop_assert_eq!(end, 0);
                }
            }
            for (head, len) in open {
                tree.unrefer(head, len - tree.node(head).start);
            }
            prop_assert_eq!(tree.iter().count(), 0);
        }
    }
}
