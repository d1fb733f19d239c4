//! Deals a corpus out to agents.

use crate::generate;
use crate::original::Original;
use crate::random::{Random, mix};
use crate::reader::{Class, Corpus};
use crate::rewrite::Rewriter;
use agentmem_core::transcript::Piece;

/// What a random stream is for, so that streams of one seed differ.
const FOR_ORDER: u64 = 1;
const FOR_WORDS: u64 = 2;
const FOR_PROMPT: u64 = 3;
const FOR_TOOLS: u64 = 4;

/// One rewritten conversation of an agent.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The source of the original.
    pub source: String,
    /// The name of the original.
    pub name: String,
    /// The rewritten text, cut where the agent has enough.
    pub text: Vec<u8>,
    /// Its messages.
    pub pieces: Vec<Piece>,
}

impl Conversation {
    /// The messages in order.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| piece.message(&self.text))
    }

    /// Bytes of all messages, without what surrounds them.
    pub fn message_bytes(&self) -> u64 {
        self.messages().map(|message| message.len() as u64).sum()
    }

    /// Ends the conversation with the message that reaches `bytes`.
    fn cut(&mut self, bytes: u64) {
        let mut sum = 0;
        let enough = self.pieces.iter().position(|piece| {
            sum += piece.message(&self.text).len() as u64;
            sum >= bytes
        });
        if let Some(index) = enough {
            self.pieces.truncate(index + 1);
            self.text.truncate(self.pieces[index].end);
        }
    }
}

/// The conversations of one agent: all of the corpus in an order of the agent's own and in its own words, and again
/// in other words, until there are enough bytes.
pub struct AgentConversations<'a> {
    originals: Vec<Original<'a>>,
    seed: u64,
    agent_index: u64,
    remaining_bytes: u64,
    round: u64,
    next: usize,
    rewriter: Rewriter,
}

impl<'a> AgentConversations<'a> {
    /// The conversations of agent `agent_index`. Their messages have `target_bytes` together and the rest of the last
    /// message; none if the corpus has no conversations.
    pub fn new(corpus: &'a Corpus, seed: u64, agent_index: u64, target_bytes: u64) -> AgentConversations<'a> {
        let mut conversations = AgentConversations {
            originals: corpus.originals().collect(),
            seed,
            agent_index,
            remaining_bytes: target_bytes,
            round: 0,
            next: 0,
            rewriter: Rewriter::new(0),
        };
        conversations.begin_round(0);
        conversations
    }

    fn begin_round(&mut self, round: u64) {
        let seed = |purpose| mix(&[self.seed, self.agent_index, round, purpose]);
        Random::new(seed(FOR_ORDER)).shuffle(&mut self.originals);
        self.rewriter = Rewriter::new(seed(FOR_WORDS));
        self.round = round;
        self.next = 0;
    }
}

impl Iterator for AgentConversations<'_> {
    type Item = Conversation;

    fn next(&mut self) -> Option<Conversation> {
        if self.remaining_bytes == 0 || self.originals.is_empty() {
            return None;
        }
        if self.next == self.originals.len() {
            self.begin_round(self.round + 1);
        }
        let original = &self.originals[self.next];
        self.next += 1;
        let mut conversation = rewritten(original, &self.rewriter);
        conversation.cut(self.remaining_bytes);
        self.remaining_bytes = self.remaining_bytes.saturating_sub(conversation.message_bytes());
        Some(conversation)
    }
}

fn rewritten(original: &Original, rewriter: &Rewriter) -> Conversation {
    let mut text = Vec::with_capacity(original.text.len());
    rewriter.rewrite(original.text, &mut text);
    Conversation {
        source: original.file.source.clone(),
        name: original.name.to_owned(),
        // Rewriting keeps every boundary, so those of the original hold.
        pieces: original.pieces.to_vec(),
        text,
    }
}

/// A system prompt of exactly `bytes` bytes: the prompts of the corpus in random order, each time in other words.
pub fn prompt(corpus: &Corpus, seed: u64, bytes: usize) -> Vec<u8> {
    assemble(corpus, Class::Prompt, mix(&[seed, FOR_PROMPT]), bytes)
}

/// Tool definitions of exactly `bytes` bytes, made like [`prompt`].
pub fn tools(corpus: &Corpus, seed: u64, bytes: usize) -> Vec<u8> {
    assemble(corpus, Class::Tool, mix(&[seed, FOR_TOOLS]), bytes)
}

