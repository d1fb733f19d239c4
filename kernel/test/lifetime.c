// SPDX-License-Identifier: GPL-2.0
/* What is freed when agents end, in all the ways they do; and a fleet of them. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "client.h"

#define LEN	(512 * 1024)
#define PAGES	128

static int agent;
static int pipes[2];

static struct agentmem_stats now(void)
{
	return stats(agent, AGENTMEM_OF_USER);
}

/* What a process held is gone once it is reaped: its files are closed before that. */
static void expect_gone(struct agentmem_stats before)
{
	struct agentmem_stats after = now();

	EXPECT_EQ(after.agents, before.agents);
	EXPECT_EQ(after.smus, before.smus);
	EXPECT_EQ(after.leases, before.leases);
	EXPECT_EQ(after.logical_bytes, before.logical_bytes);
	EXPECT_EQ(after.content_bytes, before.content_bytes);
	EXPECT_EQ(after.shared_bytes, before.shared_bytes);
	EXPECT_EQ(after.resident_bytes, before.resident_bytes);
	EXPECT_EQ(after.stored_bytes, before.stored_bytes);
	EXPECT_EQ(after.packed_bytes, before.packed_bytes);
	EXPECT_EQ(after.raw_bytes, before.raw_bytes);
}

/* Holds something alone, and something with the test; half of it cold, all of it mapped. */
static int hold(void)
{
	char *own = text(1, LEN), *common = text(2, LEN), *bytes = noise(3, LEN);
	int holder = agent_open();
	int64_t id = put(holder, own, LEN), noise_id = put(holder, bytes, LEN);
	const char *seen = map(holder, id, LEN);

	NEED(holder >= 0 && put(holder, common, LEN) > 0 && seen != MAP_FAILED);
	EXPECT(!memcmp(seen, own, LEN));
	EXPECT_EQ(advise(holder, id, AGENTMEM_COLD), 0);
	EXPECT_EQ(advise(holder, noise_id, AGENTMEM_COLD), 0);
	EXPECT(!memcmp(seen, own, LEN / 2));
	free(own);
	free(common);
	free(bytes);
	return holder;
}

static void hold_and_exit(void *argument)
{
	hold();
}

static void by_exit(void)
{
	struct agentmem_stats before = now();

	EXPECT(in_child(hold_and_exit, NULL));
	expect_gone(before);
}

static void by_close(void)
{
	struct agentmem_stats before = now();
	char *content = text(4, LEN);
	int holder = agent_open();
	int64_t id = put(holder, content, LEN);
	const char *seen = map(holder, id, LEN);

	/* A mapping holds the file, and so the agent. */
	close(holder);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(now().agents, before.agents + 1);
	munmap((void *)seen, LEN);
	expect_gone(before);
	free(content);
}

/* What was given back lives on as long as it is mapped, and no longer. */
static void free_while_mapped(void)
{
	struct agentmem_stats before = now();
	char *content = text(5, LEN);
	int64_t id = put(agent, content, LEN);
	const char *seen = map(agent, id, LEN);

	EXPECT_EQ(give_back(agent, id), 0);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(now().smus, before.smus + 1);
	EXPECT_EQ(map(agent, id, LEN) == MAP_FAILED ? errno : 0, ENOENT);
	EXPECT_EQ(put(agent, content, LEN), id);
	EXPECT_EQ(give_back(agent, id), 0);
	munmap((void *)seen, LEN);
	expect_gone(before);
	free(content);
}

static void by_kill(void)
{
	for (int round = 0; round < 20; round++) {
		struct agentmem_stats before = now();
		pid_t child = fork();
		char ready;

		NEED(child >= 0);
		if (!child) {
			hold();
			NEED(write(pipes[1], "r", 1) == 1);
			for (;;)
				pause();
		}
		NEED(read(pipes[0], &ready, 1) == 1);
		EXPECT_EQ(now().agents, before.agents + 1);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		expect_gone(before);
	}
}

