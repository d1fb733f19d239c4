/* SPDX-License-Identifier: GPL-2.0 */
/*
 * agentmem: memory of AI agents by what it is made of.
 *
 * Each open file of /dev/agentmem is an agent. It holds semantic memory units
 * (SMUs): immutable contents, found by their digest and kept once for all agents
 * of a user. An SMU that is mapped by many has one set of page frames. What is
 * idle is compressed, loses its pages, and gets them back when it is touched.
 *
 * Invariants:
 *
 * - A content never changes once it can be found. There is no writable mapping,
 *   and none can become writable or executable.
 * - A page is dropped only if its unit is encoded, and nobody but us refers to
 *   the page after all mappings of the unit are gone. New references come from
 *   the fault handler alone, which takes the SMU's lock.
 * - The place of an SMU in the address space of the device is its id. Places are
 *   never used again, so that a stale id finds nothing.
 * - Reclaim waits for no lock of an SMU or a codec: it tries, and goes on.
 *
 * Order of locks: mmap_lock, agent->lock, smu->lock, codec->lock, i_mmap_rwsem.
 * User memory is touched under none of ours. am_index_lock and am_users_lock
 * are last, and nothing is allocated under them that could wait for reclaim.
 */
#ifndef _AGENTMEM_H
#define _AGENTMEM_H

#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/rhashtable.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <linux/version.h>
#include <linux/xarray.h>

#include "agentmem_uapi.h"

#define AM_UNIT_BYTES_MAX	SZ_64K
#define AM_UNIT_PAGES_MAX	(AM_UNIT_BYTES_MAX / PAGE_SIZE)

/* What a call allocates. It fails with ENOMEM where the OOM killer would be next. */
#define AM_GFP		(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)
#define AM_GFP_PAGE	(AM_GFP | __GFP_HIGHMEM)
/* A fault cannot say ENOMEM, so it does what any other page fault does. */
#define AM_GFP_FAULT	(GFP_HIGHUSER | __GFP_ACCOUNT)
/* Demotion takes less than it gives, at most a unit for each codec at a time. */
#define AM_GFP_DEMOTE	(GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT)

/* In the order of the figures in struct agentmem_stats. */
enum am_count {
	AM_AGENTS,
	AM_SMUS,
	AM_LEASES,
	AM_LOGICAL_BYTES,
	AM_CONTENT_BYTES,
	AM_SHARED_BYTES,
	AM_RESIDENT_BYTES,
	AM_STORED_BYTES,
	AM_PACKED_BYTES,
	AM_RAW_BYTES,
	AM_PUTS,
	AM_DEDUP_HITS,
	AM_PROMOTIONS,
	AM_REFAULTS,
	AM_DEMOTIONS,
	AM_RECLAIMED_BYTES,
	AM_MOVED_SLOW_BYTES,
	AM_MOVED_FAST_BYTES,
	AM_REJECT_LIMIT,
	AM_COUNTS,
};

static_assert(offsetof(struct agentmem_stats, reserved) -
	      offsetof(struct agentmem_stats, agents) == AM_COUNTS * sizeof(u64));

struct am_counts {
	atomic64_t of[AM_COUNTS];
};

/* Whoever limits go by. Namespaces do not multiply them. */
struct am_user {
	struct list_head node;
	refcount_t refs;
	kuid_t uid;
	struct am_counts counts;
};

/* Encoded bytes, in pieces that leave the slab allocator little to round up. */
struct am_chunk {
	struct am_chunk *next;
	u8 bytes[];
};

#define AM_UNIT_RAW	U32_MAX	/* tried, and does not shrink: its pages stay */

/* What is encoded together. */
struct am_unit {
	struct am_chunk *chunks;
	u32 packed_bytes;	/* 0: not tried yet, so all of its pages are there */
	u32 stored_bytes;
};

/* What makes two contents the same. Hashed as a whole, so without holes. */
struct am_key {
	u8 digest[AGENTMEM_DIGEST_BYTES];
	u64 len;
	u64 user_ns;
	u64 uid;
};

struct am_smu {
	struct rhash_head node;
	struct am_key key;
	u64 id;			/* in pages: its place in am_space */
	u32 nr_pages;
	u32 nr_units;
	u32 unit_pages;
	u32 kind;
	refcount_t refs;	/* leases, mappings, lent files, and who looks at it */
	atomic_t mappings;
	struct am_user *user;
	struct user_namespace *user_ns;
	struct mem_cgroup *memcg;

