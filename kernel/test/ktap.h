/* SPDX-License-Identifier: GPL-2.0 */
/* Results in KTAP, one line a case: Documentation/dev-tools/ktap.rst. */
#ifndef KTAP_H
#define KTAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ktap_number, ktap_failures;
static bool ktap_case_failed;

/* What is wrong, as a line of diagnosis; the case goes on. */
static void ktap_wrong(const char *file, int line, const char *format, ...)
{
	va_list arguments;

	ktap_case_failed = true;
	printf("  # %s:%d: ", file, line);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

#define EXPECT(condition) \
	do { \
		if (!(condition)) \
			ktap_wrong(__FILE__, __LINE__, "%s does not hold", #condition); \
	} while (0)

#define EXPECT_EQ(got, wanted) \
	do { \
		long long got_ = (long long)(got), wanted_ = (long long)(wanted); \
		if (got_ != wanted_) \
			ktap_wrong(__FILE__, __LINE__, "%s is %lld, not %lld", #got, got_, \
				   wanted_); \
	} while (0)

/* A figure worth keeping. */
#define NOTE(...) \
	do { \
		printf("  # "); \
		printf(__VA_ARGS__); \
		printf("\n"); \
		fflush(stdout); \
	} while (0)

static inline void ktap_begin(int cases)
{
	printf("  KTAP version 1\n  1..%d\n", cases);
}

static inline void ktap_case(const char *name, void (*run)(void))
{
	ktap_case_failed = false;
	run();
	ktap_failures += ktap_case_failed;
	printf("  %sok %d %s\n", ktap_case_failed ? "not " : "", ++ktap_number, name);
	fflush(stdout);
}

static inline void ktap_skip(const char *name, const char *why)
{
	printf("  ok %d %s # SKIP %s\n", ++ktap_number, name, why);
	fflush(stdout);
}

static inline int ktap_end(void)
{
	return ktap_failures != 0;
}

/* For what must work before anything can be tested. */
#define NEED(condition) \
	do { \
		if (!(condition)) { \
			printf("Bail out! %s:%d: %s: %m\n", __FILE__, __LINE__, #condition); \
			exit(2); \
		} \
	} while (0)

#endif
