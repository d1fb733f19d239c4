// SPDX-License-Identifier: GPL-2.0
/* SMUs: their pages, what moves them, and their life. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <crypto/hash.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/uaccess.h>

#include "agentmem.h"
#include "agentmem_trace.h"

static unsigned int unit_bytes = AM_UNIT_BYTES_MAX;
module_param(unit_bytes, uint, 0644);
MODULE_PARM_DESC(unit_bytes, "how much of a new SMU is compressed together: a power of two from a page to 65536 (default: 65536)");

static unsigned int refault_ms = 60000;
module_param(refault_ms, uint, 0644);
MODULE_PARM_DESC(refault_ms, "a promotion within this time of a demotion counts as a refault (default: 60000)");

static const struct rhashtable_params am_index_params = {
	.key_len = sizeof(struct am_key),
	.key_offset = offsetof(struct am_smu, key),
	.head_offset = offsetof(struct am_smu, node),
	.automatic_shrinking = true,
};

static struct rhashtable am_index;
static DEFINE_MUTEX(am_index_lock);	/* of who adds and removes; lookup is under RCU */
static atomic64_t am_next_place = ATOMIC64_INIT(1);
static struct kmem_cache *am_smu_cache;
static struct crypto_shash *am_hash;

atomic64_t am_node_pages[MAX_NUMNODES];

/* ---- pages ---- */

static bool am_smu_wants_slow(const struct am_smu *smu)
{
	return am_wants_slow(smu->advice, smu->importance,
			     smu->holders[AGENTMEM_ACTIVE] + smu->holders[AGENTMEM_IDLE]);
}

static struct page *am_page_new(struct am_smu *smu, bool slow, gfp_t gfp)
{
	struct mem_cgroup *before = set_active_memcg(smu->memcg);
	int nid = slow ? am_slow_node() : NUMA_NO_NODE;
	struct page *page = nid == NUMA_NO_NODE ? alloc_page(gfp) : alloc_pages_node(nid, gfp, 0);

	set_active_memcg(before);
	return page;
}

static void am_page_set(struct am_smu *smu, u32 index, struct page *page)
{
	smu->pages[index] = page;
	smu->resident++;
	am_add(smu->user, AM_RESIDENT_BYTES, PAGE_SIZE);
	atomic64_inc(&am_node_pages[page_to_nid(page)]);
}

static void am_page_drop(struct am_smu *smu, u32 index)
{
	struct page *page = smu->pages[index];

	smu->pages[index] = NULL;
	smu->resident--;
	am_add(smu->user, AM_RESIDENT_BYTES, -(s64)PAGE_SIZE);
	atomic64_dec(&am_node_pages[page_to_nid(page)]);
	__free_page(page);
}

static u32 am_unit_first(const struct am_smu *smu, u32 unit)
{
	return unit * smu->unit_pages;
}

static u32 am_unit_end(const struct am_smu *smu, u32 unit)
{
	return min(smu->nr_pages, (unit + 1) * smu->unit_pages);
}

static u32 am_unit_bytes(const struct am_smu *smu, u32 unit)
{
	u64 first = (u64)am_unit_first(smu, unit) << PAGE_SHIFT;

	return min_t(u64, smu->key.len - first, (u64)smu->unit_pages << PAGE_SHIFT);
}

/* After this, and with the lock held, a page that only we refer to stays so. */
static void am_unmap(struct am_smu *smu, u32 first, u32 end)
{
	if (atomic_read(&smu->mappings))
		unmap_mapping_pages(am_space->i_mapping, smu->id + first, end - first, false);
}

static bool am_page_is_ours(struct page *page)
{
	return page_count(page) == 1;
}

static void am_lru_update(struct am_smu *smu, int nid)
{
	if (smu->resident > smu->raw)
		am_lru_add(smu, nid);
	else
		am_lru_del(smu);
}

/* ---- promotion, demotion, placement ---- */

/*
 * Uses through a mapping are not seen. So what has been quiet for half of its time
 * is unmapped: if it is used, that costs a fault, and tells.
 */
void am_probe(struct am_smu *smu)
{
	mutex_lock(&smu->lock);
	if (!smu->probed)
		am_unmap(smu, 0, smu->nr_pages);
	smu->probed = true;
	mutex_unlock(&smu->lock);
}

