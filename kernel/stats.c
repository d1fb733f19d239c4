// SPDX-License-Identifier: GPL-2.0
/* /proc/agent_stats, and the same in debugfs. */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/pid.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "agentmem.h"

static const char *const am_count_names[AM_COUNTS] = {
	"agents", "smus", "leases", "logical_bytes", "content_bytes", "shared_bytes",
	"resident_bytes", "stored_bytes", "packed_bytes", "raw_bytes", "puts", "dedup_hits",
	"promotions", "refaults", "demotions", "reclaimed_bytes", "moved_slow_bytes",
	"moved_fast_bytes", "reject_limit",
};

/* What one agent holds, added up; what it did, as counted. */
void am_agent_figures(struct am_agent *agent, u64 figures[AM_COUNTS])
{
	struct rb_node *node;
	int i;

	mutex_lock(&agent->lock);
	for (i = 0; i < AM_COUNTS; i++)
		figures[i] = atomic64_read(&agent->counts.of[i]);
	for (node = rb_first(&agent->leases); node; node = rb_next(node)) {
		struct am_smu *smu = rb_entry(node, struct am_lease, node)->smu;

		mutex_lock(&smu->lock);
		figures[AM_SMUS]++;
		figures[AM_CONTENT_BYTES] += (u64)smu->nr_pages << PAGE_SHIFT;
		figures[AM_SHARED_BYTES] += am_holders(smu) > 1 ? smu->key.len : 0;
		figures[AM_RESIDENT_BYTES] += (u64)smu->resident << PAGE_SHIFT;
		figures[AM_STORED_BYTES] += smu->stored_bytes;
		figures[AM_PACKED_BYTES] += smu->packed_bytes;
		figures[AM_RAW_BYTES] += (u64)smu->raw << PAGE_SHIFT;
		mutex_unlock(&smu->lock);
		cond_resched();
	}
	mutex_unlock(&agent->lock);
}

void am_figures(const struct am_counts *counts, u64 figures[AM_COUNTS])
{
	int i;

	for (i = 0; i < AM_COUNTS; i++)
		figures[i] = atomic64_read(&counts->of[i]);
}

/* Who may look at all users; others see their own agents, and their own figures. */
static bool am_sees_all(struct seq_file *m)
{
	return file_ns_capable(m->file, &init_user_ns, CAP_SYS_ADMIN);
}

static bool am_sees(struct seq_file *m, const struct am_agent *agent)
{
	const struct cred *cred = m->file->f_cred;

	return am_sees_all(m) || (uid_eq(cred->euid, agent->user->uid) &&
				  cred->user_ns == agent->user_ns);
}

/* The next agent from an id on, which is the position: with a reference. */
static struct am_agent *am_seq_at(struct seq_file *m, loff_t *pos)
{
	struct am_agent *agent;
	unsigned long id = *pos;

	rcu_read_lock();
	xa_for_each_start(&am_agents, id, agent, id) {
		if (am_sees(m, agent) && refcount_inc_not_zero(&agent->refs))
			break;
	}
	rcu_read_unlock();
	if (agent)
		*pos = id;
	return agent;
}

static void *am_seq_start(struct seq_file *m, loff_t *pos)
{
	return *pos ? am_seq_at(m, pos) : SEQ_START_TOKEN;
}

static void *am_seq_next(struct seq_file *m, void *v, loff_t *pos)
{
	if (v != SEQ_START_TOKEN)
		am_agent_put(v);
	++*pos;
	return am_seq_at(m, pos);
}

static void am_seq_stop(struct seq_file *m, void *v)
{
	if (v && v != SEQ_START_TOKEN)
		am_agent_put(v);
}

/* How many bytes encoded content takes less, in hundredths: 0 where nothing is encoded. */
static u64 am_ratio(const u64 figures[AM_COUNTS])
{
	u64 stored_bytes = figures[AM_STORED_BYTES];

	return stored_bytes ? div64_u64(figures[AM_PACKED_BYTES] * 100, stored_bytes) : 0;
}

/* Of all users for who may see them, else of the reader's own. */
static void am_seq_figures(struct seq_file *m, u64 figures[AM_COUNTS])
{
	if (am_sees_all(m))
		am_figures(&am_all, figures);
	else
		am_user_figures(m->file->f_cred->euid, figures);
}

