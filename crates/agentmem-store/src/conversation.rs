//! Handles on conversations.

use crate::agents::AgentShared;
use crate::engine::{Conversation as Entry, ConversationShared, Engine};
use crate::options::OnFull;
use crate::pack::Effort;
use crate::read::StoredMessage;
use crate::ring::Operation;
use crate::store::{Agent, check_name};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::tree::{Body, NONE};
use agentmem_core::frame::{Frame, Meta};
use agentmem_core::transcript::{self, Piece};
use agentmem_core::{Advice, Error, ErrorKind, Result};
use std::sync::Arc;

/// Conversations in one store.
const CONVERSATIONS_MAX: usize = 16_000_000;
/// Messages in one conversation.
const MESSAGES_MAX: u64 = 1 << 31;

/// An ordered, forkable list of messages.
#[derive(Clone)]
pub struct Conversation {
    agent: Agent,
    shared: Arc<ConversationShared>,
}

impl Agent {
    /// Its conversation called `name`, made when there is none; without a name a new one.
    pub fn conversation(&self, name: Option<&str>) -> Result<Conversation> {
        self.check()?;
        let mut state = self.engine().lock();
        if let Some(name) = name {
            check_name(name)?;
            let number = state.agents.open_mut(self.shared().number)?.conversations.get(name).copied();
            if let Some(found) = number.and_then(|number| state.conversations.get(&number)) {
                return Ok(Conversation { agent: self.clone(), shared: found.shared.clone() });
            }
        }
        self.new_conversation(&mut state, name, NONE, 0, 0)
    }

    fn new_conversation(
        &self,
        state: &mut crate::engine::State,
        name: Option<&str>,
        head: u32,
        len: u32,
        logical_bytes: u64,
    ) -> Result<Conversation> {
        if state.conversations.len() >= CONVERSATIONS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{CONVERSATIONS_MAX} conversations")));
        }
        let number = state.next_conversation;
        let agent = state.agents.open_mut(self.shared().number)?;
        let free = |n: u32| Some(format!("conversation-{n}")).filter(|name| !agent.conversations.contains_key(&**name));
        let name: Box<str> = match name {
            Some(name) => name.into(),
            None => (number..).find_map(free).expect("there are more numbers than conversations").into(),
        };
        if agent.conversations.contains_key(&name) {
            return Err(Error::new(ErrorKind::NameTaken, format!("conversation {name:?}")));
        }
        agent.conversations.insert(name.clone(), number);
        state.next_conversation += 1;
        let shared = Arc::new(ConversationShared {
            number,
            name,
            messages: AtomicU64::new(len.into()),
            logical_bytes: AtomicU64::new(logical_bytes),
            is_released: AtomicBool::new(false),
        });
        let entry = Entry { shared: shared.clone(), agent: self.shared().number, head, len, logical_bytes };
        state.conversations.insert(number, entry);
        state.mark_conversation(number);
        Ok(Conversation { agent: self.clone(), shared })
    }

    /// Names of its conversations, in order.
    pub fn conversations(&self) -> Result<Vec<String>> {
        self.check()?;
        let mut state = self.engine().lock();
        let agent = state.agents.open_mut(self.shared().number)?;
        Ok(agent.conversations.keys().map(|name| name.to_string()).collect())
    }

    /// Makes a new conversation of each that a transcript holds, JSON or JSONL: of each run where it holds several.
    /// Rendered one after the other they are the transcript. If it fails, none is left.
    pub fn load(&self, transcript: &[u8]) -> Result<Vec<Conversation>> {
        let mut loaded = Vec::new();
        for pieces in transcript::conversations(transcript) {
            let added = self.conversation(None).and_then(|conversation| {
                loaded.push(conversation.clone());
                conversation.append_pieces(transcript, &pieces)
            });
            if let Err(error) = added {
                for conversation in &loaded {
                    // What matters is why it failed; what cannot be given back goes with the agent.
                    let _ = self.release_conversation(conversation);
                }
                return Err(error);
            }
        }
        Ok(loaded)
    }

    /// Gives a conversation back.
    pub fn release_conversation(&self, conversation: &Conversation) -> Result<()> {
        self.check()?;
        if conversation.owner().number != self.shared().number {
            return Err(Error::new(ErrorKind::InvalidArgument, "a conversation of another agent"));
        }
        let mut state = self.engine().settled();
        if conversation.shared.is_released.swap(true, Ordering::AcqRel) {
            return Err(conversation.released());
        }
        state.drop_conversation(conversation.shared.number);
        self.shared().uncharge(conversation.shared.logical_bytes.load(Ordering::Acquire));
        Ok(())
    }
}

