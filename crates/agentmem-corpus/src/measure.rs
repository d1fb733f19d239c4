//! Figures about texts: how they compress, how long their messages are, what two sets have in common.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::io::{self, Write};

/// The level at which all ratios are taken.
pub const LEVEL: i32 = 3;

/// Length of a block in [`Ratios::block`].
pub const BLOCK_BYTES: usize = 64 << 10;

/// Sums of original and compressed bytes of conversations, compressed in four ways.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    message: Sum,
    block: Sum,
    stream: Sum,
    whole: Sum,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    original_bytes: u64,
    compressed_bytes: u64,
}

impl Sum {
    fn add(&mut self, original: usize, compressed: usize) {
        self.original_bytes += original as u64;
        self.compressed_bytes += compressed as u64;
    }

    fn ratio(self) -> f64 {
        self.original_bytes as f64 / self.compressed_bytes.max(1) as f64
    }
}

/// Original bytes by compressed bytes, zstd at [`LEVEL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// Each message alone.
    pub message: f64,
    /// Blocks of [`BLOCK_BYTES`].
    pub block: f64,
    /// One stream for each conversation, flushed after every message.
    pub stream: f64,
    /// Each conversation as a whole.
    pub whole: f64,
}

impl Ratios {
    /// The four ratios with their names.
    pub fn named(&self) -> [(&'static str, f64); 4] {
        [("message", self.message), ("block", self.block), ("stream", self.stream), ("whole", self.whole)]
    }
}

impl Tally {
    /// Adds one conversation, given as its pieces in order.
    pub fn add<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let mut stream = zstd::stream::Encoder::new(Count(0), LEVEL)?;
        let mut conversation = Vec::new();
        for piece in pieces {
            self.message.add(piece.len(), compressor.compress(piece)?.len());
            stream.write_all(piece)?;
            stream.flush()?;
            conversation.extend_from_slice(piece);
        }
        self.stream.add(conversation.len(), stream.finish()?.0);
        for block in conversation.chunks(BLOCK_BYTES) {
            self.block.add(block.len(), compressor.compress(block)?.len());
        }
        self.whole.add(conversation.len(), compressor.compress(&conversation)?.len());
        Ok(())
    }

    /// Bytes of all conversations that were added.
    pub fn original_bytes(&self) -> u64 {
        self.whole.original_bytes
    }

    /// The ratios of everything that was added.
    pub fn ratios(&self) -> Ratios {
        Ratios {
            message: self.message.ratio(),
            block: self.block.ratio(),
            stream: self.stream.ratio(),
            whole: self.whole.ratio(),
        }
    }
}

/// A writer that only counts.
struct Count(usize);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 += data.len();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The value below which the given share of `values` lies; 0 if there are none. Sorts them.
pub fn quantile(values: &mut [usize], share: f64) -> usize {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(0)
}

/// The messages of one agent, remembered by 64-bit hash.
#[derive(Clone, Debug, Default)]
pub struct MessageSet {
    bytes: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>>,
    total_bytes: u64,
}

impl MessageSet {
    /// Adds a message, as often as it occurs.
    pub fn insert(&mut self, message: &[u8]) {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        *self.bytes.entry(hasher.finish()).or_default() += message.len() as u64;
        self.total_bytes += message.len() as u64;
    }

    /// Bytes of all messages, repeated ones included.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The share of this set's bytes that lies in messages which `other` has too.
    pub fn equal_share(&self, other: &MessageSet) -> f64 {
        let equal: u64 =
            self.bytes.iter().filter(|(hash, _)| other.bytes.contains_key(hash)).map(|(_, bytes)| bytes).sum();
        equal as f64 / self.total_bytes.max(1) as f64
    }
}

/// The share of the bytes of all agents that lies in messages which some other agent has too.
pub fn equal_share(agents: &[MessageSet]) -> f64 {
    let mut holders: HashMap<u64, usize, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    for hash in agents.iter().flat_map(|agent| agent.bytes.keys()) {
        *holders.entry(*hash).or_default() += 1;
    }
    let all = agents.iter().flat_map(|agent| &agent.bytes);
    let equal: u64 = all.filter(|(hash, _)| holders[hash] > 1).map(|(_, bytes)| bytes).sum();
    let total: u64 = agents.iter().map(MessageSet::total_bytes).sum();
    equal as f64 / total.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_grow_with_the_reach() {
        let messages: Vec<Vec<u8>> =
            (0..50).map(|n| format!("the same words again and again, {n}").into_bytes()).collect();
        let mut tally = Tally::default();
        tally.add(messages.iter().map(Vec::as_slice)).unwrap();
        let ratios = tally.ratios();
        assert!(ratios.message < ratios.stream && ratios.stream < ratios.whole, "{ratios:?}");
        assert_eq!(tally.original_bytes(), messages.iter().map(|message| message.len() as u64).sum::<u64>());
    }

    #[test]
    fn quantiles() {
        let mut values: Vec<usize> = (0..=100).rev().collect();
        assert_eq!(quantile(&mut values, 0.5), 50);
        assert_eq!(quantile(&mut values, 0.99), 99);
        assert_eq!(quantile(&mut [], 0.5), 0);
    }

    #[test]
    fn equal_bytes_are_counted_as_often_as_they_occur() {
        let (mut a, mut b) = (MessageSet::default(), MessageSet::default());
        for message in ["abc", "abc", "defg"] {
            a.insert(message.as_bytes());
        }
        b.insert(b"abc");
        assert_eq!(a.equal_share(&b), 0.6);
        assert_eq!(b.equal_share(&a), 1.0);
        assert_eq!(MessageSet::default().equal_share(&a), 0.0);
        assert_eq!(equal_share(&[a.clone(), b, MessageSet::default()]), 9.0 / 13.0);
        assert_eq!(equal_share(&[a]), 0.0);
        assert_eq!(equal_share(&[]), 0.0);
    }
}
