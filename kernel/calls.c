// SPDX-License-Identifier: GPL-2.0
/* The calls of /dev/agentmem. */
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/uaccess.h>

#include "agentmem.h"
#include "agentmem_trace.h"

static bool am_is_zero(const void *reserved, size_t bytes)
{
	return !memchr_inv(reserved, 0, bytes);
}

static long am_call_api(struct am_agent *agent, void __user *argp)
{
	struct agentmem_api args = {
		.version = AGENTMEM_VERSION,
		.page_bytes = PAGE_SIZE,
		.features = AGENTMEM_FEATURE_COMPRESSION | AGENTMEM_FEATURE_LEND,
		.smu_bytes_max = AGENTMEM_SMU_BYTES_MAX,
	};

	if (am_slow_node() != NUMA_NO_NODE)
		args.features |= AGENTMEM_FEATURE_SLOW_NODE;
	return copy_to_user(argp, &args, sizeof(args)) ? -EFAULT : 0;
}

static long am_call_agent(struct am_agent *agent, void __user *argp)
{
	const u32 all = AGENTMEM_SET_NAME | AGENTMEM_SET_STATE | AGENTMEM_SET_IMPORTANCE;
	struct agentmem_agent args;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.set & ~all || !am_is_zero(args.reserved, sizeof(args.reserved)))
		return -EINVAL;
	if (args.set & AGENTMEM_SET_STATE && args.state > AGENTMEM_PAUSED)
		return -EINVAL;
	if (args.set & AGENTMEM_SET_IMPORTANCE && args.importance > AGENTMEM_IMPORTANCE_MAX)
		return -EINVAL;
	if (args.set & AGENTMEM_SET_NAME && !memchr(args.name, 0, sizeof(args.name)))
		return -ENAMETOOLONG;

	mutex_lock(&agent->lock);
	if (args.set & AGENTMEM_SET_NAME)
		strscpy_pad(agent->name, args.name, sizeof(agent->name));
	if (args.set & AGENTMEM_SET_IMPORTANCE)
		agent->importance = args.importance;
	if (args.set & AGENTMEM_SET_STATE && args.state != agent->state)
		am_agent_set_state(agent, args.state);
	args.id = agent->id;
	args.state = agent->state;
	args.importance = agent->importance;
	memcpy(args.name, agent->name, sizeof(args.name));
	mutex_unlock(&agent->lock);
	return copy_to_user(argp, &args, sizeof(args)) ? -EFAULT : 0;
}

static void am_raise_importance(struct am_smu *smu, u32 importance)
{
	mutex_lock(&smu->lock);
	smu->importance = max(smu->importance, importance);
	mutex_unlock(&smu->lock);
}

static long am_call_alloc(struct am_agent *agent, void __user *argp)
{
	struct agentmem_alloc args;
	struct am_smu *smu;
	bool shared;
	int error;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.flags & ~AGENTMEM_ALLOC_IMPORTANCE || args.kind > AGENTMEM_MESSAGE ||
	    !args.len || !am_is_zero(args.reserved, sizeof(args.reserved)))
		return -EINVAL;
	if (args.len > AGENTMEM_SMU_BYTES_MAX)
		return -EFBIG;
	if (!(args.flags & AGENTMEM_ALLOC_IMPORTANCE))
		args.importance = READ_ONCE(agent->importance);
	if (args.importance > AGENTMEM_IMPORTANCE_MAX)
		return -EINVAL;

	error = am_charge(agent->user, AM_CONTENT_BYTES, PAGE_ALIGN(args.len));
	if (error)
		return error;
	smu = am_smu_new(agent, &args);
	if (!smu) {
		am_add(agent->user, AM_CONTENT_BYTES, -(s64)PAGE_ALIGN(args.len));
		return -ENOMEM;
	}
	error = am_fill(smu, args.addr, am_wants_slow(AGENTMEM_NORMAL, args.importance,
						      READ_ONCE(agent->state) != AGENTMEM_PAUSED));
	if (error) {
		am_put(smu);
		return error;
	}
	smu = am_publish(smu, &shared);
	if (IS_ERR(smu))
		return PTR_ERR(smu);
	if (shared)
		am_raise_importance(smu, args.importance);

	args.id = smu->id;
	args.shared = shared;
	memcpy(args.digest, smu->key.digest, sizeof(args.digest));
	error = am_lease_add(agent, smu);
	if (error)
		return error;
	am_agent_add(agent, AM_PUTS, 1);
	am_agent_add(agent, AM_DEDUP_HITS, shared);
	trace_agentmem_alloc(agent->id, args.id, args.len, shared);
	if (copy_to_user(argp, &args, sizeof(args))) {
		am_lease_free(agent, args.id);
		return -EFAULT;
	}
	return 0;
}

