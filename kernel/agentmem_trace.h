/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM agentmem

#if !defined(_AGENTMEM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _AGENTMEM_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(agentmem_alloc,
	TP_PROTO(u32 agent, u64 id, u64 len, bool shared),
	TP_ARGS(agent, id, len, shared),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u64, len)
		__field(u32, agent)
		__field(bool, shared)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->len = len;
		__entry->agent = agent;
		__entry->shared = shared;
	),
	TP_printk("agent=%u id=%llu len=%llu shared=%d",
		  __entry->agent, __entry->id, __entry->len, __entry->shared)
);

TRACE_EVENT(agentmem_share,
	TP_PROTO(u32 from, u32 to, u64 id),
	TP_ARGS(from, to, id),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u32, from)
		__field(u32, to)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->from = from;
		__entry->to = to;
	),
	TP_printk("from=%u to=%u id=%llu", __entry->from, __entry->to, __entry->id)
);

DECLARE_EVENT_CLASS(agentmem_unit,
	TP_PROTO(u64 id, u32 unit, u32 pages, u32 stored_bytes),
	TP_ARGS(id, unit, pages, stored_bytes),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u32, unit)
		__field(u32, pages)
		__field(u32, stored_bytes)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->unit = unit;
		__entry->pages = pages;
		__entry->stored_bytes = stored_bytes;
	),
	TP_printk("id=%llu unit=%u pages=%u stored_bytes=%u",
		  __entry->id, __entry->unit, __entry->pages, __entry->stored_bytes)
);

DEFINE_EVENT(agentmem_unit, agentmem_promote,
	TP_PROTO(u64 id, u32 unit, u32 pages, u32 stored_bytes),
	TP_ARGS(id, unit, pages, stored_bytes)
);

DEFINE_EVENT(agentmem_unit, agentmem_demote,
	TP_PROTO(u64 id, u32 unit, u32 pages, u32 stored_bytes),
	TP_ARGS(id, unit, pages, stored_bytes)
);

TRACE_EVENT(agentmem_reclaim,
	TP_PROTO(int nid, unsigned long wanted, unsigned long freed),
	TP_ARGS(nid, wanted, freed),
	TP_STRUCT__entry(
		__field(int, nid)
		__field(unsigned long, wanted)
		__field(unsigned long, freed)
	),
	TP_fast_assign(
		__entry->nid = nid;
		__entry->wanted = wanted;
		__entry->freed = freed;
	),
	TP_printk("nid=%d wanted=%lu freed=%lu", __entry->nid, __entry->wanted, __entry->freed)
);

#endif /* _AGENTMEM_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE agentmem_trace
#include <trace/define_trace.h>
