// SPDX-License-Identifier: GPL-2.0
/* When memory is short: in a cgroup, in the machine, and at each single allocation. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/sysinfo.h>

#include "client.h"

#define CGROUP		"/sys/fs/cgroup/agentmem-test"
#define LEN		(256 * 1024)
#define LIFE_LEN	(768 * 1024)
#define MIB		(1024ULL * 1024)
/* Much more than the kernel charges in advance. */
#define OWN_LEN		(4 * MIB)

static int agent;

static void make_cgroup(void)
{
	rmdir(CGROUP);
	NEED(!mkdir(CGROUP, 0755));
}

static void join_cgroup(void)
{
	write_text(CGROUP "/cgroup.procs", "%d", getpid());
}

static void enter(const char *memory_max)
{
	make_cgroup();
	write_text(CGROUP "/memory.max", "%s", memory_max);
	join_cgroup();
}

static uint64_t read_number(const char *path)
{
	unsigned long long number = 0;
	FILE *file = fopen(path, "r");

	NEED(file && fscanf(file, "%llu", &number) == 1);
	fclose(file);
	return number;
}

/* The work, with contents kept as plain copies or by agentmem; each is looked at again. */
struct load {
	bool plain;
	uint64_t bytes;
	const char *memory_max;	/* NULL: the machine's own */
};

static void carry(struct load *load)
{
	uint64_t count = load->bytes / LEN;
	int64_t *ids = calloc(count, sizeof(*ids));
	char **copies = calloc(count, sizeof(*copies));
	int self = agent_open();

	if (load->memory_max)
		enter(load->memory_max);
	for (uint64_t i = 0; i < count; i++) {
		copies[i] = text(i, LEN);
		if (load->plain)
			continue;
		ids[i] = put(self, copies[i], LEN);
		if (ids[i] < 0)
			ktap_wrong(__FILE__, __LINE__, "put %llu: %lld", (unsigned long long)i,
				   (long long)ids[i]);
		free(copies[i]);
	}
	for (uint64_t i = 0; i < count && !ktap_case_failed; i++) {
		char *wanted = text(i, LEN);
		const char *seen = load->plain ? copies[i] : map(self, ids[i], LEN);

		EXPECT(!memcmp(seen, wanted, LEN));
		if (!load->plain)
			munmap((void *)seen, LEN);
		free(wanted);
	}
	if (!load->plain) {
		struct agentmem_stats held = stats(self, AGENTMEM_OF_AGENT);

		NOTE("holds %llu MiB: %llu resident, %llu stored; %llu promotions",
		     (unsigned long long)(held.logical_bytes / MIB),
		     (unsigned long long)(held.resident_bytes / MIB),
		     (unsigned long long)(held.stored_bytes / MIB),
		     (unsigned long long)held.promotions);
		EXPECT_EQ(held.smus, count);
		EXPECT(held.resident_bytes + held.stored_bytes < load->bytes);
	}
}

/* How a process ends that carries a load: its exit code, or minus the signal. */
static int carried(struct load load)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	NEED(child >= 0);
	if (!child) {
		/* If the machine runs out of memory, this is what has to go. */
		write_text("/proc/self/oom_score_adj", "1000");
		ktap_case_failed = false;
		carry(&load);
		_exit(ktap_case_failed);
	}
	NEED(waitpid(child, &status, 0) == child);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void in_cgroup(void)
{
	struct load load = { .plain = true, .bytes = 128 * MIB, .memory_max = "64M" };
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_ALL), after;

	EXPECT_EQ(carried(load), -SIGKILL);
	load.plain = false;
	EXPECT_EQ(carried(load), 0);
	after = stats(agent, AGENTMEM_OF_ALL);
	NOTE("reclaimed %llu MiB in a cgroup of 64 MiB that holds 128 MiB",
	     (unsigned long long)((after.reclaimed_bytes - before.reclaimed_bytes) / MIB));
	EXPECT(after.reclaimed_bytes - before.reclaimed_bytes > 64 * MIB);
	EXPECT_EQ(after.smus, before.smus);
	rmdir(CGROUP);
}

