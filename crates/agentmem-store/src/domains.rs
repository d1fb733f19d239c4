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

const NAME_BYTES_MAX: usize = 64;
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;

/// How the store of a domain is opened; the empty name is the user's own.
pub type OptionsOf = Box<dyn Fn(&str) -> Result<Options> + Send + Sync>;

/// The most of everything that a server has; what is beyond is refused with `LimitReached`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Domains beside the user's own.
    pub domains: usize,
    /// Bytes of a session's arena.
    pub arena_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 8192, domains: 64, arena_bytes: 4 << 20 }
    }
}

type Check = dyn Fn(&[u8]) -> bool + Send + Sync;

/// Tells who has the token of a domain.
pub struct Admits(Box<Check>);

impl Admits {
    /// Whoever has this token.
    pub fn token(token: &[u8]) -> Self {
        // Hashes are compared in constant time.
        let hash = blake3::hash(token);
        Admits::check(move |token| blake3::hash(token) == hash)
    }

    /// Whoever passes the check.
    pub fn check(check: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Admits(Box::new(check))
    }
}

/// One trust domain.
pub struct Domain {
    /// Its store.
    pub store: Store,
    /// Who may enter; the user's own asks for nothing.
    admits: Option<Admits>,
    /// The most of the budget that it gets.
    memory_max_bytes: u64,
}

/// All that are open.
pub struct Domains {
    options_of: OptionsOf,
    memory_max_bytes: u64,
    /// The most of everything.
    pub limits: Limits,
    open: Mutex<BTreeMap<String, Arc<Domain>>>,
}

/// Refuses what no domain can be called.
pub fn check_domain_name(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with('.') {
        return Ok(());
    }
    let what = format!("a domain called {name:?} (1 to {NAME_BYTES_MAX} letters, digits, '.', '_', '-')");
    Err(Error::new(ErrorKind::InvalidArgument, what))
}

impl Domains {
    /// The user's own domain, within a budget that all domains share.
    pub fn new(memory_max_bytes: u64, limits: Limits, options_of: OptionsOf) -> Result<Self> {
        let domains = Domains { options_of, memory_max_bytes, limits, open: Mutex::default() };
        let own = domains.opened("", None, None)?;
        domains.open.lock().insert(String::new(), own);
        Ok(domains)
    }

    fn opened(&self, name: &str, admits: Option<Admits>, memory_max_bytes: Option<u64>) -> Result<Arc<Domain>> {
        let memory_max_bytes = memory_max_bytes.unwrap_or(u64::MAX).min(self.memory_max_bytes);
        let options = Options { lends: true, memory_max_bytes, ..(self.options_of)(name)? };
        Ok(Arc::new(Domain { store: Store::open(options)?, admits, memory_max_bytes }))
    }

    /// Opens the domain called `name` for who is admitted; it gets `memory_max_bytes` of the budget at most.
    ///
    /// # Errors
    /// `NameTaken`, `LimitReached`, and what opening its store raises.
    pub fn add(&self, name: &str, admits: Admits, memory_max_bytes: Option<u64>) -> Result<Arc<Domain>> {
        check_domain_name(name)?;
        let mut open = self.open.lock();
        if open.contains_key(name) {
            return Err(Error::new(ErrorKind::NameTaken, format!("domain {name:?}")));
        }
        if open.len() > self.limits.domains {
            return Err(Error::new(ErrorKind::LimitReached, format!("{} domains", self.limits.domains)));
        }
        let domain = self.opened(name, Some(admits), memory_max_bytes)?;
        open.insert(name.to_owned(), domain.clone());
        drop(open);
        self.govern();
        Ok(domain)
    }

    /// The domain called `name`, for who has its token.
    ///
    /// # Errors
    /// `PermissionDenied` where the token is another, and what [`Self::add`] raises.
    pub fn enter(&self, name: &str, token: &[u8]) -> Result<Arc<Domain>> {
        if name.is_empty() {
            return Ok(self.open.lock()[""].clone());
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            let what = format!("a token of {} bytes ({TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX})", token.len());
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        let known = self.open.lock().get(name).cloned();
        let domain = match known {
            Some(domain) => domain,
            None => match self.add(name, Admits::token(token), None) {
                Ok(domain) => return Ok(domain),
                // Somebody was quicker.
                Err(error) if error.kind() == ErrorKind::NameTaken => self.open.lock()[name].clone(),
                Err(error) => return Err(error),
            },
        };
        match &domain.admits {
            Some(admits) if (admits.0)(token) => Ok(domain),
            _ => Err(Error::new(ErrorKind::PermissionDenied, format!("domain {name:?}"))),
        }
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
            domain.store.set_memory_max_bytes(budget.min(domain.memory_max_bytes));
        }
    }

    /// Closes all of them; the first error, if there is any.
    pub fn close(&self) -> Result<()> {
        // Every one, whatever becomes of the others.
        let closed: Vec<Result<()>> = self.all().iter().map(|(_, domain)| domain.store.close()).collect();
        closed.into_iter().collect()
    }
}

/// Parts of `total` for who needs `needed`: the need and an equal part of what is left, or, where there is not
/// enough, by need. Nobody gets less than an engine can work with.
fn shares(total: u64, needed: &[u64]) -> Vec<u64> {
    let count = needed.len().max(1) as u64;
    let sum: u64 = needed.iter().sum();
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
            assert!(check_domain_name(name).is_ok(), "{name}");
        }
        for name in ["", ".hidden", "a/b", "..", "ä", "a b", &"x".repeat(65)] {
            assert!(check_domain_name(name).is_err(), "{name}");
        }
    }
}
