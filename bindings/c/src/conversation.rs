//! Conversations.

use crate::agent::Agent;
use crate::border::{Bytes, Out, Text, advice, hand_over_bytes, needed, unless_none};
use crate::errors::{answer, c_text, invalid};
use crate::list::List;
use agentmem_core::Result;
use agentmem_core::frame::Meta;
use agentmem_store as store;
use agentmem_store::StoredMessage;
use std::ffi::{CString, c_char, c_int};

/// `agentmem_conversation`.
pub struct Conversation {
    agent: store::Agent,
    pub(crate) conversation: store::Conversation,
    name: CString,
}

impl Conversation {
    /// Wraps what the engine gave.
    pub fn new(agent: store::Agent, conversation: store::Conversation) -> Self {
        Conversation { name: c_text(conversation.name()), agent, conversation }
    }

    fn append(&self, bytes: &[u8], is_value: bool) -> Result<()> {
        self.conversation.append(bytes, Meta { is_value, ..Meta::default() }, self.agent.on_full())
    }

    /// Hands the messages from `start` on, before `end`, to `each`.
    fn walk(&self, start: u64, end: u64, mut each: impl FnMut(Vec<StoredMessage>)) -> Result<()> {
        let mut at = start;
        while at < end {
            let messages = self.conversation.read(at, end)?;
            at += messages.len() as u64;
            each(messages);
        }
        Ok(())
    }

    fn read(&self, start: u64, end: u64) -> Result<Vec<StoredMessage>> {
        let len = self.conversation.len()?;
        if start > len {
            return Err(invalid(format!("message {start} of {len}")));
        }
        let mut all = Vec::new();
        self.walk(start, end.min(len), |messages| all.extend(messages))?;
        Ok(all)
    }

    fn render(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        self.walk(0, self.conversation.len()?, |messages| {
            for message in messages {
                message.render(&mut text);
            }
        })?;
        Ok(text)
    }
}

fn handle_of(given: Option<&Conversation>) -> Result<&Conversation> {
    needed(given, "conversation")
}

/// Frees the handle.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_free(conversation: Option<Box<Conversation>>) {
    answer(|| {
        drop(conversation);
        Ok(())
    });
}

/// Its name.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_name(conversation: Option<&Conversation>, name: Out<*const c_char>) -> c_int {
    answer(|| name.fill("name", || Ok(handle_of(conversation)?.name.as_ptr())))
}

/// Messages in it.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_len(conversation: Option<&Conversation>, messages: Out<u64>) -> c_int {
    answer(|| messages.fill("messages", || handle_of(conversation)?.conversation.len()))
}

/// Bytes of its messages.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_logical_bytes(conversation: Option<&Conversation>, bytes: Out<u64>) -> c_int {
    answer(|| bytes.fill("bytes", || handle_of(conversation)?.conversation.logical_bytes()))
}

/// Bytes kept for it.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_stored_bytes(conversation: Option<&Conversation>, bytes: Out<u64>) -> c_int {
    answer(|| bytes.fill("bytes", || handle_of(conversation)?.conversation.stored_bytes()))
}

/// Adds a message.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_append(
    conversation: Option<&Conversation>,
    bytes: Bytes,
    len_bytes: usize,
) -> c_int {
    answer(|| handle_of(conversation)?.append(bytes.slice(len_bytes, "bytes")?, false))
}

/// Adds a message that is a value.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_append_value(
    conversation: Option<&Conversation>,
    json: Bytes,
    len_bytes: usize,
) -> c_int {
    answer(|| handle_of(conversation)?.append(json.slice(len_bytes, "json")?, true))
}

/// Adds a transcript.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_load(
    conversation: Option<&Conversation>,
    bytes: Bytes,
    len_bytes: usize,
    messages: Out<u64>,
) -> c_int {
    answer(|| {
        messages.fill("messages", || {
            let transcript = bytes.slice(len_bytes, "bytes")?;
            Ok(handle_of(conversation)?.conversation.load(transcript)? as u64)
        })
    })
}

/// Some of its messages.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_read(
    conversation: Option<&Conversation>,
    start: u64,
    end: u64,
    messages: Out<*mut List>,
) -> c_int {
    answer(|| messages.hand_over("messages", || Ok(List::of_messages(handle_of(conversation)?.read(start, end)?))))
}

/// All of it as it was.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_render(
    conversation: Option<&Conversation>,
    text: Out<*mut c_char>,
    len_bytes: Out<usize>,
) -> c_int {
    answer(|| {
        len_bytes.clear("len_bytes")?;
        text.fill("text", || {
            let rendered = handle_of(conversation)?.render()?;
            let handed_over = hand_over_bytes(&rendered)?;
            len_bytes.write(rendered.len());
            Ok(handed_over)
        })
    })
}

/// A conversation that shares the first messages of this one.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_fork(
    conversation: Option<&Conversation>,
    agent: Option<&Agent>,
    messages: u64,
    name: Text,
    fork: Out<*mut Conversation>,
) -> c_int {
    answer(|| {
        fork.hand_over("fork", || {
            let origin = handle_of(conversation)?;
            let agent = agent.map_or(&origin.agent, |agent| &agent.agent);
            let forked = origin.conversation.fork(agent, unless_none(messages), name.optional("name")?)?;
            Ok(Conversation::new(agent.clone(), forked))
        })
    })
}

/// Says what is known about its next use.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_conversation_advise(conversation: Option<&Conversation>, advice: u32) -> c_int {
    answer(|| handle_of(conversation)?.conversation.advise(self::advice(advice)?))
}
