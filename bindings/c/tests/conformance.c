/* The behaviour suite of all languages. Arguments: spec/conformance.json, an empty folder, and perhaps agentmemd:
 * then each store is a session with a daemon of its own. */
#define _GNU_SOURCE
#include "served.h"
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum named { STORE, AGENT, SMU, CONVERSATION, VIEW, ID, GRANT, PROCESS };

/* What a label names. */
typedef struct thing {
    enum named named;
    const char *label;
    void *handle;
    struct thing *next;
} thing;

static thing *things;
/* Ends a process, if nobody has yet. */
static void kill_process(pid_t *pid)
{
    if (*pid != 0) {
        CHECK(kill(*pid, SIGKILL) == 0 && waitpid(*pid, NULL, 0) == *pid);
        *pid = 0;
    }
}

static pid_t *start_process(void)
{
    pid_t *pid = malloc(sizeof *pid);
    CHECK(pid != NULL);
    *pid = fork();
    if (*pid == 0) {
        execlp("sleep", "sleep", "1000", (char *)NULL);
        _exit(127);
    }
    CHECK(*pid > 0);
    return pid;
}

static void free_thing(const thing *old)
{
    switch (old->named) {
    case STORE: free_store(old->handle); break;
    case AGENT: agentmem_agent_free(old->handle); break;
    case SMU: agentmem_smu_free(old->handle); break;
    case CONVERSATION: agentmem_conversation_free(old->handle); break;
    case VIEW: agentmem_view_free(old->handle); break;
    case ID: free(old->handle); break;
    case GRANT: agentmem_free_text(old->handle); break;
    case PROCESS: kill_process(old->handle), free(old->handle); break;
    }
}

static void forget(const char *label)
{
    for (thing **at = &things; *at != NULL; at = &(*at)->next) {
        thing *old = *at;
        if (strcmp(old->label, label) == 0) {
            *at = old->next;
            free_thing(old);
            free(old);
            return;
        }
    }
}

/* Gives a thing a label, anew where something is called so; without one it goes at once. */
static void name_thing(const char *label, enum named named, void *handle)
{
    thing *made = malloc(sizeof *made);
    CHECK(made != NULL);
    *made = (thing){named, label, handle, NULL};
    if (label == NULL) {
        free_thing(made);
        free(made);
        return;
    }
    forget(label);
    made->next = things;
    things = made;
}

/* What the field of a step names. */
static void *handle_of(const json *step, const char *field)
{
    const char *label = text_of(step, field, field);
    for (thing *at = things; at != NULL; at = at->next) {
        if (strcmp(at->label, label) == 0) {
            return at->handle;
        }
    }
    fprintf(stderr, "nothing is called %s\n", label);
    exit(1);
}

/* The bytes that a case writes down. */
static json *content(const json *given)
{
    const char *hex = text_of(given, "hex", NULL);
    const char *text = text_of(given, "text", NULL);
    size_t len = text != NULL ? json_get(given, "text")->len : hex != NULL ? strlen(hex) / 2 : number_of(given, "len", 0);
    uint64_t times = number_of(given, "times", 1);
    uint32_t word = (uint32_t)number_of(given, "pattern", 0);
    json *made = json_new(JSON_TEXT);
    char *bytes = calloc(len * times + 1, 1);
    CHECK(bytes != NULL);
    for (size_t i = 0; i < len; i++) {
        unsigned byte = 0;
        if (text != NULL) {
            bytes[i] = text[i];
        } else if (hex != NULL) {
            CHECK(sscanf(hex + 2 * i, "%2x", &byte) == 1);
            bytes[i] = (char)byte;
        } else {
            if (i % 4 == 0) {
                word ^= word << 13;
                word ^= word >> 17;
                word ^= word << 5;
            }
            bytes[i] = (char)(word >> 8 * (i % 4));
        }
    }
    for (uint64_t i = 1; i < times; i++) {
        memcpy(bytes + i * len, bytes, len);
    }
    made->text = bytes;
    made->len = len * times;
    return made;
}

