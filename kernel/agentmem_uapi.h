/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What /dev/agentmem understands.
 *
 * Each open file is an agent. It holds semantic memory units (SMUs): immutable
 * contents, each kept once for all agents of one user in one user namespace.
 * An SMU is mapped, for reading only, at the offset id * page size of the file.
 *
 * Each structure is the same for 32-bit and 64-bit callers. Flags and reserved
 * fields that are not named must be zero, or the call fails with EINVAL.
 */
#ifndef _UAPI_AGENTMEM_H
#define _UAPI_AGENTMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define AGENTMEM_VERSION		1

/* Bits of agentmem_api.features. */
#define AGENTMEM_FEATURE_COMPRESSION	(1ULL << 0)	/* cold SMUs are compressed */
#define AGENTMEM_FEATURE_SLOW_NODE	(1ULL << 1)	/* there is a slow node now */
#define AGENTMEM_FEATURE_LEND		(1ULL << 2)	/* there is AGENTMEM_IOC_LEND */

#define AGENTMEM_DIGEST_BYTES		32		/* SHA-256 */
#define AGENTMEM_NAME_BYTES		32		/* with the final NUL */
#define AGENTMEM_SMU_BYTES_MAX		(1ULL << 30)
#define AGENTMEM_IMPORTANCE_MAX		100
#define AGENTMEM_IMPORTANCE_DEFAULT	50

enum agentmem_kind {
	AGENTMEM_SYSTEM_PROMPT		= 0,
	AGENTMEM_TOOL_DEFINITION	= 1,
	AGENTMEM_TOOL_RESULT		= 2,
	AGENTMEM_MESSAGE		= 3,
};

enum agentmem_state {
	AGENTMEM_ACTIVE			= 0,
	AGENTMEM_IDLE			= 1,
	AGENTMEM_PAUSED			= 2,
};

enum agentmem_advice {
	AGENTMEM_NORMAL			= 0,
	AGENTMEM_HOT			= 1,	/* bring it back, onto a fast node, and keep it */
	AGENTMEM_COLD			= 2,	/* compress it now, and take it first */
	AGENTMEM_WILL_NEED		= 3,	/* bring it back, once */
};

enum agentmem_scope {
	AGENTMEM_OF_AGENT		= 0,	/* this open file */
	AGENTMEM_OF_USER		= 1,	/* all agents of its user */
	AGENTMEM_OF_ALL			= 2,	/* all users: for CAP_SYS_ADMIN */
};

/* The first thing to ask for. Newer versions only add. */
struct agentmem_api {
	__u32 version;
	__u32 page_bytes;
	__aligned_u64 features;
	__aligned_u64 smu_bytes_max;
	__aligned_u64 reserved[5];
};

/* Bits of agentmem_agent.set: what is to be changed. The rest is only told. */
#define AGENTMEM_SET_NAME		(1U << 0)
#define AGENTMEM_SET_STATE		(1U << 1)
#define AGENTMEM_SET_IMPORTANCE		(1U << 2)

struct agentmem_agent {
	__u32 set;
	__u32 state;
	__u32 importance;		/* what its SMUs get that name none */
	__u32 id;			/* out: what others share with it by */
	char name[AGENTMEM_NAME_BYTES];
	__aligned_u64 reserved[2];
};

/* Bits of agentmem_alloc.flags. */
#define AGENTMEM_ALLOC_IMPORTANCE	(1U << 0)	/* importance is set */

struct agentmem_alloc {
	__aligned_u64 addr;		/* the content, which is copied */
	__aligned_u64 len;
	__u32 kind;
	__u32 importance;
	__u32 flags;
	__u32 shared;			/* out: 1 if the content was there already */
	__aligned_u64 id;		/* out */
	__u8 digest[AGENTMEM_DIGEST_BYTES];	/* out */
	__aligned_u64 reserved[2];
};

/* Takes a lease of what an agent of the same user holds, by its digest. */
struct agentmem_attach {
	__u8 digest[AGENTMEM_DIGEST_BYTES];
	__aligned_u64 len;		/* of the content; out where it was 0 */
	__aligned_u64 id;		/* out */
	__aligned_u64 reserved[2];
};

/* Gives another agent of the same user a lease of what this one holds. */
struct agentmem_share {
	__aligned_u64 id;
	__u32 agent;
	__u32 flags;
	__aligned_u64 reserved[2];
};

/*
 * Gives one lease back. Mappings keep the content until they are gone, and
 * attach finds it as long.
 */
