// SPDX-License-Identifier: GPL-2.0
/* What each call does and refuses, who may share with whom, and limits. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include "client.h"

#define LEN (300 * 1024 + 17)

static int agent;

static void api(void)
{
	struct agentmem_api args = {};

	EXPECT_EQ(call(agent, AGENTMEM_IOC_API, &args), 0);
	EXPECT_EQ(args.version, AGENTMEM_VERSION);
	EXPECT_EQ(args.page_bytes, PAGE);
	EXPECT(args.features & AGENTMEM_FEATURE_COMPRESSION);
	EXPECT(args.features & AGENTMEM_FEATURE_SLOW_NODE);
	EXPECT(args.features & AGENTMEM_FEATURE_LEND);
	EXPECT_EQ(args.smu_bytes_max, AGENTMEM_SMU_BYTES_MAX);
}

static void digest(void)
{
	static const uint8_t abc[] = { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea };
	struct agentmem_alloc made;

	EXPECT_EQ(put_as(agent, "abc", 3, 50, &made), 0);
	EXPECT(!memcmp(made.digest, abc, sizeof(abc)));
	EXPECT_EQ(made.shared, 0);
	EXPECT_EQ(give_back(agent, made.id), 0);
}

static void dedup(void)
{
	char *content = text(1, LEN);
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_USER), after;
	struct agentmem_alloc first, second;

	EXPECT_EQ(put_as(agent, content, LEN, 50, &first), 0);
	EXPECT_EQ(put_as(agent, content, LEN, 70, &second), 0);
	EXPECT_EQ(first.shared, 0);
	EXPECT_EQ(second.shared, 1);
	EXPECT_EQ(second.id, first.id);
	after = stats(agent, AGENTMEM_OF_USER);
	EXPECT_EQ(after.smus - before.smus, 1);
	EXPECT_EQ(after.dedup_hits - before.dedup_hits, 1);
	EXPECT_EQ(after.logical_bytes - before.logical_bytes, 2 * LEN);
	EXPECT_EQ(after.content_bytes - before.content_bytes, 76 * PAGE);
	EXPECT_EQ(after.resident_bytes - before.resident_bytes, 76 * PAGE);
	EXPECT_EQ(info(agent, first.id).leases, 2);
	EXPECT_EQ(info(agent, first.id).agents, 1);
	EXPECT_EQ(info(agent, first.id).importance, 70);

	/* A byte more, and a byte less, are other contents. */
	EXPECT(put(agent, content, LEN - 1) != (int64_t)first.id);
	content[LEN / 2] ^= 1;
	EXPECT(put(agent, content, LEN) != (int64_t)first.id);

	EXPECT_EQ(give_back(agent, first.id), 0);
	EXPECT_EQ(info(agent, first.id).leases, 1);
	EXPECT_EQ(give_back(agent, first.id), 0);
	EXPECT_EQ(give_back(agent, first.id), -ENOENT);
	free(content);
}

struct writer {
	char *content;
	volatile bool stop;
};

static void *change(void *argument)
{
	struct writer *writer = argument;

	while (!writer->stop)
		for (int i = 0; i < LEN; i += 512)
			writer->content[i]++;
	return NULL;
}

/* What is hashed is the copy: it must be found by what it holds, whatever was written meanwhile. */
static void changing(void)
{
	struct writer writer = { .content = text(2, LEN) };
	struct agentmem_alloc made, again;
	pthread_t thread;

	NEED(!pthread_create(&thread, NULL, change, &writer));
	for (int i = 0; i < 20; i++) {
		const char *seen;

		EXPECT_EQ(put_as(agent, writer.content, LEN, 50, &made), 0);
		seen = map(agent, made.id, LEN);
		NEED(seen != MAP_FAILED);
		EXPECT_EQ(put_as(agent, seen, LEN, 50, &again), 0);
		EXPECT_EQ(again.id, made.id);
		EXPECT_EQ(again.shared, 1);
		munmap((void *)seen, LEN);
		EXPECT_EQ(give_back(agent, made.id), 0);
		EXPECT_EQ(give_back(agent, made.id), 0);
	}
	writer.stop = true;
	pthread_join(thread, NULL);
	free(writer.content);
}

