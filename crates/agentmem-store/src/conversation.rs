//! Handles on conversations.

use crate::agents::AgentShared;
use crate::call::Call;
use crate::calls::agent::{ConversationFacts, ListConversations, OpenConversation, ReleaseConversation};
use crate::calls::conversation::{AdviseConversation, Fork, MeasureConversation, ReadMessages};
use crate::engine::ConversationShared;
use crate::link::Link;
use crate::options::OnFull;
use crate::read::StoredMessage;
use crate::ring::Operation;
use crate::store::Agent;
use crate::sync::Ordering;
use agentmem_core::frame::Meta;
use agentmem_core::transcript::{self, Piece};
use agentmem_core::{Advice, Error, ErrorKind, Result};
use std::sync::Arc;

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
        let agent = self.shared().number;
        if let Some(shared) = name.and_then(|name| self.session().link.known_conversation(agent, name)) {
            return Ok(Conversation { agent: self.clone(), shared });
        }
        let facts = self.ask(OpenConversation { agent, name: name.map(ToOwned::to_owned) })?;
        self.conversation_of(facts)
    }

    fn conversation_of(&self, facts: ConversationFacts) -> Result<Conversation> {
        Ok(Conversation { agent: self.clone(), shared: self.session().link.conversation(self.shared().number, facts)? })
    }

    /// Names of its conversations, in order.
    pub fn conversations(&self) -> Result<Vec<String>> {
        self.check()?;
        let agent = self.shared().number;
        self.session().link.known_conversations(agent).map_or_else(|| self.ask(ListConversations { agent }), Ok)
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
        if conversation.shared.is_released.swap(true, Ordering::AcqRel) {
            return Err(conversation.released());
        }
        let agent = self.shared().number;
        let released = self.ask(ReleaseConversation { agent, conversation: conversation.shared.number });
        self.session().link.forget_conversation(agent, &conversation.shared);
        released
    }
}

impl Conversation {
    fn ask<C: Call>(&self, call: C) -> Result<C::Answer> {
        self.check()?;
        self.agent.session().call(call)
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
        self.ask(MeasureConversation { conversation: self.shared.number })
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
        self.ask(ReadMessages { conversation: self.shared.number, index: index as u32, end: end.min(len) as u32 })
    }

    /// A conversation of `agent` with the first `at` messages of this one, all by default, that
    /// shares their storage.
    pub fn fork(&self, agent: &Agent, at: Option<u64>, name: Option<&str>) -> Result<Conversation> {
        agent.check()?;
        if !Arc::ptr_eq(self.agent.session(), agent.session()) {
            return Err(Error::new(ErrorKind::InvalidArgument, "an agent of another store"));
        }
        let facts = self.ask(Fork {
            conversation: self.shared.number,
            agent: agent.shared().number,
            at,
            name: name.map(ToOwned::to_owned),
        })?;
        if let Link::Remote(_) = &agent.session().link {
            // The engine has charged for it; this process keeps count too.
            agent.shared().charge_anyway(facts.logical_bytes);
        }
        agent.conversation_of(facts)
    }

    /// Says what is known about its next use.
    pub fn advise(&self, advice: Advice) -> Result<()> {
        self.ask(AdviseConversation { conversation: self.shared.number, advice })
    }
}
