/* Stores: options, errors, life and figures. First argument: an empty folder. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static void errors_have_names_and_numbers(void)
{
    CHECK(agentmem_abi_version() == AGENTMEM_ABI_VERSION);
    CHECK(strchr(agentmem_version(), '.') != NULL);
    CHECK(strcmp(agentmem_error_name(AGENTMEM_OK), "OK") == 0);
    CHECK(strcmp(agentmem_error_name(AGENTMEM_ERROR_NOT_FOUND), "NotFound") == 0);
    CHECK(strcmp(agentmem_error_name(-7), "unknown") == 0);
    CHECK(agentmem_error_errno(AGENTMEM_OK) == 0);
    CHECK(agentmem_error_errno(AGENTMEM_ERROR_NOT_FOUND) == ENOENT);
    CHECK(agentmem_error_errno(AGENTMEM_ERROR_DAMAGED) == EUCLEAN);
    CHECK(agentmem_error_errno(1000) == ENOTSUP);
}

static void *text_of_another_thread(void *unused)
{
    (void)unused;
    CHECK(strcmp(agentmem_error_text(), "") == 0);
    FAILS(INVALID_ARGUMENT, agentmem_store_flush(NULL));
    CHECK(strstr(agentmem_error_text(), "store is NULL") != NULL);
    return NULL;
}

static void the_text_is_the_thread_s(void)
{
    pthread_t thread;
    FAILS(INVALID_ARGUMENT, agentmem_store_open(NULL, NULL));
    CHECK(pthread_create(&thread, NULL, text_of_another_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(strstr(agentmem_error_text(), "store is NULL: an argument") != NULL);
}

static void a_backend_is_there_or_refused(void)
{
    agentmem_options options;
    agentmem_store *store;
    OK(agentmem_options_init(&options, sizeof options));
    CHECK(options.backend == AGENTMEM_BACKEND_USER);
    options.memory_max_bytes = 64u << 20;
    options.backend = 3;
    FAILS(INVALID_ARGUMENT, agentmem_store_open(&options, &store));
    options.backend = AGENTMEM_BACKEND_KERNEL;
    if (access("/dev/agentmem", F_OK)) {
        FAILS(UNSUPPORTED, agentmem_store_open(&options, &store));
        CHECK(strstr(agentmem_error_text(), "/dev/agentmem") != NULL);
    }
    options.backend = AGENTMEM_BACKEND_AUTO;
    OK(agentmem_store_open(&options, &store));
    agentmem_store_free(store);
}

static void options_grow(void)
{
    struct {
        agentmem_options known;
        uint64_t later;
    } grown;
    agentmem_store *store = (agentmem_store *)&grown;
    OK(agentmem_options_init(&grown.known, sizeof grown));
    CHECK(grown.known.size_bytes == sizeof grown && grown.later == 0);
    CHECK(grown.known.memory_max_bytes == 2ull << 30 && grown.known.cold == 1 && grown.known.path == NULL);
    grown.known.memory_max_bytes = 64u << 20;
    OK(agentmem_store_open(&grown.known, &store));
    agentmem_store_free(store);

    grown.later = 1;
    FAILS(VERSION, agentmem_store_open(&grown.known, &store));
    CHECK(store == NULL);
    grown.later = 0;
    /* A caller that was compiled when there were only a size, a path, a policy and a budget. */
    OK(agentmem_options_init(&grown.known, 32));
    CHECK(grown.known.size_bytes == 32);
    grown.known.memory_max_bytes = 32u << 20;
    uint64_t budget;
    OK(agentmem_store_open(&grown.known, &store));
    OK(agentmem_store_memory_max_bytes(store, &budget));
    CHECK(budget == 32u << 20);
    agentmem_store_free(store);
    FAILS(INVALID_ARGUMENT, agentmem_options_init(&grown.known, 0));
    FAILS(INVALID_ARGUMENT, agentmem_options_init(NULL, sizeof grown));
    grown.known.size_bytes = 0;
    FAILS(INVALID_ARGUMENT, agentmem_store_open(&grown.known, &store));
}