struct agentmem_free {
	__aligned_u64 id;
	__u32 flags;
	__u32 reserved;
};

/* Bits of agentmem_advise.flags. */
#define AGENTMEM_ADVISE_IMPORTANCE	(1U << 0)	/* importance is set */

struct agentmem_advise {
	__aligned_u64 id;
	__u32 advice;
	__u32 importance;
	__u32 flags;
	__u32 reserved;
};

/*
 * Makes a file descriptor (close-on-exec) of one SMU that this agent holds, to be
 * passed on: whoever has it can map that SMU for reading, from offset 0 on, and
 * nothing else. Like a mapping, it keeps the content after the lease is given
 * back; unlike a mapping, it does not keep the agent. It counts as a lease of the
 * user, not of the agent, until it and all mappings of it are gone.
 */
struct agentmem_lend {
	__aligned_u64 id;
	__u32 flags;
	__s32 fd;			/* out */
	__aligned_u64 reserved[2];
};

struct agentmem_info {
	__aligned_u64 id;		/* in */
	__aligned_u64 len;
	__aligned_u64 resident_bytes;	/* whole pages */
	__aligned_u64 slow_bytes;	/* of those, on the slow node */
	__aligned_u64 stored_bytes;	/* compressed, with what the allocator rounds up */
	__aligned_u64 raw_bytes;	/* of what does not shrink, and so stays resident */
	__u32 kind;
	__u32 importance;
	__u32 advice;
	__u32 leases;			/* of this agent */
	__u32 agents;			/* that hold it */
	__u32 flags;			/* in: 0 */
	__u8 digest[AGENTMEM_DIGEST_BYTES];
	__aligned_u64 reserved[4];
};

struct agentmem_stats {
	__u32 scope;			/* in */
	__u32 flags;			/* in: 0 */
	__aligned_u64 agents;
	__aligned_u64 smus;		/* of an agent: that it holds; else: that there are */
	__aligned_u64 leases;		/* of a user: and lent descriptors */
	__aligned_u64 logical_bytes;	/* what agents believe they hold */
	__aligned_u64 content_bytes;	/* each content once, in whole pages */
	__aligned_u64 shared_bytes;	/* of what two agents or more hold */
	__aligned_u64 resident_bytes;
	__aligned_u64 stored_bytes;
	__aligned_u64 packed_bytes;	/* what stored_bytes decode to */
	__aligned_u64 raw_bytes;
	__aligned_u64 puts;
	__aligned_u64 dedup_hits;	/* puts of what was there */
	__aligned_u64 promotions;	/* compression units brought back */
	__aligned_u64 refaults;		/* of those, soon after they were demoted */
	__aligned_u64 demotions;	/* compression units dropped from RAM */
	__aligned_u64 reclaimed_bytes;	/* dropped because memory was short */
	__aligned_u64 moved_slow_bytes;	/* to the slow node */
	__aligned_u64 moved_fast_bytes;	/* back from it */
	__aligned_u64 reject_limit;	/* calls refused for a limit of the user */
	__aligned_u64 reserved[8];
};

/* 0xE3 is not taken in Documentation/userspace-api/ioctl/ioctl-number.rst. */
#define AGENTMEM_IOC			0xE3
#define AGENTMEM_IOC_API		_IOR(AGENTMEM_IOC, 0, struct agentmem_api)
#define AGENTMEM_IOC_AGENT		_IOWR(AGENTMEM_IOC, 1, struct agentmem_agent)
#define AGENTMEM_IOC_ALLOC		_IOWR(AGENTMEM_IOC, 2, struct agentmem_alloc)
#define AGENTMEM_IOC_ATTACH		_IOWR(AGENTMEM_IOC, 3, struct agentmem_attach)
#define AGENTMEM_IOC_SHARE		_IOW(AGENTMEM_IOC, 4, struct agentmem_share)
#define AGENTMEM_IOC_FREE		_IOW(AGENTMEM_IOC, 5, struct agentmem_free)
#define AGENTMEM_IOC_ADVISE		_IOW(AGENTMEM_IOC, 6, struct agentmem_advise)
#define AGENTMEM_IOC_INFO		_IOWR(AGENTMEM_IOC, 7, struct agentmem_info)
#define AGENTMEM_IOC_STATS		_IOWR(AGENTMEM_IOC, 8, struct agentmem_stats)
#define AGENTMEM_IOC_LEND		_IOWR(AGENTMEM_IOC, 9, struct agentmem_lend)

#endif /* _UAPI_AGENTMEM_H */
