/* As much of JSON as spec/conformance.json and the library's figures need. What is read stays until the program ends. */
#ifndef AGENTMEM_JSON_H
#define AGENTMEM_JSON_H

#include "check.h"

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_FRACTION, JSON_TEXT, JSON_LIST, JSON_OBJECT };

typedef struct json {
    enum json_type type;
    uint64_t number;
    const char *text; /* ends with NUL; in tests no text holds one */
    size_t len;       /* of the text */
    const char *key;  /* in an object */
    struct json *first;
    struct json *next;
} json;

static inline json *json_new(enum json_type type)
{
    json *made = calloc(1, sizeof *made);
    CHECK(made != NULL);
    made->type = type;
    return made;
}

static inline json *json_number(uint64_t number)
{
    json *made = json_new(JSON_NUMBER);
    made->number = number;
    return made;
}

static inline json *json_bytes(const void *bytes, size_t len)
{
    json *made = json_new(JSON_TEXT);
    char *copy = calloc(len + 1, 1);
    CHECK(copy != NULL);
    if (len != 0) {
        memcpy(copy, bytes, len);
    }
    made->text = copy;
    made->len = len;
    return made;
}

static inline json *json_text(const char *text)
{
    return text == NULL ? json_new(JSON_NULL) : json_bytes(text, strlen(text));
}

static inline void json_add(json *parent, const char *key, json *child)
{
    json **end = &parent->first;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    child->key = key;
    *end = child;
}

static inline void json_skip(const char **at)
{
    *at += strspn(*at, " \t\r\n");
}

static inline json *json_read_text(const char **at)
{
    const char *end = ++*at;
    for (; *end != '"'; end += *end == '\\' ? 2 : 1) {
        CHECK(*end != 0);
    }
    char *text = calloc((size_t)(end - *at) + 1, 1);
    size_t len = 0;
    CHECK(text != NULL);
    while (*at < end) {
        char c = *(*at)++;
        if (c == '\\') {
            static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
            unsigned code;
            c = *(*at)++;
            if (c == 'u') {
                /* Other characters are written as they are. */
                CHECK(sscanf(*at, "%4x", &code) == 1 && code < 0x80);
                c = (char)code;
                *at += 4;
            } else {
                const char *found = NULL;
                for (const char *pair = escapes; *pair != 0; pair += 2) {
                    found = *pair == c ? pair + 1 : found;
                }
                CHECK(found != NULL);
                c = *found;
            }
        }
        text[len++] = c;
    }
    *at = end + 1;
    json *made = json_new(JSON_TEXT);
    made->text = text;
    made->len = len;
    return made;
}

/* The value that begins at `*at`, which goes behind it. */
static inline json *json_read(const char **at)
{
    static const struct {
        const char *word;
        enum json_type type;
    } words[] = {{"null", JSON_NULL}, {"false", JSON_FALSE}, {"true", JSON_TRUE}};
    json_skip(at);
    if (**at == '"') {
        return json_read_text(at);
    }
    if (**at == '{' || **at == '[') {
        char end = **at == '{' ? '}' : ']';
        json *made = json_new(**at == '{' ? JSON_OBJECT : JSON_LIST);
        json **last = &made->first;
        ++*at;
        for (json_skip(at); **at != end; json_skip(at)) {
            const char *key = NULL;
            if (end == '}') {
                key = json_read_text(at)->text;
                json_skip(at);
                CHECK(*(*at)++ == ':');
            }
            *last = json_read(at);
            (*last)->key = key;
            last = &(*last)->next;
            json_skip(at);
            *at += **at == ',';
        }
        ++*at;
        return made;
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strncmp(*at, words[i].word, strlen(words[i].word)) == 0) {
            *at += strlen(words[i].word);
            return json_new(words[i].type);
        }
    }
    size_t len = strspn(*at, "-+.eE0123456789");
    CHECK(len != 0);
    json *made = json_new(strspn(*at, "0123456789") == len ? JSON_NUMBER : JSON_FRACTION);
    made->number = made->type == JSON_NUMBER ? strtoull(*at, NULL, 10) : 0;
    *at += len;
    return made;
}

/* A member of an object, or NULL; dots lead into members of members. */
static inline json *json_get(const json *object, const char *path)
{
    size_t len = strcspn(path, ".");
    json *found = object == NULL ? NULL : object->first;
    while (found != NULL && (strlen(found->key) != len || memcmp(found->key, path, len) != 0)) {
        found = found->next;
    }
    return found == NULL || path[len] == 0 ? found : json_get(found, path + len + 1);
}

/* Text of a field, or `otherwise`. */
static inline const char *text_of(const json *step, const char *field, const char *otherwise)
{
    json *found = json_get(step, field);
    return found != NULL && found->type == JSON_TEXT ? found->text : otherwise;
}

static inline uint64_t number_of(const json *step, const char *field, uint64_t otherwise)
{
    json *found = json_get(step, field);
    return found != NULL && found->type == JSON_NUMBER ? found->number : otherwise;
}

#endif