static void in_machine(void)
{
	struct sysinfo machine;
	struct load load = { .plain = true };
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_ALL), after;

	NEED(!sysinfo(&machine));
	load.bytes = (machine.freeram + machine.freeram / 4) / LEN * LEN;
	NOTE("%llu MiB free, a load of %llu MiB", (unsigned long long)(machine.freeram / MIB),
	     (unsigned long long)(load.bytes / MIB));
	EXPECT_EQ(carried(load), -SIGKILL);
	load.plain = false;
	EXPECT_EQ(carried(load), 0);
	after = stats(agent, AGENTMEM_OF_ALL);
	EXPECT(after.reclaimed_bytes > before.reclaimed_bytes);
	EXPECT_EQ(after.smus, before.smus);
}

/* What matters most stays longest: paused first, then idle, the unimportant before the important. */
static void order(void)
{
	enum { KINDS = 3, EACH = 16 };
	static const uint32_t states[KINDS] = { AGENTMEM_PAUSED, AGENTMEM_IDLE, AGENTMEM_ACTIVE };
	uint64_t resident[KINDS] = {};
	int agents[KINDS];

	/* Each node has a list of its own: so all on one. */
	write_text(PARAMETERS "slow_node", "-2");
	for (int i = 0; i < KINDS; i++) {
		agents[i] = agent_open();
		for (int j = 0; j < EACH; j++) {
			char *content = text(1000 + i * EACH + j, LEN);
			struct agentmem_alloc made;

			EXPECT_EQ(put_as(agents[i], content, LEN, 40 + 20 * i, &made), 0);
			free(content);
		}
	}
	for (int i = 0; i < KINDS; i++)
		agent_set(agents[i], AGENTMEM_SET_STATE, states[i], "");
	sleep(2);
	write_text("/sys/fs/cgroup/memory.reclaim", "4M swappiness=0");
	for (int i = 0; i < KINDS; i++) {
		resident[i] = stats(agents[i], AGENTMEM_OF_AGENT).resident_bytes;
		close(agents[i]);
	}
	write_text(PARAMETERS "slow_node", "-1");
	NOTE("resident after 4 MiB were asked for: paused %llu, idle %llu, active %llu KiB",
	     (unsigned long long)resident[0] / 1024, (unsigned long long)resident[1] / 1024,
	     (unsigned long long)resident[2] / 1024);
	EXPECT(resident[0] < EACH * LEN);
	EXPECT(resident[0] <= resident[1] && resident[1] <= resident[2]);
}

/* Puts into a cgroup of its own, shares it with the test, and goes. */
static void put_and_go(void *content)
{
	struct agentmem_alloc made;
	int self;

	enter("max");
	self = agent_open();
	EXPECT_EQ(put_as(self, content, OWN_LEN, 50, &made), 0);
	EXPECT_EQ(share(self, made.id, agent_set(agent, 0, 0, "")), 0);
	EXPECT(read_number(CGROUP "/memory.current") >= OWN_LEN);
}

/* Who put a content is charged for it, also for what others bring back, and when they are gone. */
static void cgroup_gone(void)
{
	char *content = text(3, OWN_LEN);
	struct agentmem_alloc made;
	uint64_t charged;
	const char *seen;

	EXPECT(in_child(put_and_go, content));
	EXPECT_EQ(put_as(agent, content, OWN_LEN, 50, &made), 0);
	EXPECT_EQ(made.shared, 1);
	EXPECT_EQ(advise(agent, made.id, AGENTMEM_COLD), 0);
	charged = read_number(CGROUP "/memory.current");
	EXPECT(charged < OWN_LEN / 2);
	seen = map(agent, made.id, OWN_LEN);
	EXPECT(!memcmp(seen, content, OWN_LEN));
	EXPECT(read_number(CGROUP "/memory.current") >= OWN_LEN);

	EXPECT_EQ(rmdir(CGROUP), 0);
	EXPECT_EQ(advise(agent, made.id, AGENTMEM_COLD), 0);
	EXPECT_EQ(info(agent, made.id).resident_bytes, 0);
	EXPECT(!memcmp(seen, content, OWN_LEN));
	write_text("/proc/sys/vm/drop_caches", "2");
	EXPECT_EQ(info(agent, made.id).resident_bytes, 0);
	EXPECT(!memcmp(seen, content, OWN_LEN));
	munmap((void *)seen, OWN_LEN);
	EXPECT_EQ(give_back(agent, made.id), 0);
	EXPECT_EQ(give_back(agent, made.id), 0);
	EXPECT_EQ(give_back(agent, made.id), -ENOENT);
	free(content);
}

