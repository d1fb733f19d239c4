// SPDX-License-Identifier: GPL-2.0
/* Mappings, compression, nodes, ageing, and what can be watched. */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/personality.h>

#include "client.h"

#define LEN	(1024 * 1024 + 100)
#define PAGES	257

static int agent;

static int count_pages(uint64_t *frames, const char *seen)
{
	int present = 0;

	for (int i = 0; i < PAGES; i++) {
		frames[i] = frame_of(seen + i * PAGE);
		present += frames[i] != 0;
	}
	return present;
}

/* Two agents, two mappings, one set of page frames. */
static void zero_copy(void)
{
	static uint64_t frames[2][PAGES];
	char *content = text(1, LEN);
	int other = agent_open();
	int64_t id = put(agent, content, LEN);
	const char *one, *two;

	EXPECT_EQ(put(other, content, LEN), id);
	one = map(agent, id, LEN);
	two = map_as(other, id, LEN, PROT_READ, MAP_PRIVATE);
	NEED(one != MAP_FAILED && two != MAP_FAILED && one != two);
	EXPECT(!memcmp(one, content, LEN));
	EXPECT(!memcmp(two, content, LEN));
	EXPECT_EQ(count_pages(frames[0], one), PAGES);
	EXPECT_EQ(count_pages(frames[1], two), PAGES);
	EXPECT(!memcmp(frames[0], frames[1], sizeof(frames[0])));
	/* Behind the end lie zeros, and nothing of anybody. */
	for (int i = LEN; i < PAGES * (int)PAGE; i++)
		EXPECT_EQ(one[i], 0);
	munmap((void *)one, LEN);
	munmap((void *)two, LEN);
	close(other);
	EXPECT_EQ(give_back(agent, id), 0);
	free(content);
}

#define ERRNO_OF(pointer) ((pointer) == MAP_FAILED ? errno : 0)

static void read_only(void)
{
	char *content = text(2, LEN);
	int64_t id = put(agent, content, LEN);
	const char *seen = map(agent, id, LEN);
	int memory = open("/proc/self/mem", O_RDWR), pipes[2], reader;

	NEED(seen != MAP_FAILED && memory >= 0 && !pipe(pipes));
	for (int shared = 0; shared < 2; shared++) {
		int flags = shared ? MAP_SHARED : MAP_PRIVATE;

		EXPECT_EQ(ERRNO_OF(map_as(agent, id, LEN, PROT_READ | PROT_WRITE, flags)), EACCES);
		EXPECT_EQ(ERRNO_OF(map_as(agent, id, LEN, PROT_WRITE, flags)), EACCES);
		EXPECT_EQ(ERRNO_OF(map_as(agent, id, LEN, PROT_READ | PROT_EXEC, flags)), EACCES);
	}
	EXPECT_EQ(mprotect((void *)seen, LEN, PROT_READ | PROT_WRITE) ? errno : 0, EACCES);
	EXPECT_EQ(mprotect((void *)seen, LEN, PROT_READ | PROT_EXEC) ? errno : 0, EACCES);
	EXPECT(pwrite(memory, "x", 1, (uintptr_t)seen) < 0);
	EXPECT(write(pipes[1], "xyz", 3) == 3);
	EXPECT_EQ(read(pipes[0], (void *)seen, 3) < 0 ? errno : 0, EFAULT);
	EXPECT_EQ(ERRNO_OF(mremap((void *)seen, LEN, 2 * LEN, MREMAP_MAYMOVE)), EFAULT);
	EXPECT(!memcmp(seen, content, LEN));

	/* A file that is open for reading alone is as good. */
	reader = open("/dev/agentmem", O_RDONLY);
	EXPECT_EQ(put(reader, content, LEN), id);
	EXPECT_EQ(ERRNO_OF(map_as(reader, id, LEN, PROT_READ | PROT_WRITE, MAP_SHARED)), EACCES);
	close(reader);
	munmap((void *)seen, LEN);
	EXPECT_EQ(give_back(agent, id), 0);
	close(memory);
	free(content);
}