static const char *const am_state_names[] = { "active", "idle", "paused" };

/* For people. */
static int am_proc_show(struct seq_file *m, void *v)
{
	u64 figures[AM_COUNTS], ratio;
	struct am_agent *agent = v;
	int i, nid;

	if (v == SEQ_START_TOKEN) {
		am_seq_figures(m, figures);
		ratio = am_ratio(figures);
		for (i = 0; i < AM_COUNTS; i++)
			seq_printf(m, "%-18s %llu\n", am_count_names[i], figures[i]);
		seq_printf(m, "%-18s %llu.%02llu\n", "compression_ratio", ratio / 100, ratio % 100);
		for_each_node_state(nid, N_MEMORY)
			if (am_sees_all(m))
				seq_printf(m, "node%-14d %llu%s\n", nid,
					   (u64)atomic64_read(&am_node_pages[nid]) << PAGE_SHIFT,
					   nid == am_slow_node() ? " slow" : "");
		seq_puts(m, "\n  agent     pid state  importance     smus  logical_bytes   stored_bytes resident_bytes   shared_bytes  dedup_hits  ratio promotions   refaults name\n");
		return 0;
	}
	am_agent_figures(agent, figures);
	ratio = am_ratio(figures);
	mutex_lock(&agent->lock);
	seq_printf(m, "%7u %7d %-6s %10u %8llu %14llu %14llu %14llu %14llu %11llu %3llu.%02llu %10llu %10llu ",
		   agent->id, pid_nr_ns(agent->pid, proc_pid_ns(file_inode(m->file)->i_sb)),
		   am_state_names[agent->state], agent->importance, figures[AM_SMUS],
		   figures[AM_LOGICAL_BYTES], figures[AM_STORED_BYTES], figures[AM_RESIDENT_BYTES],
		   figures[AM_SHARED_BYTES], figures[AM_DEDUP_HITS], ratio / 100, ratio % 100,
		   figures[AM_PROMOTIONS], figures[AM_REFAULTS]);
	seq_escape_str(m, agent->name, ESCAPE_SPACE | ESCAPE_SPECIAL | ESCAPE_NP, NULL);
	mutex_unlock(&agent->lock);
	seq_putc(m, '\n');
	return 0;
}

/* For programs: key=value, a line for all and one for each agent. */
static int am_debugfs_show(struct seq_file *m, void *v)
{
	u64 figures[AM_COUNTS];
	struct am_agent *agent = v;
	int i, nid;

	if (v == SEQ_START_TOKEN) {
		am_seq_figures(m, figures);
		seq_printf(m, "all version=%d", AGENTMEM_VERSION);
	} else {
		am_agent_figures(agent, figures);
		seq_printf(m, "agent id=%u pid=%d state=%u importance=%u", agent->id,
			   pid_nr(agent->pid), READ_ONCE(agent->state),
			   READ_ONCE(agent->importance));
	}
	for (i = 0; i < AM_COUNTS; i++)
		seq_printf(m, " %s=%llu", am_count_names[i], figures[i]);
	for_each_node_state(nid, N_MEMORY)
		if (v == SEQ_START_TOKEN)
			seq_printf(m, " node%d_bytes=%llu", nid,
				   (u64)atomic64_read(&am_node_pages[nid]) << PAGE_SHIFT);
	seq_putc(m, '\n');
	return 0;
}

static const struct seq_operations am_proc_ops = {
	.start = am_seq_start,
	.next = am_seq_next,
	.stop = am_seq_stop,
	.show = am_proc_show,
};

static const struct seq_operations am_debugfs_sops = {
	.start = am_seq_start,
	.next = am_seq_next,
	.stop = am_seq_stop,
	.show = am_debugfs_show,
};

DEFINE_SEQ_ATTRIBUTE(am_debugfs);

static struct dentry *am_debugfs_dir;

int am_stats_start(void)
{
	if (!proc_create_seq("agent_stats", 0444, NULL, &am_proc_ops))
		return -ENOMEM;
	am_debugfs_dir = debugfs_create_dir("agentmem", NULL);
	debugfs_create_file("stats", 0400, am_debugfs_dir, NULL, &am_debugfs_fops);
	return 0;
}

void am_stats_stop(void)
{
	debugfs_remove(am_debugfs_dir);
	remove_proc_entry("agent_stats", NULL);
}
