// SPDX-License-Identifier: GPL-2.0
/* Users with their limits, agents with their leases. */
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/pid.h>
#include <linux/sched.h>

#include "agentmem.h"

static unsigned long user_bytes_max;
module_param(user_bytes_max, ulong, 0644);
MODULE_PARM_DESC(user_bytes_max, "content that a user may hold, each once, uncompressed (default: the memory that there is at load)");

static unsigned long user_leases_max = 4UL << 20;
module_param(user_leases_max, ulong, 0644);
MODULE_PARM_DESC(user_leases_max, "different SMUs that all agents of a user may hold together (default: 4194304)");

static unsigned long user_agents_max = 4096;
module_param(user_agents_max, ulong, 0644);
MODULE_PARM_DESC(user_agents_max, "agents of a user (default: 4096)");

struct am_counts am_all;
DEFINE_XARRAY_ALLOC1(am_agents);
static u32 am_agents_next;
static LIST_HEAD(am_users);
static DEFINE_MUTEX(am_users_lock);

/* ---- users ---- */

void am_add(struct am_user *user, enum am_count what, s64 n)
{
	atomic64_add(n, &user->counts.of[what]);
	atomic64_add(n, &am_all.of[what]);
}

void am_agent_add(struct am_agent *agent, enum am_count what, s64 n)
{
	atomic64_add(n, &agent->counts.of[what]);
	am_add(agent->user, what, n);
}

/* For what has a limit. Charges and counts are the same figures, so they cannot part. */
int am_charge(struct am_user *user, enum am_count what, u64 n)
{
	unsigned long max = what == AM_CONTENT_BYTES ? READ_ONCE(user_bytes_max) :
			    what == AM_LEASES ? READ_ONCE(user_leases_max) :
						READ_ONCE(user_agents_max);

	if ((u64)atomic64_add_return(n, &user->counts.of[what]) > max) {
		atomic64_sub(n, &user->counts.of[what]);
		am_add(user, AM_REJECT_LIMIT, 1);
		return -EDQUOT;
	}
	atomic64_add(n, &am_all.of[what]);
	return 0;
}

static struct am_user *am_user_get(kuid_t uid)
{
	struct am_user *user, *fresh;

	fresh = kzalloc(sizeof(*fresh), AM_GFP);
	if (!fresh)
		return NULL;
	fresh->uid = uid;
	refcount_set(&fresh->refs, 1);

	mutex_lock(&am_users_lock);
	list_for_each_entry(user, &am_users, node) {
		if (uid_eq(user->uid, uid)) {
			refcount_inc(&user->refs);
			mutex_unlock(&am_users_lock);
			kfree(fresh);
			return user;
		}
	}
	list_add(&fresh->node, &am_users);
	mutex_unlock(&am_users_lock);
	return fresh;
}

void am_user_put(struct am_user *user)
{
	if (!refcount_dec_and_mutex_lock(&user->refs, &am_users_lock))
		return;
	list_del(&user->node);
	mutex_unlock(&am_users_lock);
	kfree(user);
}

/* Zeros for who has nothing. */
void am_user_figures(kuid_t uid, u64 figures[AM_COUNTS])
{
	struct am_user *user;

	memset(figures, 0, sizeof(*figures) * AM_COUNTS);
	mutex_lock(&am_users_lock);
	list_for_each_entry(user, &am_users, node)
		if (uid_eq(user->uid, uid))
			am_figures(&user->counts, figures);
	mutex_unlock(&am_users_lock);
}

/* ---- leases ---- */

static int am_lease_compare(const void *key, const struct rb_node *node)
{
	const struct am_smu *smu = rb_entry(node, struct am_lease, node)->smu;
	u64 place = *(const u64 *)key;

	if (place < smu->id)
		return -1;
	return place >= smu->id + smu->nr_pages;
}

static int am_lease_order(struct rb_node *a, const struct rb_node *b)
{
	return am_lease_compare(&rb_entry(a, struct am_lease, node)->smu->id, b);
}