/* What is kept of a unit when its pages are gone. Under the SMU's lock. */
static int am_encode(struct am_smu *smu, u32 unit, bool may_wait)
{
	u32 first = am_unit_first(smu, unit), end = am_unit_end(smu, unit), index;
	u32 plain_bytes = am_unit_bytes(smu, unit);
	struct am_unit *it = &smu->units[unit];
	struct am_codec *codec;
	struct mem_cgroup *before;
	u32 packed_bytes, stored_bytes;
	int error = 0;

	codec = am_codec_get(may_wait);
	if (!codec)
		return -EAGAIN;
	for (index = first; index < end; index++) {
		u32 offset = (index - first) << PAGE_SHIFT;

		memcpy_from_page(am_codec_plain(codec) + offset, smu->pages[index], 0,
				 min_t(u32, plain_bytes - offset, PAGE_SIZE));
	}
	packed_bytes = am_compress(codec, plain_bytes);
	stored_bytes = am_chunks_stored_bytes(packed_bytes);
	/* Less than an eighth is not worth a fault. */
	if (stored_bytes > ((end - first) << PAGE_SHIFT) / 8 * 7) {
		it->packed_bytes = AM_UNIT_RAW;
		smu->raw += end - first;
		am_add(smu->user, AM_RAW_BYTES, (u64)(end - first) << PAGE_SHIFT);
		goto out;
	}
	before = set_active_memcg(smu->memcg);
	it->chunks = am_chunks_make(codec, packed_bytes);
	set_active_memcg(before);
	if (!it->chunks) {
		error = -ENOMEM;
		goto out;
	}
	it->packed_bytes = packed_bytes;
	it->stored_bytes = stored_bytes;
	smu->packed_bytes += plain_bytes;
	smu->stored_bytes += stored_bytes;
	am_add(smu->user, AM_PACKED_BYTES, plain_bytes);
	am_add(smu->user, AM_STORED_BYTES, stored_bytes);
out:
	am_codec_put(codec);
	return error;
}

/* Pages of a unit that were dropped, or a negative error. Under the SMU's lock. */
static long am_demote_unit(struct am_smu *smu, u32 unit, bool may_wait)
{
	u32 first = am_unit_first(smu, unit), end = am_unit_end(smu, unit), index;
	struct am_unit *it = &smu->units[unit];
	bool unmapped = false;
	int nid = smu->lru_nid;
	long dropped = 0;

	if (!it->packed_bytes) {
		int error = am_encode(smu, unit, may_wait);

		if (error)
			return error;
	}
	for (index = first; it->packed_bytes != AM_UNIT_RAW && index < end; index++) {
		if (!smu->pages[index])
			continue;
		if (!unmapped)
			am_unmap(smu, first, end);
		unmapped = true;
		if (am_page_is_ours(smu->pages[index])) {
			am_page_drop(smu, index);
			dropped++;
		} else {
			/* Somebody uses it. Otherwise reclaim would try the same ones forever. */
			smu->used = jiffies;
		}
	}
	if (dropped) {
		smu->demoted = jiffies;
		am_add(smu->user, AM_DEMOTIONS, 1);
		trace_agentmem_demote(smu->id, unit, dropped, it->stored_bytes);
	}
	am_lru_update(smu, nid);
	return dropped;
}

/*
 * Drops pages until so many are gone. Who may not wait is reclaim; all the same
 * may use what is set aside for it, as each unit gives more than it takes.
 */
unsigned long am_demote(struct am_smu *smu, unsigned long wanted, bool may_wait)
{
	unsigned int flags = memalloc_noreclaim_save();
	unsigned long dropped = 0;
	u32 unit;

	for (unit = 0; unit < smu->nr_units && dropped < wanted; unit++) {
		long n;

		if (may_wait)
			mutex_lock(&smu->lock);
		else if (!mutex_trylock(&smu->lock))
			break;
		n = smu->resident > smu->raw ? am_demote_unit(smu, unit, may_wait) : -ENOENT;
		mutex_unlock(&smu->lock);
		if (n < 0 || (may_wait && fatal_signal_pending(current)))
			break;
		dropped += n;
		cond_resched();
	}
	memalloc_noreclaim_restore(flags);
	return dropped;
}

