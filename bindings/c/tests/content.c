/* Agents, SMUs, views, conversations and the short names; of this process, or of a daemon. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <unistd.h>

static void agents_have_facts(agentmem_store *store)
{
    agentmem_agent *agent;
    const char *name;
    uint32_t number;
    int32_t importance;
    uint64_t quota_bytes;
    OK(agentmem_agent_open(store, "facts", 30, 1000, 0, &agent));
    OK(agentmem_agent_name(agent, &name));
    CHECK(strcmp(name, "facts") == 0);
    OK(agentmem_agent_pid(agent, &number));
    CHECK(number == (uint32_t)getpid());
    OK(agentmem_agent_state(agent, &number));
    CHECK(number == AGENTMEM_ACTIVE);
    OK(agentmem_agent_set_state(agent, AGENTMEM_PAUSED));
    OK(agentmem_agent_state(agent, &number));
    CHECK(number == AGENTMEM_PAUSED);
    FAILS(INVALID_ARGUMENT, agentmem_agent_set_state(agent, 3));
    OK(agentmem_agent_set_state(agent, AGENTMEM_ACTIVE));
    OK(agentmem_agent_importance(agent, &importance));
    CHECK(importance == 30);
    OK(agentmem_agent_set_importance(agent, 80));
    FAILS(INVALID_ARGUMENT, agentmem_agent_set_importance(agent, 101));
    FAILS(INVALID_ARGUMENT, agentmem_agent_set_importance(agent, -1));
    OK(agentmem_agent_quota_bytes(agent, &quota_bytes));
    CHECK(quota_bytes == 1000);

    static char large[2000];
    agentmem_smu *smu;
    FAILS(QUOTA_EXCEEDED, agentmem_agent_put(agent, large, sizeof large, AGENTMEM_MESSAGE, NULL, 50, &smu));
    CHECK(smu == NULL);
    OK(agentmem_agent_set_quota_bytes(agent, AGENTMEM_NONE));
    OK(agentmem_agent_quota_bytes(agent, &quota_bytes));
    CHECK(quota_bytes == AGENTMEM_NONE);
    OK(agentmem_agent_put(agent, large, sizeof large, AGENTMEM_MESSAGE, NULL, 50, &smu));

    agentmem_agent_figures figures;
    OK(agentmem_agent_stats(agent, &figures, sizeof figures));
    CHECK(figures.smus == 1 && figures.logical_bytes == 2000 && figures.quota_bytes == AGENTMEM_NONE);
    /* Two clocks, each rounded to a millisecond. */
    CHECK(figures.created_unix_ms > 1500000000000 && figures.active_unix_ms + 2 >= figures.created_unix_ms);
    char *json;
    OK(agentmem_agent_stats_json(agent, &json));
    CHECK(strstr(json, "\"quota_bytes\":null") != NULL && strstr(json, "\"importance\":80") != NULL);
    agentmem_free_text(json);

    agentmem_agent *none = agent;
    FAILS(INVALID_ARGUMENT, agentmem_agent_open(store, NULL, 50, AGENTMEM_NONE, 0, &none));
    CHECK(none == NULL);
    FAILS(INVALID_ARGUMENT, agentmem_agent_open(store, "x", 101, AGENTMEM_NONE, 0, &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_open(store, "x", 50, AGENTMEM_NONE, 0, NULL));
    agentmem_smu_free(smu);
    agentmem_agent_free(agent);
    agentmem_agent_free(NULL);
}

static void agents_are_left(agentmem_store *store)
{
    agentmem_agent *agent;
    agentmem_agent *again;
    agentmem_view *view;
    agentmem_agent_figures figures;
    OK(agentmem_agent_open_lasting(store, "lasting", 70, 1000, 0, &agent));
    FAILS(NAME_TAKEN, agentmem_agent_open_lasting(store, "lasting", 70, 1000, 0, &again));
    CHECK(again == NULL);
    agentmem_smu *smu = put_text(agent, "kept");
    OK(agentmem_agent_leave(agent));
    FAILS(CLOSED, agentmem_agent_leave(agent));
    FAILS(CLOSED, agentmem_smu_view(smu, &view));
    OK(agentmem_agent_open_lasting(store, "lasting", AGENTMEM_AS_IT_IS, AGENTMEM_NONE, 0, &again));
    OK(agentmem_agent_close(agent));
    OK(agentmem_agent_stats(again, &figures, sizeof figures));
    CHECK(figures.smus == 1 && figures.logical_bytes == 4 && figures.quota_bytes == 1000);
    OK(agentmem_agent_close(again));
    agentmem_smu_free(smu);
    agentmem_agent_free(agent);
    agentmem_agent_free(again);
}