static json *names_of(agentmem_list *list)
{
    json *made = json_new(JSON_LIST);
    for (size_t i = 0; i < len_of(list); i++) {
        agentmem_item item;
        OK(agentmem_list_item(list, i, &item));
        json_add(made, NULL, json_bytes(item.bytes, item.len_bytes));
    }
    agentmem_list_free(list);
    return made;
}

/* The number of a word in a vocabulary; what is in none is its length. */
static uint32_t number_in(const char *const *words, uint32_t count, const char *word)
{
    uint32_t at = 0;
    while (at < count && strcmp(words[at], word) != 0) {
        at++;
    }
    return at;
}

static const char *const KINDS[] = {"system_prompt", "tool_definition", "tool_result", "message"};
static const char *const TIERS[] = {"hot", "warm", "cold", "remote"};
static const char *const STATES[] = {"active", "idle", "paused"};
static const char *const ADVICE[] = {"hot", "cold", "will_need"};

static uint32_t advice_of(const json *step)
{
    return number_in(ADVICE, 3, text_of(step, "advice", ""));
}

static int open_store(const json *step, agentmem_store **store)
{
    char path[4096];
    uint32_t on_full = strcmp(text_of(step, "on_full", "wait"), "fail") == 0 ? AGENTMEM_FAIL : AGENTMEM_WAIT;
    if (program != NULL) {
        return serve_store(step, on_full, store);
    }
    agentmem_options options = small_options();
    if (text_of(step, "path", NULL) != NULL) {
        snprintf(path, sizeof path, "%s/%s", folder, text_of(step, "path", NULL));
        options.path = path;
    }
    json *cold = json_get(step, "cold");
    options.cold = cold == NULL || cold->type == JSON_TRUE;
    options.policy = text_of(step, "policy", NULL);
    options.memory_max_bytes = number_of(step, "memory_max_bytes", options.memory_max_bytes);
    options.arena_bytes = number_of(step, "arena_bytes", options.arena_bytes);
    options.warm_after_ms = number_of(step, "warm_after_ms", options.warm_after_ms);
    options.cold_after_ms = number_of(step, "cold_after_ms", options.cold_after_ms);
    options.warm_level = (int32_t)number_of(step, "warm_level", (uint64_t)options.warm_level);
    options.cold_level = (int32_t)number_of(step, "cold_level", (uint64_t)options.cold_level);
    options.on_full = on_full;
    return agentmem_store_open(&options, store);
}

