// SPDX-License-Identifier: GPL-2.0
/* The four calls as system calls, in a kernel that agentmem is built into (../patches). */
#define _GNU_SOURCE
#include <sys/syscall.h>

#include "client.h"
/* Of the kernel that was built: its numbers are the next that were free. */
#include "unistd_64.h"

#define LEN (300 * 1024 + 17)

static int agent;

static long made(long result)
{
	return result < 0 ? -errno : result;
}

#define CALL(name, fd, args) made(syscall(__NR_agentmem_##name, fd, args, sizeof(*(args)), 0))

static void all_four(void)
{
	char *content = text(1, LEN);
	int other = agent_open();
	struct agentmem_alloc put_args = { .addr = (uintptr_t)content, .len = LEN };
	struct agentmem_stats figures = { .scope = AGENTMEM_OF_AGENT };
	struct agentmem_share to = { .agent = agent_set(other, 0, 0, "") };
	struct agentmem_advise cold = { .advice = AGENTMEM_COLD };
	const char *seen;

	EXPECT_EQ(CALL(alloc, agent, &put_args), 0);
	EXPECT_EQ(put(agent, content, LEN), put_args.id);
	to.id = put_args.id;
	cold.id = put_args.id;
	EXPECT_EQ(CALL(share, agent, &to), 0);
	seen = map(other, put_args.id, LEN);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(CALL(advise, agent, &cold), 0);
	EXPECT_EQ(CALL(stats, other, &figures), 0);
	EXPECT_EQ(figures.smus, 1);
	EXPECT_EQ(figures.logical_bytes, LEN);
	EXPECT_EQ(figures.resident_bytes, 0);
	EXPECT(figures.stored_bytes > 0 && figures.stored_bytes < LEN / 3);
	EXPECT(!memcmp(seen, content, LEN));
	munmap((void *)seen, LEN);
	close(other);
	free(content);
}

static void refusals(void)
{
	struct agentmem_stats figures = {};
	struct agentmem_alloc nothing = {};
	int file = open("/proc/self/status", O_RDONLY);

	EXPECT_EQ(CALL(stats, -1, &figures), -EBADF);
	EXPECT_EQ(CALL(stats, file, &figures), -EINVAL);
	EXPECT_EQ(CALL(alloc, agent, &nothing), -EINVAL);
	EXPECT_EQ(made(syscall(__NR_agentmem_stats, agent, &figures, sizeof(figures) - 8, 0)),
		  -EINVAL);
	EXPECT_EQ(made(syscall(__NR_agentmem_stats, agent, &figures, sizeof(figures), 1)), -EINVAL);
	EXPECT_EQ(made(syscall(__NR_agentmem_stats, agent, 8, sizeof(figures), 0)), -EFAULT);
	close(file);
}

int main(void)
{
	agent = agent_open();
	NEED(agent >= 0);
	ktap_begin(2);
	NOTE("system calls %d to %d", __NR_agentmem_alloc, __NR_agentmem_stats);
	ktap_case("alloc, share, advise, stats", all_four);
	ktap_case("what is no agent, and other sizes and flags, are refused", refusals);
	return ktap_end();
}
