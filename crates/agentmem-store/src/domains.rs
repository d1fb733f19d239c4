//! Trust domains: each has an engine of its own, so ids, names, content, quotas and figures of one mean nothing
//! in another.
//!
//! Who may connect at all is in the domain of the user. Others are opened by a token, of which only a hash is
//! known here. They are listed in the configuration; or a client makes one by naming it first, where that is
//! allowed, and from then on it takes the same token.

use crate::grants::{GrantKey, GrantLog, Redeeming, unknown_grant};
use crate::keeping::{Keep, Keeping};
use crate::options::{MEMORY_MAX_BYTES_MIN, Options};
use crate::quota::DomainQuota;
use crate::remote::Secret;
use crate::store::Store;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::sys::{self, SealedFile};
use crate::token::TokenHash;
use agentmem_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME_BYTES_MAX: usize = 64;
/// How long [`Domains::relieve`] goes on while others put.
const RELIEF: Duration = Duration::from_secs(1);

/// How the store of a domain is opened; the empty name is the user's own.
pub type OptionsOf = Box<dyn Fn(&str) -> Result<Options> + Send + Sync>;

/// The most of everything that one domain gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Of the budget that all domains share.
    pub memory_max_bytes: u64,
    /// Of what its agents hold: a session may choose less.
    pub quota: DomainQuota,
    /// Connections: a session has one, its arena, and more while its threads call at the same time.
    pub connections: usize,
    /// Contents of 1 MiB or more in RAM, each of which takes a descriptor.
    pub large: u64,
}

impl Terms {
    /// As much as there is.
    pub const UNLIMITED: Terms = Terms {
        memory_max_bytes: u64::MAX,
        quota: DomainQuota { logical_bytes: None, agents: None },
        connections: usize::MAX,
        large: u64::MAX,
    };
}

impl Default for Terms {
    fn default() -> Self {
        // So that no domain takes all of what they share.
        Terms { connections: 4096, large: 4096, ..Terms::UNLIMITED }
    }
}

/// The most of everything that a server has; what is beyond is refused with `LimitReached`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Domains beside the user's own.
    pub domains: usize,
    /// Bytes of a session's arena.
    pub arena_bytes: u64,
    /// Whether whoever names a domain that there is not makes it. Else there are only those that were added.
    pub clients_make_domains: bool,
    /// What a domain gets that a client makes.
    pub made: Terms,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 8192,
            domains: 64,
            arena_bytes: 4 << 20,
            clients_make_domains: true,
            made: Terms::default(),
        }
    }
}

/// What is remembered of a domain beyond the death of this process.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    name: String,
    token: TokenHash,
    /// Whether a client made it, so that no configuration lists it.
    is_made: bool,
    /// What the secrets of its sessions begin with.
    tag: Tag,
}

/// See [`Facts::tag`]. Random, so that it says nothing of other domains.
type Tag = [u8; 8];

/// A domain that a killed process had and this one could not open. Nothing of it is let go of.
struct LeftOut {
    number: u32,
    token: TokenHash,
    tag: Tag,
    error: Error,
}

impl LeftOut {
    fn new(number: u32, facts: &Facts, error: &Error) -> Self {
        let what = format!(
            "domain {:?}, which could not be opened again after its engine was killed ({}). Nothing of it was deleted: \
             mend that, and kill the engine (the second process in the socket's .lock) to have it tried again; or stop \
             the daemon, which gives up what the domain held in memory. It",
            facts.name,
            error.subject()
        );
        LeftOut { number, token: facts.token, tag: facts.tag, error: Error::new(error.kind(), what) }
    }
}