/* One fact of an agent, an SMU or a conversation. */
static int fact_of(const json *step, const char *op, const char *name, json **fact)
{
    uint64_t number = 0;
    uint32_t small = 0;
    int32_t importance = 0;
    const char *text = NULL;
    char *owned = NULL;
    int error;
    *fact = NULL;
#define IS(word) (strcmp(name, word) == 0)
    if (strcmp(op, "agent_has") == 0) {
        agentmem_agent *agent = handle_of(step, "agent");
        if (IS("name")) {
            error = agentmem_agent_name(agent, &text), *fact = json_text(text);
        } else if (IS("importance")) {
            error = agentmem_agent_importance(agent, &importance), *fact = json_number((uint64_t)importance);
        } else if (IS("state")) {
            error = agentmem_agent_state(agent, &small), *fact = json_text(STATES[small]);
        } else {
            error = agentmem_agent_quota_bytes(agent, &number);
            *fact = number == AGENTMEM_NONE ? json_new(JSON_NULL) : json_number(number);
        }
    } else if (strcmp(op, "smu_has") == 0) {
        agentmem_smu *smu = handle_of(step, "smu");
        if (IS("kind")) {
            error = agentmem_smu_kind(smu, &small), *fact = json_text(KINDS[small]);
        } else if (IS("logical_bytes")) {
            error = agentmem_smu_logical_bytes(smu, &number), *fact = json_number(number);
        } else if (IS("importance")) {
            error = agentmem_smu_importance(smu, &importance), *fact = json_number((uint64_t)importance);
        } else if (IS("name")) {
            error = agentmem_smu_name(smu, &owned), *fact = json_text(owned);
            agentmem_free_text(owned);
        } else if (IS("tier")) {
            error = agentmem_smu_tier(smu, &small), *fact = json_text(TIERS[small]);
        } else if (IS("stored_bytes")) {
            error = agentmem_smu_stored_bytes(smu, &number), *fact = json_number(number);
        } else {
            error = agentmem_smu_shared_by(smu, &small), *fact = json_number(small);
        }
    } else {
        agentmem_conversation *conversation = handle_of(step, "conversation");
        if (IS("name")) {
            error = agentmem_conversation_name(conversation, &text), *fact = json_text(text);
        } else if (IS("messages")) {
            error = agentmem_conversation_len(conversation, &number), *fact = json_number(number);
        } else if (IS("logical_bytes")) {
            error = agentmem_conversation_logical_bytes(conversation, &number), *fact = json_number(number);
        } else {
            error = agentmem_conversation_stored_bytes(conversation, &number), *fact = json_number(number);
        }
    }
#undef IS
    return error;
}

/* The label of the `index`th thing that a step makes. */
static const char *label_of(const json *step, size_t index)
{
    json *label = json_get(step, "as");
    if (label != NULL && label->type == JSON_LIST) {
        for (label = label->first; label != NULL && index > 0; index--) {
            label = label->next;
        }
        return label == NULL ? NULL : label->text;
    }
    return label == NULL || index > 0 ? NULL : label->text;
}

static void name_if(int error, const json *step, enum named named, void *handle)
{
    if (error == 0) {
        name_thing(label_of(step, 0), named, handle);
    }
}

static int list_facts(json *facts, int error, agentmem_list *names)
{
    if (error == 0) {
        json_add(facts, "names", names_of(names));
    }
    return error;
}

static int text_facts(json *facts, int error, char *text)
{
    if (error == 0) {
        const char *at = text;
        facts->first = json_read(&at)->first;
    }
    agentmem_free_text(text);
    return error;
}

static int count_facts(json *facts, int error, uint64_t count)
{
    json_add(facts, "count", json_number(count));
    return error;
}

/* The text of a grant, by its label or as it is. */
static const char *grant_of(const json *step)
{
    return json_get(step, "grant") == NULL ? text_of(step, "text", NULL) : handle_of(step, "grant");
}

static json *limit(uint64_t most)
{
    return most == AGENTMEM_NONE ? json_new(JSON_NULL) : json_number(most);
}

static int perform_on_domain(const char *op, const json *step, json *facts)
{
    static const char *const OF_EACH[][2] = {
        {"agents", "agent"}, {"to_domains", "to_domain"}, {"logical_bytes", "logical_bytes"}, {"uses", "uses"}};
    agentmem_store *store = handle_of(step, "store");
    agentmem_domain_figures domain;
    char *text;
    int error;
    if (strcmp(op, "domain_has") == 0) {
        error = agentmem_store_domain(store, &domain, sizeof domain);
        json_add(facts, "logical_bytes", json_number(domain.logical_bytes));
        json_add(facts, "quota_bytes", limit(domain.quota_bytes));
        json_add(facts, "agents", json_number(domain.agents));
        json_add(facts, "agents_max", limit(domain.agents_max));
        return error;
    } else if (strcmp(op, "domain_set") == 0) {
        return agentmem_store_limit_domain(store, number_of(step, "quota_bytes", AGENTMEM_NONE),
                                           number_of(step, "agents_max", AGENTMEM_NONE));
    } else if (strcmp(op, "revoke") == 0) {
        return agentmem_store_revoke(store, grant_of(step));
    }
    error = agentmem_store_grants_json(store, &text);
    const char *at = text;
    json *grants = error == 0 ? json_read(&at) : NULL;
    for (size_t i = 0; error == 0 && i < sizeof OF_EACH / sizeof *OF_EACH; i++) {
        json *list = json_new(JSON_LIST);
        for (json *grant = grants->first; grant != NULL; grant = grant->next) {
            json *copy = json_new(JSON_NULL);
            *copy = *json_get(grant, OF_EACH[i][1]);
            copy->next = NULL;
            json_add(list, NULL, copy);
        }
        json_add(facts, OF_EACH[i][0], list);
    }
    agentmem_free_text(text);
    return error;
}