impl Conversation {
    fn engine(&self) -> &Arc<Engine> {
        self.agent.engine()
    }

    fn owner(&self) -> &Arc<AgentShared> {
        self.agent.shared()
    }

    fn released(&self) -> Error {
        Error::new(ErrorKind::Released, format!("conversation {:?}", self.shared.name))
    }

    fn check(&self) -> Result<()> {
        self.agent.check()?;
        if self.shared.is_released.load(Ordering::Acquire) {
            return Err(self.released());
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Messages in it.
    pub fn len(&self) -> Result<u64> {
        self.check()?;
        Ok(self.shared.messages.load(Ordering::Acquire))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Bytes of its messages.
    pub fn logical_bytes(&self) -> Result<u64> {
        self.check()?;
        Ok(self.shared.logical_bytes.load(Ordering::Acquire))
    }

    /// Bytes of the frames it uses and of its raw tail.
    pub fn stored_bytes(&self) -> Result<u64> {
        self.check()?;
        self.engine().settled().conversation_stored_bytes(self.shared.number)
    }

    /// Adds one message. With [`OnFull::Fail`] it never waits.
    #[inline]
    pub fn append(&self, bytes: &[u8], meta: Meta, on_full: OnFull) -> Result<()> {
        self.check()?;
        if self.shared.messages.load(Ordering::Relaxed) >= MESSAGES_MAX {
            let what = format!("{MESSAGES_MAX} messages in conversation {:?}", self.shared.name);
            return Err(Error::new(ErrorKind::LimitReached, what));
        }
        let conversation = self.shared.number;
        self.agent.push_message(bytes, |key| Operation::Append { conversation, meta, key }, on_full)?;
        self.shared.logical_bytes.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        self.shared.messages.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Adds a whole transcript, JSON or JSONL, split into its messages; returns how many. If it
    /// fails, the messages before the one that failed are in. All of it goes into this conversation:
    /// [`Agent::load`] makes one of each that it holds.
    pub fn load(&self, transcript: &[u8]) -> Result<usize> {
        let pieces = transcript::split(transcript);
        self.append_pieces(transcript, &pieces)?;
        Ok(pieces.len())
    }

    fn append_pieces(&self, transcript: &[u8], pieces: &[Piece]) -> Result<()> {
        for piece in pieces {
            let meta = Meta { is_value: false, lead_bytes: piece.lead, trail_bytes: piece.trail };
            self.append(piece.bytes(transcript), meta, self.agent.on_full())?;
        }
        Ok(())
    }

    /// Messages from `index` on: one at least, and as many as lie together before `end`.
    pub fn read(&self, index: u64, end: u64) -> Result<Vec<StoredMessage>> {
        self.check()?;
        let len = self.shared.messages.load(Ordering::Acquire);
        if index >= len.min(end) {
            let what = format!("message {index} of {len} in conversation {:?}", self.shared.name);
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        self.engine().read_messages(self.shared.number, index as u32, end.min(len) as u32)
    }

    /// A conversation of `agent` with the first `at` messages of this one, all by default, that
    /// shares their storage.
    pub fn fork(&self, agent: &Agent, at: Option<u64>, name: Option<&str>) -> Result<Conversation> {
        self.check()?;
        agent.check()?;
        if let Some(name) = name {
            check_name(name)?;
        }
        if !Arc::ptr_eq(self.engine(), agent.engine()) {
            return Err(Error::new(ErrorKind::InvalidArgument, "an agent of another store"));
        }
        let engine = self.engine();
        let mut state = engine.settled();
        let entry = state.conversations.get(&self.shared.number).ok_or_else(|| self.released())?;
        let (len, whole_bytes) = (entry.len, entry.logical_bytes);
        let at = at.unwrap_or(len.into());
        if at > len.into() {
            let what = format!("a fork at {at} of {len} messages");
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        let at = at as u32;
        let logical_bytes = match at {
            0 => 0,
            _ if at == len => whole_bytes,
            _ => {
                drop(state);
                let bytes = self.prefix_bytes(at)?;
                state = engine.lock();
                bytes
            }
        };
        // The lock was let go: what is forked from is looked up again.
        let entry = state.conversations.get(&self.shared.number).ok_or_else(|| self.released())?;
        let head = if at == 0 { NONE } else { state.tree.find(entry.head, entry.len, at - 1).0 };
        agent.shared().charge(logical_bytes)?;
        let forked = agent.new_conversation(&mut state, name, head, at, logical_bytes);
        match &forked {
            Ok(_) if head != NONE => {
                let visible = at - state.tree.node(head).start;
                state.tree.refer(head, visible);
                state.mark_node(head);
            }
            Ok(_) => {}
            Err(_) => agent.shared().uncharge(logical_bytes),
        }
        forked
    }

    /// Bytes of the first `at` messages, `at` at least 1.
    fn prefix_bytes(&self, at: u32) -> Result<u64> {
        loop {
            let (mut bytes, runs) = {
                let state = self.engine().lock();
                let entry = state.conversations.get(&self.shared.number).ok_or_else(|| self.released())?;
                let (head, _) = state.tree.find(entry.head, entry.len, at - 1);
                let (mut bytes, mut end) = (0, at);
                let mut runs = Vec::new();
                for (_, node) in state.tree.chain(head) {
                    let seen = (end - node.start) as usize;
                    end = node.start;
                    match &node.body {
                        _ if seen == node.count as usize => bytes += node.logical_bytes,
                        Body::Tail(tail) => {
                            bytes += tail.items[..seen].iter().map(|item| u64::from(item.len)).sum::<u64>()
                        }
                        // Lengths lie in the frame's directory.
                        Body::Run { frame, first } => runs.push((*frame, *first as usize, seen)),
                    }
                }
                (bytes, runs)
            };
            let mut is_complete = true;
            for (frame, first, count) in runs {
                let subject = || format!("conversation {:?}", self.shared.name);
                let Some(stored) = self.engine().load_frame(frame, &subject)? else {
                    is_complete = false;
                    break;
                };
                let parsed = Frame::parse(stored.bytes())?;
                let entries = parsed.entries().get(first..first + count);
                let entries = entries.ok_or_else(|| Error::new(ErrorKind::Damaged, subject()))?;
                bytes += entries.iter().map(|entry| (entry.end - entry.start) as u64).sum::<u64>();
            }
            if is_complete {
                return Ok(bytes);
            }
        }
    }

    /// Says what is known about its next use.
    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.check()?;
        match advice {
            Advice::WillNeed | Advice::Hot => self.engine().prefetch(self.shared.number),
            Advice::Cold => {
                let (tails, frames) = {
                    let state = self.engine().settled();
                    let entry = state.conversations.get(&self.shared.number).ok_or_else(|| self.released())?;
                    let (mut tails, mut frames) = (Vec::new(), Vec::new());
                    for (number, node) in state.tree.chain(entry.head) {
                        match node.body {
                            Body::Tail(_) => tails.push(number),
                            Body::Run { frame, .. } => frames.push(frame),
                        }
                    }
                    (tails, frames)
                };
                for number in tails {
                    self.engine().pack_tail(number, Effort::Full)?;
                }
                match self.engine().cold {
                    Some(_) => self.engine().demote_frames(&frames, false, false),
                    None => Ok(()),
                }
            }
        }
    }
}