/// What is kept of all domains, and by whom.
struct Outside {
    keep: Arc<dyn Keep>,
    /// What was kept when this began, until a domain takes it.
    found: BTreeMap<String, OwnedFd>,
    /// Those of a process that was killed, with their numbers, by name.
    killed: BTreeMap<String, (u32, Facts)>,
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
            if let Some(facts) = facts.and_then(|facts| postcard::from_bytes::<Facts>(&facts).ok()) {
                killed.insert(facts.name.clone(), (number, facts));
            }
        }
        let next = killed.values().map(|(number, _)| number + 1).max().unwrap_or(1);
        Outside { keep, found, killed, next }
    }

    /// Where the user's own domain is kept, and has been if it was killed.
    fn keeping_own(&mut self) -> Arc<Keeping> {
        Arc::new(Keeping::new(self.keep.clone(), "0.", &mut self.found))
    }

    /// The same for another, and whether there was nothing of it.
    fn keeping(&mut self, facts: &Facts) -> Result<(Arc<Keeping>, bool)> {
        let killed = self.killed.remove(&facts.name).map(|(number, _)| number);
        let number = killed.unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let keeping = Keeping::new(self.keep.clone(), &format!("{number}."), &mut self.found);
        let facts = postcard::to_allocvec(facts).expect("plain fields always encode");
        keeping.take(&FACTS[1..]);
        keeping.keep(&FACTS[1..], SealedFile::holding(&facts)?)?;
        Ok((Arc::new(keeping), killed.is_none()))
    }
}

/// One trust domain.
pub struct Domain {
    /// Its store.
    pub store: Store,
    /// What opens it; nothing for the user's own.
    token: Option<TokenHash>,
    /// The most that it gets.
    terms: Terms,
    tag: Tag,
    /// Those that are open.
    connections: Arc<AtomicUsize>,
}

impl Domain {
    fn new(options: Options, token: Option<TokenHash>, terms: Terms, tag: Tag) -> Result<Self> {
        let options = Options { quota: terms.quota, large_max: terms.large, ..options };
        Ok(Domain { store: Store::open(options)?, token, terms, tag, connections: Arc::default() })
    }

    /// What connections of a new session are to prove themselves by.
    pub fn secret(&self) -> Result<Secret> {
        let random: [u8; size_of::<Secret>() - size_of::<Tag>()] = sys::random()?;
        Ok([self.tag, random].concat().try_into().expect("two halves"))
    }

    /// Another connection into it, until the answer goes.
    pub fn connect(&self) -> Result<Counted> {
        Counted::new(&self.connections, self.terms.connections, "connections of this domain")
    }
}

