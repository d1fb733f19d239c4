// SPDX-License-Identifier: GPL-2.0
/*
 * A caller of 32 bits. Without a C library, which few machines have for 32 bits:
 *
 *     cc -m32 -static -nostdlib -ffreestanding -fno-stack-protector -fno-pic compat.c
 */
#include <asm/unistd_32.h>
#include <linux/fcntl.h>
#include <linux/mman.h>

#include "../agentmem_uapi.h"

#define LEN	(100 * 1024 + 5)
#define EFAULT	14
#define EINVAL	22
#define EACCES	13

_Static_assert(sizeof(void *) == 4, "this is for 32 bits");

static char content[LEN], line[3];
static int number, failures;

static long call(long which, long a, long b, long c, long d, long e, long f)
{
	long frame[] = { which, a, b, c, d, e, f }, result;

	/* The sixth argument is in ebp, which the compiler may want for itself. */
	__asm__ volatile("push %%ebp\n\t"
			 "push %%ebx\n\t"
			 "mov 24(%%eax), %%ebp\n\t"
			 "mov 4(%%eax), %%ebx\n\t"
			 "mov 8(%%eax), %%ecx\n\t"
			 "mov 12(%%eax), %%edx\n\t"
			 "mov 16(%%eax), %%esi\n\t"
			 "mov 20(%%eax), %%edi\n\t"
			 "mov (%%eax), %%eax\n\t"
			 "int $0x80\n\t"
			 "pop %%ebx\n\t"
			 "pop %%ebp"
			 : "=a"(result)
			 : "a"(frame)
			 : "ecx", "edx", "esi", "edi", "memory");
	return result;
}

static void say(const char *text)
{
	int n = 0;

	while (text[n])
		n++;
	call(__NR_write, 1, (long)text, n, 0, 0, 0);
}

static void expect(int holds, const char *what)
{
	number++;
	line[0] = number < 10 ? ' ' : '0' + number / 10;
	line[1] = '0' + number % 10;
	failures += !holds;
	say(holds ? "  ok " : "  not ok ");
	say(line + (number < 10));
	say(" ");
	say(what);
	say("\n");
}

static long control(long agent, unsigned long which, void *args)
{
	return call(__NR_ioctl, agent, which, (long)args, 0, 0, 0);
}

/* In pages, as mmap2 has it. */
static const char *map(long agent, unsigned long long id, long len, long protection)
{
	return (const char *)call(__NR_mmap2, 0, len, protection, MAP_SHARED, agent, id);
}

static int equal(const char *seen)
{
	for (int i = 0; i < LEN; i++)
		if (seen[i] != content[i])
			return 0;
	return 1;
}

static int is_error(const void *pointer)
{
	return (unsigned long)pointer > -4096UL;
}

