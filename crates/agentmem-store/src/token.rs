//! Tokens of trust domains: whoever has one may enter. Only hashes of them are held and written anywhere.

use crate::sys;
use agentmem_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;
/// What the hash is written to, beside the content that the token opens.
const FILE: &str = "token.sha256";

/// The SHA-256 of a token.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

/// Takes a time that depends on neither.
impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        // That type compares so, whatever hash it holds.
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for TokenHash {}

impl TokenHash {
    /// One that no token has.
    pub const NOBODYS: TokenHash = TokenHash([0; 32]);

    /// That of `token`.
    ///
    /// # Errors
    /// `InvalidArgument` where it is too short or too long to be one.
    pub fn of(token: &[u8]) -> Result<Self> {
        if (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Ok(TokenHash(Sha256::digest(token).into()));
        }
        let what = format!("a token of {} bytes ({TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX})", token.len());
        Err(Error::new(ErrorKind::InvalidArgument, what))
    }

    /// The one that 64 hexadecimal digits say.
    pub fn parse(digits: &str) -> Option<Self> {
        blake3::Hash::from_hex(digits).ok().map(|hash| TokenHash(hash.into()))
    }

    /// The one that was remembered in `folder`.
    pub fn remembered(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => match TokenHash::parse(text.trim_end()) {
                Some(hash) => Ok(Some(hash)),
                None => Err(Error::new(ErrorKind::Damaged, format!("{}: no hash of a token", path.display()))),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(sys::io_failed(&path, error)),
        }
    }

    /// Remembers it in `folder`, which is made if it is not there.
    pub fn remember(&self, folder: &Path) -> Result<()> {
        let (path, made) = (folder.join(FILE), folder.join("token.new"));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let mut file = File::create(&made)?;
            writeln!(file, "{}", blake3::Hash::from_bytes(self.0).to_hex())?;
            file.sync_all()?;
            std::fs::rename(&made, &path)?;
            // Before there is content that it guards.
            File::open(folder)?.sync_all()
        };
        write().map_err(|error| sys::io_failed(&path, error))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_remembered_and_no_token() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a").join("b");
        assert_eq!(TokenHash::remembered(&folder).unwrap(), None);
        let token = TokenHash::of(b"a token of many bytes").unwrap();
        token.remember(&folder).unwrap();
        assert_eq!(TokenHash::remembered(&folder).unwrap(), Some(token));
        assert_ne!(TokenHash::of(b"a token of more bytes").unwrap(), token);
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        assert_eq!(text, "c8e5298f83187cea8d40c4cbae6d7cdf7c9ff2cd243de15c290663068e5e2494\n");
        std::fs::write(folder.join(FILE), "b1a4").unwrap();
        assert_eq!(TokenHash::remembered(&folder).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
