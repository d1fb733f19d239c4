//! Grants: one content of one domain that another may copy, for a while.
//!
//! Ids are keyed by domain, so nothing of one can be attached in another. A grant is a random text that a session
//! of the other domain redeems: the engine there copies the content and hashes it with a key of its own. The domain
//! that granted holds nothing for it: what its agent gives back cannot be redeemed any more. Each grant,
//! redemption and revocation is written to a log before it counts.

use crate::engine::{Engine, State};
use crate::sys;
use agentmem_core::{ContentId, Error, ErrorKind, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Grants of one domain that can still be redeemed.
pub const GRANTS_MAX: usize = 1024;
/// Redemptions of one grant that are remembered, so that one whose answer was lost is not counted again.
const DONE_MAX: usize = 64;
/// The longest that one lasts: a year.
pub const GRANT_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;
const PREFIX: &str = "grant-";
const SECRET_BYTES: usize = 32;

/// A text that redeems a grant, and a number that names it without redeeming it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantKey {
    hash: [u8; 32],
}

impl GrantKey {
    /// A new one, and its text. Nothing keeps the text.
    fn new() -> Result<(Self, String)> {
        let secret: [u8; SECRET_BYTES] = sys::random()?;
        // The digits are all that is used of this type.
        let digits = blake3::Hash::from_bytes(secret).to_hex();
        Ok((Self::of(&secret), format!("{PREFIX}{digits}")))
    }

    fn of(secret: &[u8; SECRET_BYTES]) -> Self {
        GrantKey { hash: *blake3::hash(secret).as_bytes() }
    }

    /// The one that a text redeems.
    pub fn parse(text: &str) -> Option<Self> {
        let secret = blake3::Hash::from_hex(text.strip_prefix(PREFIX)?).ok()?;
        Some(Self::of(secret.as_bytes()))
    }

    /// Its number.
    fn number(&self) -> u64 {
        u64::from_be_bytes(self.hash[..8].try_into().expect("eight bytes"))
    }
}

/// The number of a grant as it is written.
pub fn grant_id(number: u64) -> String {
    format!("{number:016x}")
}

/// The grant that a text means, which is one that redeems it or its number.
pub fn parse_grant(text: &str) -> Result<u64> {
    let is_number = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = || u64::from_str_radix(text, 16).ok().filter(|_| is_number);
    let what = || Error::new(ErrorKind::InvalidArgument, "a grant: give its text, or its id of 16 digits");
    GrantKey::parse(text).map(|key| key.number()).or_else(number).ok_or_else(what)
}

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Of the text that redeems it.
    pub hash: [u8; 32],
    /// Whose lease it goes by.
    pub agent: u32,
    /// What it is of, in the domain that granted it.
    pub content: [u8; 32],
    /// What that is.
    pub kind: Kind,
    /// 0 to 100.
    pub importance: u8,
    /// Its length.
    pub logical_bytes: u64,
    /// Who may redeem it; empty for the user's own domain.
    pub to: String,
    /// When it was made, in Unix milliseconds.
    pub created_unix_ms: u64,
    /// When it ends.
    pub expires_unix_ms: u64,
    /// How often it can still be redeemed.
    pub uses: u32,
    /// What the last redemptions were called by who redeemed, oldest first.
    pub done: VecDeque<u64>,
}

/// A grant, and how often it is being redeemed just now: a use counts once it is done, so that none is lost if
/// the engine is killed meanwhile.
#[derive(Debug)]
struct Granted {
    grant: Grant,
    under_way: u32,
}

/// The grants of a domain by number. One that is used up stays as long as there is room for it: whoever lost the
/// answer to the last redemption asks again.
#[derive(Debug, Default)]
pub struct Grants {
    by_number: BTreeMap<u64, Granted>,
    /// Those that are just being logged.
    in_making: usize,
}

impl Grants {
    /// Takes over one that an earlier engine had.
    pub fn restore(&mut self, number: u64, grant: Grant) {
        self.by_number.insert(number, Granted { grant, under_way: 0 });
    }

    /// Grant `number`.
    pub fn get(&self, number: u64) -> Option<&Grant> {
        self.by_number.get(&number).map(|granted| &granted.grant)
    }

    /// Every grant that can be redeemed, with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Grant)> {
        let all = self.by_number.iter().map(|(&number, granted)| (number, &granted.grant));
        all.filter(|(_, grant)| grant.uses > 0)
    }

    fn is_full(&self) -> bool {
        self.by_number.len() + self.in_making >= GRANTS_MAX
    }
}

