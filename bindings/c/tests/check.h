/* What the test programs in C share: each check ends the program at the first that fails, and says where. */
#ifndef AGENTMEM_CHECK_H
#define AGENTMEM_CHECK_H

#include <agentmem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

#define ANSWERS(expected, call)                                                           \
    do {                                                                                  \
        int answered = (call);                                                            \
        if (answered != (expected)) {                                                     \
            fprintf(stderr, "%s:%d: %s: %s (%s)\n", __FILE__, __LINE__, #call,            \
                    agentmem_error_name(answered), agentmem_error_text());                \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

#define OK(call) ANSWERS(AGENTMEM_OK, call)
#define FAILS(name, call) ANSWERS(AGENTMEM_ERROR_##name, call)

/* A small store that behaves the same on a busy machine. */
static inline agentmem_options small_options(void)
{
    agentmem_options options;
    OK(agentmem_options_init(&options, sizeof options));
    options.memory_max_bytes = 64u << 20;
    options.pressure = 0;
    return options;
}

static inline agentmem_store *open_small(void)
{
    agentmem_options options = small_options();
    agentmem_store *store;
    OK(agentmem_store_open(&options, &store));
    return store;
}

/* A store of this process, or a session with the daemon that $AGENTMEM_TEST_SOCKET names. */
static inline agentmem_store *open_any(void)
{
    const char *socket = getenv("AGENTMEM_TEST_SOCKET");
    agentmem_store *store;
    if (socket == NULL) {
        return open_small();
    }
    OK(agentmem_store_connect(socket, NULL, NULL, 0, AGENTMEM_WAIT, &store));
    return store;
}

static inline agentmem_agent *open_agent(agentmem_store *store, const char *name)
{
    agentmem_agent *agent;
    OK(agentmem_agent_open(store, name, AGENTMEM_AS_IT_IS, AGENTMEM_NONE, 0, &agent));
    return agent;
}

static inline agentmem_smu *put_text(agentmem_agent *agent, const char *text)
{
    agentmem_smu *smu;
    OK(agentmem_agent_put(agent, text, strlen(text), AGENTMEM_TOOL_RESULT, NULL, AGENTMEM_IMPORTANCE, &smu));
    return smu;
}

/* Whether an SMU holds `text`. */
static inline int holds(agentmem_smu *smu, const char *text)
{
    agentmem_view *view;
    const void *bytes;
    size_t len;
    OK(agentmem_smu_view(smu, &view));
    OK(agentmem_view_bytes(view, &bytes, &len));
    int same = len == strlen(text) && memcmp(bytes, text, len) == 0;
    agentmem_view_free(view);
    return same;
}

/* Whether item `index` of a list is `text`. */
static inline int is_item(agentmem_list *list, size_t index, const char *text)
{
    agentmem_item item;
    OK(agentmem_list_item(list, index, &item));
    return item.len_bytes == strlen(text) && memcmp(item.bytes, text, item.len_bytes) == 0;
}

static inline size_t len_of(agentmem_list *list)
{
    size_t len;
    OK(agentmem_list_len(list, &len));
    return len;
}

#endif