static void refusals(void)
{
	char *content = text(3, LEN);
	int64_t id = put(agent, content, LEN);
	struct agentmem_alloc put_args = { .addr = (uintptr_t)content, .len = LEN };
	struct agentmem_alloc bad;
	struct agentmem_stats figures = { .scope = 3 };
	struct agentmem_info about = { .id = id, .flags = 1 };
	struct agentmem_agent self = { .set = 8 };
	struct agentmem_free back = { .id = id, .flags = 1 };
	struct agentmem_share to = { .id = id, .agent = 0xffffffff };
	struct agentmem_attach by = { .reserved = { 1 } };
	struct agentmem_advise tip = { .id = id, .advice = 4 };
	struct agentmem_lend out = { .id = id, .flags = 1 };

#define REFUSED(field, value, error) \
	do { \
		bad = put_args; \
		bad.field = value; \
		EXPECT_EQ(call(agent, AGENTMEM_IOC_ALLOC, &bad), error); \
	} while (0)
	REFUSED(len, 0, -EINVAL);
	REFUSED(len, AGENTMEM_SMU_BYTES_MAX + 1, -EFBIG);
	REFUSED(len, UINT64_MAX, -EFBIG);
	REFUSED(kind, AGENTMEM_MESSAGE + 1, -EINVAL);
	REFUSED(flags, 2, -EINVAL);
	REFUSED(reserved[1], 1, -EINVAL);
	REFUSED(addr, 0, -EFAULT);
	REFUSED(addr, UINT64_MAX - PAGE, -EFAULT);
	REFUSED(addr, 0xffff888000000000, -EFAULT);
	bad = put_args;
	bad.flags = AGENTMEM_ALLOC_IMPORTANCE;
	bad.importance = AGENTMEM_IMPORTANCE_MAX + 1;
	EXPECT_EQ(call(agent, AGENTMEM_IOC_ALLOC, &bad), -EINVAL);

	EXPECT_EQ(call(agent, AGENTMEM_IOC_STATS, &figures), -EINVAL);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_INFO, &about), -EINVAL);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_AGENT, &self), -EINVAL);
	self = (struct agentmem_agent){ .set = AGENTMEM_SET_STATE, .state = 3 };
	EXPECT_EQ(call(agent, AGENTMEM_IOC_AGENT, &self), -EINVAL);
	self = (struct agentmem_agent){ .set = AGENTMEM_SET_NAME };
	memset(self.name, 'x', sizeof(self.name));
	EXPECT_EQ(call(agent, AGENTMEM_IOC_AGENT, &self), -ENAMETOOLONG);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_FREE, &back), -EINVAL);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_SHARE, &to), -ENOENT);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_ATTACH, &by), -EINVAL);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_ADVISE, &tip), -EINVAL);
	EXPECT_EQ(call(agent, _IO(AGENTMEM_IOC, 99), NULL), -ENOTTY);
	for (int number = 0; number < 9; number++)
		EXPECT_EQ(call(agent, _IO(AGENTMEM_IOC, number), NULL), -ENOTTY);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_API, (void *)8), -EFAULT);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_STATS, (void *)8), -EFAULT);

	/* Ids inside of an SMU, and what is not there. */
	EXPECT_EQ(give_back(agent, id + 1), -ENOENT);
	EXPECT_EQ(advise(agent, id + 1, AGENTMEM_COLD), -ENOENT);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_LEND, &out), -EINVAL);
	out = (struct agentmem_lend){ .id = id, .reserved = { 0, 1 } };
	EXPECT_EQ(call(agent, AGENTMEM_IOC_LEND, &out), -EINVAL);
	EXPECT_EQ(lend(agent, id + 1), -ENOENT);
	EXPECT_EQ(lend(agent, 0), -ENOENT);
	EXPECT_EQ(give_back(agent, 0), -ENOENT);
	EXPECT_EQ(give_back(agent, UINT64_MAX), -ENOENT);
	EXPECT_EQ(give_back(agent, id), 0);
	free(content);
}