/* Two SMUs that follow each other in the file and in memory stay two mappings. */
static void neighbours(void)
{
	char *one = text(20, LEN), *two = text(21, LEN);
	uint64_t smus = stats(agent, AGENTMEM_OF_USER).smus;
	int64_t first = put(agent, one, LEN), second = put(agent, two, LEN);
	char *place = mmap(NULL, 2 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(place != MAP_FAILED);
	EXPECT_EQ(second, first + PAGES);
	EXPECT(mmap(place, LEN, PROT_READ, MAP_SHARED | MAP_FIXED, agent, first * PAGE) == place);
	EXPECT(mmap(place + PAGES * PAGE, LEN, PROT_READ, MAP_SHARED | MAP_FIXED, agent,
		    second * PAGE) == place + PAGES * PAGE);
	EXPECT(!memcmp(place, one, LEN));
	EXPECT(!memcmp(place + PAGES * PAGE, two, LEN));
	EXPECT_EQ(give_back(agent, first), 0);
	EXPECT_EQ(give_back(agent, second), 0);
	munmap(place, 2 * PAGES * PAGE);
	EXPECT_EQ(stats(agent, AGENTMEM_OF_USER).smus, smus);
	free(one);
	free(two);
}

static void ranges(void)
{
	char *content = text(3, LEN);
	int64_t id = put(agent, content, LEN);
	const char *seen, *moved;

	/* A part, from a page within. */
	seen = mmap(NULL, 10 * PAGE, PROT_READ, MAP_SHARED, agent, (id + 100) * PAGE);
	NEED(seen != MAP_FAILED);
	EXPECT(!memcmp(seen, content + 100 * PAGE, 10 * PAGE));
	/* Moved, and cut in two. */
	moved = mremap((void *)seen, 10 * PAGE, 10 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		       (void *)0x700000000000);
	NEED(moved != MAP_FAILED);
	EXPECT_EQ(munmap((void *)(moved + 4 * PAGE), PAGE), 0);
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	EXPECT(!memcmp(moved, content + 100 * PAGE, 4 * PAGE));
	EXPECT(!memcmp(moved + 5 * PAGE, content + 105 * PAGE, 5 * PAGE));
	munmap((void *)moved, 10 * PAGE);
	neighbours();

	EXPECT_EQ(ERRNO_OF(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, agent,
				(id + PAGES - 1) * PAGE)), EINVAL);
	EXPECT_EQ(ERRNO_OF(map(agent, id, LEN + PAGE)), EINVAL);
	EXPECT_EQ(ERRNO_OF(map(agent, id + PAGES, PAGE)), ENOENT);
	EXPECT_EQ(ERRNO_OF(map(agent, 0, PAGE)), ENOENT);
	EXPECT_EQ(give_back(agent, id), 0);
	EXPECT_EQ(ERRNO_OF(map(agent, id, PAGE)), ENOENT);
	free(content);
}

static void compression(void)
{
	char *content = text(4, LEN);
	int64_t id = put(agent, content, LEN);
	const char *seen = map(agent, id, LEN);
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_AGENT), after;
	struct agentmem_info cold;
	static uint64_t frames[PAGES];

	NEED(seen != MAP_FAILED);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	cold = info(agent, id);
	EXPECT_EQ(cold.resident_bytes, 0);
	EXPECT_EQ(cold.raw_bytes, 0);
	EXPECT(cold.stored_bytes > 0 && cold.stored_bytes < LEN / 3);
	EXPECT_EQ(count_pages(frames, seen), 0);
	NOTE("%d bytes of text, compressed: %llu", LEN, (unsigned long long)cold.stored_bytes);

	/* One page brings its unit back, and what is kept stays for the next time. */
	EXPECT_EQ(seen[0], content[0]);
	EXPECT_EQ(info(agent, id).resident_bytes, 16 * PAGE);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(info(agent, id).resident_bytes, PAGES * PAGE);
	EXPECT_EQ(info(agent, id).stored_bytes, cold.stored_bytes);
	after = stats(agent, AGENTMEM_OF_AGENT);
	EXPECT_EQ(after.promotions - before.promotions, 17);
	EXPECT_EQ(after.refaults - before.refaults, 17);
	for (int i = LEN; i < PAGES * (int)PAGE; i++)
		EXPECT_EQ(seen[i], 0);

	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	EXPECT_EQ(info(agent, id).resident_bytes, 0);
	EXPECT_EQ(advise(agent, id, AGENTMEM_WILL_NEED), 0);
	EXPECT_EQ(info(agent, id).resident_bytes, PAGES * PAGE);
	munmap((void *)seen, LEN);
	EXPECT_EQ(give_back(agent, id), 0);
	free(content);
}