static int am_decode(struct am_smu *smu, u32 unit, struct page **fresh)
{
	u32 first = am_unit_first(smu, unit), end = am_unit_end(smu, unit), index;
	u32 plain_bytes = am_unit_bytes(smu, unit);
	const struct am_unit *it = &smu->units[unit];
	struct am_codec *codec = am_codec_get(true);
	int error;

	error = am_decompress(codec, it->chunks, it->packed_bytes, plain_bytes);
	for (index = first; index < end && !error; index++) {
		u32 offset = (index - first) << PAGE_SHIFT;
		u32 here = min_t(u32, plain_bytes - offset, PAGE_SIZE);
		void *to;

		if (!fresh[index - first])
			continue;
		to = kmap_local_page(fresh[index - first]);
		memcpy(to, am_codec_plain(codec) + offset, here);
		memset(to + here, 0, PAGE_SIZE - here);
		kunmap_local(to);
	}
	am_codec_put(codec);
	if (error)
		pr_err_ratelimited("smu %llu, unit %u: what was compressed does not decode\n",
				   smu->id, unit);
	return error;
}

static void am_count_promotion(struct am_smu *smu, struct am_agent *agent, enum am_count what)
{
	if (agent)
		am_agent_add(agent, what, 1);
	else
		am_add(smu->user, what, 1);
}

/*
 * Gives a unit its pages back. Under the SMU's lock. The agent is who wants them,
 * or NULL for whoever it was lent.
 */
static int am_promote_unit(struct am_smu *smu, u32 unit, struct am_agent *agent, gfp_t gfp)
{
	u32 first = am_unit_first(smu, unit), end = am_unit_end(smu, unit), index;
	struct page *fresh[AM_UNIT_PAGES_MAX] = {};
	bool slow = am_smu_wants_slow(smu);
	int error = 0;
	u32 missing = 0;

	for (index = first; index < end && !error; index++) {
		if (smu->pages[index])
			continue;
		fresh[index - first] = am_page_new(smu, slow, gfp);
		if (!fresh[index - first])
			error = -ENOMEM;
		missing++;
	}
	if (!missing)
		return 0;
	if (!error)
		error = am_decode(smu, unit, fresh);
	for (index = first; index < end; index++) {
		struct page *page = fresh[index - first];

		if (!page)
			continue;
		if (error) {
			__free_page(page);
			continue;
		}
		am_page_set(smu, index, page);
		am_lru_update(smu, page_to_nid(page));
	}
	if (error)
		return error;
	am_count_promotion(smu, agent, AM_PROMOTIONS);
	if (time_before(jiffies, smu->demoted + msecs_to_jiffies(READ_ONCE(refault_ms))))
		am_count_promotion(smu, agent, AM_REFAULTS);
	trace_agentmem_promote(smu->id, unit, missing, smu->units[unit].stored_bytes);
	return 0;
}

/* A page for a mapping, with a reference; or an error. */
struct page *am_page_get(struct am_smu *smu, u32 index, struct am_agent *agent)
{
	struct page *page;
	int error = 0;

	mutex_lock(&smu->lock);
	if (!smu->pages[index])
		error = am_promote_unit(smu, index / smu->unit_pages, agent, AM_GFP_FAULT);
	page = smu->pages[index];
	if (!error) {
		get_page(page);
		smu->used = jiffies;
		smu->probed = false;
	}
	mutex_unlock(&smu->lock);
	return error ? ERR_PTR(error) : page;
}