/* Killed in the middle of calls. */
static void by_kill_at_work(void)
{
	for (int round = 0; round < 20; round++) {
		struct agentmem_stats before = now();
		pid_t child = fork();

		NEED(child >= 0);
		if (!child)
			for (;;)
				close(hold());
		usleep(20000 + round * 7000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		expect_gone(before);
	}
}

static void by_exec(void)
{
	for (int kept = 0; kept < 2; kept++) {
		struct agentmem_stats before = now();
		int gate[2], status;
		char ready;
		pid_t child;

		NEED(!pipe(gate));
		child = fork();
		NEED(child >= 0);
		if (!child) {
			int holder = hold();

			fcntl(holder, F_SETFD, kept ? 0 : FD_CLOEXEC);
			dup2(gate[0], 0);
			dup2(pipes[1], 1);
			execl("/bin/busybox", "sh", "-c", "echo; read line", NULL);
			_exit(1);
		}
		NEED(read(pipes[0], &ready, 1) == 1);
		/* The mapping is gone; the file is, unless it was to be kept. */
		if (kept)
			EXPECT_EQ(now().agents, before.agents + 1);
		else
			expect_gone(before);
		NEED(write(gate[1], "\n", 1) == 1);
		waitpid(child, &status, 0);
		EXPECT_EQ(status, 0);
		expect_gone(before);
		close(gate[0]);
		close(gate[1]);
	}
}

static void child_uses(void *argument)
{
	const char *seen = argument;
	char *content = text(6, LEN), *other = text(7, LEN);

	EXPECT(!memcmp(seen, content, LEN));
	/* It is the same agent: what it puts, the parent holds. */
	EXPECT(put(agent, other, LEN) > 0);
	munmap((void *)seen, LEN);
	close(agent);
}

/* After a fork both processes are one agent, until both have closed it. */
static void by_fork(void)
{
	struct agentmem_stats before = now();
	char *content = text(6, LEN), *other = text(7, LEN);
	int64_t id = put(agent, content, LEN), other_id;
	const char *seen = map(agent, id, LEN);

	EXPECT(in_child(child_uses, (void *)seen));
	EXPECT_EQ(now().agents, before.agents);
	EXPECT(!memcmp(seen, content, LEN));
	other_id = put(agent, other, LEN);
	EXPECT_EQ(info(agent, other_id).leases, 2);
	EXPECT_EQ(give_back(agent, other_id), 0);
	EXPECT_EQ(give_back(agent, other_id), 0);
	EXPECT_EQ(give_back(agent, id), 0);
	munmap((void *)seen, LEN);
	expect_gone(before);
	free(content);
	free(other);
}

/* Open files that keep the module from being unloaded. */
static int module_users(void)
{
	FILE *file = fopen("/sys/module/agentmem/refcnt", "r");
	int users = -1;

	NEED(file && fscanf(file, "%d", &users) == 1);
	fclose(file);
	return users;
}

static int passed_on(int gate[2])
{
	char byte, control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int file;

	NEED(recvmsg(gate[0], &message, 0) == 1 && CMSG_FIRSTHDR(&message));
	memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(file));
	return file;
}

static void pass_on(int gate[2], int file)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	*header = (struct cmsghdr){ CMSG_LEN(sizeof(file)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(header), &file, sizeof(file));
	NEED(sendmsg(gate[1], &message, 0) == 1);
}

static void forked_maps(void *argument)
{
	char *content = text(9, LEN);
	int lent = *(int *)argument;
	const char *seen = map(lent, 0, LEN);

	EXPECT(seen != MAP_FAILED && !memcmp(seen, content, LEN));
}