/* What does not shrink stays as it is; the rest of the same SMU does not. */
static void incompressible(void)
{
	char *content = text(5, LEN), *bytes = noise(5, LEN);
	struct agentmem_info cold;
	int64_t id;

	memcpy(content + 512 * 1024, bytes, 128 * 1024);
	id = put(agent, content, LEN);
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	cold = info(agent, id);
	EXPECT_EQ(cold.raw_bytes, 128 * 1024);
	EXPECT_EQ(cold.resident_bytes, 128 * 1024);
	EXPECT(!memcmp(map(agent, id, LEN), content, LEN));
	EXPECT_EQ(give_back(agent, id), 0);
	free(content);
	free(bytes);
}

static void units(void)
{
	uint64_t stored[3], at = 0;

	for (uint64_t bytes = PAGE; bytes <= 65536; bytes *= 4) {
		char *content = text(6, LEN);
		const char *seen;
		int64_t id;

		write_text(PARAMETERS "unit_bytes", "%llu", (unsigned long long)bytes);
		id = put(agent, content, LEN);
		EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
		stored[at++] = info(agent, id).stored_bytes;
		seen = map(agent, id, LEN);
		EXPECT_EQ(seen[50 * PAGE], content[50 * PAGE]);
		EXPECT_EQ(info(agent, id).resident_bytes, bytes);
		EXPECT(!memcmp(seen, content, LEN));
		munmap((void *)seen, LEN);
		EXPECT_EQ(give_back(agent, id), 0);
		free(content);
	}
	EXPECT(stored[0] > stored[1] && stored[1] > stored[2]);
}

/* Of a mapping, how many pages lie on a node, as /proc/self/numa_maps has it. */
static long on_node(const char *seen, int node)
{
	char line[512], wanted[32], key[16];
	FILE *file = fopen("/proc/self/numa_maps", "r");
	long pages = 0;

	NEED(file);
	snprintf(wanted, sizeof(wanted), "%lx ", (unsigned long)seen);
	snprintf(key, sizeof(key), " N%d=", node);
	while (fgets(line, sizeof(line), file)) {
		const char *found = strstr(line, key);

		if (found && !strncmp(line, wanted, strlen(wanted)))
			pages = atol(found + strlen(key));
	}
	fclose(file);
	return pages;
}

/* Of all SMUs, as the module counts them. */
static long long bytes_on_node(int node)
{
	char line[2048], key[32];
	FILE *file = fopen("/sys/kernel/debug/agentmem/stats", "r");
	const char *found;

	NEED(file && fgets(line, sizeof(line), file));
	fclose(file);
	snprintf(key, sizeof(key), " node%d_bytes=", node);
	found = strstr(line, key);
	NEED(found);
	return atoll(found + strlen(key));
}

static long touch(const char *seen)
{
	long sum = 0;

	for (int i = 0; i < PAGES; i++)
		sum += ((volatile const char *)seen)[i * PAGE];
	return sum;
}

static void nodes(void)
{
	char *content = text(7, LEN);
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_USER), after;
	long long slow_bytes = bytes_on_node(1);
	struct agentmem_alloc made;
	const char *seen;
	int alone = agent_open();

	/* Of low importance: on the slow node from the start. */
	EXPECT_EQ(put_as(alone, content, LEN, 10, &made), 0);
	seen = map(alone, made.id, LEN);
	touch(seen);
	EXPECT_EQ(info(alone, made.id).slow_bytes, PAGES * PAGE);
	EXPECT_EQ(on_node(seen, 1), PAGES);
	EXPECT_EQ(on_node(seen, 0), 0);
	EXPECT_EQ(bytes_on_node(1) - slow_bytes, PAGES * PAGE);
	/* Hot: moved, from under the mapping. */
	EXPECT_EQ(advise(alone, made.id, AGENTMEM_HOT), 0);
	EXPECT_EQ(bytes_on_node(1), slow_bytes);
	EXPECT_EQ(info(alone, made.id).slow_bytes, 0);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(on_node(seen, 0), PAGES);
	/* Compressed; what comes back comes to the slow node. */
	EXPECT_EQ(advise(alone, made.id, AGENTMEM_COLD), 0);
	touch(seen);
	EXPECT_EQ(on_node(seen, 1), PAGES);
	EXPECT_EQ(advise(alone, made.id, AGENTMEM_HOT), 0);
	EXPECT_EQ(on_node(seen, 1), 0);
	/* Paused: what nobody else holds follows. */
	agent_set(alone, AGENTMEM_SET_STATE, AGENTMEM_PAUSED, "");
	touch(seen);
	EXPECT_EQ(on_node(seen, 1), PAGES);
	EXPECT_EQ(info(alone, made.id).slow_bytes, PAGES * PAGE);
	EXPECT_EQ(call(alone, AGENTMEM_IOC_ADVISE, &(struct agentmem_advise){
		  .id = made.id, .importance = 80, .flags = AGENTMEM_ADVISE_IMPORTANCE }), 0);
	agent_set(alone, AGENTMEM_SET_STATE, AGENTMEM_IDLE, "");
	touch(seen);
	EXPECT_EQ(on_node(seen, 0), PAGES);
	/* Held by one that works too: it stays. */
	EXPECT_EQ(put(agent, content, LEN), (int64_t)made.id);
	agent_set(alone, AGENTMEM_SET_STATE, AGENTMEM_PAUSED, "");
	EXPECT_EQ(info(alone, made.id).slow_bytes, 0);
	EXPECT(!memcmp(seen, content, LEN));
	after = stats(agent, AGENTMEM_OF_USER);
	EXPECT_EQ(after.moved_slow_bytes - before.moved_slow_bytes, PAGES * PAGE);
	EXPECT_EQ(after.moved_fast_bytes - before.moved_fast_bytes, 3 * PAGES * PAGE);

	/* No slow node: nothing moves. */
	write_text(PARAMETERS "slow_node", "-2");
	EXPECT_EQ(give_back(agent, made.id), 0);
	agent_set(alone, AGENTMEM_SET_STATE, AGENTMEM_IDLE, "");
	agent_set(alone, AGENTMEM_SET_STATE, AGENTMEM_PAUSED, "");
	touch(seen);
	EXPECT_EQ(on_node(seen, 0), PAGES);
	write_text(PARAMETERS "slow_node", "-1");
	munmap((void *)seen, LEN);
	close(alone);
	free(content);
}