/// One of a limited number.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// One more, if there are fewer than `limit` of `what`.
    pub fn new(count: &Arc<AtomicUsize>, limit: usize, what: &str) -> Result<Self> {
        let counted = Counted(count.clone());
        if count.fetch_add(1, Ordering::AcqRel) < limit {
            return Ok(counted);
        }
        Err(Error::new(ErrorKind::LimitReached, format!("{limit} {what}")))
    }

    /// One more, whatever the limit, where one is about to go.
    pub fn in_place_of_another(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All that are open.
pub struct Domains {
    options_of: OptionsOf,
    /// What all share, as of now.
    memory_max_bytes: AtomicU64,
    /// What the process has of memory that is only its own.
    private_bytes: AtomicU64,
    /// The most that this has been and will be.
    whole_bytes: u64,
    /// The most of everything.
    pub limits: Limits,
    open: Mutex<BTreeMap<String, Arc<Domain>>>,
    left_out: Mutex<BTreeMap<String, LeftOut>>,
    outside: Option<Mutex<Outside>>,
    log: Option<GrantLog>,
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

fn not_for_who_asks(name: &str) -> Error {
    let what = format!("domain {name:?}, which has another token or does not exist");
    Error::new(ErrorKind::PermissionDenied, what)
}

impl Domains {
    /// The user's own domain, within a budget that all domains share.
    pub fn new(memory_max_bytes: u64, limits: Limits, options_of: OptionsOf) -> Result<Self> {
        Self::over(memory_max_bytes, limits, options_of, None)
    }

    /// The same, with all memory kept by `keep`. If a process with these domains was killed, `found` is what it
    /// left there, and these go on from that; once all that are configured were added, see [`Self::go_on`].
    pub fn kept(
        memory_max_bytes: u64,
        limits: Limits,
        options_of: OptionsOf,
        keep: Arc<dyn Keep>,
        found: BTreeMap<String, OwnedFd>,
    ) -> Result<Self> {
        let outside = Some(Mutex::new(Outside::new(keep, found)));
        Self::over(memory_max_bytes, limits, options_of, outside)
    }

    /// With a log of what is granted and redeemed across domains. Without one nothing is.
    pub fn logging(self, log: GrantLog) -> Self {
        Domains { log: Some(log), ..self }
    }

    /// That log.
    pub fn log(&self) -> Result<&GrantLog> {
        self.log.as_ref().ok_or_else(|| Error::new(ErrorKind::Unsupported, "grants without a log of them"))
    }

    /// Begins to redeem what `key` is of for the domain called `to`, whichever domain granted it. `to`
    /// calls it `redemption`; one that was done before and `is_repeated` is not counted again.
    ///
    /// # Errors
    /// `NotFound`, whatever the reason.
    pub fn redeeming(&self, key: &GrantKey, to: &str, redemption: u64, is_repeated: bool) -> Result<Redeeming> {
        let mut outcome = Err(unknown_grant());
        for (_, domain) in self.all() {
            // All of them in any case, so that it takes as long.
            outcome = outcome.or(domain.store.engine()?.begin_redeeming(key, to, redemption, is_repeated));
        }
        outcome
    }

    /// All that are configured were added: those that clients had made go on as well, and what was found beside
    /// is let go of. Those that cannot be opened are left out.
    pub fn go_on(&self) {
        let Some(outside) = &self.outside else { return };
        let made = |(_, facts): &(u32, Facts)| facts.is_made.then(|| (facts.name.clone(), facts.token));
        let made: Vec<(String, TokenHash)> = outside.lock().killed.values().filter_map(made).collect();
        for (name, token) in made {
            // Why it was not opened is said to whoever asks for it.
            let _ = self.insert(&mut self.open.lock(), &name, token, self.limits.made, true);
        }
        let mut outside = outside.lock();
        outside.killed.clear();
        let found = std::mem::take(&mut outside.found);
        let spared: Vec<String> = self.left_out.lock().values().map(|out| format!("{}.", out.number)).collect();
        let is_spared = |name: &String| spared.iter().any(|prefix| name.starts_with(prefix));
        found.keys().filter(|name| !is_spared(name)).for_each(|name| outside.keep.let_go(name));
    }

    /// Whether the domain called `name` is one that a killed process had and this one could not open.
    pub fn is_left_out(&self, name: &str) -> bool {
        self.left_out.lock().contains_key(name)
    }

    /// Why domains were left out, for each that was.
    pub fn left_out(&self) -> Vec<Error> {
        self.left_out.lock().values().map(|out| out.error.clone()).collect()
    }

    /// Why the domain was left out that a session with that secret was in, if it was.
    pub fn why_left_out(&self, secret: &Secret) -> Option<Error> {
        let left_out = self.left_out.lock();
        left_out.values().find(|out| secret.starts_with(&out.tag)).map(|out| out.error.clone())
    }

    fn over(
        memory_max_bytes: u64,
        limits: Limits,
        options_of: OptionsOf,
        outside: Option<Mutex<Outside>>,
    ) -> Result<Self> {
        let keeping = outside.as_ref().map(|outside| outside.lock().keeping_own());
        let options = Options { lends: true, keeping, memory_max_bytes, ..options_of("")? };
        let own = Domain::new(options, None, Terms::UNLIMITED, sys::random()?)?;
        let open = Mutex::new(BTreeMap::from([(String::new(), Arc::new(own))]));
        let (whole_bytes, memory_max_bytes) = (memory_max_bytes, AtomicU64::new(memory_max_bytes));
        let (left_out, private_bytes) = (Mutex::default(), AtomicU64::new(0));
        let log = None;
        Ok(Domains { options_of, memory_max_bytes, private_bytes, whole_bytes, limits, open, left_out, outside, log })
    }

    fn insert(
        &self,
        open: &mut BTreeMap<String, Arc<Domain>>,
        name: &str,
        token: TokenHash,
        terms: Terms,
        is_made: bool,
    ) -> Result<Arc<Domain>> {
        let known = |outside: &Mutex<Outside>| outside.lock().killed.get(name).map(|(number, of)| (*number, of.tag));
        let killed = self.outside.as_ref().and_then(known);
        let tag = killed.map_or_else(sys::random, |(_, tag)| Ok(tag))?;
        let facts = Facts { name: name.to_owned(), token, is_made, tag };
        let domain = self.open(&facts, terms).inspect_err(|error| {
            if let Some((number, _)) = killed {
                self.left_out.lock().insert(name.to_owned(), LeftOut::new(number, &facts, error));
            }
        })?;
        let domain = Arc::new(domain);
        open.insert(name.to_owned(), domain.clone());
        Ok(domain)
    }

    fn open(&self, facts: &Facts, terms: Terms) -> Result<Domain> {
        let &Facts { ref name, token, is_made, tag } = facts;
        let options = (self.options_of)(name)?;
        if let Some(folder) = &options.path {
            match TokenHash::remembered(folder)? {
                // What a client left here is not for who comes first after it.
                Some(known) if is_made && known != token => return Err(not_for_who_asks(name)),
                Some(known) if known == token => {}
                _ => token.remember(folder)?,
            }
        }
        // Address space is taken once, so not by what there is just now.
        let memory_max_bytes = terms.memory_max_bytes.min(self.whole_bytes);
        let kept = self.outside.as_ref().map(|outside| outside.lock().keeping(facts)).transpose()?;
        let keeping = kept.as_ref().map(|(keeping, _)| keeping.clone());
        let options = Options { lends: true, domain: name.clone(), keeping, memory_max_bytes, ..options };
        let domain = Domain::new(options, Some(token), terms, tag).inspect_err(|_| {
            // Of one that went on, what is kept stays kept.
            if let Some((keeping, true)) = &kept {
                keeping.let_go_of_everything();
            }
        })?;
        domain.store.set_memory_max_bytes(terms.memory_max_bytes.min(self.memory_max_bytes()));
        Ok(domain)
    }

    /// Opens the domain called `name` for who has that token.
    ///
    /// # Errors
    /// `NameTaken`, `LimitReached`, and what opening its store raises.
    pub fn add(&self, name: &str, token: TokenHash, terms: Terms) -> Result<Arc<Domain>> {
        check_domain_name(name)?;
        let mut open = self.open.lock();
        if open.contains_key(name) {
            return Err(Error::new(ErrorKind::NameTaken, format!("domain {name:?}")));
        }
        self.check_count(&open)?;
        let domain = self.insert(&mut open, name, token, terms, false)?;
        drop(open);
        self.govern();
        Ok(domain)
    }

    fn check_count(&self, open: &BTreeMap<String, Arc<Domain>>) -> Result<()> {
        let limit = self.limits.domains;
        // Beside the user's own.
        if open.len() + self.left_out.lock().len() <= limit {
            return Ok(());
        }
        Err(Error::new(ErrorKind::LimitReached, format!("{limit} domains of this daemon (limits.domains)")))
    }

    /// The domain called `name`, for who has its token.
    ///
    /// # Errors
    /// `PermissionDenied` where the token is another or there is no such domain: it does not say which. Where
    /// clients make domains, what there is not is made, and that can raise what [`Self::add`] raises. For one that was
    /// left out, why.
    pub fn enter(&self, name: &str, token: &[u8]) -> Result<Arc<Domain>> {
        if name.is_empty() {
            return Ok(self.open.lock()[""].clone());
        }
        let token = TokenHash::of(token)?;
        let known = self.open.lock().get(name).cloned();
        let left_out = self.left_out.lock().get(name).map(|out| (out.token, out.error.clone()));
        let its_token = known.as_ref().and_then(|domain| domain.token).or(left_out.as_ref().map(|(token, _)| *token));
        // Compared with something in any case, so that it takes as long.
        let is_right = token == its_token.unwrap_or(TokenHash::NOBODYS);
        match (known, left_out) {
            (Some(domain), _) if is_right => Ok(domain),
            (None, Some((_, error))) if is_right => Err(error),
            (None, None) if self.limits.clients_make_domains => self.make(name, token),
            _ => Err(not_for_who_asks(name)),
        }
    }

    fn make(&self, name: &str, token: TokenHash) -> Result<Arc<Domain>> {
        check_domain_name(name)?;
        let mut open = self.open.lock();
        if let Some(domain) = open.get(name) {
            // Somebody was quicker.
            return if domain.token == Some(token) { Ok(domain.clone()) } else { Err(not_for_who_asks(name)) };
        }
        self.check_count(&open)?;
        let domain = self.insert(&mut open, name, token, self.limits.made, true)?;
        drop(open);
        self.govern();
        Ok(domain)
    }

    /// Every open domain by name.
    pub fn all(&self) -> Vec<(String, Arc<Domain>)> {
        self.open.lock().iter().map(|(name, domain)| (name.clone(), domain.clone())).collect()
    }

    /// Deals the budget out anew, by what each domain needs. What their process takes beside what they count is
    /// nobody's: stacks and buffers of a thousand threads, and what the allocator holds.
    pub fn govern(&self) {
        let all = self.all();
        let sum = |of: fn(&Store) -> u64| all.iter().map(|(_, domain)| of(&domain.store)).sum();
        let uncounted_bytes = self.private_bytes.load(Ordering::Relaxed).saturating_sub(sum(Store::private_bytes));
        let total = self.memory_max_bytes().saturating_sub(uncounted_bytes);
        let needed: Vec<u64> = all.iter().map(|(_, domain)| domain.store.needed_bytes()).collect();
        for ((_, domain), budget) in all.iter().zip(shares(total, &needed)) {
            domain.store.set_memory_max_bytes(budget.min(domain.terms.memory_max_bytes));
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

    /// The private memory of their process, as its kernel has it; it counts from the next [`Self::govern`] on.
    pub fn set_private_bytes(&self, bytes: u64) {
        self.private_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What all of them cannot do without.
    pub fn needed_bytes(&self) -> u64 {
        self.all().iter().map(|(_, domain)| domain.store.needed_bytes()).sum()
    }

    /// Demotes what domains have beyond their budgets, and gives back what is only kept to be quick: for a second at
    /// most, in which each has a turn by how much it has beyond, those with the most first.
    pub fn relieve(&self) {
        let begun = Instant::now();
        let beyond = |(_, domain): (String, Arc<Domain>)| (domain.store.excess_bytes(), domain);
        let mut all: Vec<(u64, Arc<Domain>)> = self.all().into_iter().map(beyond).collect();
        all.sort_by_key(|(excess, _)| std::cmp::Reverse(*excess));
        let mut rest: u64 = all.iter().map(|(excess, _)| excess).sum();
        for (excess, domain) in all {
            domain.store.relieve(turn_ms(RELIEF.saturating_sub(begun.elapsed()), excess, rest));
            rest -= excess;
        }
    }

    /// Closes all of them; the first error, if there is any.
    pub fn close(&self) -> Result<()> {
        // Every one, whatever becomes of the others.
        let closed: Vec<Result<()>> = self.all().iter().map(|(_, domain)| domain.store.close()).collect();
        closed.into_iter().collect()
    }
}

/// How long one may demote that has `excess` bytes too many, of `left`, when those that had no turn yet have `rest`.
fn turn_ms(left: Duration, excess: u64, rest: u64) -> u64 {
    (left.as_millis() * u128::from(excess) / u128::from(rest.max(1))) as u64
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
        fn turns_fit_into_the_time_that_there_is_and_nobody_is_left_without(
            excess in prop::collection::vec(0..1u64 << 40, 1..66),
        ) {
            let mut rest: u64 = excess.iter().sum();
            let mut left = RELIEF;
            for &one in &excess {
                let turn = turn_ms(left, one, rest);
                // Even where everybody before took all of his turn.
                let fair_ms = RELIEF.as_millis() * u128::from(one) / u128::from(excess.iter().sum::<u64>().max(1));
                prop_assert!(u128::from(turn) >= fair_ms);
                left = left.checked_sub(Duration::from_millis(turn)).expect("no longer than there is time");
                rest -= one;
            }
        }

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