static int perform_on_store(const char *op, const json *step, json *facts)
{
    agentmem_store *store = handle_of(step, "store");
    agentmem_agent *agent;
    agentmem_list *list = NULL;
    const char *path;
    char *text = NULL;
    uint64_t number;
    int error;
    if (strcmp(op, "close") == 0) {
        error = agentmem_store_close(store);
        stop_daemon(store);
        return error;
    } else if (strcmp(op, "store_has") == 0) {
        error = agentmem_store_memory_max_bytes(store, &number);
        json_add(facts, "memory_max_bytes", json_number(number));
        OK(agentmem_store_path(store, &path));
        json_add(facts, "has_path", json_new(path == NULL ? JSON_FALSE : JSON_TRUE));
        return error;
    } else if (strcmp(op, "agents") == 0) {
        error = agentmem_store_agents(store, &list);
        return list_facts(facts, error, list);
    } else if (strcmp(op, "flush") == 0) {
        return agentmem_store_flush(store);
    } else if (strcmp(op, "reclaim") == 0) {
        error = agentmem_store_reclaim(store, number_of(step, "target_bytes", AGENTMEM_NONE), &number);
        json_add(facts, "freed_bytes", json_number(number));
        return error;
    } else if (strcmp(op, "verify") == 0) {
        agentmem_verification found;
        error = agentmem_store_verify(store, &found, sizeof found, &list);
        json_add(facts, "frames", json_number(found.frames));
        json_add(facts, "smus", json_number(found.smus));
        json_add(facts, "messages", json_number(found.messages));
        json_add(facts, "bytes", json_number(found.logical_bytes));
        json_add(facts, "orphans", json_number(found.orphans));
        json_add(facts, "damaged", json_number(found.damaged));
        agentmem_list_free(list);
        return error;
    } else if (strcmp(op, "stats") == 0) {
        error = agentmem_store_stats_json(store, &text);
        return text_facts(facts, error, text);
    } else if (strcmp(op, "stats_of") == 0) {
        error = agentmem_store_agent_stats_json(store, text_of(step, "name", NULL), &text);
        return text_facts(facts, error, text);
    }
    json *lasting = json_get(step, "lasting");
    pid_t pid = json_get(step, "process") == NULL ? 0 : *(pid_t *)handle_of(step, "process");
    error = (lasting != NULL && lasting->type == JSON_TRUE ? agentmem_agent_open_lasting : agentmem_agent_open)(
        store, text_of(step, "name", NULL), (int32_t)number_of(step, "importance", (uint64_t)AGENTMEM_AS_IT_IS),
        number_of(step, "quota_bytes", AGENTMEM_NONE), (uint32_t)pid, &agent);
    name_if(error, step, AGENT, agent);
    return error;
}