/* What lies on the slow node comes back for who is awake, or says that it matters. */
static void wanted(void)
{
	char *content = text(12, LEN), *other = text(13, LEN);
	int sleeper = agent_open();
	struct agentmem_alloc made;
	uint64_t id;

	agent_set(sleeper, AGENTMEM_SET_STATE, AGENTMEM_PAUSED, "");
	EXPECT_EQ(put_as(sleeper, content, LEN, 50, &made), 0);
	EXPECT_EQ(info(sleeper, made.id).slow_bytes, PAGES * PAGE);
	EXPECT_EQ(attach(agent, made.digest, LEN, &id), 0);
	EXPECT_EQ(info(agent, id).slow_bytes, 0);
	EXPECT_EQ(give_back(agent, id), 0);

	EXPECT_EQ(put_as(agent, other, LEN, 10, &made), 0);
	EXPECT_EQ(info(agent, made.id).slow_bytes, PAGES * PAGE);
	EXPECT_EQ(put_as(agent, other, LEN, 60, &made), 0);
	EXPECT_EQ(info(agent, made.id).slow_bytes, 0);
	EXPECT_EQ(give_back(agent, made.id), 0);
	EXPECT_EQ(give_back(agent, made.id), 0);

	/* A slow node that was named. */
	write_text(PARAMETERS "slow_node", "0");
	EXPECT_EQ(put_as(agent, other, LEN, 10, &made), 0);
	EXPECT_EQ(info(agent, made.id).slow_bytes, PAGES * PAGE);
	EXPECT_EQ(give_back(agent, made.id), 0);
	write_text(PARAMETERS "slow_node", "-1");
	close(sleeper);
	free(content);
	free(other);
}

/* What is not used goes by itself; what is used through its mapping alone does not. */
static void ageing(void)
{
	char *used = text(8, LEN), *unused = text(9, LEN);
	int alone = agent_open();
	int64_t used_id = put(alone, used, LEN), unused_id = put(alone, unused, LEN);
	const char *seen = map(alone, used_id, LEN), *other = map(alone, unused_id, LEN);
	int i;

	agent_set(alone, AGENTMEM_SET_STATE, AGENTMEM_IDLE, "");
	touch(other);
	write_text(PARAMETERS "idle_ms", "4000");
	for (i = 0; i < 300 && info(alone, unused_id).resident_bytes; i++) {
		touch(seen);
		poll(NULL, 0, 100);
	}
	EXPECT(i < 300);
	EXPECT_EQ(info(alone, used_id).resident_bytes, PAGES * PAGE);
	write_text(PARAMETERS "idle_ms", "0");
	EXPECT(!memcmp(other, unused, LEN));
	munmap((void *)seen, LEN);
	munmap((void *)other, LEN);
	close(alone);
	free(used);
	free(unused);
}