fn assemble(corpus: &Corpus, class: Class, seed: u64, bytes: usize) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = corpus.of_class(class).map(|file| file.bytes.as_slice()).collect();
    let generated;
    if parts.is_empty() {
        // A folder of transcripts has no prompts.
        generated = generate::prompt_files(seed, class);
        parts = generated.iter().map(|file| file.bytes.as_slice()).collect();
    }
    let mut text = Vec::with_capacity(bytes);
    let mut round = 0;
    while text.len() < bytes {
        Random::new(mix(&[seed, round, FOR_ORDER])).shuffle(&mut parts);
        for (index, part) in parts.iter().enumerate() {
            // Every part in words of its own: parts of one product share whole paragraphs.
            let words = mix(&[seed, round, index as u64, FOR_WORDS]);
            let part = &part[..part.len().min(bytes - text.len())];
            Rewriter::new(words).rewrite(part, &mut text);
            if text.len() < bytes {
                text.push(b'\n');
            }
        }
        round += 1;
    }
    end_at_character(&mut text);
    text
}

/// Overwrites a character that was cut at the end, so that the text stays valid UTF-8 if its parts are.
fn end_at_character(text: &mut [u8]) {
    let from = text.len().saturating_sub(4);
    let tail = &mut text[from..];
    let Some(lead) = tail.iter().rposition(|byte| !(0x80..0xc0).contains(byte)) else {
        return;
    };
    let length = match tail[lead] {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
        _ => 1,
    };
    if lead + length > tail.len() {
        tail[lead..].fill(b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::MessageSet;
    use agentmem_core::transcript::split;

    fn corpus() -> Corpus {
        Corpus::generate(1, 1_500_000)
    }

    fn set(corpus: &Corpus, agent: u64, bytes: u64) -> MessageSet {
        let mut set = MessageSet::default();
        for conversation in AgentConversations::new(corpus, 1, agent, bytes) {
            assert_eq!(conversation.pieces, split(&conversation.text));
            conversation.messages().for_each(|message| set.insert(message));
        }
        set
    }

    #[test]
    fn agents_get_their_bytes_and_share_nothing() {
        let corpus = corpus();
        let (a, b) = (set(&corpus, 0, 4_000_000), set(&corpus, 1, 4_000_000));
        for bytes in [a.total_bytes(), b.total_bytes()] {
            assert!((4_000_000..4_000_000 + 200_001).contains(&bytes), "{bytes}");
        }
        assert!(a.equal_share(&b) < 0.01);
        assert_eq!(a.equal_share(&set(&corpus, 0, 4_000_000)), 1.0);
    }

    #[test]
    fn a_second_round_uses_other_words() {
        let corpus = corpus();
        let once = set(&corpus, 0, 500_000);
        let mut conversations = AgentConversations::new(&corpus, 1, 0, u64::MAX);
        let mut again = MessageSet::default();
        let files = corpus.of_class(Class::Conversation).count();
        for conversation in conversations.by_ref().skip(files).take(files) {
            conversation.messages().for_each(|message| again.insert(message));
        }
        assert!(again.equal_share(&once) < 0.01);
    }

    #[test]
    fn nothing_to_deal_ends_at_once() {
        assert_eq!(AgentConversations::new(&Corpus::default(), 1, 0, 10).count(), 0);
        assert_eq!(AgentConversations::new(&corpus(), 1, 0, 0).count(), 0);
    }

    #[test]
    fn prompts_have_the_length_asked_for() {
        for corpus in [Corpus::default(), corpus()] {
            for bytes in [0, 1, 1_000, 3_000_000] {
                let text = prompt(&corpus, 1, bytes);
                assert_eq!(text.len(), bytes);
                assert!(std::str::from_utf8(&text).is_ok());
                assert_eq!(tools(&corpus, 1, bytes).len(), bytes);
            }
        }
        assert_ne!(prompt(&corpus(), 1, 1_000), prompt(&corpus(), 2, 1_000));
    }

    #[test]
    fn prompts_are_no_repeated_block() {
        let text = prompt(&corpus(), 1, 4_000_000);
        let packed = zstd::bulk::compress(&text, 3).unwrap();
        assert!(text.len() < packed.len() * 5, "{}", packed.len());
    }

    #[test]
    fn a_cut_character_is_overwritten() {
        for (text, expected) in [("aé", "a "), ("a→", "a  "), ("é", " "), ("abc", "ab")] {
            let mut bytes = text.as_bytes()[..text.len() - 1].to_vec();
            end_at_character(&mut bytes);
            assert_eq!(bytes, expected.as_bytes());
        }
        let mut whole = "a→".as_bytes().to_vec();
        end_at_character(&mut whole);
        assert_eq!(whole, "a→".as_bytes());
    }
}