static int perform_on_conversation(const char *op, const json *step, json *facts)
{
    agentmem_conversation *conversation = handle_of(step, "conversation");
    json *given = json_get(step, "bytes");
    json *bytes = given == NULL ? NULL : content(given);
    int error;
    if (strcmp(op, "append") == 0) {
        json *value = json_get(step, "json");
        return value != NULL ? agentmem_conversation_append_value(conversation, value->text, value->len)
                             : agentmem_conversation_append(conversation, bytes->text, bytes->len);
    } else if (strcmp(op, "get") == 0) {
        agentmem_list *list;
        agentmem_item item;
        uint64_t index = number_of(step, "index", 0);
        error = agentmem_conversation_read(conversation, index, index + 1, &list);
        if (error == 0 && (error = agentmem_list_item(list, 0, &item)) == 0) {
            json_add(facts, "bytes", json_bytes(item.bytes, item.len_bytes));
            if (item.is_value) {
                json_add(facts, "json", json_bytes(item.bytes, item.len_bytes));
            }
        }
        agentmem_list_free(list);
        return error;
    } else if (strcmp(op, "read") == 0) {
        agentmem_list *list;
        error = agentmem_conversation_read(conversation, number_of(step, "start", 0), number_of(step, "end", 0), &list);
        if (error == 0) {
            json_add(facts, "messages", names_of(list));
        }
        return error;
    } else if (strcmp(op, "render") == 0) {
        char *text;
        size_t len;
        error = agentmem_conversation_render(conversation, &text, &len);
        json_add(facts, "bytes", json_bytes(text, len));
        agentmem_free_text(text);
        return error;
    } else if (strcmp(op, "load") == 0) {
        uint64_t count;
        error = agentmem_conversation_load(conversation, bytes->text, bytes->len, &count);
        return count_facts(facts, error, count);
    } else if (strcmp(op, "advise_conversation") == 0) {
        return agentmem_conversation_advise(conversation, advice_of(step));
    }
    agentmem_conversation *fork;
    agentmem_agent *agent = json_get(step, "agent") == NULL ? NULL : handle_of(step, "agent");
    error = agentmem_conversation_fork(conversation, agent, number_of(step, "at", AGENTMEM_NONE),
                                       text_of(step, "name", NULL), &fork);
    name_if(error, step, CONVERSATION, fork);
    return error;
}

static int perform_on_smu(const char *op, const json *step, json *facts)
{
    agentmem_smu *smu = handle_of(step, "smu");
    int error;
    if (strcmp(op, "id") == 0) {
        agentmem_id *id = calloc(1, sizeof *id);
        CHECK(id != NULL);
        error = agentmem_smu_id(smu, id);
        CHECK(json_get(step, "same_as") == NULL || memcmp(handle_of(step, "same_as"), id, sizeof *id) == 0);
        CHECK(json_get(step, "differs_from") == NULL || memcmp(handle_of(step, "differs_from"), id, sizeof *id) != 0);
        name_thing(error == 0 ? label_of(step, 0) : NULL, ID, id);
        return error;
    }
    agentmem_view *view;
    const void *bytes;
    size_t len;
    error = agentmem_smu_view(smu, &view);
    if (error == 0) {
        OK(agentmem_view_bytes(view, &bytes, &len));
        json_add(facts, "bytes", json_bytes(bytes, len));
    }
    name_if(error, step, VIEW, view);
    return error;
}

