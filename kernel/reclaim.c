// SPDX-License-Identifier: GPL-2.0
/* What is dropped when, by need and by age. */
#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/swap.h>
#include <linux/workqueue.h>

#include "agentmem.h"
#include "agentmem_trace.h"

static unsigned int idle_ms = 300000;
module_param(idle_ms, uint, 0644);
MODULE_PARM_DESC(idle_ms, "after how long unused an idle agent's SMU of importance 50 is compressed; 0: only when memory is short (default: 300000)");

struct list_lru am_lru;
static atomic64_t am_lru_smus;

/* ---- kernel versions ---- */

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#define AM_WALK_ARGS(item, arg) struct list_head *item, struct list_lru_one *list, void *arg
#else
#define AM_WALK_ARGS(item, arg) \
	struct list_head *item, struct list_lru_one *list, spinlock_t *list_lock, void *arg
#endif

/* What drops pages that are of no list tells those who count. */
static void am_count_reclaimed(unsigned long pages)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	mm_account_reclaimed_pages(pages);
#else
	if (current->reclaim_state)
		current->reclaim_state->reclaimed_slab += pages;
#endif
}

/* Before 6.8 the node is that of the struct: kswapd of a slow node looks at fewer SMUs. */
void am_lru_add(struct am_smu *smu, int nid)
{
	if (smu->lru_nid != NUMA_NO_NODE)
		return;
	smu->lru_nid = nid;
	atomic64_inc(&am_lru_smus);
	rcu_read_lock();
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	list_lru_add(&am_lru, &smu->lru, nid, smu->memcg);
#else
	list_lru_add(&am_lru, &smu->lru);
#endif
	rcu_read_unlock();
}

void am_lru_del(struct am_smu *smu)
{
	if (smu->lru_nid == NUMA_NO_NODE)
		return;
	rcu_read_lock();
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	list_lru_del(&am_lru, &smu->lru, smu->lru_nid, smu->memcg);
#else
	list_lru_del(&am_lru, &smu->lru);
#endif
	rcu_read_unlock();
	atomic64_dec(&am_lru_smus);
	smu->lru_nid = NUMA_NO_NODE;
}

static unsigned long am_shrink_count(struct shrinker *shrinker, struct shrink_control *sc);
static unsigned long am_shrink_scan(struct shrinker *shrinker, struct shrink_control *sc);

#define AM_SHRINKER_FLAGS (SHRINKER_MEMCG_AWARE | SHRINKER_NUMA_AWARE)

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
static struct shrinker *am_shrinker;

static int am_shrinker_start(void)
{
	int error;

	am_shrinker = shrinker_alloc(AM_SHRINKER_FLAGS, "agentmem");
	if (!am_shrinker)
		return -ENOMEM;
	am_shrinker->count_objects = am_shrink_count;
	am_shrinker->scan_objects = am_shrink_scan;
	error = list_lru_init_memcg(&am_lru, am_shrinker);
	if (error) {
		shrinker_free(am_shrinker);
		return error;
	}
	shrinker_register(am_shrinker);
	return 0;
}

static void am_shrinker_stop(void)
{
	shrinker_free(am_shrinker);
	list_lru_destroy(&am_lru);
}
#else
static struct shrinker am_shrinker = {
	.count_objects = am_shrink_count,
	.scan_objects = am_shrink_scan,
	.seeks = DEFAULT_SEEKS,
	.flags = AM_SHRINKER_FLAGS,
};

/* Registered before its list is there, as the list wants its number: am_shrink_count looks. */
static int am_shrinker_start(void)
{
	int error = register_shrinker(&am_shrinker, "agentmem");

	if (error)
		return error;
	error = list_lru_init_memcg(&am_lru, &am_shrinker);
	if (error)
		unregister_shrinker(&am_shrinker);
	return error;
}

static void am_shrinker_stop(void)
{
	unregister_shrinker(&am_shrinker);
	list_lru_destroy(&am_lru);
}
#endif

/* ---- reclaim and ageing ---- */

/*
 * How cold something is: the milliseconds that it was not used for, longer for
 * who is paused or matters little, shorter for who works or matters. An idle
 * agent's SMU of importance 50 is as cold as it is old. Read without the lock:
 * a figure that is a moment old makes a choice that is a moment old.
 */
static u64 am_coldness(const struct am_smu *smu)
{
	u64 age_ms = (u64)(jiffies - READ_ONCE(smu->used)) * MSEC_PER_SEC / HZ;
	u32 advice = READ_ONCE(smu->advice), weight = 1;

	if (advice == AGENTMEM_COLD)
		age_ms *= 16;
	if (READ_ONCE(smu->holders[AGENTMEM_ACTIVE]))
		weight = 4;
	else if (READ_ONCE(smu->holders[AGENTMEM_IDLE]))
		weight = 2;
	if (advice == AGENTMEM_HOT)
		weight *= 4;
	return div_u64(age_ms * 200, weight * (READ_ONCE(smu->importance) + 50));
}

#define AM_SAMPLE_MAX	32

/* The coldest of those that lists had next, coldest first, each with a reference. */
struct am_sample {
	u64 coldness_min;
	u32 pass;		/* sees each SMU once */
	unsigned int seen;
	unsigned int nr;
	struct {
		struct am_smu *smu;
		u64 coldness;
	} of[AM_SAMPLE_MAX];
};

static atomic_t am_passes;