/// What happened to a grant, for the log.
#[derive(Debug, Clone, Serialize)]
pub struct GrantEvent {
    /// When, in Unix milliseconds.
    pub unix_ms: u64,
    /// `granted`, `redeemed` or `revoked`.
    pub event: &'static str,
    /// Its number, as it is written.
    pub grant: String,
    /// The domain that granted it; empty for the user's own.
    pub from_domain: String,
    /// The agent whose lease it goes by.
    pub from_agent: String,
    /// The domain that may redeem it.
    pub to_domain: String,
    /// The agent that redeems it.
    pub to_agent: Option<String>,
    /// What it is of, in the domain that granted it.
    pub content: String,
    /// Length of that.
    pub logical_bytes: u64,
    /// How often it could be redeemed before.
    pub uses: u32,
    /// When it ends, in Unix milliseconds.
    pub expires_unix_ms: u64,
}

/// Writes an event down; what cannot be written does not happen.
pub type GrantLog = Box<dyn Fn(&GrantEvent) -> Result<()> + Send + Sync>;

/// What is said of a grant that cannot be redeemed.
pub fn unknown_grant() -> Error {
    // One answer for whatever is the matter: who may not redeem it learns nothing of it.
    let what = "this grant, which is used up, over, revoked, of what was released, or for another domain";
    Error::new(ErrorKind::NotFound, what)
}

impl State {
    /// What is over goes.
    fn forget_grants(&mut self, is_over: impl Fn(&Grant) -> bool) {
        let all = self.grants.by_number.iter();
        let over: Vec<u64> = all.filter(|(_, of)| is_over(&of.grant)).map(|(&number, _)| number).collect();
        for number in over {
            self.grants.by_number.remove(&number);
            self.note(|fresh| fresh.grants.push(number));
        }
    }

    /// Grants of `agent`, which is gone, go.
    pub fn forget_grants_of(&mut self, agent: u32) {
        self.forget_grants(|grant| grant.agent == agent);
    }

    /// Grants that can be redeemed, those that are over having been forgotten.
    pub fn live_grants(&mut self) -> &Grants {
        let now = sys::unix_ms();
        self.forget_grants(|grant| now >= grant.expires_unix_ms);
        &self.grants
    }

    /// There will be one more, if there may be.
    fn reserve_grant(&mut self) -> Result<()> {
        self.live_grants();
        if self.grants.is_full() {
            self.forget_grants(|grant| grant.uses == 0);
        }
        if self.grants.is_full() {
            return Err(Error::new(ErrorKind::LimitReached, format!("{GRANTS_MAX} grants that can be redeemed")));
        }
        self.grants.in_making += 1;
        Ok(())
    }

    fn event(&self, event: &'static str, number: u64, grant: &Grant) -> GrantEvent {
        let agent = self.agents.get(grant.agent).map_or("", |agent| &agent.shared.name);
        GrantEvent {
            unix_ms: sys::unix_ms(),
            event,
            grant: grant_id(number),
            from_domain: self.quota.domain.clone(),
            from_agent: agent.to_owned(),
            to_domain: grant.to.clone(),
            to_agent: None,
            content: ContentId(grant.content).to_string(),
            logical_bytes: grant.logical_bytes,
            uses: grant.uses,
            expires_unix_ms: grant.expires_unix_ms,
        }
    }
}

/// A redemption under way.
pub struct Redeeming {
    engine: Arc<Engine>,
    number: u64,
    /// What is redeemed.
    pub grant: Grant,
    /// For the log, but for the agent that redeems.
    pub event: GrantEvent,
    /// What who redeems calls this redemption.
    redemption: u64,
    /// Whether it was done before, and counted, and its answer was lost.
    was_done: bool,
    is_done: bool,
}

impl Redeeming {
    /// Copies the content, whose length it must be, to `out`.
    pub fn copy(&self, out: &mut [u8]) -> Result<()> {
        // An id of the other domain is nothing for this one.
        let nameless = |error: Error| match error.kind() {
            ErrorKind::NotFound => unknown_grant(),
            kind => Error::new(kind, "what this grant is of"),
        };
        let mut filled = 0;
        while filled < out.len() {
            let piece = self.engine.read_content(&ContentId(self.grant.content), filled as u64).map_err(nameless)?;
            let end = filled + piece.len();
            let to = out.get_mut(filled..end).filter(|to| !to.is_empty()).ok_or_else(unknown_grant)?;
            to.copy_from_slice(&piece);
            filled = end;
        }
        Ok(())
    }