static unsigned int next(unsigned int *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* Each call with bytes as they come, mostly zeros; how many were not refused. */
static int random_calls(long agent, unsigned int state, unsigned long long id)
{
	static const unsigned int numbers[] = {
		AGENTMEM_IOC_API, AGENTMEM_IOC_AGENT, AGENTMEM_IOC_ALLOC, AGENTMEM_IOC_ATTACH,
		AGENTMEM_IOC_SHARE, AGENTMEM_IOC_FREE, AGENTMEM_IOC_ADVISE, AGENTMEM_IOC_INFO,
		AGENTMEM_IOC_STATS, AGENTMEM_IOC_LEND,
	};
	unsigned long long words[32];
	unsigned int which;
	int passed = 0;
	void *args;

	for (int round = 0; round < 20000; round++) {
		for (int i = 0; i < 32; i++)
			words[i] = next(&state) % 4 ? 0 : next(&state) >> next(&state) % 32;
		if (next(&state) % 2)
			words[0] = next(&state) % 2 ? id : (unsigned long)content;
		which = numbers[next(&state) % 10] ^ !(next(&state) % 16);
		args = next(&state) % 16 ? (void *)words : (void *)next(&state);
		if (control(agent, which, args) < 0)
			continue;
		passed++;
		if (which == AGENTMEM_IOC_LEND)
			call(__NR_close, ((struct agentmem_lend *)args)->fd, 0, 0, 0, 0, 0);
	}
	return passed;
}

static void run(void)
{
	struct agentmem_api api = {};
	struct agentmem_alloc made = { .addr = (unsigned long)content, .len = LEN };
	struct agentmem_alloc again = made, bad = made;
	struct agentmem_info info = {};
	struct agentmem_advise cold = { .advice = AGENTMEM_COLD };
	struct agentmem_stats stats = {};
	struct agentmem_attach attach = { .len = LEN };
	struct agentmem_agent self = { .set = AGENTMEM_SET_NAME, .name = "of 32 bits" };
	struct agentmem_share share = {};
	struct agentmem_free back = {};
	struct agentmem_lend lend = {};
	long agent = call(__NR_open, (long)"/dev/agentmem", O_RDWR, 0, 0, 0, 0);
	long other = call(__NR_open, (long)"/dev/agentmem", O_RDWR, 0, 0, 0, 0);
	const char *seen;

	for (int i = 0; i < LEN; i++)
		content[i] = "what a caller of 32 bits puts "[i % 30];
	expect(agent >= 0 && other >= 0 && !control(agent, AGENTMEM_IOC_API, &api) &&
	       api.version == AGENTMEM_VERSION && api.smu_bytes_max == AGENTMEM_SMU_BYTES_MAX,
	       "version and limits");
	expect(!control(agent, AGENTMEM_IOC_ALLOC, &made) && made.id && !made.shared &&
	       !control(other, AGENTMEM_IOC_ALLOC, &again) && again.id == made.id && again.shared,
	       "put, and the same once more");
	bad.addr |= 1ULL << 32;
	expect(control(agent, AGENTMEM_IOC_ALLOC, &bad) == -EFAULT, "an address of 64 bits");
	seen = map(agent, made.id, LEN, PROT_READ);
	expect(!is_error(seen) && equal(seen), "mapped");
	expect((long)map(agent, made.id, LEN, PROT_READ | PROT_WRITE) == -EACCES &&
	       (long)map(agent, made.id, LEN + 4096, PROT_READ) == -EINVAL, "mappings refused");
	cold.id = info.id = made.id;
	expect(!control(agent, AGENTMEM_IOC_ADVISE, &cold) &&
	       !control(agent, AGENTMEM_IOC_INFO, &info) && !info.resident_bytes &&
	       info.stored_bytes && info.agents == 2 && equal(seen), "compressed, and back");
	for (int i = 0; i < AGENTMEM_DIGEST_BYTES; i++)
		attach.digest[i] = made.digest[i];
	expect(!control(other, AGENTMEM_IOC_AGENT, &self) && self.id, "an agent's name");
	share.id = made.id;
	share.agent = self.id;
	expect(!control(other, AGENTMEM_IOC_ATTACH, &attach) && attach.id == made.id &&
	       !control(agent, AGENTMEM_IOC_SHARE, &share) &&
	       !control(other, AGENTMEM_IOC_STATS, &stats) && stats.smus == 1 &&
	       stats.logical_bytes == 3 * LEN, "attach, share and stats");
	lend.id = made.id;
	expect(!control(agent, AGENTMEM_IOC_LEND, &lend) &&
	       equal(map(lend.fd, 0, LEN, PROT_READ)), "lent");
	back.id = made.id;
	expect(!control(agent, AGENTMEM_IOC_FREE, &back) &&
	       control(agent, AGENTMEM_IOC_FREE, &back) < 0 && equal(seen), "free");
	expect(random_calls(other, 1, made.id) > 1000 && equal(seen), "random calls");
}

void _start(void)
{
	say("  KTAP version 1\n  1..11\n");
	run();
	call(__NR_exit, failures != 0, 0, 0, 0, 0, 0);
}
