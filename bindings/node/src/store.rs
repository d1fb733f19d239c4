//! Stores.

use crate::agent::{self, AgentHandle};
use crate::errors::answer;
use crate::figures;
use crate::handle::Handle;
use crate::number::{maybe_whole, whole};
use crate::promise::{Promise, promise};
use agentmem_core::{Backend, Error, ErrorKind, Result, policy, runtime};
use agentmem_store as store;
use agentmem_store::{DomainQuota, OnFull, Options};
use napi::Env;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A store.
pub type StoreHandle = Handle<store::Store>;

/// How a store is opened. What is not given is as the engine has it.
#[napi(object, object_to_js = false)]
pub struct OpenOptions {
    /// Folder of the cold tier.
    pub path: Option<String>,
    /// Name of a policy.
    pub policy: Option<String>,
    /// Budget.
    pub memory_max_bytes: Option<f64>,
    /// Size of the ring.
    pub arena_bytes: Option<f64>,
    /// Age of what is compressed.
    pub warm_after_ms: Option<f64>,
    /// Age of what goes to SSD.
    pub cold_after_ms: Option<f64>,
    /// zstd level.
    pub warm_level: Option<f64>,
    /// zstd level.
    pub cold_level: Option<f64>,
    /// "wait" or "fail".
    pub on_full: Option<String>,
    /// Whether there is a cold tier.
    pub cold: Option<bool>,
    /// Whether to heed memory pressure.
    pub pressure: Option<bool>,
    /// "user", "kernel" or "auto".
    pub backend: Option<String>,
}

impl OpenOptions {
    fn options(self) -> Result<Options> {
        let mut options = Options { path: self.path.map(PathBuf::from), ..Options::default() };
        if let Some(name) = self.policy {
            options.policy = policy::by_name(&name)?;
        }
        if let Some(word) = self.backend {
            options.backend = Backend::parse(&word)?;
        }
        if let Some(word) = self.on_full {
            options.on_full = on_full(&word)?;
        }
        for (name, given, option) in [
            ("memoryMaxBytes", self.memory_max_bytes, &mut options.memory_max_bytes),
            ("arenaBytes", self.arena_bytes, &mut options.arena_bytes),
            ("warmAfterMs", self.warm_after_ms, &mut options.warm_after_ms),
            ("coldAfterMs", self.cold_after_ms, &mut options.cold_after_ms),
        ] {
            *option = maybe_whole(given, name)?.unwrap_or(*option);
        }
        for (name, given, option) in [
            ("warmLevel", self.warm_level, &mut options.warm_level),
            ("coldLevel", self.cold_level, &mut options.cold_level),
        ] {
            *option = maybe_whole(given, name)?.unwrap_or(*option);
        }
        options.cold = self.cold.unwrap_or(options.cold);
        options.pressure = self.pressure.unwrap_or(options.pressure);
        Ok(options)
    }
}

fn on_full(word: &str) -> Result<OnFull> {
    match word {
        "wait" => Ok(OnFull::Wait),
        "fail" => Ok(OnFull::Fail),
        other => Err(Error::new(ErrorKind::InvalidArgument, format!("onFull={other:?} is none of wait, fail"))),
    }
}

fn handle(store: store::Store) -> StoreHandle {
    Handle::new(store)
}

/// Opens a store in this process.
#[napi]
pub fn open_store(options: OpenOptions) -> Promise<store::Store, StoreHandle> {
    promise(|| store::Store::open(options.options()?), handle)
}

/// A session with the daemon at `socket`.
#[napi]
pub fn connect_store(
    socket: String,
    domain: Option<String>,
    token: Option<Uint8Array>,
    on_full: String,
) -> Promise<store::Store, StoreHandle> {
    let token = token.map(|token| token.to_vec());
    let connect = move || {
        let domain = match (&domain, &token) {
            (Some(domain), Some(token)) => Some((domain.as_str(), token.as_slice())),
            (None, None) => None,
            _ => {
                let what = "a domain is entered by its name and its token";
                return Err(Error::new(ErrorKind::InvalidArgument, what));
            }
        };
        store::Store::connect(socket.as_ref(), domain, self::on_full(&on_full)?)
    };
    promise(connect, handle)
}

/// Where `user`'s daemon listens.
#[napi]
pub fn default_socket(env: Env, user: f64) -> napi::Result<String> {
    let user: u32 = answer(&env, || whole(user, "user"))?;
    let is_ours =
        |path: &std::path::Path| std::fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == user);
    Ok(runtime::socket(|name| std::env::var_os(name), user, is_ours).to_string_lossy().into_owned())
}