/* Operations of an agent that make an SMU, or none. */
static int perform_on_agent(const char *op, const json *step, json *facts)
{
    agentmem_agent *agent = handle_of(step, "agent");
    agentmem_smu *smu = NULL;
    json *given = json_get(step, "bytes");
    json *bytes = given == NULL ? NULL : content(given);
    int error = 0;
    if (strcmp(op, "put") == 0) {
        error = agentmem_agent_put(agent, bytes->text, bytes->len, number_in(KINDS, 4, text_of(step, "kind", "")),
                                   text_of(step, "name", NULL), (int32_t)number_of(step, "importance", 50), &smu);
    } else if (strcmp(op, "attach") == 0) {
        error = agentmem_agent_attach(agent, handle_of(step, "smu"), &smu);
    } else if (strcmp(op, "attach_name") == 0) {
        error = agentmem_agent_attach_name(agent, text_of(step, "name", NULL), &smu);
    } else if (strcmp(op, "share") == 0) {
        error = agent_share(handle_of(step, "smu"), handle_of(step, "to"), &smu);
    } else if (strcmp(op, "attach_id") == 0) {
        agentmem_id parsed;
        const char *hex = text_of(step, "hex", NULL);
        const agentmem_id *id = hex == NULL ? handle_of(step, "id") : &parsed;
        error = hex == NULL ? 0 : agentmem_id_parse(hex, &parsed);
        error = error == 0 ? agentmem_agent_attach_id(agent, id, &smu) : error;
    } else if (strcmp(op, "agent_set") == 0) {
        json *quota = json_get(step, "quota_bytes");
        if (json_get(step, "importance") != NULL) {
            error = agentmem_agent_set_importance(agent, (int32_t)number_of(step, "importance", 0));
        }
        if (error == 0 && quota != NULL) {
            error = agentmem_agent_set_quota_bytes(agent, number_of(step, "quota_bytes", AGENTMEM_NONE));
        }
        return error;
    } else if (strcmp(op, "agent_stats") == 0) {
        char *text;
        error = agentmem_agent_stats_json(agent, &text);
        return text_facts(facts, error, text);
    } else if (strcmp(op, "agent_close") == 0) {
        return agentmem_agent_close(agent);
    } else if (strcmp(op, "leave") == 0) {
        return agentmem_agent_leave(agent);
    } else if (strcmp(op, "grant") == 0) {
        char *grant;
        error = agentmem_agent_grant(agent, handle_of(step, "smu"), text_of(step, "to_domain", NULL),
                                     number_of(step, "lasts_ms", 0), (uint32_t)number_of(step, "uses", 0), &grant);
        name_if(error, step, GRANT, grant);
        return error;
    } else if (strcmp(op, "redeem") == 0) {
        error = agentmem_agent_redeem(agent, grant_of(step), &smu);
    } else if (strcmp(op, "pause") == 0) {
        return agentmem_agent_set_state(agent, AGENTMEM_PAUSED);
    } else if (strcmp(op, "resume") == 0) {
        return agentmem_agent_set_state(agent, AGENTMEM_ACTIVE);
    } else if (strcmp(op, "idle") == 0) {
        return agentmem_agent_set_state(agent, AGENTMEM_IDLE);
    } else if (strcmp(op, "conversations") == 0) {
        agentmem_list *list;
        error = agentmem_agent_conversations(agent, &list);
        return list_facts(facts, error, list);
    } else if (strcmp(op, "release") == 0) {
        return agentmem_agent_release(agent, handle_of(step, "smu"));
    } else if (strcmp(op, "advise") == 0) {
        return agentmem_smu_advise(handle_of(step, "smu"), advice_of(step));
    } else if (strcmp(op, "release_conversation") == 0) {
        return agentmem_agent_release_conversation(agent, handle_of(step, "conversation"));
    } else if (strcmp(op, "conversation") == 0) {
        agentmem_conversation *conversation;
        error = agentmem_agent_conversation(agent, text_of(step, "name", NULL), &conversation);
        name_if(error, step, CONVERSATION, conversation);
        return error;
    } else if (strcmp(op, "smus") == 0) {
        agentmem_smu **held;
        size_t count;
        error = agentmem_agent_smus(agent, &held, &count);
        for (size_t i = 0; i < count && label_of(step, i) != NULL; i++) {
            name_thing(label_of(step, i), SMU, held[i]);
            held[i] = NULL;
        }
        agentmem_smus_free(held, count);
        return count_facts(facts, error, count);
    } else if (strcmp(op, "load_all") == 0) {
        agentmem_conversation **loaded;
        size_t count;
        error = agentmem_agent_load(agent, bytes->text, bytes->len, &loaded, &count);
        for (size_t i = 0; i < count && label_of(step, i) != NULL; i++) {
            name_thing(label_of(step, i), CONVERSATION, loaded[i]);
            loaded[i] = NULL;
        }
        agentmem_conversations_free(loaded, count);
        return count_facts(facts, error, count);
    } else {
        fprintf(stderr, "no operation %s\n", op);
        exit(1);
    }
    name_if(error, step, SMU, smu);
    return error;
}

