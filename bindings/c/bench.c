/* p50 and p99 of a put of 1 KiB and of a view of something hot. Argument: the socket of a daemon; none: embedded. */
#define _GNU_SOURCE
#include <agentmem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 200000, CONTENT_BYTES = 1024, HELD = 1024 };

static void ok(int answered)
{
    if (answered != AGENTMEM_OK) {
        fprintf(stderr, "bench: %s\n", agentmem_error_text());
        exit(1);
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const uint32_t *left = a, *right = b;
    return (*left > *right) - (*left < *right);
}

static void report(const char *what, const char *session, uint32_t *took_ns)
{
    qsort(took_ns, ROUNDS, sizeof *took_ns, by_value);
    printf("{\"benchmark\": \"%s\", \"language\": \"c\", \"session\": \"%s\", \"rounds\": %d, \"p50_ns\": %u, "
           "\"p99_ns\": %u}\n", what, session, ROUNDS, took_ns[ROUNDS / 2], took_ns[ROUNDS / 100 * 99]);
}

int main(int argc, char **argv)
{
    static uint32_t took_ns[ROUNDS];
    static char content[CONTENT_BYTES];
    static agentmem_smu *held[HELD];
    const char *session = argc > 1 ? "connected" : "embedded";
    agentmem_store *store;
    agentmem_agent *agent;
    if (argc > 1) {
        ok(agentmem_store_connect(argv[1], NULL, NULL, 0, AGENTMEM_WAIT, &store));
    } else {
        ok(agentmem_store_open(NULL, &store));
    }
    ok(agentmem_agent_open(store, "bench-c", AGENTMEM_AS_IT_IS, AGENTMEM_NONE, 0, &agent));

    /* Each different, and given back when a thousand more were put: what an agent's tool results are like. A clock
     * call is in each figure. */
    uint64_t word = 88172645463325252u;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t at = 0; at < sizeof content; at += sizeof word) {
            word ^= word << 13, word ^= word >> 7, word ^= word << 17;
            memcpy(content + at, &word, sizeof word);
        }
        agentmem_smu **place = &held[round % HELD];
        if (*place != NULL) {
            ok(agent_free(agent, *place));
        }
        uint64_t start = now_ns();
        ok(agentmem_agent_put(agent, content, sizeof content, AGENTMEM_TOOL_RESULT, NULL, 50, place));
        took_ns[round] = (uint32_t)(now_ns() - start);
    }
    report("put_1kib", session, took_ns);

    uint64_t sum = 0;
    for (int warm = 0; warm < 2; warm++) {
        for (int round = 0; round < ROUNDS; round++) {
            agentmem_view *view;
            const void *bytes;
            size_t len;
            uint64_t start = now_ns();
            ok(agentmem_smu_view(held[round % HELD], &view));
            ok(agentmem_view_bytes(view, &bytes, &len));
            sum += *(const unsigned char *)bytes;
            agentmem_view_free(view);
            took_ns[round] = (uint32_t)(now_ns() - start);
        }
    }
    report("view_hot", session, took_ns);
    ok(agentmem_agent_close(agent));
    for (int i = 0; i < HELD; i++) {
        agentmem_smu_free(held[i]);
    }
    agentmem_agent_free(agent);
    agentmem_store_free(store);
    return sum == 0;
}