/* More than a sample of reclaim holds, colder than all else, and each in use by a pipe. */
static void in_use(void)
{
	enum { PINNED = 40, OTHERS = 16 };
	int keeper = agent_open(), other = agent_open(), pipes[2];

	write_text(PARAMETERS "slow_node", "-2");
	NEED(!pipe(pipes) && fcntl(pipes[1], F_SETPIPE_SZ, 64 * PAGE) > 0);
	agent_set(keeper, AGENTMEM_SET_STATE, AGENTMEM_PAUSED, "");
	for (int i = 0; i < PINNED; i++) {
		char *content = text(3000 + i, PAGE);
		struct agentmem_alloc made;
		struct iovec part = { .iov_len = PAGE };

		EXPECT_EQ(put_as(keeper, content, PAGE, 0, &made), 0);
		part.iov_base = (void *)map(keeper, made.id, PAGE);
		EXPECT_EQ(vmsplice(pipes[1], &part, 1, 0), PAGE);
		munmap(part.iov_base, PAGE);
		free(content);
	}
	for (int i = 0; i < OTHERS; i++) {
		char *content = text(4000 + i, LEN);

		EXPECT(put(other, content, LEN) > 0);
		free(content);
	}
	sleep(1);
	write_text("/sys/fs/cgroup/memory.reclaim", "2M swappiness=0");
	EXPECT(stats(other, AGENTMEM_OF_AGENT).resident_bytes <= OTHERS * LEN - 2 * MIB);
	EXPECT_EQ(stats(keeper, AGENTMEM_OF_AGENT).resident_bytes, PINNED * PAGE);
	write_text(PARAMETERS "slow_node", "-1");
	close(pipes[0]);
	close(pipes[1]);
	close(keeper);
	close(other);
}

static void expect_as(struct agentmem_stats before)
{
	struct agentmem_stats after = stats(agent, AGENTMEM_OF_ALL);

	EXPECT_EQ(after.agents, before.agents);
	EXPECT_EQ(after.smus, before.smus);
	EXPECT_EQ(after.leases, before.leases);
	EXPECT_EQ(after.logical_bytes, before.logical_bytes);
	EXPECT_EQ(after.content_bytes, before.content_bytes);
	EXPECT_EQ(after.resident_bytes, before.resident_bytes);
	EXPECT_EQ(after.stored_bytes, before.stored_bytes);
}

static void look_and_unmap(const char *seen, const char *content, uint64_t len)
{
	EXPECT(!memcmp(seen, content, len));
	while (munmap((void *)seen, len))
		EXPECT_EQ(errno, ENOMEM);
}

/* All of an agent's life, for as long as nothing fails. */
static int whole_life(const char *content, uint64_t len)
{
	struct agentmem_alloc made;
	uint64_t id;
	int one = agent_open(), two, lent, error;
	const char *seen;

	if (one < 0)
		return one;
	error = put_as(one, content, len, 50, &made);
	if (!error) {
		two = agent_open();
		error = two < 0 ? two : attach(two, made.digest, len, &id);
		if (!error) {
			/* May fail, and then leaves everything resident. */
			advise(one, id, AGENTMEM_COLD);
			error = advise(one, id, AGENTMEM_WILL_NEED);
		}
		if (!error) {
			seen = map(two, id, len);
			error = seen == MAP_FAILED ? -errno : 0;
		}
		if (!error) {
			look_and_unmap(seen, content, len);
			lent = lend(two, id);
			error = lent < 0 ? lent : 0;
		}
		if (!error) {
			seen = map(lent, 0, len);
			error = seen == MAP_FAILED ? -errno : 0;
			close(lent);
		}
		if (!error)
			look_and_unmap(seen, content, len);
		close(two);
	}
	close(one);
	return error;
}

enum outcome { WHOLE, CUT_SHORT, KILLED, WRONG };