/* Whether `op` is among words that spaces part. */
static int is_among(const char *op, const char *words)
{
    char padded[64];
    snprintf(padded, sizeof padded, " %s ", op);
    return strstr(words, padded) != NULL;
}

static int perform(const json *step, json *facts)
{
    const char *op = text_of(step, "op", "");
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, text_of(step, "file", ""));
    if (is_among(op, " open enter ")) {
        agentmem_store *store;
        int error = strcmp(op, "open") == 0 ? open_store(step, &store)
                                            : enter_store(step, handle_of(step, "store"), &store);
        if (error == 0) {
            name_thing(text_of(step, "as", "store"), STORE, store);
        }
        return error;
    } else if (strcmp(op, "process") == 0) {
        name_thing(label_of(step, 0), PROCESS, start_process());
        return 0;
    } else if (strcmp(op, "kill") == 0) {
        kill_process(handle_of(step, "process"));
        return 0;
    } else if (is_among(op, " domain_has domain_set grants revoke ")) {
        return perform_on_domain(op, step, facts);
    } else if (strcmp(op, "write_file") == 0) {
        json *bytes = content(json_get(step, "bytes"));
        FILE *file = fopen(path, "w");
        CHECK(file != NULL && fwrite(bytes->text, 1, bytes->len, file) == bytes->len && fclose(file) == 0);
        return 0;
    } else if (strcmp(op, "remove_file") == 0) {
        CHECK(unlink(path) == 0);
        return 0;
    } else if (is_among(op, " agent_has smu_has conversation_has ")) {
        json *wanted = json_get(step, json_get(step, "ask") != NULL ? "ask" : "expect");
        int error = 0;
        for (json *one = wanted->first; one != NULL && error == 0; one = one->next) {
            const char *name = wanted->type == JSON_LIST ? one->text : one->key;
            json *fact;
            error = fact_of(step, op, name, &fact);
            json_add(facts, name, fact);
        }
        return error;
    } else if (is_among(op, " close store_has agents flush reclaim verify stats stats_of agent ")) {
        return perform_on_store(op, step, facts);
    } else if (is_among(op, " append get read render load fork advise_conversation ")) {
        return perform_on_conversation(op, step, facts);
    } else if (is_among(op, " id view ")) {
        return perform_on_smu(op, step, facts);
    } else if (is_among(op, " view_has view_release ")) {
        const void *bytes;
        size_t len;
        OK(agentmem_view_bytes(handle_of(step, "view"), &bytes, &len));
        json_add(facts, "bytes", json_bytes(bytes, len));
        if (strcmp(op, "view_release") == 0) {
            forget(text_of(step, "view", "view"));
        }
        return 0;
    }
    return perform_on_agent(op, step, facts);
}

