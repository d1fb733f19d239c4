// SPDX-License-Identifier: GPL-2.0
/*
 * Structured random calls, from processes and threads that share agents with each
 * other, while others of them are killed, memory is reclaimed and parameters change.
 *
 *     fuzz ROUNDS SEED
 *
 * Whatever is mapped must be what was put, and in the end nothing may be left.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "client.h"

#define CONTENTS	48
#define AGENTS		6
#define PROCESSES	4
#define THREADS		2

static struct {
	char *bytes;
	uint64_t len;
} contents[CONTENTS];

/* Known to all processes: whatever was put last, where it is, and how often things were done. */
static struct {
	uint64_t ids[CONTENTS];
	uint8_t digests[CONTENTS][AGENTMEM_DIGEST_BYTES];
	uint32_t agent_ids[AGENTS];
	uint64_t calls, passed, checked;
} *common;

static int agents[AGENTS];
static long rounds;

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t below(uint64_t *state, uint64_t end)
{
	return next(state) % end;
}

/* A number that somebody might have forgotten. */
static uint64_t edge(uint64_t *state)
{
	switch (below(state, 8)) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX - below(state, 3);
	case 2:
		return 1ULL << below(state, 64);
	case 3:
		return (1ULL << below(state, 64)) - 1;
	case 4:
		return INT64_MAX - below(state, PAGE);
	case 5:
		return below(state, 4);
	}
	return next(state);
}

static uint64_t any_id(uint64_t *state)
{
	uint64_t id = common->ids[below(state, CONTENTS)];

	switch (below(state, 12)) {
	case 0:
		return edge(state);
	case 1:
		return id + below(state, 80);
	case 2:
		return id - 1;
	}
	return id;
}

static void count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static int fuzz_call(int agent, unsigned long number, void *argument)
{
	int error = call(agent, number, argument);

	count(&common->calls);
	if (!error)
		count(&common->passed);
	return error;
}

/* Bytes of a structure as they come, some of them at the end of what is mapped. */
static void garbage(uint64_t *state, int agent)
{
	static const unsigned long numbers[] = {
		AGENTMEM_IOC_API, AGENTMEM_IOC_AGENT, AGENTMEM_IOC_ALLOC, AGENTMEM_IOC_ATTACH,
		AGENTMEM_IOC_SHARE, AGENTMEM_IOC_FREE, AGENTMEM_IOC_ADVISE, AGENTMEM_IOC_INFO,
		AGENTMEM_IOC_STATS, AGENTMEM_IOC_LEND,
	};
	unsigned long number = numbers[below(state, 10)];
	char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	uint64_t *words = (uint64_t *)(pages + PAGE - 256);

	NEED(pages != MAP_FAILED);
	munmap(pages + PAGE, PAGE);
	for (int i = 0; i < 32; i++)
		words[i] = below(state, 3) ? 0 : edge(state);
	if (!below(state, 4))
		number = _IOC(below(state, 4), AGENTMEM_IOC, below(state, 12), below(state, 300));
	if (!below(state, 4))
		words += below(state, 32);
	if (!below(state, 16))
		words = (uint64_t *)edge(state);
	if (!fuzz_call(agent, number, words) && number == AGENTMEM_IOC_LEND)
		close(((struct agentmem_lend *)words)->fd);
	munmap(pages, PAGE);
}

static void fuzz_put(uint64_t *state, int agent)
{
	uint64_t which = below(state, CONTENTS), len = contents[which].len;
	struct agentmem_alloc args = {
		.addr = (uintptr_t)contents[which].bytes,
		.len = len,
		.kind = below(state, 5),
		.importance = below(state, 110),
		.flags = below(state, 2),
	};

	if (!below(state, 20))
		args.len = edge(state);
	if (!below(state, 20))
		args.addr = edge(state);
	if (fuzz_call(agent, AGENTMEM_IOC_ALLOC, &args))
		return;
	if (args.addr == (uintptr_t)contents[which].bytes && args.len == len) {
		common->ids[which] = args.id;
		memcpy(common->digests[which], args.digest, sizeof(args.digest));
	}
}

/* An id says where its content lies, but another process may have put that anew meanwhile. */
static void fuzz_map(uint64_t *state, int agent)
{
	uint64_t which = below(state, CONTENTS), len = contents[which].len;
	uint64_t id = common->ids[which];
	const char *seen = map(agent, id, len);

	if (seen == MAP_FAILED)
		return;
	if (!below(state, 2))
		advise(agent, id, below(state, 4));
	if (!below(state, 4))
		give_back(agent, id);
	if (memcmp(seen, contents[which].bytes, len))
		ktap_wrong(__FILE__, __LINE__, "id %llu is not content %llu",
			   (unsigned long long)id, (unsigned long long)which);
	count(&common->checked);
	munmap((void *)seen, len);
}