/* The lease of what lies at a place. Under the agent's lock. */
struct am_lease *am_lease_at(const struct am_agent *agent, u64 place)
{
	struct rb_node *node = rb_find(&place, &agent->leases, am_lease_compare);

	return rb_entry_safe(node, struct am_lease, node);
}

u32 am_holders(const struct am_smu *smu)
{
	return smu->holders[AGENTMEM_ACTIVE] + smu->holders[AGENTMEM_IDLE] +
	       smu->holders[AGENTMEM_PAUSED];
}

/* One agent more or less holds an SMU. */
static void am_hold(struct am_smu *smu, struct am_agent *agent, int n)
{
	u64 len = smu->key.len;

	mutex_lock(&smu->lock);
	smu->holders[agent->state] += n;
	if (am_holders(smu) == (n > 0 ? 2 : 1))
		am_add(smu->user, AM_SHARED_BYTES, n > 0 ? len : -(s64)len);
	if (n > 0)
		smu->used = jiffies;
	mutex_unlock(&smu->lock);
}

/*
 * Takes over a reference, whatever comes of it. What only the paused held goes
 * where somebody awake wants it.
 */
int am_lease_add(struct am_agent *agent, struct am_smu *smu)
{
	struct am_lease *lease;
	int error = 0;

	mutex_lock(&agent->lock);
	lease = am_lease_at(agent, smu->id);
	if (agent->closed) {
		error = -ENOENT;
	} else if (lease) {
		error = lease->count == U32_MAX ? -EOVERFLOW : 0;
		lease->count += !error;
	} else {
		error = am_charge(agent->user, AM_LEASES, 1);
		if (error)
			goto out;
		lease = kzalloc(sizeof(*lease), AM_GFP);
		if (!lease) {
			am_add(agent->user, AM_LEASES, -1);
			error = -ENOMEM;
			goto out;
		}
		lease->smu = smu;
		lease->count = 1;
		rb_find_add(&lease->node, &agent->leases, am_lease_order);
		atomic64_inc(&agent->counts.of[AM_LEASES]);
		am_hold(smu, agent, 1);
		smu = NULL;
	}
	if (!error) {
		am_agent_add(agent, AM_LOGICAL_BYTES, lease->smu->key.len);
		am_place(lease->smu);
	}
out:
	mutex_unlock(&agent->lock);
	if (smu)
		am_put(smu);
	return error;
}

/* Gives leases back; with the last, the reference. Under the agent's lock. */
static void am_lease_drop(struct am_agent *agent, struct am_lease *lease, u32 n)
{
	struct am_smu *smu = lease->smu;

	am_agent_add(agent, AM_LOGICAL_BYTES, -(s64)(smu->key.len * n));
	lease->count -= n;
	if (lease->count)
		return;
	rb_erase(&lease->node, &agent->leases);
	am_agent_add(agent, AM_LEASES, -1);
	am_hold(smu, agent, -1);
	kfree(lease);
	am_put(smu);
}

int am_lease_free(struct am_agent *agent, u64 id)
{
	struct am_lease *lease;

	mutex_lock(&agent->lock);
	lease = am_lease_at(agent, id);
	if (lease && lease->smu->id != id)
		lease = NULL;
	if (lease)
		am_lease_drop(agent, lease, 1);
	mutex_unlock(&agent->lock);
	return lease ? 0 : -ENOENT;
}

/* What an agent holds at a place: with a reference, or NULL. */
struct am_smu *am_held(struct am_agent *agent, u64 place)
{
	struct am_lease *lease;
	struct am_smu *smu = NULL;

	mutex_lock(&agent->lock);
	lease = am_lease_at(agent, place);
	if (lease) {
		smu = lease->smu;
		refcount_inc(&smu->refs);
	}
	mutex_unlock(&agent->lock);
	return smu;
}

/* By its id, which is where it begins. */
struct am_smu *am_held_by_id(struct am_agent *agent, u64 id)
{
	struct am_smu *smu = am_held(agent, id);