static long am_call_attach(struct am_agent *agent, void __user *argp)
{
	struct agentmem_attach args;
	struct am_smu *smu;
	int error;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (!am_is_zero(args.reserved, sizeof(args.reserved)))
		return -EINVAL;
	smu = am_find(agent, args.digest, args.len);
	if (!smu)
		return -ENOENT;
	args.id = smu->id;
	error = am_lease_add(agent, smu);
	if (error)
		return error;
	trace_agentmem_share(agent->id, agent->id, args.id);
	if (copy_to_user(argp, &args, sizeof(args))) {
		am_lease_free(agent, args.id);
		return -EFAULT;
	}
	return 0;
}

static bool am_same_domain(const struct am_agent *a, const struct am_agent *b)
{
	return a->user == b->user && a->user_ns == b->user_ns;
}

static long am_call_share(struct am_agent *agent, void __user *argp)
{
	struct agentmem_share args;
	struct am_agent *to;
	struct am_smu *smu;
	int error = -ENOENT;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.flags || !am_is_zero(args.reserved, sizeof(args.reserved)))
		return -EINVAL;
	to = am_agent_get(args.agent);
	if (!to)
		return -ENOENT;
	/* The same answer for who is not there and who must not be known of. */
	smu = am_same_domain(agent, to) ? am_held_by_id(agent, args.id) : NULL;
	if (smu)
		error = am_lease_add(to, smu);
	if (!error)
		trace_agentmem_share(agent->id, to->id, args.id);
	am_agent_put(to);
	return error;
}

static long am_call_free(struct am_agent *agent, void __user *argp)
{
	struct agentmem_free args;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.flags || args.reserved)
		return -EINVAL;
	return am_lease_free(agent, args.id);
}

static long am_call_advise(struct am_agent *agent, void __user *argp)
{
	struct agentmem_advise args;
	struct am_smu *smu;
	int error = 0;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.flags & ~AGENTMEM_ADVISE_IMPORTANCE || args.reserved ||
	    args.advice > AGENTMEM_WILL_NEED)
		return -EINVAL;
	if (args.flags & AGENTMEM_ADVISE_IMPORTANCE && args.importance > AGENTMEM_IMPORTANCE_MAX)
		return -EINVAL;
	smu = am_held_by_id(agent, args.id);
	if (!smu)
		return -ENOENT;

	mutex_lock(&smu->lock);
	if (args.flags & AGENTMEM_ADVISE_IMPORTANCE)
		smu->importance = args.importance;
	if (args.advice != AGENTMEM_WILL_NEED)
		smu->advice = args.advice;
	mutex_unlock(&smu->lock);
	if (args.advice == AGENTMEM_COLD)
		am_demote(smu, ULONG_MAX, true);
	else if (args.advice != AGENTMEM_NORMAL)
		error = am_promote(smu, agent);
	am_place(smu);
	am_put(smu);
	return error;
}

static long am_call_lend(struct am_agent *agent, void __user *argp)
{
	struct agentmem_lend args;
	struct am_smu *smu;
	struct file *file;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.flags || !am_is_zero(args.reserved, sizeof(args.reserved)))
		return -EINVAL;
	smu = am_held_by_id(agent, args.id);
	if (!smu)
		return -ENOENT;
	file = am_lend(smu);
	if (IS_ERR(file))
		return PTR_ERR(file);
	args.fd = get_unused_fd_flags(O_CLOEXEC);
	if (args.fd < 0) {
		fput(file);
		return args.fd;
	}
	/* Once it is installed, it cannot be taken back. */
	if (copy_to_user(argp, &args, sizeof(args))) {
		put_unused_fd(args.fd);
		fput(file);
		return -EFAULT;
	}
	fd_install(args.fd, file);
	return 0;
}