static void options_are_checked(void)
{
    agentmem_options options = small_options();
    agentmem_store *store;
    options.memory_max_bytes = 1;
    FAILS(INVALID_ARGUMENT, agentmem_store_open(&options, &store));
    options = small_options();
    options.warm_level = 40;
    FAILS(INVALID_ARGUMENT, agentmem_store_open(&options, &store));
    options = small_options();
    options.on_full = 2;
    FAILS(INVALID_ARGUMENT, agentmem_store_open(&options, &store));
    options = small_options();
    options.policy = "random";
    FAILS(INVALID_ARGUMENT, agentmem_store_open(&options, &store));
    options.policy = "\xff";
    FAILS(INVALID_ARGUMENT, agentmem_store_open(&options, &store));
    CHECK(strstr(agentmem_error_text(), "options.policy is not UTF-8") != NULL);
    options.policy = "lru";
    options.cold = 0;
    OK(agentmem_store_open(&options, &store));
    const char *path = "x";
    OK(agentmem_store_path(store, &path));
    CHECK(path == NULL);
    agentmem_store_free(store);
    agentmem_store_free(NULL);
}

static void a_store_lasts(const char *folder)
{
    agentmem_options options = small_options();
    agentmem_store *store;
    agentmem_store *second;
    const char *path;
    options.path = folder;
    OK(agentmem_store_open(&options, &store));
    OK(agentmem_store_path(store, &path));
    CHECK(strcmp(path, folder) == 0);
    FAILS(STORE_LOCKED, agentmem_store_open(&options, &second));
    agentmem_agent *agent = open_agent(store, "coder");
    agentmem_smu *smu;
    OK(agentmem_agent_put(agent, "prompt", 6, AGENTMEM_SYSTEM_PROMPT, "main", 70, &smu));
    OK(agentmem_store_flush(store));
    OK(agentmem_store_close(store));
    OK(agentmem_store_close(store));
    FAILS(CLOSED, agentmem_store_flush(store));
    FAILS(CLOSED, agentmem_agent_set_state(agent, AGENTMEM_IDLE));
    agentmem_view *view;
    FAILS(CLOSED, agentmem_smu_view(smu, &view));
    CHECK(view == NULL);
    /* In any order. */
    agentmem_store_free(store);
    agentmem_smu_free(smu);
    agentmem_agent_free(agent);

    OK(agentmem_store_open(&options, &store));
    agent = open_agent(store, "coder");
    OK(agentmem_agent_attach_name(agent, "main", &smu));
    CHECK(holds(smu, "prompt"));
    agentmem_smu_free(smu);
    agentmem_agent_free(agent);
    agentmem_store_free(store);
}