static void smus_have_facts(agentmem_store *store)
{
    agentmem_agent *agent = open_agent(store, "smus");
    agentmem_smu *smu;
    uint32_t number;
    int32_t importance;
    uint64_t bytes;
    int32_t node;
    char *name;
    OK(agentmem_agent_put(agent, "be kind", 7, AGENTMEM_SYSTEM_PROMPT, "kindness", 60, &smu));
    OK(agentmem_smu_kind(smu, &number));
    CHECK(number == AGENTMEM_SYSTEM_PROMPT);
    OK(agentmem_smu_logical_bytes(smu, &bytes));
    CHECK(bytes == 7);
    OK(agentmem_smu_importance(smu, &importance));
    CHECK(importance == 60);
    OK(agentmem_smu_tier(smu, &number));
    CHECK(number == AGENTMEM_HOT);
    OK(agentmem_smu_numa_node(smu, &node));
    CHECK(node >= -1);
    OK(agentmem_smu_name(smu, &name));
    CHECK(strcmp(name, "kindness") == 0);
    agentmem_free_text(name);
    OK(agentmem_smu_stored_bytes(smu, &bytes));
    CHECK(bytes == 7);
    OK(agentmem_smu_shared_by(smu, &number));
    CHECK(number == 1);
    OK(agentmem_smu_advise(smu, AGENTMEM_ADVISE_COLD));
    OK(agentmem_smu_advise(smu, AGENTMEM_ADVISE_WILL_NEED));
    FAILS(INVALID_ARGUMENT, agentmem_smu_advise(smu, 7));
    CHECK(holds(smu, "be kind"));

    agentmem_id id;
    agentmem_id parsed;
    char digits[65];
    OK(agentmem_smu_id(smu, &id));
    OK(agentmem_id_text(&id, digits));
    CHECK(strlen(digits) == 64);
    OK(agentmem_id_parse(digits, &parsed));
    CHECK(memcmp(&id, &parsed, sizeof id) == 0);
    FAILS(INVALID_ARGUMENT, agentmem_id_parse("zz", &parsed));
    FAILS(INVALID_ARGUMENT, agentmem_id_text(&id, NULL));

    agentmem_smu *by_id;
    agentmem_smu *by_name;
    OK(agentmem_agent_attach_id(agent, &id, &by_id));
    OK(agentmem_agent_attach_name(agent, "kindness", &by_name));
    CHECK(holds(by_id, "be kind") && holds(by_name, "be kind"));
    id.bytes[0] ^= 1;
    agentmem_smu *none;
    FAILS(NOT_FOUND, agentmem_agent_attach_id(agent, &id, &none));
    FAILS(NOT_FOUND, agentmem_agent_attach_name(agent, "cruelty", &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_attach_name(agent, NULL, &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_put(agent, NULL, 1, AGENTMEM_MESSAGE, NULL, 50, &none));
    CHECK(strstr(agentmem_error_text(), "bytes is NULL") != NULL);
    FAILS(INVALID_ARGUMENT, agentmem_agent_put(agent, "x", SIZE_MAX, AGENTMEM_MESSAGE, NULL, 50, &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_put(agent, "x", (size_t)5 << 30, AGENTMEM_MESSAGE, NULL, 50, &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_put(agent, "x", 1, 4, NULL, 50, &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_put(agent, "x", 1, 1000, NULL, 50, &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_put(agent, "x", 1, AGENTMEM_MESSAGE, NULL, 1000, &none));
    FAILS(INVALID_ARGUMENT, agentmem_agent_put(agent, "x", 1, AGENTMEM_MESSAGE, "\xc3(", 50, &none));
    OK(agentmem_agent_put(agent, NULL, 0, AGENTMEM_MESSAGE, NULL, 50, &none));
    CHECK(holds(none, ""));
    OK(agentmem_smu_name(none, &name));
    CHECK(name == NULL);
    agentmem_smu_free(none);

    agentmem_view *view;
    const void *shown;
    size_t len;
    OK(agentmem_smu_view(smu, &view));
    OK(agentmem_agent_release(agent, smu));
    FAILS(RELEASED, agentmem_agent_release(agent, smu));
    FAILS(RELEASED, agentmem_smu_tier(smu, &number));
    agentmem_smu_free(smu);
    OK(agentmem_view_bytes(view, &shown, &len));
    CHECK(len == 7 && memcmp(shown, "be kind", 7) == 0);
    FAILS(INVALID_ARGUMENT, agentmem_view_bytes(view, &shown, NULL));
    FAILS(INVALID_ARGUMENT, agentmem_view_bytes(NULL, &shown, &len));
    CHECK(shown == NULL && len == 0);
    agentmem_view_free(view);
    agentmem_view_free(NULL);

    agentmem_smu **held;
    size_t count;
    OK(agentmem_agent_smus(agent, &held, &count));
    CHECK(count == 2);
    agentmem_smu *kept = held[0];
    held[0] = NULL;
    agentmem_smus_free(held, count);
    OK(agentmem_smu_logical_bytes(kept, &bytes));
    agentmem_smu_free(kept);
    agentmem_smus_free(NULL, 0);

    agentmem_smu_free(by_id);
    agentmem_smu_free(by_name);
    OK(agentmem_agent_close(agent));
    OK(agentmem_agent_close(agent));
    FAILS(CLOSED, agentmem_agent_put(agent, "x", 1, AGENTMEM_MESSAGE, NULL, 50, &none));
    agentmem_agent_free(agent);
    agentmem_smu_free(NULL);
}

static void agents_share(agentmem_store *store)
{
    agentmem_agent *giver = open_agent(store, "giver");
    agentmem_agent *taker = open_agent(store, "taker");
    agentmem_smu *smu = put_text(giver, "for both");
    agentmem_smu *own;
    agentmem_smu *none = smu;
    uint32_t agents;
    OK(agentmem_agent_attach(taker, smu, &own));
    OK(agentmem_smu_shared_by(smu, &agents));
    CHECK(agents == 2);
    FAILS(INVALID_ARGUMENT, agentmem_agent_release(taker, smu));
    FAILS(INVALID_ARGUMENT, agentmem_agent_attach(taker, NULL, &none));
    CHECK(none == NULL);
    OK(agentmem_agent_close(giver));
    OK(agentmem_agent_close(taker));
    agentmem_smu_free(own);
    agentmem_smu_free(smu);
    agentmem_agent_free(giver);
    agentmem_agent_free(taker);
}

static void conversations_are_lists(agentmem_store *store)
{
    agentmem_agent *agent = open_agent(store, "talker");
    agentmem_agent *other = open_agent(store, "other");
    agentmem_conversation *talk;
    agentmem_conversation *fork;
    agentmem_list *list;
    const char *name;
    uint64_t number;
    OK(agentmem_agent_conversation(agent, "talk", &talk));
    OK(agentmem_conversation_name(talk, &name));
    CHECK(strcmp(name, "talk") == 0);
    OK(agentmem_conversation_append(talk, "one", 3));
    OK(agentmem_conversation_append_value(talk, "{\"two\":2}", 9));
    OK(agentmem_conversation_append(talk, NULL, 0));
    FAILS(INVALID_ARGUMENT, agentmem_conversation_append(talk, NULL, 3));
    OK(agentmem_conversation_len(talk, &number));
    CHECK(number == 3);
    OK(agentmem_conversation_logical_bytes(talk, &number));
    CHECK(number == 12);
    OK(agentmem_conversation_stored_bytes(talk, &number));
    CHECK(number >= 12);
    OK(agentmem_conversation_read(talk, 0, AGENTMEM_NONE, &list));
    agentmem_item item;
    CHECK(len_of(list) == 3 && is_item(list, 0, "one") && is_item(list, 1, "{\"two\":2}") && is_item(list, 2, ""));
    OK(agentmem_list_item(list, 1, &item));
    CHECK(item.is_value == 1);
    agentmem_list_free(list);
    OK(agentmem_conversation_read(talk, 1, 2, &list));
    CHECK(len_of(list) == 1);
    agentmem_list_free(list);
    OK(agentmem_conversation_read(talk, 3, 9, &list));
    CHECK(len_of(list) == 0);
    agentmem_list_free(list);
    FAILS(INVALID_ARGUMENT, agentmem_conversation_read(talk, 4, 9, &list));
    CHECK(list == NULL);
    char *text;
    size_t len;
    OK(agentmem_conversation_render(talk, &text, &len));
    CHECK(len == 13 && strcmp(text, "one{\"two\":2}\n") == 0);
    agentmem_free_text(text);

    OK(agentmem_conversation_fork(talk, NULL, 1, "short", &fork));
    OK(agentmem_conversation_append(fork, "else", 4));
    OK(agentmem_conversation_render(fork, &text, &len));
    CHECK(strcmp(text, "oneelse") == 0);
    agentmem_free_text(text);
    agentmem_conversation_free(fork);
    OK(agentmem_conversation_fork(talk, other, AGENTMEM_NONE, NULL, &fork));
    OK(agentmem_conversation_len(fork, &number));
    CHECK(number == 3);
    FAILS(INVALID_ARGUMENT, agentmem_agent_release_conversation(agent, fork));
    OK(agentmem_conversation_advise(fork, AGENTMEM_ADVISE_COLD));
    FAILS(INVALID_ARGUMENT, agentmem_conversation_advise(fork, 3));
    OK(agentmem_agent_release_conversation(other, fork));
    FAILS(RELEASED, agentmem_conversation_len(fork, &number));
    agentmem_conversation_free(fork);
    FAILS(INVALID_ARGUMENT, agentmem_conversation_fork(talk, NULL, 9, NULL, &fork));
    FAILS(NAME_TAKEN, agentmem_conversation_fork(talk, NULL, 1, "short", &fork));
    CHECK(fork == NULL);

    OK(agentmem_agent_conversations(agent, &list));
    CHECK(len_of(list) == 2 && is_item(list, 0, "short") && is_item(list, 1, "talk"));
    agentmem_list_free(list);

    static const char transcript[] = "{\"role\":\"user\"}\n{\"role\":\"assistant\"}\n";
    OK(agentmem_conversation_load(talk, transcript, sizeof transcript - 1, &number));
    CHECK(number == 2);
    agentmem_conversation **loaded;
    size_t count;
    OK(agentmem_agent_load(agent, transcript, sizeof transcript - 1, &loaded, &count));
    CHECK(count == 1);
    OK(agentmem_conversation_render(loaded[0], &text, &len));
    CHECK(len == sizeof transcript - 1 && strcmp(text, transcript) == 0);
    agentmem_free_text(text);
    agentmem_conversations_free(loaded, count);
    FAILS(INVALID_ARGUMENT, agentmem_agent_load(agent, NULL, 4, &loaded, &count));
    CHECK(loaded == NULL && count == 0);
    FAILS(INVALID_ARGUMENT, agentmem_agent_load(agent, transcript, 4, NULL, &count));
    agentmem_conversations_free(NULL, 0);

    agentmem_conversation_free(talk);
    agentmem_conversation_free(NULL);
    OK(agentmem_agent_close(agent));
    OK(agentmem_agent_close(other));
    agentmem_agent_free(agent);
    agentmem_agent_free(other);
}

static void memory_is_sealed(agentmem_store *store)
{
    agentmem_agent *agent = open_agent(store, "maker");
    agentmem_agent *other = open_agent(store, "user");
    void *memory;
    agentmem_smu *smu;
    agentmem_smu *theirs;
    OK(agent_malloc(agent, 5, &memory));
    CHECK((uintptr_t)memory % 64 == 0 && memcmp(memory, "\0\0\0\0", 5) == 0);
    memcpy(memory, "made", 5);
    FAILS(INVALID_ARGUMENT, agent_seal(agent, memory, 9, NULL, &smu));
    CHECK(smu == NULL && strcmp(memory, "made") == 0);
    OK(agent_seal(agent, memory, AGENTMEM_TOOL_DEFINITION, "tool", &smu));
    OK(agent_share(smu, other, &theirs));
    OK(agent_mark_hot(theirs));
    agentmem_agent_figures figures;
    OK(agent_get_stats(other, &figures, sizeof figures));
    CHECK(figures.logical_bytes == 5 && figures.shared_bytes == 5);
    FAILS(INVALID_ARGUMENT, agent_free(agent, theirs));
    OK(agent_free(other, theirs));
    OK(agent_free(agent, smu));
    FAILS(INVALID_ARGUMENT, agent_free(agent, NULL));

    /* As large as what goes beside the ring, and nothing at all. */
    OK(agent_malloc(agent, 3u << 20, &memory));
    OK(agent_seal(agent, memory, AGENTMEM_TOOL_RESULT, NULL, &smu));
    uint64_t bytes;
    OK(agentmem_smu_logical_bytes(smu, &bytes));
    CHECK(bytes == 3u << 20);
    OK(agent_free(agent, smu));
    OK(agent_malloc(agent, 0, &memory));
    OK(agent_discard(memory));
    OK(agent_discard(NULL));
    FAILS(INVALID_ARGUMENT, agent_malloc(agent, (size_t)5 << 30, &memory));
    CHECK(memory == NULL);
    FAILS(INVALID_ARGUMENT, agent_malloc(NULL, 1, &memory));
    FAILS(INVALID_ARGUMENT, agent_seal(agent, NULL, AGENTMEM_MESSAGE, NULL, &smu));
    static _Alignas(64) char foreign[128];
    FAILS(INVALID_ARGUMENT, agent_seal(agent, foreign + 64, AGENTMEM_MESSAGE, NULL, &smu));
    FAILS(INVALID_ARGUMENT, agent_discard(foreign + 65));
    OK(agentmem_agent_close(agent));
    OK(agentmem_agent_close(other));
    agentmem_agent_free(agent);
    agentmem_agent_free(other);
}

enum { THREADS = 4, ROUNDS = 2000 };

static void *put_and_view(void *given)
{
    agentmem_agent *agent = given;
    char text[64];
    for (int round = 0; round < ROUNDS; round++) {
        snprintf(text, sizeof text, "round %d", round);
        agentmem_smu *smu = put_text(agent, text);
        CHECK(holds(smu, text));
        OK(agentmem_agent_release(agent, smu));
        agentmem_smu_free(smu);
    }
    return NULL;
}

static void threads_use_one_agent(agentmem_store *store)
{
    agentmem_agent *agent = open_agent(store, "threads");
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, put_and_view, agent) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    agentmem_agent_figures figures;
    OK(agentmem_agent_stats(agent, &figures, sizeof figures));
    CHECK(figures.smus == 0 && figures.logical_bytes == 0);
    OK(agentmem_agent_close(agent));
    agentmem_agent_free(agent);
}

static void a_full_arena_is_told(void)
{
    agentmem_options options = small_options();
    agentmem_store *store;
    options.on_full = AGENTMEM_FAIL;
    options.arena_bytes = 1 << 16;
    OK(agentmem_store_open(&options, &store));
    agentmem_agent *agent = open_agent(store, "quick");
    static char text[8000];
    int answered = 0;
    for (int round = 0; round < 1000000 && answered == 0; round++) {
        agentmem_smu *smu;
        memcpy(text, &round, sizeof round);
        answered = agentmem_agent_put(agent, text, sizeof text, AGENTMEM_MESSAGE, NULL, 50, &smu);
        agentmem_smu_free(smu);
    }
    CHECK(answered == AGENTMEM_ERROR_ARENA_FULL || answered == AGENTMEM_ERROR_OUT_OF_MEMORY);
    agentmem_agent_free(agent);
    agentmem_store_free(store);
}

int main(void)
{
    agentmem_store *store = open_any();
    agents_have_facts(store);
    agents_are_left(store);
    smus_have_facts(store);
    agents_share(store);
    conversations_are_lists(store);
    memory_is_sealed(store);
    threads_use_one_agent(store);
    agentmem_store_free(store);
    a_full_arena_is_told();
    return 0;
}
