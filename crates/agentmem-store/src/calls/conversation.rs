//! What is asked about one conversation.

use crate::call::{Call, Caller};
use crate::calls::agent::ConversationFacts;
use crate::calls::store::check_name;
use crate::engine::State;
use crate::pack::Effort;
use crate::read::StoredMessage;
use crate::tree::{Body, NONE};
use agentmem_core::{Advice, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

impl Caller<'_> {
    /// Fails unless `conversation` is one of an agent that the session speaks for.
    fn check_conversation(&self, state: &State, conversation: u32) -> Result<()> {
        let released = || Error::new(ErrorKind::Released, format!("conversation {conversation}"));
        let found = state.conversations.get(&conversation).ok_or_else(released)?;
        self.check_agent(state, found.agent)
    }
}

/// Bytes of the frames that it uses and of its raw tail.
#[derive(Debug, Serialize, Deserialize)]
pub struct MeasureConversation {
    /// Which.
    pub conversation: u32,
}

impl Call for MeasureConversation {
    const NUMBER: u16 = 60;
    type Answer = u64;

    fn run(self, at: &mut Caller<'_>) -> Result<u64> {
        let state = at.engine.settled();
        at.check_conversation(&state, self.conversation)?;
        state.conversation_stored_bytes(self.conversation)
    }
}

/// Messages from `index` on: one at least, and as many as lie together before `end`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadMessages {
    /// Of which conversation.
    pub conversation: u32,
    /// The first.
    pub index: u32,
    /// One past the last.
    pub end: u32,
}

impl Call for ReadMessages {
    const NUMBER: u16 = 61;
    type Answer = Vec<StoredMessage>;

    fn run(self, at: &mut Caller<'_>) -> Result<Vec<StoredMessage>> {
        at.check_conversation(&at.engine.lock(), self.conversation)?;
        at.engine.read_messages(self.conversation, self.index, self.end)
    }
}

/// A conversation of `agent` with the first `at` messages of this one, all by default, that shares their
/// storage.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fork {
    /// Of which conversation.
    pub conversation: u32,
    /// Whose the fork is.
    pub agent: u32,
    /// Messages.
    pub at: Option<u64>,
    /// Its name.
    pub name: Option<String>,
}

impl Call for Fork {
    const NUMBER: u16 = 62;
    type Answer = ConversationFacts;

    fn run(self, caller: &mut Caller<'_>) -> Result<ConversationFacts> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        let engine = caller.engine;
        let released = || Error::new(ErrorKind::Released, format!("conversation {}", self.conversation));
        let mut state = engine.settled();
        caller.check_conversation(&state, self.conversation)?;
        caller.check_agent(&state, self.agent)?;
        if let Some(name) = self.name.as_deref().filter(|_| caller.is_repeated) {
            let number = state.agents.open_mut(self.agent)?.conversations.get(name).copied();
            if let Some(made) = number.and_then(|number| state.conversations.get(&number)) {
                return Ok(ConversationFacts::of(&made.shared));
            }
        }
        let entry = state.conversations.get(&self.conversation).ok_or_else(released)?;
        let (len, whole_bytes) = (entry.len, entry.logical_bytes);
        let at = self.at.unwrap_or(len.into());
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
                let bytes = engine.prefix_bytes(self.conversation, at)?;
                state = engine.lock();
                bytes
            }
        };
        // The lock was let go: what is forked from is looked up again.
        let entry = state.conversations.get(&self.conversation).ok_or_else(released)?;
        let head = if at == 0 { NONE } else { state.tree.find(entry.head, entry.len, at - 1).0 };
        state.charge(self.agent, logical_bytes)?;
        let forked = state.new_conversation(self.agent, self.name.as_deref(), head, at, logical_bytes);
        match &forked {
            Ok(_) if head != NONE => {
                let visible = at - state.tree.node(head).start;
                state.tree.refer(head, visible);
                state.mark_node(head);
            }
            Ok(_) => {}
            Err(_) => state.agents.open_mut(self.agent)?.shared.uncharge(logical_bytes),
        }
        forked
    }
}

impl crate::engine::Engine {
    /// Bytes of the first `at` messages of `conversation`, `at` at least 1.
    fn prefix_bytes(&self, conversation: u32, at: u32) -> Result<u64> {
        let subject = || format!("conversation {conversation}");
        loop {
            let (mut bytes, runs) = {
                let state = self.lock();
                let entry = state.conversations.get(&conversation);
                let entry = entry.ok_or_else(|| Error::new(ErrorKind::Released, subject()))?;
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
                let Some(stored) = self.load_frame(frame, &subject)? else {
                    is_complete = false;
                    break;
                };
                let parsed = stored.frame()?;
                let entries = parsed.entries().get(first..first + count);
                let entries = entries.ok_or_else(|| Error::new(ErrorKind::Damaged, subject()))?;
                bytes += entries.iter().map(|entry| (entry.end - entry.start) as u64).sum::<u64>();
            }
            if is_complete {
                return Ok(bytes);
            }
        }
    }
}

/// Says what is known about its next use.
#[derive(Debug, Serialize, Deserialize)]
pub struct AdviseConversation {
    /// Which.
    pub conversation: u32,
    /// What.
    pub advice: Advice,
}

impl Call for AdviseConversation {
    const NUMBER: u16 = 63;
    type Answer = ();

    fn run(self, at: &mut Caller<'_>) -> Result<()> {
        let engine = at.engine;
        if self.advice != Advice::Cold {
            at.check_conversation(&engine.lock(), self.conversation)?;
            return engine.prefetch(self.conversation);
        }
        let (mut tails, mut frames) = (Vec::new(), Vec::new());
        {
            let state = engine.settled();
            at.check_conversation(&state, self.conversation)?;
            for (number, node) in state.tree.chain(state.conversations[&self.conversation].head) {
                match node.body {
                    Body::Tail(_) => tails.push(number),
                    Body::Run { frame, .. } => frames.push(frame),
                }
            }
        }
        for number in tails {
            engine.pack_tail(number, Effort::Full)?;
        }
        match engine.cold {
            Some(_) => engine.demote_frames(&frames, false, false),
            None => Ok(()),
        }
    }
}