/* Who lent it is killed: the descriptor is the content's last hold, then a mapping is. */
static void lent_by_the_dead(void)
{
	struct agentmem_stats before = now();
	char *content = text(9, LEN);
	int gate[2], lent, users = module_users();
	const char *seen;
	int64_t id;
	pid_t child;
	char ready;

	NEED(!socketpair(AF_UNIX, SOCK_STREAM, 0, gate));
	child = fork();
	NEED(child >= 0);
	if (!child) {
		int holder = agent_open();
		int64_t id = put(holder, content, LEN);

		/* The second one stays on its way. */
		pass_on(gate, lend(holder, id));
		pass_on(gate, lend(holder, id));
		NEED(write(pipes[1], "r", 1) == 1);
		for (;;)
			pause();
	}
	NEED(read(pipes[0], &ready, 1) == 1);
	lent = passed_on(gate);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	EXPECT_EQ(now().agents, before.agents);
	EXPECT_EQ(now().smus, before.smus + 1);
	EXPECT_EQ(now().leases, before.leases + 2);
	/* It is gone with the socket that it is in. */
	close(gate[0]);
	close(gate[1]);
	EXPECT_EQ(now().leases, before.leases + 1);
	EXPECT(in_child(forked_maps, &lent));
	seen = map(lent, 0, LEN);
	EXPECT(seen != MAP_FAILED);
	close(lent);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(module_users(), users + 1);
	/* The same content, put anew, is the one that is there. */
	id = put(agent, content, LEN);
	EXPECT_EQ(now().smus, before.smus + 1);
	EXPECT_EQ(now().dedup_hits, before.dedup_hits + 1);
	EXPECT_EQ(give_back(agent, id), 0);
	munmap((void *)seen, LEN);
	EXPECT_EQ(module_users(), users);
	expect_gone(before);
	free(content);
}

static void unload(void)
{
	char *content = text(8, LEN);
	int holder = agent_open();
	int64_t id = put(holder, content, LEN);
	const char *seen = map(holder, id, LEN);

	close(holder);
	EXPECT_EQ(syscall(SYS_delete_module, "agentmem", O_NONBLOCK) ? errno : 0, EAGAIN);
	EXPECT(!memcmp(seen, content, LEN));
	munmap((void *)seen, LEN);
	free(content);
}

#define FLEET		100
#define PROMPT_LEN	(64 * 1024)
#define TOOLS_LEN	(256 * 1024)
#define SHARED_PAGES	((PROMPT_LEN + TOOLS_LEN) / (int)PAGE)

/* One agent of the fleet: puts what all put, maps it, tells its page frames, waits. */
static void member(int number, uint64_t *frames, int gate)
{
	int self = agent_open();
	char *prompt = text(100, PROMPT_LEN), *tools = text(101, TOOLS_LEN);
	char *own = text(200 + number, 8 * PAGE), name[32], end;
	int64_t prompt_id = put(self, prompt, PROMPT_LEN), tools_id = put(self, tools, TOOLS_LEN);
	const char *prompt_seen = map(self, prompt_id, PROMPT_LEN);
	const char *tools_seen = map(self, tools_id, TOOLS_LEN);
	int i = 0;

	NEED(self >= 0 && put(self, own, 8 * PAGE) > 0);
	snprintf(name, sizeof(name), "member-%d", number);
	agent_set(self, AGENTMEM_SET_NAME, 0, name);
	EXPECT(!memcmp(prompt_seen, prompt, PROMPT_LEN));
	EXPECT(!memcmp(tools_seen, tools, TOOLS_LEN));
	for (uint64_t at = 0; at < PROMPT_LEN; at += PAGE)
		frames[i++] = frame_of(prompt_seen + at);
	for (uint64_t at = 0; at < TOOLS_LEN; at += PAGE)
		frames[i++] = frame_of(tools_seen + at);
	NEED(write(pipes[1], ktap_case_failed ? "f" : "r", 1) == 1);
	NEED(read(gate, &end, 1) == 0);
	_exit(0);
}

