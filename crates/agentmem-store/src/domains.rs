//! Trust domains: each has an engine of its own, so ids, names, content, quotas and figures of one mean nothing
//! in another.
//!
//! Who may connect at all is in the domain of the user. Others are opened by a token: whoever names one first
//! makes it, and from then on it takes the same token.

use crate::keeping::{Keep, Keeping};
use crate::options::{MEMORY_MAX_BYTES_MIN, Options};
use crate::store::Store;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::{self, SealedFile};
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
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
pub struct Admits {
    check: Box<Check>,
    /// Of the token, where that is all that is known.
    hash: Option<[u8; 32]>,
}

impl Admits {
    /// Whoever has this token.
    pub fn token(token: &[u8]) -> Self {
        Admits::hash(*blake3::hash(token).as_bytes())
    }

    /// Whoever has the token with this BLAKE3 hash.
    fn hash(hash: [u8; 32]) -> Self {
        // Hashes are compared in constant time.
        let check = move |token: &[u8]| blake3::hash(token) == blake3::Hash::from_bytes(hash);
        Admits { check: Box::new(check), hash: Some(hash) }
    }

    /// Whoever passes the check.
    pub fn check(check: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Admits { check: Box::new(check), hash: None }
    }
}

/// What is kept of all domains, and by whom.
struct Outside {
    keep: Arc<dyn Keep>,
    /// What was kept when this began, until a domain takes it.
    found: BTreeMap<String, OwnedFd>,
    /// Numbers of the domains that were killed, by name, with the hashes of tokens.
    killed: BTreeMap<String, (u32, Option<[u8; 32]>)>,
    next: u32,
}

/// What a domain's facts are kept as; other things of it begin with its number too.
const FACTS: &str = ".domain";
const FACTS_BYTES_MAX: usize = 4096;

impl Outside {
    fn new(keep: Arc<dyn Keep>, found: BTreeMap<String, OwnedFd>) -> Self {
        let mut killed = BTreeMap::new();
        for (name, descriptor) in &found {
            let Some(Ok(number)) = name.strip_suffix(FACTS).map(str::parse::<u32>) else { continue };
            let facts = sys::read_memfd(descriptor, FACTS_BYTES_MAX).ok();
            if let Some((name, hash)) = facts.and_then(|facts| postcard::from_bytes(&facts).ok()) {
                let (name, hash): (String, Option<[u8; 32]>) = (name, hash);
                killed.insert(name, (number, hash));
            }
        }
        let next = killed.values().map(|(number, _)| number + 1).max().unwrap_or(1);
        Outside { keep, found, killed, next }
    }

    /// Where the domain called `name` is kept, and has been if it was killed.
    fn keeping(&mut self, name: &str, hash: Option<[u8; 32]>) -> Result<Arc<Keeping>> {
        let number = match self.killed.remove(name) {
            Some((number, _)) => number,
            None if name.is_empty() => 0,
            None => {
                self.next += 1;
                self.next - 1
            }
        };
        let keeping = Keeping::new(self.keep.clone(), &format!("{number}."), &mut self.found);
        let facts = postcard::to_allocvec(&(name, hash)).expect("plain fields always encode");
        keeping.take(&FACTS[1..]);
        keeping.keep(&FACTS[1..], SealedFile::holding(&facts)?)?;
        Ok(Arc::new(keeping))
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
    memory_max_bytes: AtomicU64,
    /// The most of everything.
    pub limits: Limits,
    open: Mutex<BTreeMap<String, Arc<Domain>>>,
    outside: Option<Mutex<Outside>>,
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
        Self::over(memory_max_bytes, limits, options_of, None)
    }

    /// The same, with all memory kept by `keep`. If a process with these domains was killed, `found` is what it
    /// left there, and these go on from that; once all that are configured were added, see
    /// [`Self::let_go_of_the_rest`].
    pub fn kept(
        memory_max_bytes: u64,
        limits: Limits,
        options_of: OptionsOf,
        keep: Arc<dyn Keep>,
        found: BTreeMap<String, OwnedFd>,
    ) -> Result<Self> {
        let outside = Outside::new(keep, found);
        let made: Vec<(String, [u8; 32])> =
            outside.killed.iter().filter_map(|(name, (_, hash))| Some((name.clone(), (*hash)?))).collect();
        let domains = Self::over(memory_max_bytes, limits, options_of, Some(Mutex::new(outside)))?;
        for (name, hash) in made {
            domains.add(&name, Admits::hash(hash), None)?;
        }
        Ok(domains)
    }

    /// What was found of domains that nobody added is let go of.
    pub fn let_go_of_the_rest(&self) {
        if let Some(outside) = &self.outside {
            let mut outside = outside.lock();
            outside.killed.clear();
            std::mem::take(&mut outside.found).keys().for_each(|name| outside.keep.let_go(name));
        }
    }

    fn over(
        memory_max_bytes: u64,
        limits: Limits,
        options_of: OptionsOf,
        outside: Option<Mutex<Outside>>,
    ) -> Result<Self> {
        let memory_max_bytes = AtomicU64::new(memory_max_bytes);
        let domains = Domains { options_of, memory_max_bytes, limits, open: Mutex::default(), outside };
        let own = domains.opened("", None, None)?;
        domains.open.lock().insert(String::new(), own);
        Ok(domains)
    }

    fn opened(&self, name: &str, admits: Option<Admits>, memory_max_bytes: Option<u64>) -> Result<Arc<Domain>> {
        let own_max_bytes = memory_max_bytes.unwrap_or(u64::MAX);
        let memory_max_bytes = own_max_bytes.min(self.memory_max_bytes());
        let hash = admits.as_ref().and_then(|admits| admits.hash);
        let keeping = self.outside.as_ref().map(|outside| outside.lock().keeping(name, hash)).transpose()?;
        let options = Options { lends: true, keeping, memory_max_bytes, ..(self.options_of)(name)? };
        Ok(Arc::new(Domain { store: Store::open(options)?, admits, memory_max_bytes: own_max_bytes }))
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
            Some(admits) if (admits.check)(token) => Ok(domain),
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
        for ((_, domain), budget) in all.iter().zip(shares(self.memory_max_bytes(), &needed)) {
            domain.store.set_memory_max_bytes(budget.min(domain.memory_max_bytes));
        }
    }

    /// The budget of all of them.
    pub fn memory_max_bytes(&self) -> u64 {
        self.memory_max_bytes.load(Ordering::Relaxed)
    }

    /// Changes it; it is dealt out at the next [`Self::govern`].
    pub fn set_memory_max_bytes(&self, bytes: u64) {
        self.memory_max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What all of them cannot do without.
    pub fn needed_bytes(&self) -> u64 {
        self.all().iter().map(|(_, domain)| domain.store.needed_bytes()).sum()
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