/* If the answer cannot be written, nothing is held that nobody knows of. */
static void no_answer(void)
{
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_AGENT), after;
	char *content = text(4, LEN);
	struct agentmem_alloc *args = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct agentmem_lend *lent = (struct agentmem_lend *)args;
	uint64_t leases;
	int64_t id;
	int unused;

	NEED(args != MAP_FAILED);
	*args = (struct agentmem_alloc){ .addr = (uintptr_t)content, .len = LEN };
	NEED(!mprotect(args, PAGE, PROT_READ));
	EXPECT_EQ(call(agent, AGENTMEM_IOC_ALLOC, args), -EFAULT);
	after = stats(agent, AGENTMEM_OF_AGENT);
	EXPECT_EQ(after.smus, before.smus);
	EXPECT_EQ(after.logical_bytes, before.logical_bytes);

	id = put(agent, content, LEN);
	leases = stats(agent, AGENTMEM_OF_USER).leases;
	NEED(!mprotect(args, PAGE, PROT_READ | PROT_WRITE));
	*lent = (struct agentmem_lend){ .id = id };
	NEED(!mprotect(args, PAGE, PROT_READ));
	unused = dup(agent);
	close(unused);
	EXPECT_EQ(call(agent, AGENTMEM_IOC_LEND, lent), -EFAULT);
	EXPECT_EQ(dup(agent), unused);
	close(unused);
	EXPECT_EQ(stats(agent, AGENTMEM_OF_USER).leases, leases);
	EXPECT_EQ(give_back(agent, id), 0);
	munmap(args, PAGE);
	free(content);
}

static void attach_and_share(void)
{
	char *content = text(5, LEN);
	int other = agent_open(), third = agent_open();
	uint32_t third_id = agent_set(third, 0, 0, "");
	struct agentmem_alloc made;
	uint64_t id;

	NEED(other >= 0 && third >= 0);
	EXPECT_EQ(put_as(agent, content, LEN, 50, &made), 0);
	EXPECT_EQ(attach(other, made.digest, LEN, &id), 0);
	EXPECT_EQ(id, made.id);
	EXPECT_EQ(attach(other, made.digest, LEN + 1, &id), -ENOENT);
	EXPECT_EQ(share(other, made.id, third_id), 0);
	EXPECT_EQ(share(third, made.id + 1, third_id), -ENOENT);
	EXPECT_EQ(info(third, made.id).agents, 3);
	EXPECT_EQ(stats(third, AGENTMEM_OF_AGENT).shared_bytes, LEN);
	/* The content outlives who put it. */
	EXPECT_EQ(give_back(agent, made.id), 0);
	close(other);
	EXPECT_EQ(info(third, made.id).agents, 1);
	EXPECT_EQ(stats(third, AGENTMEM_OF_AGENT).shared_bytes, 0);
	EXPECT(!memcmp(map(third, made.id, LEN), content, LEN));
	/* The mapping is an agent's too: its file is open until that is gone. */
	close(third);
	free(content);
}

