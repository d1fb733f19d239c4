//! What is fuzzed, as plain functions, so that a test on the stable toolchain runs the same.
//!
//! Each takes any bytes; it may refuse them, and must not panic, hang or believe a lie.

use agentmem_core::codec;
use agentmem_core::frame::Frame;
use agentmem_core::transcript;

/// Longest content that a frame of the fuzzer may claim: what it decodes to is allocated first.
const LOGICAL_BYTES_MAX: usize = 1 << 20;

/// Bytes as a frame; once as they are, and once with a right checksum, so that the checks behind it
/// are reached.
pub fn frame(data: &[u8]) {
    parse(data);
    if data.len() >= 40 {
        let mut sealed = data.to_vec();
        sealed[..4].copy_from_slice(b"AMF1");
        sealed[5..8].fill(0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&sealed[..32]);
        hasher.update(&sealed[40..]);
        let checksum = hasher.finalize();
        sealed[32..40].copy_from_slice(&checksum.as_bytes()[..8]);
        parse(&sealed);
    }
}

fn parse(data: &[u8]) {
    let Ok(frame) = Frame::parse(data) else { return };
    let entries = frame.entries();
    assert!(!entries.is_empty());
    let mut end = 0;
    for entry in entries {
        assert_eq!(entry.start, end);
        let around = entry.meta.lead_bytes as usize + entry.meta.trail_bytes as usize;
        assert!(entry.start <= entry.end && around <= entry.end - entry.start);
        end = entry.end;
    }
    assert_eq!(end, frame.logical_bytes());
    if frame.logical_bytes() > LOGICAL_BYTES_MAX {
        return;
    }
    if let Ok(content) = frame.decode() {
        assert_eq!(content.len(), end);
        let last = entries.len() - 1;
        for index in [0, last / 2, last] {
            let entry = entries[index];
            assert_eq!(frame.decode_item(index).expect("the whole decodes"), content[entry.start..entry.end]);
        }
    }
    assert!(frame.decode_item(entries.len()).is_err());
}

/// Bytes as a transcript: the pieces are the input, whatever it is.
pub fn transcript(data: &[u8]) {
    let mut at = 0;
    let conversations = transcript::conversations(data);
    assert!(conversations.iter().all(|pieces| !pieces.is_empty()));
    for piece in conversations.concat() {
        assert_eq!(piece.start, at);
        assert!(piece.start < piece.end);
        assert!(piece.lead as usize + piece.trail as usize <= piece.end - piece.start);
        at = piece.end;
    }
    assert_eq!(at, data.len());
}

/// Bytes as a compressed stream, of which the first two say how much is wanted.
pub fn stream(data: &[u8]) {
    let Some((wanted, stored)) = data.split_at_checked(2) else { return };
    let wanted = u16::from_le_bytes([wanted[0], wanted[1]]) as usize;
    let mut whole = vec![0; wanted];
    if codec::decompress_prefix(stored, &mut whole).is_some() {
        let mut half = vec![0; wanted / 2];
        codec::decompress_prefix(stored, &mut half).expect("a prefix of what decodes");
        assert_eq!(half, whole[..wanted / 2]);
    }
}

/// Bytes of a client's socket; see there.
pub fn protocol(data: &[u8]) {
    agentmem_store::fuzzing::protocol(data);
}

/// Bytes that a client writes to its arena; see there.
pub fn arena(data: &[u8]) {
    agentmem_store::fuzzing::arena(data);
}

/// Bytes as the words of a cell of the ingest ring.
pub fn cell(data: &[u8]) {
    let mut words = [0u64; 5];
    for (word, bytes) in words.iter_mut().zip(data.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
    agentmem_store::makes_sense(words[0] as u32, words[1], words[2], words[3], words[4]);
}