    /// Fails where the grant was revoked, or has expired, since this began.
    pub fn check(&self) -> Result<()> {
        self.engine.lock().live_grants().get(self.number).map(drop).ok_or_else(unknown_grant)
    }

    /// It was redeemed.
    pub fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Redeeming {
    fn drop(&mut self) {
        if self.was_done {
            return;
        }
        let mut state = self.engine.lock();
        let Some(granted) = state.grants.by_number.get_mut(&self.number) else { return };
        granted.under_way -= 1;
        if self.is_done {
            granted.grant.uses -= 1;
            if granted.grant.done.len() == DONE_MAX {
                granted.grant.done.pop_front();
            }
            granted.grant.done.push_back(self.redemption);
            state.counters.redeem += 1;
            let number = self.number;
            state.note(|fresh| fresh.grants.push(number));
        }
    }
}

impl Engine {
    /// Grants what the fields of `grant` say; returns the text that redeems it.
    pub fn grant(&self, grant: Grant, log: &GrantLog) -> Result<String> {
        let (key, text) = GrantKey::new()?;
        let (number, grant) = (key.number(), Grant { hash: key.hash, ..grant });
        let mut state = self.lock();
        state.reserve_grant()?;
        let event = state.event("granted", number, &grant);
        drop(state);
        // Without the lock, as it takes as long as a disk does.
        let logged = log(&event);
        let mut state = self.lock();
        state.grants.in_making -= 1;
        logged?;
        // That took its time: one of an agent that is gone would stay until it expires.
        state.agents.open_mut(grant.agent)?;
        state.grants.restore(number, grant);
        state.counters.grant += 1;
        state.note(|fresh| fresh.grants.push(number));
        Ok(text)
    }

    /// Begins to redeem what `key` is of for the domain called `to`, which calls it `redemption`. One that was done
    /// before and `is_repeated` is not counted again.
    ///
    /// # Errors
    /// `NotFound`, whatever the reason.
    pub fn begin_redeeming(
        self: &Arc<Self>,
        key: &GrantKey,
        to: &str,
        redemption: u64,
        is_repeated: bool,
    ) -> Result<Redeeming> {
        let number = key.number();
        let find = |state: &mut State| {
            let granted = state.live_grants().get(number);
            granted.filter(|grant| grant.hash == key.hash && grant.to == to).cloned().ok_or_else(unknown_grant)
        };
        find(&mut self.lock())?;
        // What its agent released before is not there any more.
        let mut state = self.settled();
        let grant = find(&mut state)?;
        let slot = state.smus.find(&ContentId(grant.content)).ok_or_else(unknown_grant)?;
        let is_held = state.agents.get(grant.agent).is_some_and(|agent| agent.leases.contains_key(&slot));
        let granted = state.grants.by_number.get_mut(&number).expect("just seen");
        let was_done = is_repeated && grant.done.contains(&redemption);
        if !is_held || !was_done && granted.under_way >= grant.uses {
            return Err(unknown_grant());
        }
        granted.under_way += u32::from(!was_done);
        let event = state.event("redeemed", number, &grant);
        Ok(Redeeming { engine: self.clone(), number, grant, event, redemption, was_done, is_done: false })
    }

