//! Handles on content.

use crate::handle::Handle;
use crate::promise::{Promise, promise};
use agentmem_core::{Advice, Tier};
use agentmem_store as store;
use napi_derive::napi;

/// A handle on one content.
pub type SmuHandle = Handle<store::Smu>;

/// What it is.
#[napi]
pub fn smu_kind(smu: SmuHandle) -> &'static str {
    smu.kind().as_str()
}

/// Its length.
#[napi]
pub fn smu_logical_bytes(smu: SmuHandle) -> i64 {
    smu.logical_bytes() as i64
}

/// 0 to 100.
#[napi]
pub fn smu_importance(smu: SmuHandle) -> u8 {
    smu.importance()
}

/// A name of it.
#[napi]
pub fn smu_name(smu: SmuHandle) -> Promise<Option<String>, Option<String>> {
    promise(move || smu.name(), |name| name)
}

/// Where it is.
#[napi]
pub fn smu_tier(smu: SmuHandle) -> Promise<Tier, &'static str> {
    promise(move || smu.tier(), Tier::as_str)
}

/// The NUMA node of its raw bytes.
#[napi]
pub fn smu_numa_node(smu: SmuHandle) -> Promise<Option<u32>, Option<u32>> {
    promise(move || smu.numa_node(), |node| node)
}

/// Its id.
#[napi]
pub fn smu_id(smu: SmuHandle) -> Promise<String, String> {
    promise(move || Ok(smu.id()?.to_string()), |id| id)
}

/// What is kept for it.
#[napi]
pub fn smu_stored_bytes(smu: SmuHandle) -> Promise<u64, i64> {
    promise(move || smu.stored_bytes(), |bytes| bytes as i64)
}

/// How many agents hold it.
#[napi]
pub fn smu_shared_by(smu: SmuHandle) -> Promise<u32, u32> {
    promise(move || smu.shared_by(), |agents| agents)
}

/// Says what is known about its next use.
#[napi]
pub fn smu_advise(smu: SmuHandle, advice: String) -> Promise<(), ()> {
    promise(move || smu.advise(Advice::parse(&advice)?), |()| ())
}
