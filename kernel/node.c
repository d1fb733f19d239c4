// SPDX-License-Identifier: GPL-2.0
/* Which node is the slow one. */
#include <linux/memory.h>
#include <linux/memory-tiers.h>
#include <linux/topology.h>

#include "agentmem.h"

static unsigned int slow_below = 30;
module_param(slow_below, uint, 0644);
MODULE_PARM_DESC(slow_below, "SMUs of less importance are placed on the slow node (default: 30)");

#define AM_SLOW_AUTO	(-1)

static int slow_node = AM_SLOW_AUTO;
module_param(slow_node, int, 0644);
MODULE_PARM_DESC(slow_node, "number of the slow node; -1: the one of the largest abstract distance; -2: none (default: -1)");

static int am_slow_found = NUMA_NO_NODE;

/*
 * The farther a node, the slower. CXL memory appears as a node of a larger abstract distance.
 * Without memory hotplug the kernel frees HMAT's part of that after boot, and must not be asked.
 */
static int am_distance(int nid)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0) && IS_ENABLED(CONFIG_MEMORY_HOTPLUG)
	int distance = MEMTIER_ADISTANCE_DRAM;

	mt_calc_adistance(nid, &distance);
	return distance >> MEMTIER_CHUNK_BITS;
#else
	return node_state(nid, N_CPU) ? 0 : node_distance(first_online_node, nid);
#endif
}

static void am_slow_find(void)
{
	int nid, near = INT_MAX, far = INT_MIN, found = NUMA_NO_NODE;

	for_each_node_state(nid, N_MEMORY) {
		int distance = am_distance(nid);

		near = min(near, distance);
		if (distance > far) {
			far = distance;
			found = nid;
		}
	}
	WRITE_ONCE(am_slow_found, far > near ? found : NUMA_NO_NODE);
}

static int am_memory_changed(struct notifier_block *block, unsigned long action, void *arg)
{
	if (action == MEM_ONLINE || action == MEM_OFFLINE)
		am_slow_find();
	return NOTIFY_OK;
}

static struct notifier_block am_memory_block = { .notifier_call = am_memory_changed };

int am_slow_node(void)
{
	int nid = READ_ONCE(slow_node);

	if (nid == AM_SLOW_AUTO)
		nid = READ_ONCE(am_slow_found);
	return nid >= 0 && nid < MAX_NUMNODES && node_state(nid, N_MEMORY) ? nid : NUMA_NO_NODE;
}

/* Whether an SMU that so many agents hold who are not paused belongs there. */
bool am_wants_slow(u32 advice, u32 importance, u32 awake)
{
	if (advice == AGENTMEM_HOT)
		return false;
	return advice == AGENTMEM_COLD || importance < READ_ONCE(slow_below) || !awake;
}

int am_nodes_start(void)
{
	am_slow_find();
	return register_memory_notifier(&am_memory_block);
}

void am_nodes_stop(void)
{
	unregister_memory_notifier(&am_memory_block);
}