/* What can be done with a lent descriptor is to map one SMU for reading, and to close it. */
static void lending(void)
{
	char *content = text(8, LEN), *other = text(9, LEN);
	int64_t id = put(agent, content, LEN), other_id = put(agent, other, LEN);
	uint64_t leases = stats(agent, AGENTMEM_OF_USER).leases;
	uint64_t whole = (LEN + PAGE - 1) / PAGE * PAGE;
	int lent = lend(agent, id), again = lend(agent, id);
	const char *seen = map(lent, 0, LEN), *direct = map(agent, id, LEN), *part;
	struct agentmem_info about = { .id = id };
	char path[40], byte;

	NEED(lent >= 0 && again >= 0 && seen != MAP_FAILED && direct != MAP_FAILED);
	EXPECT_EQ(stats(agent, AGENTMEM_OF_USER).leases, leases + 2);
	EXPECT_EQ(info(agent, id).leases, 1);
	EXPECT_EQ(info(agent, id).agents, 1);
	EXPECT_EQ(fcntl(lent, F_GETFD), FD_CLOEXEC);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT(!memcmp(direct, content, LEN));
	EXPECT(frame_of(seen) && frame_of(seen) == frame_of(direct));
	/* It is compressed under all mappings, and comes back under each of them. */
	EXPECT_EQ(advise(agent, id, AGENTMEM_COLD), 0);
	EXPECT_EQ(info(agent, id).resident_bytes, 0);
	EXPECT(!memcmp(seen, content, LEN));
	EXPECT_EQ(info(agent, id).resident_bytes, whole);
	EXPECT(!memcmp(direct, content, LEN));
	EXPECT_EQ(frame_of(seen), frame_of(direct));
	part = map(lent, 3, PAGE + 1);
	EXPECT(part != MAP_FAILED && !memcmp(part, content + 3 * PAGE, PAGE + 1));

#define NOT_MAPPED(error, ...) EXPECT_EQ(map_as(__VA_ARGS__) == MAP_FAILED ? errno : 0, error)
	NOT_MAPPED(EINVAL, lent, 0, whole + 1, PROT_READ, MAP_SHARED);
	NOT_MAPPED(EINVAL, lent, 1, whole, PROT_READ, MAP_SHARED);
	NOT_MAPPED(EINVAL, lent, whole / PAGE, PAGE, PROT_READ, MAP_SHARED);
	NOT_MAPPED(EINVAL, lent, other_id, PAGE, PROT_READ, MAP_SHARED);
	NOT_MAPPED(EACCES, lent, 0, LEN, PROT_READ | PROT_WRITE, MAP_SHARED);
	NOT_MAPPED(EACCES, lent, 0, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	EXPECT(map_as(lent, 0, LEN, PROT_READ | PROT_EXEC, MAP_SHARED) == MAP_FAILED);
	EXPECT_EQ(mprotect((void *)seen, LEN, PROT_READ | PROT_WRITE) ? errno : 0, EACCES);
	EXPECT_EQ(mprotect((void *)seen, LEN, PROT_READ | PROT_EXEC) ? errno : 0, EACCES);
	EXPECT_EQ(call(lent, AGENTMEM_IOC_INFO, &about), -ENOTTY);
	EXPECT_EQ(lend(lent, id), -ENOTTY);
	EXPECT_EQ(read(lent, &byte, 1) < 0 ? errno : 0, EINVAL);
	EXPECT_EQ(write(lent, content, 1) < 0 ? errno : 0, EBADF);
	EXPECT(ftruncate(lent, 0) < 0);
	/* Nor can it be opened anew, for writing or at all. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", lent);
	EXPECT_EQ(open(path, O_RDWR) < 0 ? errno : 0, ENXIO);
	EXPECT_EQ(open(path, O_RDONLY) < 0 ? errno : 0, ENXIO);

	close(again);
	EXPECT_EQ(stats(agent, AGENTMEM_OF_USER).leases, leases + 1);
	munmap((void *)seen, LEN);
	munmap((void *)direct, LEN);
	munmap((void *)part, PAGE + 1);
	close(lent);
	EXPECT_EQ(stats(agent, AGENTMEM_OF_USER).leases, leases);
	EXPECT_EQ(give_back(agent, id), 0);
	EXPECT_EQ(give_back(agent, other_id), 0);
	free(content);
	free(other);
}

static struct agentmem_alloc secret;
static uint32_t secret_agent;

static void must_not_find(int stranger)
{
	char *content = text(6, LEN);
	uint64_t id;

	NEED(stranger >= 0);
	EXPECT_EQ(attach(stranger, secret.digest, LEN, &id), -ENOENT);
	EXPECT_EQ(map(stranger, secret.id, LEN) == MAP_FAILED ? errno : 0, ENOENT);
	/* The same content is put anew, for its own domain. */
	id = put(stranger, content, LEN);
	EXPECT(id != secret.id);
	EXPECT_EQ(info(stranger, id).agents, 1);
	EXPECT_EQ(share(stranger, id, secret_agent), -ENOENT);
	free(content);
}

static bool proc_names(const char *name)
{
	char line[512];
	bool found = false;
	FILE *file = fopen("/proc/agent_stats", "r");

	NEED(file);
	while (fgets(line, sizeof(line), file))
		found |= strstr(line, name) != NULL;
	fclose(file);
	return found;
}

static void as_other_user(void *argument)
{
	NEED(!setgid(1000) && !setuid(1000));
	must_not_find(agent_open());
	EXPECT_EQ(call(agent_open(), AGENTMEM_IOC_STATS,
		       &(struct agentmem_stats){ .scope = AGENTMEM_OF_ALL }), -EPERM);
	EXPECT(!proc_names("keeper"));
}

static void as_other_namespace(void *argument)
{
	NEED(!unshare(CLONE_NEWUSER));
	must_not_find(agent_open());
}

static void domains(void)
{
	char *content = text(6, LEN);

	secret_agent = agent_set(agent, AGENTMEM_SET_NAME, 0, "keeper");
	EXPECT(proc_names("keeper"));
	EXPECT_EQ(put_as(agent, content, LEN, 50, &secret), 0);
	EXPECT_EQ(chmod("/dev/agentmem", 0666), 0);
	EXPECT(in_child(as_other_user, NULL));
	EXPECT(in_child(as_other_namespace, NULL));
	EXPECT_EQ(chmod("/dev/agentmem", 0660), 0);
	EXPECT_EQ(info(agent, secret.id).agents, 1);
	EXPECT_EQ(give_back(agent, secret.id), 0);
	free(content);
}

static void limits(void)
{
	struct agentmem_stats before = stats(agent, AGENTMEM_OF_USER);
	char *content = text(7, LEN);
	int64_t id;

	write_text(PARAMETERS "user_bytes_max", "%llu",
		   (unsigned long long)before.content_bytes + 76 * PAGE);
	id = put(agent, content, LEN);
	EXPECT(id > 0);
	EXPECT_EQ(put(agent, content, PAGE), -EDQUOT);
	EXPECT_EQ(give_back(agent, id), 0);
	id = put(agent, content, PAGE);
	EXPECT(id > 0);
	/* What was given back and is still mapped still counts. */
	EXPECT(map(agent, id, PAGE) != MAP_FAILED);
	EXPECT_EQ(give_back(agent, id), 0);
	EXPECT_EQ(put(agent, content, LEN), -EDQUOT);
	write_text(PARAMETERS "user_bytes_max", "%llu", 1ULL << 40);

	write_text(PARAMETERS "user_leases_max", "%llu", (unsigned long long)before.leases + 1);
	id = put(agent, content, 100);
	EXPECT(id > 0);
	EXPECT_EQ(put(agent, content, 101), -EDQUOT);
	EXPECT_EQ(put(agent, content, 100), id);
	/* A lent descriptor counts as one. */
	EXPECT_EQ(lend(agent, id), -EDQUOT);
	EXPECT_EQ(give_back(agent, id), 0);
	EXPECT_EQ(give_back(agent, id), 0);
	write_text(PARAMETERS "user_leases_max", "%u", 1U << 22);

	write_text(PARAMETERS "user_agents_max", "%llu", (unsigned long long)before.agents);
	EXPECT_EQ(agent_open(), -EDQUOT);
	write_text(PARAMETERS "user_agents_max", "%u", 4096);
	EXPECT_EQ(stats(agent, AGENTMEM_OF_USER).reject_limit - before.reject_limit, 5);
	free(content);
}

int main(void)
{
	agent = agent_open();
	NEED(agent >= 0);
	ktap_begin(10);
	ktap_case("version and features come first", api);
	ktap_case("the digest is SHA-256", digest);
	ktap_case("the same content is kept once, and released with its last lease", dedup);
	ktap_case("content that is changed while it is put", changing);
	ktap_case("bad arguments are refused", refusals);
	ktap_case("an answer that cannot be written leaves nothing", no_answer);
	ktap_case("attach by digest, share with an agent", attach_and_share);
	ktap_case("a lent descriptor maps one SMU, and does nothing else", lending);
	ktap_case("nothing is shared with another user or user namespace", domains);
	ktap_case("limits of a user hold", limits);
	return ktap_end();
}