static void figures_agree(void)
{
    agentmem_store *store = open_any();
    agentmem_agent *agent = open_agent(store, "figures");
    agentmem_smu *smu = put_text(agent, "counted");
    agentmem_store_figures figures;
    OK(agentmem_store_stats(store, &figures, sizeof figures));
    CHECK(figures.agents >= 1 && figures.smus >= 1 && figures.logical_bytes >= 7 && figures.resident_bytes > 0);
    /* One that was compiled when there was one figure. */
    uint64_t guarded[2] = {0, 77};
    OK(agentmem_store_stats(store, (agentmem_store_figures *)guarded, 8));
    CHECK(guarded[0] == figures.agents && guarded[1] == 77);
    FAILS(INVALID_ARGUMENT, agentmem_store_stats(store, &figures, 0));
    FAILS(INVALID_ARGUMENT, agentmem_store_stats(store, NULL, sizeof figures));
    FAILS(INVALID_ARGUMENT, agentmem_store_stats(NULL, &figures, sizeof figures));
    CHECK(figures.agents == 0);

    char *json;
    OK(agentmem_store_stats_json(store, &json));
    CHECK(json[0] == '{' && strstr(json, "\"by_kind\":{") != NULL && strstr(json, "\"put_shared\":") != NULL);
    puts(json);
    agentmem_free_text(json);
    agentmem_free_text(NULL);
    OK(agentmem_store_agent_stats_json(store, "figures", &json));
    CHECK(strstr(json, "\"logical_bytes\":7") != NULL);
    puts(json);
    agentmem_free_text(json);
    FAILS(NOT_FOUND, agentmem_store_agent_stats_json(store, "nobody", &json));
    CHECK(json == NULL);

    agentmem_list *names;
    OK(agentmem_store_agents(store, &names));
    CHECK(len_of(names) == figures.agents + 1 && is_item(names, 0, "figures"));
    agentmem_item item;
    FAILS(INVALID_ARGUMENT, agentmem_list_item(names, 9, &item));
    CHECK(item.bytes == NULL);
    OK(agentmem_list_item(names, 0, &item));
    CHECK(strcmp((const char *)item.bytes, "figures") == 0 && item.is_value == 0);
    agentmem_list_free(names);
    agentmem_list_free(NULL);

    uint64_t freed_bytes;
    OK(agentmem_store_reclaim(store, AGENTMEM_NONE, &freed_bytes));
    OK(agentmem_store_reclaim(store, 1u << 20, &freed_bytes));
    agentmem_verification found;
    agentmem_list *damaged;
    OK(agentmem_store_verify(store, &found, sizeof found, &damaged));
    CHECK(found.smus >= 1 && found.damaged == 0 && len_of(damaged) == 0);
    agentmem_list_free(damaged);
    FAILS(INVALID_ARGUMENT, agentmem_store_verify(store, &found, sizeof found, NULL));
    OK(agentmem_agent_close(agent));
    agentmem_smu_free(smu);
    agentmem_agent_free(agent);
    agentmem_store_free(store);
}

static void daemons_that_are_not_there(const char *folder)
{
    agentmem_store *store;
    char socket[4096];
    snprintf(socket, sizeof socket, "%s/none.sock", folder);
    FAILS(UNREACHABLE, agentmem_store_connect(socket, NULL, NULL, 0, AGENTMEM_WAIT, &store));
    CHECK(store == NULL);
    CHECK(setenv("AGENTMEM_SOCKET", socket, 1) == 0);
    FAILS(UNREACHABLE, agentmem_store_connect(NULL, NULL, NULL, 0, AGENTMEM_WAIT, &store));
    CHECK(strstr(agentmem_error_text(), socket) != NULL);
    CHECK(unsetenv("AGENTMEM_SOCKET") == 0 && setenv("XDG_RUNTIME_DIR", folder, 1) == 0);
    snprintf(socket, sizeof socket, "%s/agentmem/agentmem.sock", folder);
    FAILS(UNREACHABLE, agentmem_store_connect(NULL, NULL, NULL, 0, AGENTMEM_WAIT, &store));
    CHECK(strstr(agentmem_error_text(), socket) != NULL);
    FAILS(INVALID_ARGUMENT, agentmem_store_connect(socket, "tenant", NULL, 0, AGENTMEM_WAIT, &store));
    FAILS(INVALID_ARGUMENT, agentmem_store_connect(socket, NULL, "token", 5, AGENTMEM_WAIT, &store));
    FAILS(UNREACHABLE, agentmem_store_connect(socket, "tenant", "token", 5, AGENTMEM_WAIT, &store));
    FAILS(INVALID_ARGUMENT, agentmem_store_connect(socket, NULL, NULL, 0, 9, &store));
}