/// Its folder.
#[napi]
pub fn store_path(store: StoreHandle) -> Option<String> {
    store.path().map(|path| path.to_string_lossy().into_owned())
}

/// Its budget.
#[napi]
pub fn store_memory_max_bytes(store: StoreHandle) -> i64 {
    store.memory_max_bytes() as i64
}

/// Whether it can be used no more.
#[napi]
pub fn store_is_closed(store: StoreHandle) -> bool {
    store.is_closed()
}

/// Registers an agent.
#[napi]
pub fn store_agent(
    store: StoreHandle,
    name: String,
    importance: Option<f64>,
    quota_bytes: Option<f64>,
    pid: Option<f64>,
    lasting: bool,
) -> Promise<store::Agent, AgentHandle> {
    let open = move || {
        let importance = importance.map(agent::importance).transpose()?;
        let (quota_bytes, pid) = (maybe_whole(quota_bytes, "quotaBytes")?, maybe_whole(pid, "pid")?);
        match lasting {
            true => store.lasting_agent(&name, importance, quota_bytes, pid),
            false => store.agent(&name, importance, quota_bytes, pid),
        }
    };
    promise(open, Handle::new)
}

/// Names of its agents.
#[napi]
pub fn store_agents(store: StoreHandle) -> Promise<Vec<String>, Vec<String>> {
    promise(move || store.agents(), |names| names)
}

/// Makes all durable.
#[napi]
pub fn store_flush(store: StoreHandle) -> Promise<(), ()> {
    promise(move || store.flush(), |()| ())
}

/// Its figures.
#[napi]
pub fn store_stats(store: StoreHandle) -> Promise<Value, Value> {
    promise(move || Ok(figures::store(&store.stats()?)), |figures| figures)
}

/// Figures of one of its agents.
#[napi]
pub fn store_agent_stats(store: StoreHandle, name: String) -> Promise<Value, Value> {
    promise(move || Ok(figures::agent(&store.agent_stats(&name)?)), |figures| figures)
}

/// Figures of all of them.
#[napi]
pub fn store_all_agent_stats(store: StoreHandle) -> Promise<Vec<Value>, Vec<Value>> {
    let list = move || {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let some = store.agents_after(&after)?;
            let Some(last) = some.last() else { return Ok(all) };
            after.clone_from(&last.stats.name);
            all.extend(some.iter().map(figures::agent_everywhere));
        }
    };
    promise(list, |figures| figures)
}

/// Changes the quota of one of its agents.
#[napi]
pub fn store_limit(store: StoreHandle, name: String, quota_bytes: Option<f64>) -> Promise<(), ()> {
    promise(move || store.limit_agent(&name, maybe_whole(quota_bytes, "quotaBytes")?), |()| ())
}

/// What its domain holds and may hold.
#[napi]
pub fn store_domain(store: StoreHandle) -> Promise<Value, Value> {
    promise(move || Ok(figures::domain(&store.domain()?)), |domain| domain)
}

/// Changes what its domain may hold.
#[napi]
pub fn store_limit_domain(store: StoreHandle, quota_bytes: Option<f64>, agents_max: Option<f64>) -> Promise<(), ()> {
    let limit = move || {
        let (logical_bytes, agents) = (maybe_whole(quota_bytes, "quotaBytes")?, maybe_whole(agents_max, "agentsMax")?);
        store.limit_domain(DomainQuota { logical_bytes, agents })
    };
    promise(limit, |()| ())
}

/// What other domains may copy.
#[napi]
pub fn store_grants(store: StoreHandle) -> Promise<Vec<Value>, Vec<Value>> {
    promise(move || Ok(store.grants()?.iter().map(figures::grant).collect()), |grants| grants)
}

/// Takes a grant back.
#[napi]
pub fn store_revoke(store: StoreHandle, grant: String) -> Promise<(), ()> {
    promise(move || store.revoke(&grant), |()| ())
}

/// Demotes; gives the bytes that were given back.
#[napi]
pub fn store_reclaim(store: StoreHandle, target_bytes: Option<f64>) -> Promise<u64, i64> {
    promise(move || store.reclaim(maybe_whole(target_bytes, "targetBytes")?), |bytes| bytes as i64)
}

/// Reads and checks everything.
#[napi]
pub fn store_verify(store: StoreHandle) -> Promise<Value, Value> {
    promise(move || Ok(figures::verification(&store.verify()?)), |found| found)
}

/// Closes it.
#[napi]
pub fn store_close(store: StoreHandle) -> Promise<(), ()> {
    promise(move || store.close(), |()| ())
}

/// Closes it, and waits for that: for a process that ends.
#[napi]
pub fn store_close_now(env: Env, store: StoreHandle) -> napi::Result<()> {
    answer(&env, || store.close())
}
