//! Stores.

use crate::border::{Bytes, Out, Sized, Text, backend, needed, on_full, unless_none};
use crate::errors::{answer, invalid};
use crate::list::List;
use crate::stats::{self, DomainFigures, StoreFigures, Verification};
use crate::sys;
use agentmem_core::{Error, ErrorKind, Result, policy, runtime};
use agentmem_store as store;
use agentmem_store::{DomainQuota, OnFull, Options};
use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// `agentmem_store`.
pub struct Store {
    pub(crate) store: store::Store,
    path: Option<CString>,
}

impl Store {
    fn new(store: store::Store) -> Self {
        let path = store.path().and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        Store { store, path }
    }
}

/// `agentmem_options`. New members go to the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpenOptions {
    size_bytes: usize,
    path: Text,
    policy: Text,
    memory_max_bytes: u64,
    arena_bytes: u64,
    warm_after_ms: u64,
    cold_after_ms: u64,
    warm_level: i32,
    cold_level: i32,
    on_full: u32,
    cold: u32,
    pressure: u32,
    backend: u32,
}

// What agentmem.h asserts as well.
const _: () = assert!(size_of::<OpenOptions>() == 80);

impl OpenOptions {
    fn defaults() -> Self {
        let options = Options::default();
        OpenOptions {
            size_bytes: size_of::<Self>(),
            path: Text::NULL,
            policy: Text::NULL,
            memory_max_bytes: options.memory_max_bytes,
            arena_bytes: options.arena_bytes,
            warm_after_ms: options.warm_after_ms,
            cold_after_ms: options.cold_after_ms,
            warm_level: options.warm_level,
            cold_level: options.cold_level,
            on_full: 0,
            cold: options.cold.into(),
            pressure: options.pressure.into(),
            backend: options.backend as u32,
        }
    }

    fn options(&self) -> Result<Options> {
        let policy = self.policy.optional("options.policy")?.map(policy::by_name).transpose()?;
        let defaults = Options::default();
        Ok(Options {
            path: self.path.path().map(ToOwned::to_owned),
            memory_max_bytes: self.memory_max_bytes,
            cold: self.cold != 0,
            warm_after_ms: self.warm_after_ms,
            cold_after_ms: self.cold_after_ms,
            on_full: on_full(self.on_full)?,
            arena_bytes: self.arena_bytes,
            warm_level: self.warm_level,
            cold_level: self.cold_level,
            pressure: self.pressure != 0,
            backend: backend(self.backend)?,
            policy: policy.unwrap_or(defaults.policy),
            ..Options::default()
        })
    }
}

/// Sets defaults.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_options_init(options: Out<OpenOptions>, size_bytes: usize) -> c_int {
    answer(|| options.fill_sized("options", size_bytes, || Ok(OpenOptions { size_bytes, ..OpenOptions::defaults() })))
}

/// Opens a store in this process.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_open(options: Sized<OpenOptions>, store: Out<*mut Store>) -> c_int {
    answer(|| {
        store.hand_over("store", || {
            let defaults = OpenOptions::defaults();
            let given = if options.is_null() { defaults } else { options.read("options", defaults)? };
            Ok(Store::new(store::Store::open(given.options()?)?))
        })
    })
}

/// Where a daemon listens unless somebody says otherwise.
fn default_socket() -> PathBuf {
    let user = sys::user();
    runtime::socket(
        |name| std::env::var_os(name),
        user,
        |path| path.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user),
    )
}

/// Begins a session with a daemon.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_connect(
    socket: Text,
    domain: Text,
    token: Bytes,
    token_bytes: usize,
    on_full: u32,
    store: Out<*mut Store>,
) -> c_int {
    answer(|| {
        store.hand_over("store", || {
            let on_full: OnFull = self::on_full(on_full)?;
            let socket = socket.path().map_or_else(default_socket, ToOwned::to_owned);
            let token_given = token.slice(token_bytes, "token")?;
            let domain = match domain.optional("domain")? {
                Some(domain) if !token.is_null() => Some((domain, token_given)),
                None if token.is_null() => None,
                _ => return Err(invalid("a domain is entered by its name and its token")),
            };
            Ok(Store::new(store::Store::connect(&socket, domain, on_full)?))
        })
    })
}