	if (smu && smu->id != id) {
		am_put(smu);
		smu = NULL;
	}
	return smu;
}

/* ---- agents ---- */

void am_agent_put(struct am_agent *agent)
{
	if (!refcount_dec_and_test(&agent->refs))
		return;
	put_pid(agent->pid);
	put_user_ns(agent->user_ns);
	am_user_put(agent->user);
	kfree_rcu(agent, rcu);
}

int am_open(struct inode *inode, struct file *file)
{
	struct am_agent *agent = kzalloc(sizeof(*agent), AM_GFP);
	char comm[TASK_COMM_LEN];
	int error = -ENOMEM;

	if (!agent)
		return -ENOMEM;
	agent->user = am_user_get(file->f_cred->euid);
	if (!agent->user)
		goto free;
	error = am_charge(agent->user, AM_AGENTS, 1);
	if (error)
		goto put_user;
	refcount_set(&agent->refs, 1);
	mutex_init(&agent->lock);
	agent->leases = RB_ROOT;
	agent->importance = AGENTMEM_IMPORTANCE_DEFAULT;
	atomic64_set(&agent->counts.of[AM_AGENTS], 1);
	strscpy_pad(agent->name, get_task_comm(comm, current), sizeof(agent->name));
	agent->user_ns = get_user_ns(file->f_cred->user_ns);
	agent->pid = get_pid(task_tgid(current));
	error = xa_alloc_cyclic(&am_agents, &agent->id, agent, xa_limit_32b, &am_agents_next,
				AM_GFP);
	if (error < 0)
		goto put_names;
	file->private_data = agent;
	file->f_mapping = am_space->i_mapping;
	return 0;
put_names:
	put_pid(agent->pid);
	put_user_ns(agent->user_ns);
	am_add(agent->user, AM_AGENTS, -1);
put_user:
	am_user_put(agent->user);
free:
	kfree(agent);
	return error;
}

/* The last file is closed and the last mapping is gone, however that came about. */
int am_release(struct inode *inode, struct file *file)
{
	struct am_agent *agent = file->private_data;
	struct rb_node *node;

	xa_erase(&am_agents, agent->id);
	mutex_lock(&agent->lock);
	agent->closed = true;
	while ((node = rb_first(&agent->leases))) {
		struct am_lease *lease = rb_entry(node, struct am_lease, node);

		am_lease_drop(agent, lease, lease->count);
		cond_resched();
	}
	mutex_unlock(&agent->lock);
	am_add(agent->user, AM_AGENTS, -1);
	am_agent_put(agent);
	return 0;
}

struct am_agent *am_agent_get(u32 id)
{
	struct am_agent *agent;

	rcu_read_lock();
	agent = xa_load(&am_agents, id);
	if (agent && !refcount_inc_not_zero(&agent->refs))
		agent = NULL;
	rcu_read_unlock();
	return agent;
}

/* Under the agent's lock. What nobody awake holds goes to the slow node, and comes back from it. */
void am_agent_set_state(struct am_agent *agent, u32 state)
{
	u32 before = agent->state;
	struct rb_node *node;

	agent->state = state;
	for (node = rb_first(&agent->leases); node; node = rb_next(node)) {
		struct am_smu *smu = rb_entry(node, struct am_lease, node)->smu;

		mutex_lock(&smu->lock);
		smu->holders[before]--;
		smu->holders[state]++;
		if (smu->holders[AGENTMEM_PAUSED] == am_holders(smu))
			smu->advice = AGENTMEM_NORMAL;
		mutex_unlock(&smu->lock);
		if ((before == AGENTMEM_PAUSED) != (state == AGENTMEM_PAUSED))
			am_place(smu);
		cond_resched();
	}
}

int am_users_start(void)
{
	if (!user_bytes_max)
		user_bytes_max = totalram_pages() << PAGE_SHIFT;
	return 0;
}

/* Users and agents that are gone may still be on their way to the allocator. */
void am_users_stop(void)
{
	rcu_barrier();
	xa_destroy(&am_agents);
}