/*
 * A life in a cgroup with room for so many pages. A call fails; a fault cannot, whatever
 * it needs: where there is no room for that, the process is killed.
 */
static enum outcome life_with(const char *content, uint64_t room)
{
	int error, status;
	pid_t child = fork();

	NEED(child >= 0);
	if (!child) {
		ktap_case_failed = false;
		join_cgroup();
		/* All that the process itself needs is there after a first one. */
		whole_life(content, LIFE_LEN);
		write_text(CGROUP "/memory.max", "%llu", (unsigned long long)
			   (read_number(CGROUP "/memory.current") + room * PAGE));
		error = whole_life(content, LIFE_LEN);
		write_text(CGROUP "/memory.max", "max");
		if (error && error != -ENOMEM)
			ktap_wrong(__FILE__, __LINE__, "with room for %llu pages: %d",
				   (unsigned long long)room, error);
		_exit(ktap_case_failed ? WRONG : error ? CUT_SHORT : WHOLE);
	}
	NEED(waitpid(child, &status, 0) == child);
	write_text(CGROUP "/memory.max", "max");
	if (WIFSIGNALED(status))
		return WTERMSIG(status) == SIGKILL ? KILLED : WRONG;
	return WEXITSTATUS(status);
}

/*
 * All is charged to a cgroup, so that one with room for n pages makes what comes
 * after them fail, with n from 0 on. As the kernel charges up to 64 pages for each
 * processor in advance, the first may not fail: that is for fault injection.
 */
static void failing_allocations(void)
{
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_ALL);
	char *content = text(1, LIFE_LEN);
	int of[WRONG + 1] = {};

	make_cgroup();
	for (uint64_t room = 0; !of[WHOLE] && room < 400; room++) {
		of[life_with(content, room)]++;
		expect_as(before);
	}
	NOTE("%d lives were cut short, %d killed, then one was whole", of[CUT_SHORT], of[KILLED]);
	EXPECT(of[CUT_SHORT] > (int)(LIFE_LEN / PAGE / 4));
	EXPECT_EQ(of[WRONG], 0);
	EXPECT_EQ(of[WHOLE], 1);
	free(content);
	rmdir(CGROUP);
}

/* Fault injection of a kernel that has it: the nth allocation or copy fails, for all n. */
static void failing_nth(void)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_ALL);
	char *content = text(2, LEN), path[128];
	int failures = 0, file = open("/proc/self/fail-nth", O_RDWR);
	bool injected = true;

	NEED(file >= 0);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/ignore-gfp-wait", kinds[i]);
		write_text(path, "N");
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/verbose", kinds[i]);
		write_text(path, "0");
	}
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_text("/sys/kernel/debug/fail_usercopy/verbose", "0");
	for (int n = 1; injected && n < 5000; n++) {
		char left[16] = "";
		int error;

		NEED(dprintf(file, "%d", n) > 0);
		error = whole_life(content, LEN);
		/* Where nothing failed before, it is this read or what follows it. */
		injected = pread(file, left, sizeof(left) - 1, 0) > 0 && atoi(left) == 0;
		while (dprintf(file, "0") < 0)
			EXPECT_EQ(errno, EFAULT);
		EXPECT(injected || !error);
		failures += error != 0;
	}
	NOTE("%d calls failed", failures);
	EXPECT(failures > 10);
	EXPECT(!injected);
	expect_as(before);
	close(file);
	free(content);
}

int main(void)
{
	agent = agent_open();
	NEED(agent >= 0);
	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	ktap_begin(7);
	ktap_case("an allocation fails at each page, and nothing is lost or left", failing_allocations);
	if (access("/proc/self/fail-nth", F_OK))
		ktap_skip("each allocation and each copy fails once", "this kernel has none");
	else
		ktap_case("each allocation and each copy fails once", failing_nth);
	ktap_case("what was put is charged to who put it, and outlives that cgroup", cgroup_gone);
	ktap_case("paused agents first, then idle and unimportant ones", order);
	ktap_case("what is in use does not keep reclaim from the rest", in_use);
	ktap_case("a cgroup that is too small for copies is large enough", in_cgroup);
	ktap_case("so is a machine", in_machine);
	return ktap_end();
}
