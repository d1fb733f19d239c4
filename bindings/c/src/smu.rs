//! Handles on content, and views of it.

use crate::border::{Digits, Out, Text, advice, hand_over_bytes, needed};
use crate::errors::answer;
use agentmem_core::{ContentId, Result};
use agentmem_store as store;
use std::ffi::{c_char, c_int, c_void};

/// `agentmem_smu`.
pub struct Smu {
    pub(crate) smu: store::Smu,
}

/// `agentmem_view`.
pub struct View {
    view: store::View,
}

/// `agentmem_id`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Id {
    /// Keyed BLAKE3 of the content.
    pub bytes: [u8; 32],
}

// What agentmem.h asserts as well.
const _: () = assert!(size_of::<Id>() == 32);

fn smu_of(given: Option<&Smu>) -> Result<&store::Smu> {
    Ok(&needed(given, "smu")?.smu)
}

/// Frees the handle.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_free(smu: Option<Box<Smu>>) {
    answer(|| {
        drop(smu);
        Ok(())
    });
}

/// What it is.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_kind(smu: Option<&Smu>, kind: Out<u32>) -> c_int {
    answer(|| kind.fill("kind", || Ok(smu_of(smu)?.kind() as u32)))
}

/// Length of the content.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_logical_bytes(smu: Option<&Smu>, bytes: Out<u64>) -> c_int {
    answer(|| bytes.fill("bytes", || Ok(smu_of(smu)?.logical_bytes())))
}

/// 0 to 100.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_importance(smu: Option<&Smu>, importance: Out<i32>) -> c_int {
    answer(|| importance.fill("importance", || Ok(smu_of(smu)?.importance().into())))
}

/// Where it is now.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_tier(smu: Option<&Smu>, tier: Out<u32>) -> c_int {
    answer(|| tier.fill("tier", || Ok(smu_of(smu)?.tier()? as u32)))
}

/// NUMA node of its raw bytes.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_numa_node(smu: Option<&Smu>, node: Out<i32>) -> c_int {
    answer(|| node.fill("node", || Ok(smu_of(smu)?.numa_node()?.map_or(-1, |node| node as i32))))
}

/// A name of it.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_name(smu: Option<&Smu>, name: Out<*mut c_char>) -> c_int {
    answer(|| {
        name.fill("name", || match smu_of(smu)?.name()? {
            Some(name) => hand_over_bytes(name.as_bytes()),
            None => Ok(std::ptr::null_mut()),
        })
    })
}

/// Its id.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_id(smu: Option<&Smu>, id: Out<Id>) -> c_int {
    answer(|| id.fill("id", || Ok(Id { bytes: smu_of(smu)?.id()?.0 })))
}

/// Bytes kept for it.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_stored_bytes(smu: Option<&Smu>, bytes: Out<u64>) -> c_int {
    answer(|| bytes.fill("bytes", || smu_of(smu)?.stored_bytes()))
}

/// Agents that hold it.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_shared_by(smu: Option<&Smu>, agents: Out<u32>) -> c_int {
    answer(|| agents.fill("agents", || smu_of(smu)?.shared_by()))
}

/// Says what is known about its next use.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_advise(smu: Option<&Smu>, advice: u32) -> c_int {
    answer(|| smu_of(smu)?.advise(self::advice(advice)?))
}

/// Pins its content.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_smu_view(smu: Option<&Smu>, view: Out<*mut View>) -> c_int {
    answer(|| view.hand_over("view", || Ok(View { view: smu_of(smu)?.view()? })))
}

/// The bytes that a view shows.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_view_bytes(view: Option<&View>, bytes: Out<*const c_void>, len_bytes: Out<usize>) -> c_int {
    answer(|| {
        len_bytes.clear("len_bytes")?;
        bytes.fill("bytes", || {
            let shown = needed(view, "view")?.view.bytes();
            len_bytes.write(shown.len());
            Ok(shown.as_ptr().cast())
        })
    })
}

/// Takes the pin away.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_view_free(view: Option<Box<View>>) {
    answer(|| {
        drop(view);
        Ok(())
    });
}

/// An id as 64 digits.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_id_text(id: Option<&Id>, text: Digits) -> c_int {
    answer(|| text.write(&ContentId(needed(id, "id")?.bytes)))
}

/// The id that 64 digits are.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_id_parse(text: Text, id: Out<Id>) -> c_int {
    answer(|| id.fill("id", || Ok(Id { bytes: ContentId::parse(text.needed("text")?)?.0 })))
}