/* As above, by a descriptor that is closed before the mapping goes, or after it. */
static void fuzz_lend(uint64_t *state, int agent)
{
	uint64_t which = below(state, CONTENTS), len = contents[which].len;
	uint64_t id = common->ids[which];
	struct agentmem_lend args = { .id = id, .flags = !below(state, 20) };
	bool is_kept = below(state, 2);
	const char *seen;

	if (fuzz_call(agent, AGENTMEM_IOC_LEND, &args))
		return;
	if (!below(state, 4))
		give_back(agent, id);
	seen = map(args.fd, 0, len);
	if (seen == MAP_FAILED)
		ktap_wrong(__FILE__, __LINE__, "what was lent cannot be mapped: %m");
	if (!is_kept)
		close(args.fd);
	if (!below(state, 2))
		advise(agent, id, below(state, 4));
	if (seen != MAP_FAILED && memcmp(seen, contents[which].bytes, len))
		ktap_wrong(__FILE__, __LINE__, "id %llu is not content %llu",
			   (unsigned long long)id, (unsigned long long)which);
	count(&common->checked);
	if (seen != MAP_FAILED)
		munmap((void *)seen, len);
	if (is_kept)
		close(args.fd);
}

/* Any place, any length, any protection: what can be mapped can be read. */
static void fuzz_map_any(uint64_t *state, int agent)
{
	uint64_t len = 1 + below(state, 100 * PAGE);
	int protection = below(state, 2) ? PROT_READ : below(state, 8);
	volatile const char *seen;

	seen = map_as(agent, any_id(state), len, protection,
		      below(state, 2) ? MAP_SHARED : MAP_PRIVATE);
	if (seen == MAP_FAILED)
		return;
	if (protection & (PROT_WRITE | PROT_EXEC))
		ktap_wrong(__FILE__, __LINE__, "mapped with protection %d", protection);
	for (uint64_t at = 0; at < len && protection; at += PAGE)
		seen[at];
	if (!below(state, 4))
		madvise((void *)seen, len, below(state, 26));
	munmap((void *)seen, len);
}

static void environment(uint64_t *state)
{
	static const char *const idle[] = { "0", "1", "50", "1000" };

	switch (below(state, 5)) {
	case 0:
		write_text("/proc/sys/vm/drop_caches", "2");
		break;
	case 1:
		write_text(PARAMETERS "unit_bytes", "%d", 4096 << below(state, 5));
		break;
	case 2:
		write_text(PARAMETERS "idle_ms", "%s", idle[below(state, 4)]);
		break;
	case 3:
		write_text(PARAMETERS "slow_node", "%d", (int)below(state, 4) - 2);
		break;
	case 4:
		write_text(PARAMETERS "slow_below", "%d", (int)below(state, 100));
		break;
	}
}

static void read_stats(void)
{
	static char sink[1 << 16];
	static const char *const files[] = { "/proc/agent_stats", "/sys/kernel/debug/agentmem/stats" };

	for (int i = 0; i < 2; i++) {
		int file = open(files[i], O_RDONLY);

		NEED(file >= 0);
		while (read(file, sink, sizeof(sink)) > 0)
			;
		close(file);
	}
}