/* Whether what was found is what is expected. */
static int fits(const json *wanted, const json *found)
{
    if (found == NULL) {
        return 0;
    }
    if (wanted->type == JSON_OBJECT && found->type == JSON_NUMBER) {
        return number_of(wanted, "min", 0) <= found->number && found->number <= number_of(wanted, "max", UINT64_MAX);
    }
    if (wanted->type == JSON_OBJECT) {
        wanted = content(wanted);
    }
    if (wanted->type != found->type || wanted->number != found->number || wanted->len != found->len) {
        return 0;
    }
    if (wanted->len != 0 && memcmp(wanted->text, found->text, wanted->len) != 0) {
        return 0;
    }
    const json *left = wanted->first, *right = found->first;
    while (left != NULL && right != NULL && fits(left, right)) {
        left = left->next, right = right->next;
    }
    return left == NULL && right == NULL;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Takes a step; NULL, or what is wrong. */
static const char *take(const json *step)
{
    static char wrong[4200];
    const char *error = text_of(step, "error", NULL);
    uint64_t repeat = number_of(step, "repeat", 1);
    uint64_t end_ms = now_ms() + number_of(step, "within_ms", 0);
    json *expect = json_get(step, "expect");
    for (;;) {
        json *facts = json_new(JSON_OBJECT);
        int answered = 0;
        for (uint64_t i = 0; i < repeat && answered == 0; i++) {
            facts->first = NULL;
            answered = perform(step, facts);
        }
        const char *name = answered == 0 ? NULL : agentmem_error_name(answered);
        if ((name == NULL) != (error == NULL) || (name != NULL && strcmp(name, error) != 0)) {
            snprintf(wrong, sizeof wrong, "%s (%s)", name == NULL ? "no error" : name, agentmem_error_text());
            return wrong;
        }
        const json *unfit = NULL;
        for (json *wanted = expect == NULL ? NULL : expect->first; wanted != NULL; wanted = wanted->next) {
            unfit = fits(wanted, json_get(facts, wanted->key)) ? unfit : wanted;
        }
        if (unfit == NULL) {
            return NULL;
        }
        if (now_ms() >= end_ms) {
            json *found = json_get(facts, unfit->key);
            snprintf(wrong, sizeof wrong, "%s is not: type %d, number %llu, %.80s", unfit->key,
                     found == NULL ? -1 : (int)found->type, found == NULL ? 0 : (unsigned long long)found->number,
                     found == NULL || found->text == NULL ? "" : found->text);
            return wrong;
        }
        usleep(20000);
    }
}

/* Whether stores that are opened as these are can serve a case. */
static int is_served(const json *one)
{
    json *needs = json_get(one, "needs");
    for (json *need = needs == NULL ? NULL : needs->first; need != NULL; need = need->next) {
        if (!is_among(need->text, program != NULL ? " daemon " : " folder options alone ")) {
            return 0;
        }
    }
    return 1;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3 || argc == 4);
    program = argv[3];
    FILE *file = fopen(argv[1], "r");
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
    long len = ftell(file);
    char *text = calloc((size_t)len + 1, 1);
    rewind(file);
    CHECK(text != NULL && fread(text, 1, (size_t)len, file) == (size_t)len);
    fclose(file);
    const char *at = text;
    json *suite = json_read(&at);

    for (json *pattern = json_get(suite, "patterns")->first; pattern != NULL; pattern = pattern->next) {
        json *made = content(pattern), *hex = json_new(JSON_OBJECT);
        json_add(hex, "hex", json_text(text_of(pattern, "is", NULL)));
        json *is = content(hex);
        CHECK(made->len == is->len && memcmp(made->text, is->text, is->len) == 0);
    }
    unsigned failed = 0, passed = 0, skipped = 0;
    for (json *one = json_get(suite, "cases")->first; one != NULL; one = one->next) {
        if (!is_served(one)) {
            skipped++;
            continue;
        }
        char path[4096];
        snprintf(path, sizeof path, "%s/%u", argv[2], passed + failed);
        CHECK(mkdir(path, 0700) == 0);
        folder = path;
        const char *wrong = NULL;
        unsigned number = 0;
        for (json *step = json_get(one, "steps")->first; step != NULL && wrong == NULL; step = step->next, number++) {
            if ((wrong = take(step)) != NULL) {
                fprintf(stderr, "%s: step %u, %s: %s\n", text_of(one, "name", "?"), number, text_of(step, "op", "?"),
                        wrong);
            }
        }
        while (things != NULL) {
            forget(things->label);
        }
        wrong == NULL ? passed++ : failed++;
    }
    printf("{\"passed\": %u, \"failed\": %u, \"skipped\": %u}\n", passed, failed, skipped);
    return failed != 0;
}