static enum lru_status am_sample_one(AM_WALK_ARGS(item, arg))
{
	struct am_smu *smu = container_of(item, struct am_smu, lru);
	struct am_sample *sample = arg;
	u64 coldness = am_coldness(smu);
	unsigned int i;

	if (sample->nr == AM_SAMPLE_MAX || smu->pass == sample->pass)
		return LRU_SKIP;
	smu->pass = sample->pass;
	sample->seen++;
	if (coldness < sample->coldness_min)
		return LRU_ROTATE;
	if (!refcount_inc_not_zero(&smu->refs))
		return LRU_ROTATE;
	for (i = sample->nr++; i && sample->of[i - 1].coldness < coldness; i--)
		sample->of[i] = sample->of[i - 1];
	sample->of[i].smu = smu;
	sample->of[i].coldness = coldness;
	return LRU_ROTATE;
}

/* Only how cold the coldest are: what is not among them is passed over next. */
static enum lru_status am_rank_one(AM_WALK_ARGS(item, arg))
{
	u64 coldness = am_coldness(container_of(item, struct am_smu, lru));
	struct am_sample *sample = arg;
	unsigned int i;

	if (sample->nr < AM_SAMPLE_MAX)
		sample->nr++;
	else if (sample->of[AM_SAMPLE_MAX - 1].coldness >= coldness)
		return LRU_SKIP;
	for (i = sample->nr - 1; i && sample->of[i - 1].coldness < coldness; i--)
		sample->of[i] = sample->of[i - 1];
	sample->of[i].coldness = coldness;
	return LRU_SKIP;
}

#define AM_RANK_MAX	1024UL

/* The coldest of the next so many of a list. */
static void am_sample_coldest(struct am_sample *sample, struct shrink_control *sc)
{
	unsigned long walk = min(list_lru_shrink_count(&am_lru, sc), AM_RANK_MAX), again = walk;

	list_lru_walk_one(&am_lru, sc->nid, sc->memcg, am_rank_one, sample, &walk);
	if (sample->nr == AM_SAMPLE_MAX)
		sample->coldness_min = sample->of[AM_SAMPLE_MAX - 1].coldness;
	sample->nr = 0;
	list_lru_walk_one(&am_lru, sc->nid, sc->memcg, am_sample_one, sample, &again);
}

/* In pages, by what SMUs have on average: how many each list has is not known. */
static unsigned long am_shrink_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	u64 pages = (u64)atomic64_read(&am_all.of[AM_RESIDENT_BYTES]) >> PAGE_SHIFT;
	u64 smus = max_t(s64, atomic64_read(&am_lru_smus), 1);
	unsigned long here = am_lru.node ? list_lru_shrink_count(&am_lru, sc) : 0;

	return here ? here * (div64_u64(pages, smus) + 1) : SHRINK_EMPTY;
}

static unsigned long am_shrink_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct am_sample sample = { .pass = atomic_inc_return(&am_passes) };
	unsigned long wanted = sc->nr_to_scan, dropped = 0;
	unsigned int i;

	if (!(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	am_sample_coldest(&sample, sc);
	for (i = 0; i < sample.nr; i++) {
		struct am_smu *smu = sample.of[i].smu;

		if (dropped < wanted) {
			unsigned long n = am_demote(smu, wanted - dropped, false);

			am_add(smu->user, AM_RECLAIMED_BYTES, (u64)n << PAGE_SHIFT);
			dropped += n;
		}
		am_put(smu);
	}
	sc->nr_scanned = max(dropped, 1UL);
	am_count_reclaimed(dropped);
	trace_agentmem_reclaim(sc->nid, wanted, dropped);
	return dropped ?: SHRINK_STOP;
}

static void am_age(struct work_struct *work);
static DECLARE_DELAYED_WORK(am_age_work, am_age);

static void am_age_node(int nid, u64 idle)
{
	struct am_sample sample = {
		.coldness_min = idle / 2,
		.pass = atomic_inc_return(&am_passes),
	};
	/* All in a quarter of a minute, with the lock of a list held for a moment at a time. */
	unsigned long left = max(list_lru_count_node(&am_lru, nid) / 16, 512UL), walk;
	unsigned int i;

	do {
		sample.nr = 0;
		sample.seen = 0;
		walk = 4096;
		list_lru_walk_node(&am_lru, nid, am_sample_one, &sample, &walk);
		for (i = 0; i < sample.nr; i++) {
			if (sample.of[i].coldness >= idle)
				am_demote(sample.of[i].smu, ULONG_MAX, true);
			else
				am_probe(sample.of[i].smu);
			am_put(sample.of[i].smu);
		}
		left -= min_t(unsigned long, left, sample.seen);
		cond_resched();
	} while (left && sample.seen);
}

static void am_age(struct work_struct *work)
{
	unsigned int idle = READ_ONCE(idle_ms);
	int nid;

	for_each_node_state(nid, N_MEMORY)
		if (idle)
			am_age_node(nid, idle);
	queue_delayed_work(system_unbound_wq, &am_age_work, HZ);
}

int am_reclaim_start(void)
{
	int error = am_shrinker_start();

	if (!error)
		queue_delayed_work(system_unbound_wq, &am_age_work, HZ);
	return error;
}

void am_reclaim_stop(void)
{
	cancel_delayed_work_sync(&am_age_work);
	am_shrinker_stop();
}