static void child_dies(uint64_t *state)
{
	pid_t child = fork();

	NEED(child >= 0);
	if (!child) {
		uint64_t own = next(state);
		int agent = agent_open();

		alarm(5);
		for (;;) {
			if (agent >= 0)
				fuzz_put(&own, agent);
			fuzz_map(&own, agents[below(&own, AGENTS)]);
			fuzz_lend(&own, agents[below(&own, AGENTS)]);
		}
	}
	usleep(below(state, 20000));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static void one(uint64_t *state)
{
	int agent = agents[below(state, AGENTS)], fresh;
	uint64_t id = any_id(state), which = below(state, CONTENTS);
	struct agentmem_info about = { .id = id };
	struct agentmem_stats figures = { .scope = below(state, 4) };
	struct agentmem_agent self = {
		.set = below(state, 9),
		.state = below(state, 4),
		.importance = below(state, 120),
		.name = "fuzz",
	};
	struct agentmem_advise tip = {
		.id = id,
		.advice = below(state, 5),
		.importance = below(state, 110),
		.flags = below(state, 3),
	};
	struct agentmem_share to = { .id = id, .agent = common->agent_ids[below(state, AGENTS)] };

	switch (below(state, 40)) {
	case 0 ... 8:
		fuzz_put(state, agent);
		break;
	case 9 ... 14:
		fuzz_map(state, agent);
		break;
	case 15 ... 16:
		fuzz_lend(state, agent);
		break;
	case 17 ... 19:
		fuzz_map_any(state, agent);
		break;
	case 20 ... 24:
		give_back(agent, id);
		break;
	case 25 ... 27:
		fuzz_call(agent, AGENTMEM_IOC_SHARE, &to);
		break;
	case 28 ... 29:
		attach(agent, common->digests[which], contents[which].len, &id);
		break;
	case 30 ... 32:
		fuzz_call(agent, AGENTMEM_IOC_ADVISE, &tip);
		break;
	case 33:
		fuzz_call(agent, AGENTMEM_IOC_INFO, &about);
		fuzz_call(agent, AGENTMEM_IOC_STATS, &figures);
		break;
	case 34:
		fuzz_call(agent, AGENTMEM_IOC_AGENT, &self);
		break;
	case 35 ... 36:
		garbage(state, agent);
		break;
	case 37:
		fresh = agent_open();
		if (fresh >= 0) {
			fuzz_put(state, fresh);
			fuzz_map(state, fresh);
			close(fresh);
		}
		break;
	case 38:
		if (!below(state, 8))
			environment(state);
		else
			read_stats();
		break;
	case 39:
		if (!below(state, 8))
			child_dies(state);
		break;
	}
}

static void *thread(void *argument)
{
	uint64_t state = *(uint64_t *)argument;

	for (long i = 0; i < rounds && !ktap_case_failed; i++)
		one(&state);
	return NULL;
}

static void process(void *argument)
{
	uint64_t seeds[THREADS];
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++) {
		seeds[i] = (*(uint64_t *)argument * THREADS + i + 1) * 0x9e3779b97f4a7c15;
		NEED(!pthread_create(&threads[i], NULL, thread, &seeds[i]));
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static uint64_t seed;

static void calls(void)
{
	pid_t children[PROCESSES];

	for (int i = 0; i < PROCESSES; i++) {
		children[i] = fork();
		NEED(children[i] >= 0);
		if (!children[i]) {
			uint64_t own = seed * PROCESSES + i;

			process(&own);
			_exit(ktap_case_failed);
		}
	}
	for (int i = 0; i < PROCESSES; i++) {
		int status;

		NEED(waitpid(children[i], &status, 0) == children[i]);
		EXPECT_EQ(status, 0);
	}
	NOTE("%llu calls, %llu of them not refused, %llu contents checked",
	     (unsigned long long)common->calls, (unsigned long long)common->passed,
	     (unsigned long long)common->checked);
	EXPECT(common->passed > common->calls / 10);
	EXPECT(common->checked > 0);
}

static void nothing_left(void)
{
	struct agentmem_stats left;
	int agent;

	for (int i = 0; i < AGENTS; i++)
		close(agents[i]);
	write_text(PARAMETERS "idle_ms", "0");
	/* The worker may hold what it looks at for a moment. */
	sleep(1);
	agent = agent_open();
	left = stats(agent, AGENTMEM_OF_ALL);
	EXPECT_EQ(left.agents, 1);
	EXPECT_EQ(left.smus, 0);
	EXPECT_EQ(left.leases, 0);
	EXPECT_EQ(left.logical_bytes, 0);
	EXPECT_EQ(left.content_bytes, 0);
	EXPECT_EQ(left.shared_bytes, 0);
	EXPECT_EQ(left.resident_bytes, 0);
	EXPECT_EQ(left.stored_bytes, 0);
	EXPECT_EQ(left.packed_bytes, 0);
	EXPECT_EQ(left.raw_bytes, 0);
	NOTE("promotions %llu, demotions %llu, moved %llu bytes, reclaimed %llu bytes",
	     (unsigned long long)left.promotions, (unsigned long long)left.demotions,
	     (unsigned long long)(left.moved_slow_bytes + left.moved_fast_bytes),
	     (unsigned long long)left.reclaimed_bytes);
	write_text(PARAMETERS "unit_bytes", "65536");
	write_text(PARAMETERS "slow_node", "-1");
	write_text(PARAMETERS "slow_below", "30");
}

int main(int argc, char **argv)
{
	rounds = argc > 1 ? atol(argv[1]) : 1000;
	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	NEED(common != MAP_FAILED);
	for (int i = 0; i < CONTENTS; i++) {
		contents[i].len = 1 + (i < 16 ? i * 700ULL : i * 7919ULL * 13 % (48 * PAGE));
		contents[i].bytes = i % 5 ? text(i, contents[i].len) : noise(i, contents[i].len);
	}
	for (int i = 0; i < AGENTS; i++) {
		agents[i] = agent_open();
		NEED(agents[i] >= 0);
		common->agent_ids[i] = agent_set(agents[i], 0, 0, "");
	}
	ktap_begin(2);
	NOTE("seed %llu, %ld rounds in each of %d threads", (unsigned long long)seed, rounds,
	     PROCESSES * THREADS);
	ktap_case("random calls, and all that is mapped is what was put", calls);
	ktap_case("nothing is left", nothing_left);
	return ktap_end();
}