static u64 am_slow_bytes(const struct am_smu *smu)
{
	int nid = am_slow_node();
	u64 bytes = 0;
	u32 i;

	for (i = 0; i < smu->nr_pages && nid != NUMA_NO_NODE; i++)
		if (smu->pages[i] && page_to_nid(smu->pages[i]) == nid)
			bytes += PAGE_SIZE;
	return bytes;
}

static long am_call_info(struct am_agent *agent, void __user *argp)
{
	struct agentmem_info args;
	struct am_lease *lease;
	struct am_smu *smu;
	u64 id;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.flags || !am_is_zero(args.reserved, sizeof(args.reserved)))
		return -EINVAL;
	id = args.id;
	memset(&args, 0, sizeof(args));

	mutex_lock(&agent->lock);
	lease = am_lease_at(agent, id);
	if (!lease || lease->smu->id != id) {
		mutex_unlock(&agent->lock);
		return -ENOENT;
	}
	smu = lease->smu;
	args.leases = lease->count;
	mutex_lock(&smu->lock);
	args.id = id;
	args.len = smu->key.len;
	args.resident_bytes = (u64)smu->resident << PAGE_SHIFT;
	args.slow_bytes = am_slow_bytes(smu);
	args.stored_bytes = smu->stored_bytes;
	args.raw_bytes = (u64)smu->raw << PAGE_SHIFT;
	args.kind = smu->kind;
	args.importance = smu->importance;
	args.advice = smu->advice;
	args.agents = am_holders(smu);
	memcpy(args.digest, smu->key.digest, sizeof(args.digest));
	mutex_unlock(&smu->lock);
	mutex_unlock(&agent->lock);
	return copy_to_user(argp, &args, sizeof(args)) ? -EFAULT : 0;
}

static long am_call_stats(struct am_agent *agent, void __user *argp)
{
	struct agentmem_stats args;
	u64 figures[AM_COUNTS];
	u32 scope;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.flags || args.scope > AGENTMEM_OF_ALL ||
	    !am_is_zero(args.reserved, sizeof(args.reserved)))
		return -EINVAL;
	scope = args.scope;
	if (scope == AGENTMEM_OF_ALL && !capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (scope == AGENTMEM_OF_AGENT)
		am_agent_figures(agent, figures);
	else
		am_figures(scope == AGENTMEM_OF_USER ? &agent->user->counts : &am_all, figures);
	memset(&args, 0, sizeof(args));
	args.scope = scope;
	memcpy((u8 *)&args + offsetof(struct agentmem_stats, agents), figures, sizeof(figures));
	return copy_to_user(argp, &args, sizeof(args)) ? -EFAULT : 0;
}

long am_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct am_agent *agent = file->private_data;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case AGENTMEM_IOC_API:
		return am_call_api(agent, argp);
	case AGENTMEM_IOC_AGENT:
		return am_call_agent(agent, argp);
	case AGENTMEM_IOC_ALLOC:
		return am_call_alloc(agent, argp);
	case AGENTMEM_IOC_ATTACH:
		return am_call_attach(agent, argp);
	case AGENTMEM_IOC_SHARE:
		return am_call_share(agent, argp);
	case AGENTMEM_IOC_FREE:
		return am_call_free(agent, argp);
	case AGENTMEM_IOC_ADVISE:
		return am_call_advise(agent, argp);
	case AGENTMEM_IOC_INFO:
		return am_call_info(agent, argp);
	case AGENTMEM_IOC_STATS:
		return am_call_stats(agent, argp);
	case AGENTMEM_IOC_LEND:
		return am_call_lend(agent, argp);
	}
	return -ENOTTY;
}