static void domains_are_apart(void)
{
    const char *socket = getenv("AGENTMEM_TEST_SOCKET");
    static const char token[] = "a token that nobody guesses";
    agentmem_store *own;
    agentmem_store *tenant;
    agentmem_smu *found;
    if (socket == NULL) {
        return;
    }
    CHECK(setenv("AGENTMEM_SOCKET", socket, 1) == 0);
    OK(agentmem_store_connect(NULL, NULL, NULL, 0, AGENTMEM_WAIT, &own));
    OK(agentmem_store_connect(NULL, "tenant", token, sizeof token, AGENTMEM_FAIL, &tenant));
    agentmem_agent *ours = open_agent(own, "ours");
    agentmem_agent *theirs = open_agent(tenant, "theirs");
    agentmem_smu *smu;
    OK(agentmem_agent_put(ours, "secret", 6, AGENTMEM_MESSAGE, "known", 50, &smu));
    FAILS(NOT_FOUND, agentmem_agent_attach_name(theirs, "known", &found));
    FAILS(INVALID_ARGUMENT, agentmem_agent_attach(theirs, smu, &found));
    char *grant;
    char *json;
    OK(agentmem_agent_grant(ours, smu, "tenant", 60000, 1, &grant));
    OK(agentmem_store_grants_json(own, &json));
    CHECK(strstr(json, "\"to_domain\":\"tenant\"") != NULL && strstr(json, grant) == NULL);
    agentmem_free_text(json);
    OK(agentmem_agent_redeem(theirs, grant, &found));
    CHECK(holds(found, "secret"));
    agentmem_smu_free(found);
    FAILS(NOT_FOUND, agentmem_agent_redeem(theirs, grant, &found));
    agentmem_free_text(grant);
    agentmem_smu *back = put_text(theirs, "back");
    OK(agentmem_agent_grant(theirs, back, NULL, 60000, 1, &grant));
    agentmem_smu_free(back);
    OK(agentmem_store_revoke(tenant, grant));
    FAILS(NOT_FOUND, agentmem_agent_redeem(ours, grant, &found));
    agentmem_free_text(grant);
    agentmem_domain_figures figures;
    OK(agentmem_store_limit_domain(tenant, 20, 1));
    OK(agentmem_store_domain(tenant, &figures, sizeof figures));
    CHECK(figures.logical_bytes == 10 && figures.quota_bytes == 20 && figures.agents == 1 && figures.agents_max == 1);
    OK(agentmem_store_limit_domain(tenant, AGENTMEM_NONE, AGENTMEM_NONE));
    agentmem_smu_free(smu);
    agentmem_agent_free(theirs);
    agentmem_store_free(tenant);
    FAILS(PERMISSION_DENIED, agentmem_store_connect(NULL, "tenant", token, 20, AGENTMEM_WAIT, &tenant));
    const char *path;
    OK(agentmem_store_path(own, &path));
    CHECK(path == NULL);
    OK(agentmem_agent_close(ours));
    agentmem_agent_free(ours);
    agentmem_store_free(own);
}

static void a_child_is_told(void)
{
    agentmem_store *store = open_any();
    agentmem_agent *agent = open_agent(store, "parent");
    agentmem_smu *smu = put_text(agent, "the parent's");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        agentmem_view *view;
        agentmem_smu *another;
        FAILS(FORKED_CHILD, agentmem_smu_view(smu, &view));
        FAILS(FORKED_CHILD, agentmem_agent_put(agent, "x", 1, AGENTMEM_MESSAGE, NULL, 50, &another));
        FAILS(FORKED_CHILD, agentmem_store_flush(store));
        agentmem_smu_free(smu);
        agentmem_agent_free(agent);
        agentmem_store_free(store);
        agentmem_store *own = open_small();
        agentmem_agent *child_agent = open_agent(own, "child");
        smu = put_text(child_agent, "the child's");
        CHECK(holds(smu, "the child's"));
        agentmem_smu_free(smu);
        agentmem_agent_free(child_agent);
        agentmem_store_free(own);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(holds(smu, "the parent's"));
    OK(agentmem_agent_close(agent));
    agentmem_smu_free(smu);
    agentmem_agent_free(agent);
    agentmem_store_free(store);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    errors_have_names_and_numbers();
    the_text_is_the_thread_s();
    options_grow();
    a_backend_is_there_or_refused();
    options_are_checked();
    a_store_lasts(argv[1]);
    figures_agree();
    domains_are_apart();
    a_child_is_told();
    daemons_that_are_not_there(argv[1]);
    return 0;
}