    /// Takes grant `number` back.
    pub fn revoke(&self, number: u64, log: &GrantLog) -> Result<()> {
        let what = || Error::new(ErrorKind::NotFound, format!("grant {}", grant_id(number)));
        let mut state = self.lock();
        let grant = state.live_grants().get(number).filter(|grant| grant.uses > 0).cloned().ok_or_else(what)?;
        let event = state.event("revoked", number, &grant);
        drop(state);
        log(&event)?;
        let mut state = self.lock();
        state.grants.by_number.remove(&number).ok_or_else(what)?;
        state.counters.revoke += 1;
        state.note(|fresh| fresh.grants.push(number));
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_text_means_its_grant_and_so_does_its_number() {
        let (key, text) = GrantKey::new().unwrap();
        assert_eq!(GrantKey::parse(&text), Some(key));
        assert_eq!(parse_grant(&text).unwrap(), key.number());
        assert_eq!(parse_grant(&grant_id(key.number())).unwrap(), key.number());
        assert_eq!(parse_grant(&grant_id(1)).unwrap(), 1);
        for nonsense in ["", "grant-", "grant-00", &text[1..], &text[..text.len() - 1], "+00000000000000a", "1"] {
            assert_eq!(GrantKey::parse(nonsense), None, "{nonsense:?}");
            assert_eq!(parse_grant(nonsense).unwrap_err().kind(), ErrorKind::InvalidArgument, "{nonsense:?}");
        }
    }

    /// A store with an agent that holds one content, and a grant of it.
    fn granting(uses: u32) -> (crate::store::Store, Grant) {
        let store = crate::store::Store::open(crate::options::Options::default()).unwrap();
        let agent = store.agent("agent", None, None, None).unwrap();
        let wait = crate::options::OnFull::Wait;
        let id = agent.put(b"granted", Kind::ToolResult, None, 50, wait).unwrap().id().unwrap();
        let grant = Grant {
            hash: [0; 32],
            agent: store.engine().unwrap().lock().agents.number("agent").unwrap(),
            content: id.0,
            kind: Kind::ToolResult,
            importance: 50,
            logical_bytes: 7,
            to: "other".into(),
            created_unix_ms: 0,
            expires_unix_ms: u64::MAX,
            uses,
            done: VecDeque::new(),
        };
        (store, grant)
    }

    fn logging() -> GrantLog {
        Box::new(|_| Ok(()))
    }

    #[test]
    fn what_is_revoked_while_it_is_redeemed_is_not_given() {
        let (store, grant) = granting(2);
        let (engine, log) = (store.engine().unwrap(), logging());
        let text = engine.grant(grant, &log).unwrap();
        let redeeming = engine.begin_redeeming(&GrantKey::parse(&text).unwrap(), "other", 1, false).unwrap();
        let mut copy = [0; 7];
        redeeming.copy(&mut copy).unwrap();
        assert_eq!((&copy, redeeming.check()), (b"granted", Ok(())));
        engine.revoke(parse_grant(&text).unwrap(), &log).unwrap();
        assert_eq!(redeeming.check().unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_redemption_whose_answer_was_lost_is_repeated_and_counts_once() {
        let (store, grant) = granting(1);
        let (engine, log) = (store.engine().unwrap(), logging());
        let key = GrantKey::parse(&engine.grant(grant, &log).unwrap()).unwrap();
        let redeem = |redemption, is_repeated| {
            let redeeming = engine.begin_redeeming(&key, "other", redemption, is_repeated)?;
            redeeming.copy(&mut [0; 7])?;
            redeeming.check()?;
            redeeming.done();
            Ok(())
        };
        let unknown = Err(unknown_grant());
        // One that was begun and not done counts for nothing, repeated or not.
        drop(engine.begin_redeeming(&key, "other", 7, false).unwrap());
        assert_eq!(redeem(7, true), Ok(()));
        assert_eq!(redeem(7, true), Ok(()));
        assert_eq!(engine.lock().counters.redeem, 1);
        assert_eq!([redeem(7, false), redeem(8, true), redeem(8, false)], [(); 3].map(|()| unknown.clone()));
        assert_eq!(engine.lock().grants.iter().count(), 0, "it is used up");
        assert_eq!(engine.revoke(key.number(), &log).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn there_are_no_more_than_there_may_be_however_many_are_made_at_once() {
        let (store, grant) = granting(1);
        let engine = store.engine().unwrap();
        for _ in 0..GRANTS_MAX - 4 {
            engine.grant(grant.clone(), &logging()).unwrap();
        }
        // While the first four are logged, others come.
        let refused = Arc::new(parking_lot::Mutex::new(Vec::new()));
        fn nested(
            engine: Arc<Engine>,
            grant: Grant,
            refused: Arc<parking_lot::Mutex<Vec<ErrorKind>>>,
            left: u32,
        ) -> GrantLog {
            Box::new(move |_| {
                if left > 0 {
                    let log = nested(engine.clone(), grant.clone(), refused.clone(), left - 1);
                    let made = engine.grant(grant.clone(), &log);
                    refused.lock().extend(made.err().map(|error| error.kind()));
                }
                Ok(())
            })
        }
        let log = nested(engine.clone(), grant.clone(), refused.clone(), 10);
        engine.grant(grant.clone(), &log).unwrap();
        assert_eq!(*refused.lock(), [ErrorKind::LimitReached]);
        assert_eq!(engine.lock().grants.iter().count(), GRANTS_MAX);
    }

    #[test]
    fn a_grant_of_an_agent_that_went_meanwhile_is_none() {
        let (store, grant) = granting(1);
        let engine = store.engine().unwrap().clone();
        let number = grant.agent;
        let closes: GrantLog = Box::new({
            let engine = engine.clone();
            move |_| engine.reap(&mut engine.lock(), number)
        });
        assert_eq!(engine.grant(grant, &closes).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(engine.lock().grants.iter().count(), 0);
    }
}
