/* Stores of the behaviour suite that daemons serve: each that is opened has one of its own. */
#ifndef AGENTMEM_SERVED_H
#define AGENTMEM_SERVED_H

#include "json.h"

static const char *folder;

/* The program, where stores are served by daemons; and the sessions with those that there are. */
static const char *program;
static struct {
    const agentmem_store *store;
    unsigned number; /* of its daemon */
    int has_daemon;  /* which runs, and ends with it */
} sessions[16];
enum { SESSIONS_MAX = sizeof sessions / sizeof *sessions };

/* Starts or stops a daemon; whether that went well. */
static int daemon_does(const char *verb, unsigned number)
{
    char command[16384];
    int len = snprintf(command, sizeof command, "'%s' %s --socket='%s/%u.sock' --config='%s/%u.toml'", program, verb,
                       folder, number, folder, number);
    CHECK(len < (int)sizeof command);
    return system(command) == 0;
}

static size_t session_of(const agentmem_store *store)
{
    for (size_t i = 0; i < SESSIONS_MAX; i++) {
        if (sessions[i].store == store) {
            return i;
        }
    }
    fprintf(stderr, store == NULL ? "more than %d sessions\n" : "no session is with a daemon\n", SESSIONS_MAX);
    exit(1);
}

/* The daemon of a store ends, if it has one that runs. */
static void stop_daemon(const agentmem_store *store)
{
    size_t i = program == NULL ? SESSIONS_MAX : session_of(store);
    if (program != NULL && sessions[i].has_daemon) {
        CHECK(daemon_does("--stop", sessions[i].number));
        sessions[i].has_daemon = 0;
    }
}

static void free_store(agentmem_store *store)
{
    agentmem_store_close(store);
    stop_daemon(store);
    if (program != NULL) {
        sessions[session_of(store)].store = NULL;
    }
    agentmem_store_free(store);
}

/* What a daemon is told of the options that a step gives. Values of JSON are values of TOML. */
static void configure(const json *step, unsigned number)
{
    static const char *const NUMBERS[] = {"arena_bytes", "warm_level", "cold_level"};
    static const char *const AGES[] = {"warm_after", "cold_after"};
    static const struct {
        const char *name, *knob;
    } LIMITS[] = {{"quota_bytes", "quota"}, {"agents_max", "agents"}};
    char name[4200];
    snprintf(name, sizeof name, "%s/%u.toml", folder, number);
    FILE *file = fopen(name, "w");
    CHECK(file != NULL);
    fprintf(file, "pressure = false\nmemory_max = %llu\n",
            (unsigned long long)number_of(step, "memory_max_bytes", small_options().memory_max_bytes));
    if (text_of(step, "path", NULL) != NULL) {
        fprintf(file, "path = \"%s\"\n", text_of(step, "path", NULL));
    }
    if (text_of(step, "policy", NULL) != NULL) {
        fprintf(file, "policy = \"%s\"\n", text_of(step, "policy", NULL));
    }
    if (json_get(step, "cold") != NULL) {
        fprintf(file, "cold = %s\n", json_get(step, "cold")->type == JSON_TRUE ? "true" : "false");
    }
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++) {
        if (json_get(step, NUMBERS[i]) != NULL) {
            fprintf(file, "%s = %llu\n", NUMBERS[i], (unsigned long long)number_of(step, NUMBERS[i], 0));
        }
    }
    for (size_t i = 0; i < sizeof AGES / sizeof *AGES; i++) {
        snprintf(name, sizeof name, "%s_ms", AGES[i]);
        if (json_get(step, name) != NULL) {
            fprintf(file, "%s = \"%llums\"\n", AGES[i], (unsigned long long)number_of(step, name, 0));
        }
    }
    if (json_get(step, "open_domains") != NULL) {
        fprintf(file, "open_domains = %s\n", json_get(step, "open_domains")->type == JSON_TRUE ? "true" : "false");
    }
    json *domains = json_get(step, "domains");
    for (json *domain = domains == NULL ? NULL : domains->first; domain != NULL; domain = domain->next) {
        fprintf(file, "[domains.%s]\ntoken_sha256 = \"%s\"\n", text_of(domain, "name", ""),
                text_of(domain, "token_sha256", ""));
        for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
            if (json_get(domain, LIMITS[i].name) != NULL) {
                fprintf(file, "%s = %llu\n", LIMITS[i].knob,
                        (unsigned long long)number_of(domain, LIMITS[i].name, 0));
            }
        }
    }
    CHECK(fclose(file) == 0);
}

static int connect_to(unsigned number, const json *step, uint32_t on_full, agentmem_store **store)
{
    char socket[4200];
    const char *token = text_of(step, "token", NULL);
    snprintf(socket, sizeof socket, "%s/%u.sock", folder, number);
    int error = agentmem_store_connect(socket, text_of(step, "domain", NULL), token, token == NULL ? 0 : strlen(token),
                                       on_full, store);
    if (error == 0) {
        size_t i = session_of(NULL);
        sessions[i].store = *store, sessions[i].number = number, sessions[i].has_daemon = 0;
    }
    return error;
}

/* A session with a daemon of its own. */
static int serve_store(const json *step, uint32_t on_full, agentmem_store **store)
{
    static unsigned started;
    unsigned number = started++;
    configure(step, number);
    CHECK(daemon_does("--background", number));
    OK(connect_to(number, step, on_full, store));
    sessions[session_of(*store)].has_daemon = 1;
    return 0;
}

/* Another session with the daemon of a store. */
static int enter_store(const json *step, const agentmem_store *known, agentmem_store **store)
{
    return connect_to(sessions[session_of(known)].number, step, AGENTMEM_WAIT, store);
}

#endif
