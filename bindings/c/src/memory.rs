//! The short names: memory that is written first and published then.

use crate::agent::{Agent, agentmem_agent_attach, agentmem_agent_put, agentmem_agent_release, agentmem_agent_stats};
use crate::border::{Bytes, Out, Text, needed};
use crate::errors::{answer, invalid};
use crate::smu::{Smu, agentmem_smu_advise};
use crate::stats::AgentFigures;
use crate::sys;
use agentmem_core::smu::SMU_LOGICAL_BYTES_MAX;
use agentmem_core::{Advice, Result};
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

/// What lies in front of the memory that the caller sees, a cache line long.
#[repr(C, align(64))]
struct Head {
    mark: u64,
    len_bytes: usize,
}

const MARK: u64 = u64::from_le_bytes(*b"agentmem");

/// Memory of [`agent_malloc`]'s, which is its owner's alone.
#[repr(transparent)]
pub struct Memory(*mut c_void);

impl Memory {
    /// Room for `len_bytes`.
    fn allocate(len_bytes: usize) -> Result<*mut c_void> {
        if len_bytes as u64 > SMU_LOGICAL_BYTES_MAX {
            return Err(invalid(format!("memory of {len_bytes} bytes (4 GiB at most)")));
        }
        let head = sys::allocate_lines(size_of::<Head>() + len_bytes)?.cast::<Head>();
        // SAFETY: it is ours, aligned to a cache line, and long enough.
        unsafe {
            head.write(Head { mark: MARK, len_bytes });
            Ok(head.add(1).as_ptr().cast())
        }
    }

    fn head(&self) -> Result<NonNull<Head>> {
        let start = NonNull::new(self.0).ok_or_else(|| invalid("memory is NULL"))?.cast::<Head>();
        if !start.is_aligned() {
            return Err(invalid("memory is not agent_malloc's"));
        }
        // SAFETY: the caller promises memory of `agent_malloc`'s, which has a head in front of it. The mark tells of
        // some broken promises, where they can be told.
        unsafe {
            let head = start.sub(1);
            if head.as_ref().mark != MARK {
                return Err(invalid("memory is not agent_malloc's, or was sealed or discarded before"));
            }
            Ok(head)
        }
    }

    fn len_bytes(&self) -> Result<usize> {
        // SAFETY: `head` checked it.
        Ok(unsafe { self.head()?.as_ref() }.len_bytes)
    }

    fn free(self) -> Result<()> {
        let mut head = self.head()?;
        // SAFETY: `head` checked it, and it is the caller's to give away.
        unsafe {
            head.as_mut().mark = 0;
            sys::free(head.as_ptr().cast());
        }
        Ok(())
    }
}

/// Memory to write to.
#[unsafe(no_mangle)]
pub extern "C" fn agent_malloc(agent: Option<&Agent>, len_bytes: usize, memory: Out<*mut c_void>) -> c_int {
    answer(|| {
        memory.fill("memory", || {
            needed(agent, "agent")?;
            Memory::allocate(len_bytes)
        })
    })
}

/// Publishes it.
#[unsafe(no_mangle)]
pub extern "C" fn agent_seal(
    agent: Option<&Agent>,
    memory: Memory,
    kind: u32,
    name: Text,
    smu: Out<*mut Smu>,
) -> c_int {
    let mut sealed = 0;
    let checked = answer(|| {
        smu.clear("smu")?;
        let len_bytes = memory.len_bytes()?;
        sealed = agentmem_agent_put(agent, Bytes::at(memory.0), len_bytes, kind, name, 50, smu);
        if sealed == 0 { memory.free() } else { Ok(()) }
    });
    if checked == 0 { sealed } else { checked }
}

/// Gives back what was never sealed.
#[unsafe(no_mangle)]
pub extern "C" fn agent_discard(memory: Memory) -> c_int {
    answer(|| if memory.0.is_null() { Ok(()) } else { memory.free() })
}

/// A lease for another agent.
#[unsafe(no_mangle)]
pub extern "C" fn agent_share(smu: Option<&Smu>, to: Option<&Agent>, theirs: Out<*mut Smu>) -> c_int {
    agentmem_agent_attach(to, smu, theirs)
}

/// Keeps it resident and raw.
#[unsafe(no_mangle)]
pub extern "C" fn agent_mark_hot(smu: Option<&Smu>) -> c_int {
    agentmem_smu_advise(smu, Advice::Hot as u32)
}

/// Figures of an agent.
#[unsafe(no_mangle)]
pub extern "C" fn agent_get_stats(agent: Option<&Agent>, stats: Out<AgentFigures>, size_bytes: usize) -> c_int {
    agentmem_agent_stats(agent, stats, size_bytes)
}

/// Gives the lease back, and frees the handle where that went well.
#[unsafe(no_mangle)]
pub extern "C" fn agent_free(agent: Option<&Agent>, smu: Option<Box<Smu>>) -> c_int {
    let released = agentmem_agent_release(agent, smu.as_deref());
    if released != 0 {
        // Still the caller's.
        std::mem::forget(smu);
    }
    released
}
