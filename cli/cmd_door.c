/* SPDX-License-Identifier: MIT */
/*
 * Doors of a pool that is being served: list, add, remove. Options that name a door are those of
 * serve. Yields.
 */
#include "cli/cli_priv.h"

#include "server/door.h"

#include <stdlib.h>
#include <unistd.h>

char *cli_full_path(const char *path)
{
    char *copy = strdup(path), *full = NULL;
    if (!copy)
        return NULL;
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/')
        copy[--n] = 0;
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : copy;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        full = realpath(copy, NULL);
        free(copy);
        return full;
    }
    if (slash)
        *slash = 0;
    char *dir = realpath(!slash ? "." : *copy ? copy : "/", NULL);
    if (dir && asprintf(&full, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name) < 0)
        full = NULL;
    free(dir);
    free(copy);
    return full;
}

/* A path, or an address that may have one in it. */
static json_t *absolute_json(const char *text, bool address)
{
    if (!text || (address && strncmp(text, "unix:", 5) != 0))
        return text ? json_string(text) : NULL;
    const char *path = address ? text + 5 : text;
    char *full = *path ? cli_full_path(path) : NULL;
    json_t *v = json_sprintf("%s%s", address ? "unix:" : "", full ? full : path);
    free(full);
    return v;
}

bool cli_is_door(const struct cli_value *v)
{
    const char *const *kinds = vd_door_kinds();
    while (*kinds && strcmp(*kinds, v->option->name) != 0)
        kinds++;
    return *kinds != NULL;
}

static json_t *door_args(struct cli *c, const struct cli_value *v)
{
    const char *kind = v->option->name;
    bool address = strcmp(kind, "nbd") == 0 || strcmp(kind, "metrics") == 0;
    json_t *args =
        json_pack("{s:s, s:b, s:b, s:b}", "kind", kind, "read_only", cli_flag(c, "read-only"),
                  "insecure", cli_flag(c, "insecure"), "allow_other", cli_flag(c, "allow-other"));
    json_object_set_new(args, "address", absolute_json(v->text, address));
    json_t *cert = absolute_json(cli_text(c, "tls-cert"), false);
    json_t *psk = absolute_json(cli_text(c, "tls-psk"), false);
    if (cert)
        json_object_set_new(args, "tls_cert", cert);
    if (psk)
        json_object_set_new(args, "tls_psk", psk);
    return args;
}

int cli_door_add(struct cli *c)
{
    struct cli_pool p;
    json_t *result, *added, *door;
    size_t i;
    int n = 0, r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    added = json_array();
    for (int k = 0; k < c->n_values && r == 0; k++) {
        if (!cli_is_door(&c->values[k]))
            continue;
        n++;
        r = cli_call(c, &p, "door-add", door_args(c, &c->values[k]), -1, &result);
        if (r == 0) {
            json_array_append(added, json_object_get(result, "door"));
            json_decref(result);
        }
    }
    cli_pool_done(&p);
    if (r == 0 && n == 0)
        r = cli_fail(c, -EINVAL, "usage",
                     "say which door, as for serve: see \"vdisk door add --help\"");
    /* Those that were opened are told even if the next one was not. */
    if (c->json && r == 0)
        cli_json(c, json_pack("{s:O}", "doors", added));
    else if (!c->json)
        json_array_foreach (added, i, door)
            printf("%s\n", get_str(door, "uri"));
    json_decref(added);
    return r;
}

int cli_door_remove(struct cli *c)
{
    struct cli_pool p;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    const char *address = c->args[c->n_args - 1];
    bool path = strncmp(address, "tcp:", 4) != 0 && strncmp(address, "fd:", 3) != 0 &&
                strncmp(address, "unix:", 5) != 0;
    json_t *args = json_object();
    json_object_set_new(args, "address", absolute_json(address, !path));
    r = cli_call_print(c, &p, "door-remove", args, NULL);
    cli_pool_done(&p);
    return r;
}

static void print_doors(struct cli *c, const struct cli_pool *p, json_t *result)
{
    struct cli_table t;
    json_t *door;
    size_t i;
    table_init(&t, (const char *[]){"KIND", "ADDRESS", ">CLIENTS", "STATE"}, 4);
    json_array_foreach (json_object_get(result, "doors"), i, door) {
        table_row(&t);
        table_cell(&t, 0, "%s", get_str(door, "kind"));
        table_cell(&t, 1, "%s", get_str(door, "address"));
        table_cell(&t, 2, "%zu", json_array_size(json_object_get(door, "clients")));
        table_cell(&t, 3, "%s%s", get_bool(door, "tls") ? "TLS " : "",
                   get_bool(door, "read_only") ? "read-only" : "");
    }
    table_print(&t, stdout);
}

int cli_door_list(struct cli *c)
{
    struct cli_pool p;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    r = cli_call_print(c, &p, "door-list", json_object(), print_doors);
    cli_pool_done(&p);
    return r;
}
