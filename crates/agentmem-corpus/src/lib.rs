//! Text for demonstrations and benchmarks: real conversations of agents, rewritten so that nothing repeats between two
//! agents by accident, or generated ones where there are none.
//!
//! A [`Corpus`] comes from a folder, a file or an archive ([`Corpus::open`]) or from a generator
//! ([`Corpus::generate`]). [`AgentConversations`] deals it out to agents.
#![forbid(unsafe_code)]

mod code;
pub mod generate;
pub mod measure;
mod original;
pub mod plan;
pub mod random;
pub mod reader;
pub mod rewrite;
mod session;
mod words;

pub use original::Original;
pub use plan::{AgentConversations, Conversation, prompt, tools};
pub use reader::{Class, Corpus, CorpusError, SourceFile};
pub use rewrite::Rewriter;