	struct mutex lock;	/* all below, and units and pages */
	struct list_head lru;	/* while it has pages that can be dropped */
	int lru_nid;		/* NUMA_NO_NODE: not on it */
	u32 pass;		/* of the last sample that saw it; under the list's lock */
	u32 holders[AGENTMEM_PAUSED + 1];
	u32 importance;		/* the highest that an agent asked for */
	u32 advice;
	bool probed;		/* unmapped, to see whether it is used */
	unsigned long used;	/* jiffies */
	unsigned long demoted;
	u32 resident;		/* pages */
	u32 raw;		/* of those, in units that do not shrink */
	u64 packed_bytes;
	u64 stored_bytes;
	struct page **pages;
	struct am_unit *units;
	struct rcu_head rcu;
};

struct am_lease {
	struct rb_node node;
	struct am_smu *smu;
	u32 count;
};

struct am_agent {
	refcount_t refs;
	u32 id;
	struct am_user *user;
	struct user_namespace *user_ns;
	struct pid *pid;

	struct mutex lock;	/* all below */
	struct rb_root leases;	/* by id; places do not overlap */
	bool closed;
	u32 state;
	u32 importance;
	char name[AGENTMEM_NAME_BYTES];
	struct am_counts counts;
	struct rcu_head rcu;
};

/* device.c */
extern struct inode *am_space;	/* whose mapping all files use, so that it has all mappings */

struct file *am_lend(struct am_smu *smu);

/* agent.c */
extern struct am_counts am_all;
extern struct xarray am_agents;

void am_add(struct am_user *user, enum am_count what, s64 n);
void am_agent_add(struct am_agent *agent, enum am_count what, s64 n);
int am_charge(struct am_user *user, enum am_count what, u64 n);
void am_user_put(struct am_user *user);
void am_user_figures(kuid_t uid, u64 figures[AM_COUNTS]);
u32 am_holders(const struct am_smu *smu);
struct am_lease *am_lease_at(const struct am_agent *agent, u64 place);
int am_lease_add(struct am_agent *agent, struct am_smu *smu);
int am_lease_free(struct am_agent *agent, u64 id);
struct am_smu *am_held(struct am_agent *agent, u64 place);
struct am_smu *am_held_by_id(struct am_agent *agent, u64 id);
struct am_agent *am_agent_get(u32 id);
void am_agent_put(struct am_agent *agent);
void am_agent_set_state(struct am_agent *agent, u32 state);
int am_users_start(void);
void am_users_stop(void);
int am_open(struct inode *inode, struct file *file);
int am_release(struct inode *inode, struct file *file);

/* calls.c */
long am_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* codec.c */
struct am_codec;

struct am_codec *am_codec_get(bool may_wait);
void am_codec_put(struct am_codec *codec);
void *am_codec_plain(struct am_codec *codec);
u32 am_compress(struct am_codec *codec, u32 plain_bytes);
int am_decompress(struct am_codec *codec, const struct am_chunk *chunks, u32 packed_bytes,
		  u32 plain_bytes);
u32 am_chunks_stored_bytes(u32 packed_bytes);
struct am_chunk *am_chunks_make(const struct am_codec *codec, u32 packed_bytes);
void am_chunks_free(struct am_chunk *chunk);
int am_codecs_start(void);
void am_codecs_stop(void);

/* node.c */
int am_slow_node(void);
bool am_wants_slow(u32 advice, u32 importance, u32 awake);
int am_nodes_start(void);
void am_nodes_stop(void);

/* reclaim.c */
extern struct list_lru am_lru;

void am_lru_add(struct am_smu *smu, int nid);
void am_lru_del(struct am_smu *smu);
int am_reclaim_start(void);
void am_reclaim_stop(void);

/* smu.c */
extern atomic64_t am_node_pages[MAX_NUMNODES];

struct am_smu *am_smu_new(struct am_agent *agent, const struct agentmem_alloc *args);
int am_fill(struct am_smu *smu, u64 addr, bool slow);
struct am_smu *am_publish(struct am_smu *fresh, bool *shared);
struct am_smu *am_find(const struct am_agent *agent, const u8 *digest, u64 len);
void am_put(struct am_smu *smu);
struct page *am_page_get(struct am_smu *smu, u32 index, struct am_agent *agent);
void am_probe(struct am_smu *smu);
unsigned long am_demote(struct am_smu *smu, unsigned long wanted, bool may_wait);
int am_promote(struct am_smu *smu, struct am_agent *agent);
void am_place(struct am_smu *smu);
int am_smus_start(void);
void am_smus_stop(void);

/* stats.c */
void am_figures(const struct am_counts *counts, u64 figures[AM_COUNTS]);
void am_agent_figures(struct am_agent *agent, u64 figures[AM_COUNTS]);
int am_stats_start(void);
void am_stats_stop(void);

#endif /* _AGENTMEM_H */
