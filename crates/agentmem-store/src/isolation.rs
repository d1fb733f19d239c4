//! Two agents of one user in two domains: whatever one of them says to the daemon, it learns nothing of the other.

use crate::call::{Call, encode};
use crate::calls;
use crate::calls::agent::{
    AttachId, AttachName, AttachSmu, CloseAgent, ListConversations, ListSmus, OpenConversation, ReadAgent,
    ReleaseConversation, SetQuota, SetState,
};
use crate::calls::agents::{LimitAgent, ListAgentFigures};
use crate::calls::conversation::ReadMessages;
use crate::calls::domain::ReadDomain;
use crate::calls::grants::{ListGrants, MakeGrant, Redeem, RevokeGrant};
use crate::calls::inspect::{Inspect, ReadAnyMessages, ReadContent};
use crate::calls::smu::{At, FindName, FindTier, Promote, Seal};
use crate::calls::store::{ListAgents, MapSegment, ReadAgentStats, ReadStats, Verify};
use crate::domains::{Domains, Limits};
use crate::options::{OnFull, Options};
use crate::remote::{HELLO, Hello, JOIN, Join, VERSION};
use crate::server::Server;
use crate::socket::{self, Message};
use crate::store::Store;
use crate::sys::Mapping;
use agentmem_core::{AgentState, ErrorKind, Kind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// What must be found nowhere: all that the victim holds and says is made of it.
const MARK: &[u8] = b"nobody else may see this";
const MARKED_NAME: &str = "nobody else may see this name";

fn serve(folder: &Path) -> (Arc<Server>, std::path::PathBuf) {
    let options = |_: &str| Ok(Options { pressure: false, ..Options::default() });
    let domains = Domains::new(128 << 20, Limits::default(), Box::new(options)).unwrap();
    let server = Server::new(domains.logging(Box::new(|_| Ok(()))), Box::new(|_, _| {}));
    let path = folder.join("agentmem.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = server.clone();
    std::thread::spawn(move || serving.run(&listener));
    (server, path)
}

fn token(domain: &str) -> Vec<u8> {
    format!("the token of {domain}").into_bytes()
}

/// The hostile one, which speaks the protocol by hand.
struct Hostile {
    stream: UnixStream,
}

impl Hostile {
    fn enter(path: &Path, domain: &str) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        let hello = Hello { domain: domain.to_owned(), token: token(domain) };
        socket::send(&stream, HELLO, &encode(&(VERSION, hello)).unwrap(), &[]).unwrap();
        assert_eq!(socket::receive(&stream, 1 << 20).unwrap().unwrap().number, 0);
        Hostile { stream }
    }

    /// Says anything; looks at all that comes back.
    fn say(&self, number: u16, body: &[u8]) -> Message {
        socket::send(&self.stream, number, body, &[]).unwrap();
        let answer = socket::receive(&self.stream, 1 << 30).unwrap().expect("an answer");
        assert!(!has_mark(&answer.body), "call {number} {body:?} answers {:?}", answer.body);
        answer
    }

    /// Says a call; returns what error it is answered with.
    fn ask<C: Call>(&self, call: &C) -> Result<C::Answer, ErrorKind> {
        let answer = self.say(C::NUMBER, &encode(call).unwrap());
        match ErrorKind::ALL.into_iter().find(|&kind| kind as u16 == answer.number) {
            Some(kind) => Err(kind),
            None => Ok(postcard::from_bytes(&answer.body).unwrap()),
        }
    }
}

fn has_mark(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

#[test]
fn whatever_a_session_asks_for_it_learns_nothing_of_another_domain() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = serve(folder.path());
    let store = Store::connect(&path, Some(("victim", &token("victim"))), OnFull::Wait).unwrap();
    let victim = store.agent(MARKED_NAME, None, None, None).unwrap();
    let content: Vec<u8> = MARK.iter().copied().cycle().take(100_000).collect();
    let large: Vec<u8> = MARK.iter().copied().cycle().take(2 << 20).collect();
    let smu = victim.put(&content, Kind::SystemPrompt, Some(MARKED_NAME), 50, OnFull::Wait).unwrap();
    let kept_large = victim.put(&large, Kind::ToolResult, None, 50, OnFull::Wait).unwrap();
    let talk = victim.conversation(Some(MARKED_NAME)).unwrap();
    talk.append(MARK, Default::default(), OnFull::Wait).unwrap();
    let grant = victim.grant(&smu, "friend", 3_600_000, 1).unwrap();
    let ids = [smu.id().unwrap().0, kept_large.id().unwrap().0];
    let _viewed = kept_large.view().unwrap();

    let hostile = Hostile::enter(&path, "hostile");
    // There is nothing in its own domain, so all that it can name is the other's.
    assert_eq!(hostile.ask(&ListAgents).unwrap(), Vec::<String>::new());
    let stats = hostile.ask(&ReadStats).unwrap();
    assert_eq!((stats.agents, stats.smus, stats.conversations, stats.logical_bytes), (0, 0, 0, 0));
    assert!(stats.counters.iter().all(|(_, count)| *count == 0), "{:?}", stats.counters);
    let domain = hostile.ask(&ReadDomain).unwrap();
    assert_eq!((domain.name.as_str(), domain.used_bytes, domain.agents), ("hostile", 0, 0));
    assert!(hostile.ask(&ListAgentFigures { after: String::new() }).unwrap().is_empty());
    assert!(hostile.ask(&ListGrants).unwrap().is_empty());
    let found = hostile.ask(&Verify).unwrap();
    assert_eq!((found.frames, found.smus, found.messages), (0, 0, 0));
    let not_found = Some(ErrorKind::NotFound);
    // An error names what was asked for, so what is marked is asked for by its beginning.
    let beginning = || MARKED_NAME[..8].to_owned();
    assert_eq!(hostile.ask(&ReadAgentStats { name: beginning() }).err(), not_found);
    assert_eq!(hostile.ask(&Inspect { key: beginning() }).err(), not_found);
    for id in ids {
        let key = agentmem_core::ContentId(id).to_string();
        assert_eq!(hostile.ask(&Inspect { key: key[..8].to_owned() }).err(), not_found);
        assert_eq!(hostile.ask(&Inspect { key }).err(), not_found);
        assert_eq!(hostile.ask(&ReadContent { id, offset_bytes: 0 }).err(), not_found);
    }
    let own = hostile.ask(&calls::store::OpenAgent {
        name: "hostile".into(),
        importance: None,
        quota_bytes: None,
        pid: None,
        is_lasting: false,
    });
    let own = own.unwrap().number;
    for id in ids {
        assert_eq!(hostile.ask(&AttachId { agent: own, id }).err(), not_found);
    }
    for agent in 0..8u32 {
        for slot in 0..64 {
            let smu = At { agent, slot, generation: u64::from(slot % 3) };
            assert!(hostile.ask(&AttachSmu { agent: own, smu }).is_err());
            assert!(hostile.ask(&Promote { smu }).is_err());
            assert!(hostile.ask(&Seal { smu }).is_err());
            assert!(hostile.ask(&FindTier { smu }).is_err());
            assert!(hostile.ask(&FindName { smu }).is_err());
            assert!(hostile.ask(&MakeGrant { smu, to: "friend".into(), lasts_ms: 1000, uses: 1 }).is_err());
        }
        if agent != own {
            assert!(hostile.ask(&ReadAgent { agent }).is_err());
            assert!(hostile.ask(&ListSmus { agent }).is_err());
            assert!(hostile.ask(&ListConversations { agent }).is_err());
            assert!(hostile.ask(&OpenConversation { agent, name: None }).is_err());
            assert!(hostile.ask(&ReleaseConversation { agent, conversation: 0 }).is_err());
            assert!(hostile.ask(&SetQuota { agent, quota_bytes: Some(0) }).is_err());
            assert!(hostile.ask(&SetState { agent, state: AgentState::Paused }).is_err());
            assert!(hostile.ask(&CloseAgent { agent }).is_err());
        }
        for conversation in 0..8 {
            assert!(hostile.ask(&ReadAnyMessages { conversation, index: 0, end: 9 }).is_err());
            assert!(hostile.ask(&ReadMessages { conversation, index: 0, end: 9 }).is_err());
        }
    }
    for name in ["victim", "friend", ""] {
        assert!(hostile.ask(&AttachName { agent: own, name: name.into() }).is_err());
        assert_eq!(hostile.ask(&LimitAgent { name: name.into(), quota_bytes: Some(0) }).err(), not_found);
    }
    assert_eq!(hostile.ask(&Redeem { agent: own, grant: grant.clone(), redemption: 1 }).err(), not_found);
    assert_eq!(hostile.ask(&RevokeGrant { grant: store.grants().unwrap()[0].id.clone() }).err(), not_found);
    assert_eq!(hostile.ask(&RevokeGrant { grant }).err(), not_found);
    // Memory that is lent is its own domain's.
    for segment in 0..64 {
        let answer = hostile.say(MapSegment::NUMBER, &encode(&MapSegment { segment }).unwrap());
        for descriptor in answer.descriptors {
            let facts: calls::store::SegmentFacts = postcard::from_bytes(&answer.body).unwrap();
            let mapping = Mapping::lent(descriptor, facts.len_bytes as usize).unwrap();
            let len = mapping.len().min(4 << 20);
            // SAFETY: inside of the mapping; the hostile session puts nothing meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts(mapping.as_ptr(), len) };
            assert!(!has_mark(bytes), "segment {segment}");
        }
    }
    // Nobody joins a session whose secret he has not.
    for byte in 0..=255 {
        let other = UnixStream::connect(&path).unwrap();
        socket::send(&other, JOIN, &encode(&Join { secret: [byte; 16] }).unwrap(), &[]).unwrap();
        assert_eq!(socket::receive(&other, 1 << 20).unwrap().unwrap().number, ErrorKind::Closed as u16);
    }
    // And anything at all, in any call.
    let mut word = 0x9E37_79B9_7F4A_7C15u64;
    for _ in 0..20_000 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        let number = calls::NUMBERS[word as usize % calls::NUMBERS.len()];
        let len = (word >> 16) as usize % 12;
        let body: Vec<u8> = (0..len).map(|at| (word >> (8 * (at % 8))) as u8 % 12).collect();
        hostile.say(number, &body);
    }

    assert_eq!(smu.view().unwrap().bytes(), content);
    assert_eq!(talk.read(0, 1).unwrap()[0].bytes, MARK);
    assert_eq!((victim.quota_bytes(), store.grants().unwrap().len()), (None, 1));
    server.stop().unwrap();
    let _ = UnixStream::connect(&path);
}

/// An old or a new one says its version first, and is told which the daemon has.
#[test]
fn a_hello_of_another_version_is_told_which_this_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = serve(folder.path());
    for version in [0, VERSION - 1, VERSION + 1, u32::MAX] {
        let stream = UnixStream::connect(&path).unwrap();
        socket::send(&stream, HELLO, &encode(&(version, "whatever follows")).unwrap(), &[]).unwrap();
        let answer = socket::receive(&stream, 1 << 20).unwrap().unwrap();
        let said = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.number, ErrorKind::Version as u16);
        assert_eq!(said, format!("protocol {version} (the daemon has {VERSION})"));
    }
    server.stop().unwrap();
    let _ = UnixStream::connect(&path);
}