/// Closes it.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_close(store: Option<&Store>) -> c_int {
    answer(|| needed(store, "store")?.store.close())
}

/// Frees the handle, and closes it before that.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_free(store: Option<Box<Store>>) {
    answer(|| {
        drop(store);
        Ok(())
    });
}

/// Its folder.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_path(store: Option<&Store>, path: Out<*const c_char>) -> c_int {
    answer(|| path.fill("path", || Ok(needed(store, "store")?.path.as_ref().map_or(std::ptr::null(), |p| p.as_ptr()))))
}

/// Its budget.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_memory_max_bytes(store: Option<&Store>, bytes: Out<u64>) -> c_int {
    answer(|| bytes.fill("bytes", || Ok(needed(store, "store")?.store.memory_max_bytes())))
}

/// Names of its agents.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_agents(store: Option<&Store>, names: Out<*mut List>) -> c_int {
    answer(|| names.hand_over("names", || Ok(List::of_names(needed(store, "store")?.store.agents()?))))
}

/// Makes all durable.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_flush(store: Option<&Store>) -> c_int {
    answer(|| needed(store, "store")?.store.flush())
}

/// Demotes.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_reclaim(store: Option<&Store>, target_bytes: u64, freed_bytes: Out<u64>) -> c_int {
    let target_bytes = unless_none(target_bytes);
    answer(|| freed_bytes.fill("freed_bytes", || needed(store, "store")?.store.reclaim(target_bytes)))
}

/// Reads and checks everything.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_verify(
    store: Option<&Store>,
    found: Out<Verification>,
    size_bytes: usize,
    damaged: Out<*mut List>,
) -> c_int {
    answer(|| {
        damaged.clear("damaged")?;
        let mut words = Vec::new();
        found.fill_sized("found", size_bytes, || {
            let verification = needed(store, "store")?.store.verify()?;
            let figures = Verification::of(&verification);
            words = verification.damaged;
            Ok(figures)
        })?;
        damaged.hand_over("damaged", || Ok(List::of_names(words)))
    })
}

/// What its domain holds and may hold.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_domain(store: Option<&Store>, domain: Out<DomainFigures>, size_bytes: usize) -> c_int {
    answer(|| {
        domain.fill_sized("domain", size_bytes, || Ok(DomainFigures::of(&needed(store, "store")?.store.domain()?)))
    })
}

/// Changes what its domain may hold.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_limit_domain(store: Option<&Store>, quota_bytes: u64, agents_max: u64) -> c_int {
    let quota = DomainQuota { logical_bytes: unless_none(quota_bytes), agents: unless_none(agents_max) };
    answer(|| needed(store, "store")?.store.limit_domain(quota))
}

/// What other domains may copy.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_grants_json(store: Option<&Store>, json: Out<*mut c_char>) -> c_int {
    answer(|| json.hand_over_text("json", || Ok(stats::grants_json(&needed(store, "store")?.store.grants()?))))
}

/// Takes a grant back.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_revoke(store: Option<&Store>, grant: Text) -> c_int {
    answer(|| needed(store, "store")?.store.revoke(grant.needed("grant")?))
}

/// Main figures.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_stats(store: Option<&Store>, stats: Out<StoreFigures>, size_bytes: usize) -> c_int {
    answer(|| stats.fill_sized("stats", size_bytes, || Ok(StoreFigures::of(&needed(store, "store")?.store.stats()?))))
}

/// All figures.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_stats_json(store: Option<&Store>, json: Out<*mut c_char>) -> c_int {
    answer(|| json.hand_over_text("json", || Ok(stats::store_json(&needed(store, "store")?.store.stats()?))))
}

/// Figures of an agent by name.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_store_agent_stats_json(store: Option<&Store>, name: Text, json: Out<*mut c_char>) -> c_int {
    answer(|| {
        json.hand_over_text("json", || {
            let stats = needed(store, "store")?.store.agent_stats(name.needed("name")?)?;
            Ok(stats::agent_json(&stats))
        })
    })
}