/* Someone else who looks at a page, such as a device, keeps it in its place. */
static void pinned(void)
{
	char *content = text(10, LEN);
	int64_t id = put(agent, content, LEN);
	const char *seen = map(agent, id, LEN);
	struct iovec part = { .iov_base = (void *)seen, .iov_len = PAGE };
	char read_back[PAGE];
	int pipes[2];

	NEED(!pipe(pipes));
	touch(seen);
	EXPECT_EQ(vmsplice(pipes[1], &part, 1, 0), PAGE);
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	EXPECT_EQ(info(agent, id).resident_bytes, PAGE);
	EXPECT_EQ(read(pipes[0], read_back, PAGE), PAGE);
	EXPECT(!memcmp(read_back, content, PAGE));
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	EXPECT_EQ(info(agent, id).resident_bytes, 0);
	EXPECT(!memcmp(seen, content, LEN));
	munmap((void *)seen, LEN);
	EXPECT_EQ(give_back(agent, id), 0);
	close(pipes[0]);
	close(pipes[1]);
	free(content);
}

/* As of other mappings of devices, the kernel takes no notice of mlock: so nobody holds up reclaim. */
static void locked(void)
{
	char *content = text(14, LEN);
	int64_t id = put(agent, content, LEN);
	const char *seen = map(agent, id, LEN);

	EXPECT_EQ(mlock(seen, LEN), 0);
	touch(seen);
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	EXPECT_EQ(info(agent, id).resident_bytes, 0);
	EXPECT(!memcmp(seen, content, LEN));
	munmap((void *)seen, LEN);
	EXPECT_EQ(give_back(agent, id), 0);
	free(content);
}

static bool file_has(const char *path, const char *wanted)
{
	static char content[1 << 20];
	FILE *file = fopen(path, "r");
	size_t n;

	NEED(file);
	n = fread(content, 1, sizeof(content) - 1, file);
	content[n] = 0;
	fclose(file);
	return strstr(content, wanted) != NULL;
}

#define TRACING "/sys/kernel/tracing/"

static void watching(void)
{
	static const char *const events[] = { "alloc", "share", "promote", "demote", "reclaim" };
	char *content = text(11, LEN), name[64];
	int other = agent_open();
	struct agentmem_alloc made;
	uint64_t id;

	write_text(TRACING "events/agentmem/enable", "1");
	agent_set(agent, AGENTMEM_SET_NAME, 0, "a\nb");
	EXPECT_EQ(put_as(agent, content, LEN, 50, &made), 0);
	EXPECT_EQ(attach(other, made.digest, LEN, &id), 0);
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	EXPECT_EQ(advise(agent, id, AGENTMEM_HOT), 0);
	write_text("/proc/sys/vm/drop_caches", "2");
	write_text(TRACING "events/agentmem/enable", "0");
	for (unsigned int i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		snprintf(name, sizeof(name), "agentmem_%s: ", events[i]);
		EXPECT(file_has(TRACING "trace", name));
	}
	/* Dropping caches asked for everything: hot or not. */
	EXPECT_EQ(info(agent, id).resident_bytes, 0);
	EXPECT(stats(agent, AGENTMEM_OF_ALL).reclaimed_bytes >= PAGES * PAGE);

	EXPECT(file_has("/proc/agent_stats", "compression_ratio "));
	EXPECT(file_has("/proc/agent_stats", " a\\nb\n"));
	snprintf(name, sizeof(name), "agent id=%u pid=%d state=0", agent_set(other, 0, 0, ""),
		 getpid());
	EXPECT(file_has("/sys/kernel/debug/agentmem/stats", name));
	EXPECT_EQ(give_back(agent, id), 0);
	close(other);
	free(content);
}

int main(void)
{
	agent = agent_open();
	NEED(agent >= 0);
	ktap_begin(12);
	ktap_case("one set of page frames for all mappings", zero_copy);
	ktap_case("no mapping is writable or executable, or can be made so", read_only);
	ktap_case("parts of an SMU are mapped, and nothing beyond it", ranges);
	ktap_case("what is cold is compressed, and comes back when touched", compression);
	ktap_case("what does not shrink stays as it is", incompressible);
	ktap_case("units of 4, 16 and 64 KiB", units);
	ktap_case("what matters little lies on the slow node, and moves back", nodes);
	ktap_case("it moves back for who is awake, or says that it matters", wanted);
	ktap_case("what is not used is compressed, what is used is not", ageing);
	ktap_case("a page that others hold stays in its place", pinned);
	ktap_case("mlock does not keep anything resident", locked);
	ktap_case("tracepoints, /proc/agent_stats and debugfs", watching);
	return ktap_end();
}