static void fleet(void)
{
	struct agentmem_stats before = now(), after;
	uint64_t *frames = mmap(NULL, FLEET * SHARED_PAGES * sizeof(*frames),
				PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int gate[2], lines = 0, members = 0;
	char line[512], ready;
	FILE *file;

	NEED(frames != MAP_FAILED && !pipe(gate));
	for (int i = 0; i < FLEET; i++) {
		pid_t child = fork();

		NEED(child >= 0);
		if (!child) {
			close(gate[1]);
			member(i, frames + i * SHARED_PAGES, gate[0]);
		}
	}
	for (int i = 0; i < FLEET; i++) {
		NEED(read(pipes[0], &ready, 1) == 1);
		EXPECT_EQ(ready, 'r');
	}
	after = now();
	EXPECT_EQ(after.agents - before.agents, FLEET);
	EXPECT_EQ(after.smus - before.smus, 2 + FLEET);
	EXPECT_EQ(after.leases - before.leases, 3 * FLEET);
	EXPECT_EQ(after.dedup_hits - before.dedup_hits, 2 * (FLEET - 1));
	EXPECT_EQ(after.logical_bytes - before.logical_bytes,
		  FLEET * (PROMPT_LEN + TOOLS_LEN + 8 * PAGE));
	EXPECT_EQ(after.content_bytes - before.content_bytes,
		  PROMPT_LEN + TOOLS_LEN + FLEET * 8 * PAGE);
	EXPECT_EQ(after.resident_bytes - before.resident_bytes,
		  PROMPT_LEN + TOOLS_LEN + FLEET * 8 * PAGE);
	EXPECT_EQ(after.shared_bytes - before.shared_bytes, PROMPT_LEN + TOOLS_LEN);
	for (int i = 0; i < FLEET; i++)
		EXPECT(!memcmp(frames, frames + i * SHARED_PAGES, SHARED_PAGES * sizeof(*frames)));
	for (int i = 0; i < SHARED_PAGES; i++)
		EXPECT(frames[i]);
	NOTE("%d agents: %llu bytes logical, %llu content, %llu resident", FLEET,
	     (unsigned long long)(after.logical_bytes - before.logical_bytes),
	     (unsigned long long)(after.content_bytes - before.content_bytes),
	     (unsigned long long)(after.resident_bytes - before.resident_bytes));

	file = fopen("/proc/agent_stats", "r");
	NEED(file);
	while (fgets(line, sizeof(line), file)) {
		members += strstr(line, " member-") != NULL;
		if (lines++ < 20 || strstr(line, " member-42\n"))
			NOTE("/proc/agent_stats: %.*s", (int)strcspn(line, "\n"), line);
	}
	fclose(file);
	EXPECT_EQ(members, FLEET);

	close(gate[0]);
	close(gate[1]);
	while (wait(NULL) > 0)
		;
	expect_gone(before);
	munmap(frames, FLEET * SHARED_PAGES * sizeof(*frames));
}

int main(void)
{
	char *common = text(2, LEN);

	agent = agent_open();
	NEED(agent >= 0 && !pipe(pipes));
	NEED(put(agent, common, LEN) > 0);
	ktap_begin(10);
	ktap_case("a mapping keeps its agent, and its end ends it", by_close);
	ktap_case("content that was given back lives as long as it is mapped", free_while_mapped);
	ktap_case("exit frees what that agent alone held", by_exit);
	ktap_case("so does SIGKILL", by_kill);
	ktap_case("so does SIGKILL in the middle of calls", by_kill_at_work);
	ktap_case("so does exec, unless the file is kept", by_exec);
	ktap_case("fork makes two processes of one agent", by_fork);
	ktap_case("what was lent by the dead lives as long as it is mapped", lent_by_the_dead);
	ktap_case("the module cannot be unloaded while something is mapped", unload);
	ktap_case("100 agents have one copy of one prompt and one tool set", fleet);
	return ktap_end();
}