int am_promote(struct am_smu *smu, struct am_agent *agent)
{
	u32 unit;

	for (unit = 0; unit < smu->nr_units; unit++) {
		int error;

		mutex_lock(&smu->lock);
		error = am_promote_unit(smu, unit, agent, AM_GFP_PAGE);
		smu->used = jiffies;
		mutex_unlock(&smu->lock);
		if (error)
			return error;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/* Puts another page in the place of one that only we refer to. */
static bool am_page_move(struct am_smu *smu, u32 index, bool slow)
{
	gfp_t gfp = (AM_GFP_PAGE & ~__GFP_RETRY_MAYFAIL) | __GFP_NORETRY;
	struct page *page = am_page_new(smu, slow, slow ? gfp | __GFP_THISNODE : gfp);

	if (!page)
		return false;
	if ((page_to_nid(page) == am_slow_node()) != slow) {
		__free_page(page);
		return false;
	}
	copy_highpage(page, smu->pages[index]);
	am_page_drop(smu, index);
	am_page_set(smu, index, page);
	return true;
}

static void am_place_unit(struct am_smu *smu, u32 unit, int slow_nid)
{
	u32 first = am_unit_first(smu, unit), end = am_unit_end(smu, unit), index;
	bool slow = am_smu_wants_slow(smu), unmapped = false;
	enum am_count what = slow ? AM_MOVED_SLOW_BYTES : AM_MOVED_FAST_BYTES;

	for (index = first; index < end; index++) {
		struct page *page = smu->pages[index];

		if (!page || (page_to_nid(page) == slow_nid) == slow)
			continue;
		if (!unmapped)
			am_unmap(smu, first, end);
		unmapped = true;
		if (!am_page_is_ours(page))
			continue;
		if (!am_page_move(smu, index, slow))
			return;
		am_add(smu->user, what, PAGE_SIZE);
		am_lru_del(smu);
		am_lru_update(smu, page_to_nid(smu->pages[index]));
	}
}

/* Moves resident pages to the kind of node that the SMU should be on, as far as there is room. */
void am_place(struct am_smu *smu)
{
	int slow_nid = am_slow_node();
	u32 unit;

	if (slow_nid == NUMA_NO_NODE)
		return;
	for (unit = 0; unit < smu->nr_units && !fatal_signal_pending(current); unit++) {
		mutex_lock(&smu->lock);
		am_place_unit(smu, unit, slow_nid);
		mutex_unlock(&smu->lock);
		cond_resched();
	}
}

/* ---- life ---- */

static void am_smu_free_rcu(struct rcu_head *head)
{
	kmem_cache_free(am_smu_cache, container_of(head, struct am_smu, rcu));
}

static void am_smu_free(struct am_smu *smu)
{
	u32 i;

	am_lru_del(smu);
	for (i = 0; i < smu->nr_pages; i++) {
		if (smu->pages[i])
			am_page_drop(smu, i);
		if (i % SZ_1K == 0)
			cond_resched();
	}
	for (i = 0; i < smu->nr_units; i++)
		am_chunks_free(smu->units[i].chunks);
	am_add(smu->user, AM_RAW_BYTES, -((s64)smu->raw << PAGE_SHIFT));
	am_add(smu->user, AM_PACKED_BYTES, -(s64)smu->packed_bytes);
	am_add(smu->user, AM_STORED_BYTES, -(s64)smu->stored_bytes);
	am_add(smu->user, AM_CONTENT_BYTES, -((s64)smu->nr_pages << PAGE_SHIFT));
	am_add(smu->user, AM_SMUS, -1);
	kvfree(smu->units);
	kvfree(smu->pages);
	mem_cgroup_put(smu->memcg);
	put_user_ns(smu->user_ns);
	am_user_put(smu->user);
	call_rcu(&smu->rcu, am_smu_free_rcu);
}

void am_put(struct am_smu *smu)
{
	if (!refcount_dec_and_mutex_lock(&smu->refs, &am_index_lock))
		return;
	/* A second copy of what was there already was never added: then this does nothing. */
	rhashtable_remove_fast(&am_index, &smu->node, am_index_params);
	mutex_unlock(&am_index_lock);
	am_smu_free(smu);
}

static void am_key_set(struct am_key *key, const struct am_agent *agent, u64 len)
{
	key->len = len;
	key->user_ns = (uintptr_t)agent->user_ns;
	key->uid = __kuid_val(agent->user->uid);
}

/* The same content, if it is there already: with a reference, or NULL. */
struct am_smu *am_find(const struct am_agent *agent, const u8 *digest, u64 len)
{
	struct am_key key;
	struct am_smu *smu;

	memcpy(key.digest, digest, sizeof(key.digest));
	am_key_set(&key, agent, len);
	rcu_read_lock();
	smu = rhashtable_lookup(&am_index, &key, am_index_params);
	if (smu && !refcount_inc_not_zero(&smu->refs))
		smu = NULL;
	rcu_read_unlock();
	return smu;
}

/* Empty, with all that it will ever need but pages. */
struct am_smu *am_smu_new(struct am_agent *agent, const struct agentmem_alloc *args)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(current->mm), *before;
	u32 nr_pages = DIV_ROUND_UP_ULL(args->len, PAGE_SIZE);
	u32 bytes = clamp_t(u32, READ_ONCE(unit_bytes), PAGE_SIZE, AM_UNIT_BYTES_MAX);
	struct am_smu *smu;

	/* The list that it will be on is that of this cgroup, and is made here. */
	before = set_active_memcg(memcg);
	smu = kmem_cache_alloc_lru(am_smu_cache, &am_lru, AM_GFP | __GFP_ZERO);
	if (!smu)
		goto fail;
	smu->nr_pages = nr_pages;
	smu->unit_pages = rounddown_pow_of_two(bytes) / PAGE_SIZE;
	smu->nr_units = DIV_ROUND_UP(nr_pages, smu->unit_pages);
	smu->pages = kvcalloc(nr_pages, sizeof(*smu->pages), AM_GFP);
	smu->units = kvcalloc(smu->nr_units, sizeof(*smu->units), AM_GFP);
	if (!smu->pages || !smu->units)
		goto fail;
	set_active_memcg(before);

	mutex_init(&smu->lock);
	INIT_LIST_HEAD(&smu->lru);
	smu->lru_nid = NUMA_NO_NODE;
	refcount_set(&smu->refs, 1);
	refcount_inc(&agent->user->refs);
	smu->user = agent->user;
	smu->user_ns = get_user_ns(agent->user_ns);
	smu->memcg = memcg;
	smu->kind = args->kind;
	smu->importance = args->importance;
	smu->used = jiffies;
	smu->id = atomic64_fetch_add(nr_pages, &am_next_place);
	am_key_set(&smu->key, agent, args->len);
	am_add(smu->user, AM_SMUS, 1);
	return smu;
fail:
	set_active_memcg(before);
	if (smu) {
		kvfree(smu->units);
		kvfree(smu->pages);
		kmem_cache_free(am_smu_cache, smu);
	}
	mem_cgroup_put(memcg);
	return NULL;
}

/* Copies the content and hashes the copy: what the caller does meanwhile does not matter. */
int am_fill(struct am_smu *smu, u64 addr, bool slow)
{
	SHASH_DESC_ON_STACK(desc, am_hash);
	u64 left = smu->key.len;
	int error;
	u32 i;

	desc->tfm = am_hash;
	error = crypto_shash_init(desc);
	for (i = 0; i < smu->nr_pages && !error; i++) {
		u32 here = min_t(u64, left, PAGE_SIZE);
		struct page *page;
		void *to;

		page = am_page_new(smu, slow, AM_GFP_PAGE);
		if (!page)
			return -ENOMEM;
		am_page_set(smu, i, page);
		to = kmap_local_page(page);
		if (copy_from_user(to, u64_to_user_ptr(addr), here))
			error = -EFAULT;
		else
			error = crypto_shash_update(desc, to, here);
		memset(to + here, 0, PAGE_SIZE - here);
		kunmap_local(to);
		if (fatal_signal_pending(current))
			error = -EINTR;
		addr += here;
		left -= here;
		cond_resched();
	}
	if (!error)
		error = crypto_shash_final(desc, smu->key.digest);
	shash_desc_zero(desc);
	return error;
}

/* Makes an SMU findable, or gives the one that was faster. Takes over the reference. */
struct am_smu *am_publish(struct am_smu *fresh, bool *shared)
{
	struct am_smu *smu;
	int error;

	mutex_lock(&fresh->lock);
	am_lru_update(fresh, page_to_nid(fresh->pages[0]));
	mutex_unlock(&fresh->lock);

	mutex_lock(&am_index_lock);
	smu = rhashtable_lookup_get_insert_fast(&am_index, &fresh->node, am_index_params);
	error = PTR_ERR_OR_ZERO(smu);
	/* Whoever gives the last reference back removes it under this lock: so it is alive. */
	if (smu && !error)
		refcount_inc(&smu->refs);
	mutex_unlock(&am_index_lock);

	*shared = smu && !error;
	if (!smu)
		return fresh;
	am_put(fresh);
	return smu;
}

int am_smus_start(void)
{
	int error;

	am_hash = crypto_alloc_shash("sha256", 0, 0);
	if (IS_ERR(am_hash))
		return PTR_ERR(am_hash);
	am_smu_cache = KMEM_CACHE(am_smu, SLAB_ACCOUNT);
	if (!am_smu_cache) {
		error = -ENOMEM;
		goto free_hash;
	}
	error = rhashtable_init(&am_index, &am_index_params);
	if (!error)
		return 0;
	kmem_cache_destroy(am_smu_cache);
free_hash:
	crypto_free_shash(am_hash);
	return error;
}

/* No file is open and nothing is mapped, so there are no SMUs. */
void am_smus_stop(void)
{
	rhashtable_destroy(&am_index);
	rcu_barrier();
	kmem_cache_destroy(am_smu_cache);
	crypto_free_shash(am_hash);
}
