//! Trust domains: each has an engine of its own, so ids, names, content, quotas and figures of one mean nothing
//! in another.
//!
//! Who may connect at all is in the domain of the user. Others are opened by a token: whoever names one first
//! makes it, and from then on it takes the same token.

use crate::options::{MEMORY_MAX_BYTES_MIN, Options};
use crate::store::Store;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Domains beside the user's own.
pub const DOMAINS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;

/// How the store of a domain is opened; the empty name is the user's own.
pub type OptionsOf = Box<dyn Fn(&str) -> Result<Options> + Send + Sync>;

/// One trust domain.
pub struct Domain {
    /// Its store.
    pub store: Store,
    /// What its token hashes to; the user's own has none.
    token: Option<blake3::Hash>,
}

/// All that are open.
pub struct Domains {
    options_of: OptionsOf,
    memory_max_bytes: u64,
    open: Mutex<BTreeMap<String, Arc<Domain>>>,
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with('.') {
        return Ok(());
    }
    let what = format!("a domain called {name:?} (1 to {NAME_BYTES_MAX} letters, digits, '.', '_', '-')");
    Err(Error::new(ErrorKind::InvalidArgument, what))
}

impl Domains {
    /// The user's own domain, within a budget that all domains share.
    pub fn new(memory_max_bytes: u64, options_of: OptionsOf) -> Result<Self> {
        let domains = Domains { options_of, memory_max_bytes, open: Mutex::default() };
        let own = domains.opened("", None)?;
        domains.open.lock().insert(String::new(), own);
        Ok(domains)
    }

    fn opened(&self, name: &str, token: Option<blake3::Hash>) -> Result<Arc<Domain>> {
        let options = Options { lends: true, memory_max_bytes: self.memory_max_bytes, ..(self.options_of)(name)? };
        Ok(Arc::new(Domain { store: Store::open(options)?, token }))
    }

    /// The domain called `name`, for who has its token.
    ///
    /// # Errors
    /// `PermissionDenied` where the token is another, `LimitReached` where there are [`DOMAINS_MAX`].
    pub fn enter(&self, name: &str, token: &[u8]) -> Result<Arc<Domain>> {
        let mut open = self.open.lock();
        if name.is_empty() {
            return Ok(open[""].clone());
        }
        check_name(name)?;
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            let what = format!("a token of {} bytes ({TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX})", token.len());
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        // Hashes are compared in constant time.
        let hash = blake3::hash(token);
        if let Some(domain) = open.get(name) {
            if domain.token == Some(hash) {
                return Ok(domain.clone());
            }
            return Err(Error::new(ErrorKind::PermissionDenied, format!("domain {name:?}")));
        }
        if open.len() > DOMAINS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{DOMAINS_MAX} domains")));
        }
        let domain = self.opened(name, Some(hash))?;
        open.insert(name.to_owned(), domain.clone());
        drop(open);
        self.govern();
        Ok(domain)
    }

    /// Every open domain by name.
    pub fn all(&self) -> Vec<(String, Arc<Domain>)> {
        self.open.lock().iter().map(|(name, domain)| (name.clone(), domain.clone())).collect()
    }

    /// Deals the budget out anew, by what each domain needs.
    pub fn govern(&self) {
        let all = self.all();
        let needed: Vec<u64> = all.iter().map(|(_, domain)| domain.store.needed_bytes()).collect();
        for ((_, domain), budget) in all.iter().zip(shares(self.memory_max_bytes, &needed)) {
            domain.store.set_memory_max_bytes(budget);
        }
    }

    /// Closes all of them; the first error, if there is any.
    pub fn close(&self) -> Result<()> {
        self.all().iter().fold(Ok(()), |outcome, (_, domain)| outcome.and(domain.store.close()))
    }
}

/// Parts of `total` for who needs `needed`: the need and an equal part of what is left, or, where there is not
/// enough, by need. Nobody gets less than an engine can work with.
fn shares(total: u64, needed: &[u64]) -> Vec<u64> {
    let count = needed.len().max(1) as u64;
    let sum: u64 = needed.iter().sum::<u64>().max(1);
    let part = |need: u64| match total.checked_sub(sum) {
        Some(spare) => need + spare / count,
        None => (u128::from(total) * u128::from(need) / u128::from(sum)) as u64,
    };
    needed.iter().map(|&need| part(need).max(MEMORY_MAX_BYTES_MIN)).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_budget_is_dealt_out_by_need() {
        assert_eq!(shares(1000 * MIB, &[100 * MIB, 300 * MIB]), [400 * MIB, 600 * MIB]);
        assert_eq!(shares(1000 * MIB, &[1000 * MIB, 3000 * MIB]), [250 * MIB, 750 * MIB]);
        assert_eq!(shares(1000 * MIB, &[0]), [1000 * MIB]);
    }

    proptest! {
        #[test]
        fn a_budget_is_kept_but_for_the_least_that_each_gets(
            total in MIB..1 << 40,
            needed in prop::collection::vec(0..1u64 << 40, 1..70),
        ) {
            let dealt = shares(total, &needed);
            let above_least: u64 = dealt.iter().filter(|&&share| share > MEMORY_MAX_BYTES_MIN).sum();
            prop_assert!(above_least <= total);
            prop_assert!(dealt.iter().all(|&share| share >= MEMORY_MAX_BYTES_MIN));
        }
    }

    #[test]
    fn names_are_plain() {
        for name in ["tenant", "a", "A-1_b.c", &"x".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".hidden", "a/b", "..", "ä", "a b", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
