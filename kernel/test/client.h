/* SPDX-License-Identifier: GPL-2.0 */
/* What all tests do with the device. Calls give 0 or a negative errno. */
#ifndef CLIENT_H
#define CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../agentmem_uapi.h"
#include "ktap.h"

#define PAGE		4096UL
#define PARAMETERS	"/sys/module/agentmem/parameters/"

static inline int call(int agent, unsigned long number, void *argument)
{
	return ioctl(agent, number, argument) ? -errno : 0;
}

static inline int agent_open(void)
{
	int agent = open("/dev/agentmem", O_RDWR | O_CLOEXEC);

	return agent < 0 ? -errno : agent;
}

static inline int put_as(int agent, const void *content, uint64_t len, uint32_t importance,
			 struct agentmem_alloc *made)
{
	*made = (struct agentmem_alloc){
		.addr = (uintptr_t)content,
		.len = len,
		.kind = AGENTMEM_MESSAGE,
		.importance = importance,
		.flags = AGENTMEM_ALLOC_IMPORTANCE,
	};
	return call(agent, AGENTMEM_IOC_ALLOC, made);
}

/* The id, or a negative errno. */
static inline int64_t put(int agent, const void *content, uint64_t len)
{
	struct agentmem_alloc made;
	int error = put_as(agent, content, len, AGENTMEM_IMPORTANCE_DEFAULT, &made);

	return error ?: (int64_t)made.id;
}

static inline int give_back(int agent, uint64_t id)
{
	struct agentmem_free args = { .id = id };

	return call(agent, AGENTMEM_IOC_FREE, &args);
}

static inline int advise(int agent, uint64_t id, uint32_t advice)
{
	struct agentmem_advise args = { .id = id, .advice = advice };

	return call(agent, AGENTMEM_IOC_ADVISE, &args);
}

static inline int attach(int agent, const uint8_t *digest, uint64_t len, uint64_t *id)
{
	struct agentmem_attach args = { .len = len };
	int error;

	memcpy(args.digest, digest, sizeof(args.digest));
	error = call(agent, AGENTMEM_IOC_ATTACH, &args);
	*id = args.id;
	return error;
}

static inline int share(int agent, uint64_t id, uint32_t to)
{
	struct agentmem_share args = { .id = id, .agent = to };

	return call(agent, AGENTMEM_IOC_SHARE, &args);
}

/* A descriptor, or a negative errno. */
static inline int lend(int agent, uint64_t id)
{
	struct agentmem_lend args = { .id = id };

	return call(agent, AGENTMEM_IOC_LEND, &args) ?: args.fd;
}

static inline struct agentmem_info info(int agent, uint64_t id)
{
	struct agentmem_info args = { .id = id };

	if (call(agent, AGENTMEM_IOC_INFO, &args))
		ktap_wrong(__FILE__, __LINE__, "no info of %llu: %m", (unsigned long long)id);
	return args;
}

static inline struct agentmem_stats stats(int agent, uint32_t scope)
{
	struct agentmem_stats args = { .scope = scope };

	if (call(agent, AGENTMEM_IOC_STATS, &args))
		ktap_wrong(__FILE__, __LINE__, "no stats of scope %u: %m", scope);
	return args;
}

static inline uint32_t agent_set(int agent, uint32_t set, uint32_t state, const char *name)
{
	struct agentmem_agent args = { .set = set, .state = state };

	strncpy(args.name, name, sizeof(args.name) - 1);
	if (call(agent, AGENTMEM_IOC_AGENT, &args))
		ktap_wrong(__FILE__, __LINE__, "the agent cannot be set: %m");
	return args.id;
}

static inline const char *map_as(int agent, uint64_t id, uint64_t len, int protection, int flags)
{
	return mmap(NULL, len, protection, flags, agent, id * PAGE);
}

static inline const char *map(int agent, uint64_t id, uint64_t len)
{
	return map_as(agent, id, len, PROT_READ, MAP_SHARED);
}

/* Text that shrinks to about a fifth, of which no two seeds have a line in common. */
static inline char *text(uint64_t seed, uint64_t len)
{
	static const char line[] = "{\"id\":\"0123456789abcdef\",\"role\":\"user\",\"text\":"
				   "\"a message of one who asks what the other has done\"}\n";
	char *content = malloc(len + sizeof(line));
	uint64_t word = seed + 1;

	NEED(content);
	for (uint64_t at = 0; at < len; at += sizeof(line) - 1) {
		memcpy(content + at, line, sizeof(line));
		word = word * 6364136223846793005 + seed * 2 + 1;
		for (int digit = 0; digit < 16; digit++)
			content[at + 7 + digit] = "0123456789abcdef"[word >> (digit * 4) & 15];
	}
	return content;
}

/* Bytes that do not shrink. */
static inline char *noise(uint64_t seed, uint64_t len)
{
	uint64_t word = seed * 0x9e3779b97f4a7c15 + 1;
	uint64_t *content = malloc(len + sizeof(word));

	NEED(content);
	for (uint64_t i = 0; i * sizeof(word) < len; i++) {
		word ^= word << 13;
		word ^= word >> 7;
		word ^= word << 17;
		content[i] = word;
	}
	return (char *)content;
}

static inline void write_text(const char *path, const char *format, ...)
{
	FILE *file = fopen(path, "w");
	va_list arguments;

	va_start(arguments, format);
	if (!file || vfprintf(file, format, arguments) < 0)
		ktap_wrong(__FILE__, __LINE__, "%s cannot be written: %m", path);
	va_end(arguments);
	if (file && fclose(file))
		ktap_wrong(__FILE__, __LINE__, "%s cannot be written: %m", path);
}

/* The number of the page frame at an address, 0 if there is none. */
static inline uint64_t frame_of(const void *address)
{
	int file = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	NEED(file >= 0);
	NEED(pread(file, &entry, sizeof(entry), (uintptr_t)address / PAGE * 8) == sizeof(entry));
	close(file);
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

/* Whether a process that does something ends by itself and with 0. */
static inline bool in_child(void (*work)(void *), void *argument)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	NEED(child >= 0);
	if (!child) {
		ktap_case_failed = false;
		work(argument);
		fflush(stdout);
		_exit(ktap_case_failed);
	}
	NEED(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

#endif
