//! What is charged and set aside for content that does not come in after all is given back.

use crate::domains::{Limits, Terms};
use crate::limits::{Served, serve};
use crate::options::{OnFull, Options};
use crate::quota::DomainQuota;
use crate::ring::Operation;
use crate::store::{Agent, Store};
use agentmem_core::frame::Meta;
use agentmem_core::{ErrorKind, Kind};

const TOKEN: &[u8] = b"a token of the tenant";
const PUT: fn(u64) -> Operation = |key| Operation::Put { kind: Kind::ToolResult, importance: 50, name_bytes: 0, key };

fn with_quota(logical_bytes: Option<u64>) -> Served {
    let quota = DomainQuota { logical_bytes, agents: None };
    serve(Limits { made: Terms { quota, ..Terms::default() }, ..Limits::default() })
}

fn enter(served: &Served) -> Store {
    Store::connect(&served.path, Some(("tenant", TOKEN)), OnFull::Wait).unwrap()
}

fn agent(store: &Store, name: &str) -> Agent {
    store.agent(name, None, None, None).unwrap()
}

fn put(agent: &Agent, len: usize, on_full: OnFull) -> Result<(), ErrorKind> {
    let put = agent.put(&vec![7; len], Kind::ToolResult, None, 50, on_full);
    put.map(drop).map_err(|error| error.kind())
}

#[test]
fn what_is_refused_is_given_back_to_the_quota() {
    let served = with_quota(Some(3 << 20));
    let (one, two) = (enter(&served), enter(&served));
    let (own, foreign) = (agent(&one, "own"), agent(&two, "foreign"));
    let ring = &own.session().arena.ring;
    put(&own, 10_000, OnFull::Wait).unwrap();
    for _ in 0..20 {
        // In the name of an agent of another session.
        assert!(ring.spend(5000), "so much was set aside");
        ring.push(foreign.shared().number, PUT(0), [&[1; 5000], &[]]).unwrap();
        let key = own.session().link.leave_large(own.session().number, &vec![1; 1 << 20]).unwrap();
        ring.push(foreign.shared().number, PUT(key), [&[], &[]]).unwrap();
        own.session().drain().unwrap();
    }
    let domain = served.server.domains().enter("tenant", TOKEN).unwrap();
    let engine = domain.store.engine().unwrap();
    assert_eq!(engine.lock().counters.reject_cell, 40);
    assert!(engine.inbox.lock().is_empty(), "what was left for a put that was refused");
    put(&foreign, (3 << 20) - 10_000, OnFull::Wait).unwrap();
    assert_eq!(two.domain().unwrap().used_bytes, 3 << 20);
}

#[test]
fn a_message_for_a_conversation_that_was_released_is_charged_to_nobody() {
    let served = with_quota(Some(1_000_000));
    let store = enter(&served);
    let agent = agent(&store, "agent");
    agent.set_quota_bytes(Some(10_000)).unwrap();
    let domain = served.server.domains().enter("tenant", TOKEN).unwrap();
    append_after_release(&agent, domain.store.engine().unwrap());
    assert_eq!(store.domain().unwrap().used_bytes, 0);
    // The session hears of it, and need not ask.
    put(&agent, 9000, OnFull::Fail).unwrap();
    // Where the engine is in the same process, too.
    let store = Store::open(Options { pressure: false, ..Options::default() }).unwrap();
    let agent = store.agent("agent", None, Some(10_000), None).unwrap();
    append_after_release(&agent, store.engine().unwrap());
    assert_eq!(store.agent_stats("agent").unwrap().logical_bytes, 0);
    put(&agent, 9000, OnFull::Fail).unwrap();
}

/// Appends as a thread does that was about to when another released the conversation.
fn append_after_release(agent: &Agent, engine: &crate::engine::Engine) {
    let talk = agent.conversation(None).unwrap();
    let conversation = *engine.lock().conversations.keys().next().unwrap();
    agent.release_conversation(&talk).unwrap();
    let append = |key| Operation::Append { conversation, meta: Meta::default(), key };
    agent.push_message(&[1; 9000], append, OnFull::Wait).unwrap();
    agent.session().drain().unwrap();
}

#[test]
fn what_may_be_put_unasked_ends_soon_after_there_is_a_quota() {
    let served = with_quota(None);
    let store = enter(&served);
    let agent = agent(&store, "agent");
    let domain = served.server.domains().enter("tenant", TOKEN).unwrap();
    let engine = domain.store.engine().unwrap();
    store.limit_domain(DomainQuota { logical_bytes: Some(1000), agents: None }).unwrap();
    let put_unasked = || {
        agent.session().arena.ring.push(agent.shared().number, PUT(0), [&[1; 5000], &[]]).unwrap();
        agent.session().drain().unwrap();
        (store.domain().unwrap().used_bytes, engine.lock().counters.reject_quota)
    };
    // It was under way when the quota came, as far as anybody can know.
    assert_eq!(put_unasked(), (5000, 0));
    // What is not drained may be of it still.
    for _ in 0..20 {
        let ring = &agent.session().arena.ring;
        ring.push(agent.shared().number, Operation::Release { slot: 0, generation: 0 }, [&[], &[]]).unwrap();
        agent.session().drain().unwrap();
    }
    (0..8).for_each(|_| engine.lock().top_up_all());
    assert_eq!(put_unasked(), (5000, 1));
}
