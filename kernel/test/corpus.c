// SPDX-License-Identifier: GPL-2.0
/*
 * Real transcripts: how much less they take, and that they come back as they were.
 *
 *     corpus TAR UNIT_BYTES...
 *
 * Each file of the archive is one SMU.
 */
#include "client.h"

#define FILES_MAX	4096
#define GROUPS_MAX	64

struct member {
	char group[101];
	uint64_t at, len;
	int64_t id;
};

static struct member members[FILES_MAX];
static int members_nr;
static int archive;
static int agent;

static void read_all(void *to, uint64_t len, uint64_t at)
{
	for (uint64_t done = 0; done < len;) {
		ssize_t n = pread(archive, (char *)to + done, len - done, at + done);

		NEED(n > 0);
		done += n;
	}
}

/* The regular files of the archive, by the first folder of their names. */
static void list(void)
{
	char header[512];

	for (uint64_t at = 0;; at += 512) {
		struct member *member = &members[members_nr];
		uint64_t len;

		read_all(header, sizeof(header), at);
		if (!header[0])
			break;
		len = strtoull(header + 124, NULL, 8);
		if ((header[156] == '0' || !header[156]) && len) {
			NEED(members_nr < FILES_MAX);
			snprintf(member->group, sizeof(member->group), "%.100s", header);
			member->group[strcspn(member->group, "/")] = 0;
			member->at = at + 512;
			member->len = len;
			members_nr++;
		}
		at += (len + 511) / 512 * 512;
	}
}

static unsigned long unit_bytes;

static void tell(const char *name, uint64_t pages_bytes, uint64_t kept_bytes)
{
	NOTE("units of %lu KiB: %-24s %9llu KiB in %8llu KiB, %.2fx", unit_bytes / 1024, name,
	     (unsigned long long)pages_bytes / 1024, (unsigned long long)kept_bytes / 1024,
	     (double)pages_bytes / kept_bytes);
}

/* Of each group, and of all: pages that the content would take, and what is kept of it. */
static void ratios(void)
{
	struct agentmem_stats held = stats(agent, AGENTMEM_OF_USER);
	const char *groups[GROUPS_MAX];
	uint64_t pages_bytes[GROUPS_MAX] = {}, kept_bytes[GROUPS_MAX] = {};
	int groups_nr = 0;

	for (int i = 0; i < members_nr; i++) {
		struct agentmem_info about = info(agent, members[i].id);
		int group = 0;

		while (group < groups_nr && strcmp(groups[group], members[i].group))
			group++;
		NEED(group < GROUPS_MAX);
		groups_nr += group == groups_nr;
		groups[group] = members[i].group;
		pages_bytes[group] += (about.len + PAGE - 1) / PAGE * PAGE;
		kept_bytes[group] += about.resident_bytes + about.stored_bytes;
	}
	for (int group = 0; group < groups_nr; group++)
		if (pages_bytes[group] > 1 << 20)
			tell(groups[group], pages_bytes[group], kept_bytes[group]);
	tell("all", held.content_bytes, held.resident_bytes + held.stored_bytes);
	NOTE("units of %lu KiB: %d files, %llu SMUs, %llu bytes raw", unit_bytes / 1024, members_nr,
	     (unsigned long long)held.smus, (unsigned long long)held.raw_bytes);
	EXPECT(held.resident_bytes + held.stored_bytes < held.content_bytes / 2);
}

static void transcripts(void)
{
	write_text(PARAMETERS "unit_bytes", "%lu", unit_bytes);
	for (int i = 0; i < members_nr; i++) {
		char *content = malloc(members[i].len);

		NEED(content);
		read_all(content, members[i].len, members[i].at);
		members[i].id = put(agent, content, members[i].len);
		NEED(members[i].id > 0);
		EXPECT_EQ(advise(agent, members[i].id, AGENTMEM_COLD), 0);
		free(content);
	}
	ratios();
	for (int i = 0; i < members_nr; i++) {
		char *content = malloc(members[i].len);
		const char *seen = map(agent, members[i].id, members[i].len);

		NEED(content && seen != MAP_FAILED);
		read_all(content, members[i].len, members[i].at);
		EXPECT(!memcmp(seen, content, members[i].len));
		munmap((void *)seen, members[i].len);
		EXPECT_EQ(advise(agent, members[i].id, AGENTMEM_COLD), 0);
		free(content);
	}
	for (int i = 0; i < members_nr; i++)
		EXPECT_EQ(give_back(agent, members[i].id), 0);
	EXPECT_EQ(stats(agent, AGENTMEM_OF_USER).smus, 0);
}

int main(int argc, char **argv)
{
	NEED(argc > 2);
	archive = open(argv[1], O_RDONLY);
	NEED(archive >= 0);
	agent = agent_open();
	NEED(agent >= 0);
	list();
	ktap_begin(argc - 2);
	for (int i = 2; i < argc; i++) {
		char name[64];

		unit_bytes = strtoul(argv[i], NULL, 0);
		snprintf(name, sizeof(name), "real transcripts in units of %lu bytes", unit_bytes);
		ktap_case(name, transcripts);
	}
	write_text(PARAMETERS "unit_bytes", "65536");
	return ktap_end();
}
