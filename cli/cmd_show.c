/* SPDX-License-Identifier: MIT */
/*
 * Commands that show what is there: ls, info, tree, du. All ask the owner to describe itself and
 * print parts of the answer. Yields.
 */
#include "cli/cli_priv.h"

#include "server/names.h"
#include "server/wire.h"

#include <stdarg.h>
#include <stdlib.h>

/* --- without a target: registered and served pools --- */

static json_t *pool_by_uuid(json_t *list, const char *uuid)
{
    json_t *p;
    size_t i;
    json_array_foreach (list, i, p)
        if (strcmp(get_str(p, "uuid"), uuid) == 0)
            return p;
    return NULL;
}

static int add_registered(void *arg, const struct vd_pool_entry *e)
{
    char uuid[VD_UUID_TEXT];
    vd_uuid_format(&e->uuid, uuid);
    return json_array_append_new(arg, json_pack("{s:s, s:s, s:o}", "name", e->name, "uuid", uuid,
                                                "path", vd_wire_text(e->devices[0]))) < 0
               ? -ENOMEM
               : 0;
}

static void add_owner(void *arg, json_t *hello)
{
    json_t *p = pool_by_uuid(arg, get_str(hello, "uuid"));
    if (!p) {
        p = json_pack("{s:s, s:s, s:s}", "name", get_str(hello, "pool"), "uuid",
                      get_str(hello, "uuid"), "path", get_str(hello, "path"));
        json_array_append_new(arg, p);
    }
    json_object_set_new(p, "owner",
                        json_pack("{s:I, s:s, s:b, s:b}", "pid", get_int(hello, "pid"), "name",
                                  get_str(hello, "name"), "serving", get_bool(hello, "serving"),
                                  "read_only", get_bool(hello, "read_only")));
}

static int show_all(struct cli *c)
{
    json_t *list = json_array(), *p;
    size_t i;
    int r = vd_names_list(add_registered, list, &c->err);
    if (r == -ENOENT)
        r = 0; /* no home, so nothing is registered */
    if (r == 0)
        r = vd_client_owners(add_owner, list, &c->err);
    if (r < 0) {
        json_decref(list);
        return r;
    }
    c->err = (struct vd_error){0};
    if (c->json) {
        cli_json(c, json_pack("{s:o}", "pools", list));
        return 0;
    }
    struct cli_table t;
    table_init(&t, (const char *[]){"POOL", "PATH", "OWNER"}, 3);
    json_array_foreach (list, i, p) {
        json_t *o = json_object_get(p, "owner");
        const char *name = get_str(p, "name");
        table_row(&t);
        table_cell(&t, 0, "%s", *name ? name : "-");
        table_cell(&t, 1, "%s", get_str(p, "path"));
        if (o)
            table_cell(&t, 2, "PID %d (%s%s)", (int)get_int(o, "pid"), get_str(o, "name"),
                       get_bool(o, "read_only") ? ", read-only" : "");
        else
            table_cell(&t, 2, "-");
    }
    if (t.n_rows)
        table_print(&t, stdout);
    json_decref(list);
    return 0;
}

/* --- with one --- */

/* Asks for the description of the target, argument 0. */
static int describe(struct cli *c, struct cli_pool *p, json_t **ret)
{
    int r = cli_pool_get(c, 0, p);
    if (r < 0)
        return r;
    json_t *args = cli_target_json(p);
    r = cli_call(c, p, "describe", args, -1, ret);
    if (r < 0)
        cli_pool_done(p);
    return r;
}

static bool without_target(const struct cli *c)
{
    return c->n_args == 0 && !cli_text(c, "pool");
}

static void print_volumes(json_t *d)
{
    json_t *v;
    size_t i;
    struct cli_table t;
    table_init(&t, (const char *[]){"VOLUME", ">SIZE", ">USED", ">OWN", ">SNAPSHOTS", "STATE"}, 6);
    json_array_foreach (json_object_get(d, "volumes"), i, v) {
        table_row(&t);
        table_cell(&t, 0, "%s", get_str(v, "name"));
        table_cell(&t, 1, "%s", human_size(get_int(v, "size")));
        table_cell(&t, 2, "%s", human_size(get_int(v, "referenced")));
        table_cell(&t, 3, "%s", human_size(get_int(v, "exclusive")));
        table_cell(&t, 4, "%d", (int)get_int(v, "snapshots"));
        table_cell(&t, 5, "%s%s%s", get_bool(v, "read_only") ? "read-only" : "",
                   get_bool(v, "read_only") && get_int(v, "opens") ? ", " : "",
                   get_int(v, "opens") ? "open" : "");
    }
    table_print(&t, stdout);
}

static void print_snapshots(json_t *d, bool volume_too)
{
    json_t *s;
    size_t i;
    struct cli_table t;
    table_init(&t, (const char *[]){"SNAPSHOT", "TAKEN", ">SIZE", ">OWN", ">CLONES", ">HOLDS"}, 6);
    json_array_foreach (json_object_get(d, "snapshots"), i, s) {
        table_row(&t);
        table_cell(&t, 0, "%s%s%s", volume_too ? get_str(s, "volume") : "", volume_too ? "@" : "",
                   get_str(s, "name"));
        table_cell(&t, 1, "%s", human_time(get_int(s, "created")));
        table_cell(&t, 2, "%s", human_size(get_int(s, "size")));
        table_cell(&t, 3, "%s", human_size(get_int(s, "exclusive")));
        table_cell(&t, 4, "%d", (int)get_int(s, "clones"));
        table_cell(&t, 5, "%d", (int)get_int(s, "holds"));
    }
    if (t.n_rows)
        table_print(&t, stdout);
}

int cli_ls(struct cli *c)
{
    struct cli_pool p;
    json_t *d;
    if (without_target(c))
        return show_all(c);
    int r = describe(c, &p, &d);
    if (r < 0)
        return r;
    bool one = p.ref.volume || p.ref.snapshot;
    if (c->json)
        cli_json(c, json_pack("{s:O, s:O}", "volumes", json_object_get(d, "volumes"), "snapshots",
                              json_object_get(d, "snapshots")));
    else if (one)
        print_snapshots(d, false);
    else if (json_array_size(json_object_get(d, "volumes")))
        print_volumes(d);
    json_decref(d);
    cli_pool_done(&p);
    return 0;
}

int cli_snapshot_list(struct cli *c)
{
    struct cli_pool p;
    json_t *d;
    int r = describe(c, &p, &d);
    if (r < 0)
        return r;
    if (c->json)
        cli_json(c, json_pack("{s:O}", "snapshots", json_object_get(d, "snapshots")));
    else
        print_snapshots(d, json_array_size(json_object_get(d, "volumes")) > 1);
    json_decref(d);
    cli_pool_done(&p);
    return 0;
}

static void line(const char *head, const char *fmt, ...) VD_PRINTF(2, 3);
static void line(const char *head, const char *fmt, ...)
{
    va_list ap;
    printf("%-12s ", head);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

static void print_doors(json_t *d)
{
    json_t *door, *client;
    size_t i, k;
    json_array_foreach (json_object_get(d, "doors"), i, door) {
        line("door", "%s %s%s%s", get_str(door, "kind"), get_str(door, "address"),
             get_bool(door, "tls") ? " (TLS)" : "",
             get_bool(door, "read_only") ? " (read-only)" : "");
        json_array_foreach (json_object_get(door, "clients"), k, client)
            line("  client", "%s on \"%s\"%s, read %s, written %s", get_str(client, "peer"),
                 get_str(client, "export"), get_bool(client, "read_only") ? " (read-only)" : "",
                 human_size(get_int(client, "read_bytes")),
                 human_size(get_int(client, "write_bytes")));
    }
}

static void print_pool(json_t *d)
{
    json_t *p = json_object_get(d, "pool"), *o = json_object_get(d, "owner");
    if (*get_str(p, "name"))
        line("name", "%s", get_str(p, "name"));
    line("path", "%s", get_str(p, "path"));
    line("uuid", "%s", get_str(p, "uuid"));
    line("format", "%d.%d", (int)get_int(p, "format_major"), (int)get_int(p, "format_minor"));
    line("made", "%s", human_time(get_int(p, "created")));
    if (get_int(p, "capacity"))
        line("capacity", "%s", human_size(get_int(p, "capacity")));
    line("allocated", "%s", human_size(get_int(p, "allocated")));
    line("live data", "%s", human_size(get_int(p, "live")));
    line("metadata", "%s", human_size(get_int(p, "metadata")));
    line("reserved", "%s", human_size(get_int(p, "reserved")));
    line("log", "%s", human_size(get_int(p, "log")));
    line("volumes", "%d", (int)get_int(p, "volumes"));
    line("snapshots", "%d", (int)get_int(p, "snapshots"));
    if (get_int(p, "backlog"))
        line("to clean up", "%s", human_size(get_int(p, "backlog")));
    if (get_bool(o, "serving"))
        line("served by", "%s", get_str(o, "name"));
    if (*get_str(p, "failed"))
        line("FAILED", "%s", get_str(p, "failed"));
    print_doors(d);
}

static void print_volume(json_t *v, json_t *props)
{
    const char *key;
    json_t *value;
    line("volume", "%s", get_str(v, "name"));
    line("uuid", "%s", get_str(v, "uuid"));
    line("size", "%s", human_size(get_int(v, "size")));
    line("made", "%s", human_time(get_int(v, "created")));
    line("used", "%s", human_size(get_int(v, "referenced")));
    line("own", "%s", human_size(get_int(v, "exclusive")));
    line("snapshots", "%d", (int)get_int(v, "snapshots"));
    line("open", "%d times, %d for writing", (int)get_int(v, "opens"),
         (int)get_int(v, "opens_writable"));
    if (get_bool(v, "read_only"))
        line("read-only", "yes");
    if (*get_str(v, "origin_volume"))
        line("origin", "%s%s%s (depth %d)", get_str(v, "origin_volume"),
             *get_str(v, "origin_snapshot") ? "@" : "", get_str(v, "origin_snapshot"),
             (int)get_int(v, "depth"));
    json_object_foreach (props, key, value)
        if (strcmp(key, "read-only") != 0)
            line(key, "%s", json_string_value(value));
}

static void print_snapshot(json_t *s)
{
    line("snapshot", "%s@%s", get_str(s, "volume"), get_str(s, "name"));
    line("uuid", "%s", get_str(s, "uuid"));
    line("size", "%s", human_size(get_int(s, "size")));
    line("taken", "%s%s", human_time(get_int(s, "created")),
         get_bool(s, "automatic") ? " by rollback" : "");
    line("own", "%s", human_size(get_int(s, "exclusive")));
    line("clones", "%d", (int)get_int(s, "clones"));
    line("holds", "%d", (int)get_int(s, "holds"));
}

int cli_info(struct cli *c)
{
    struct cli_pool p;
    json_t *d;
    if (without_target(c))
        return show_all(c);
    int r = describe(c, &p, &d);
    if (r < 0)
        return r;
    json_t *volumes = json_object_get(d, "volumes");
    if (c->json) {
        if (p.ref.snapshot)
            cli_json(c, json_pack("{s:O}", "snapshot",
                                  json_array_get(json_object_get(d, "snapshots"), 0)));
        else if (p.ref.volume)
            cli_json(c, json_pack("{s:O, s:O}", "volume", json_array_get(volumes, 0), "properties",
                                  json_object_get(d, "properties")));
        else
            cli_json(c, json_pack("{s:O, s:O, s:O, s:O}", "pool", json_object_get(d, "pool"),
                                  "volumes", volumes, "doors", json_object_get(d, "doors"), "owner",
                                  json_object_get(d, "owner")));
    } else if (p.ref.snapshot) {
        print_snapshot(json_array_get(json_object_get(d, "snapshots"), 0));
    } else if (p.ref.volume) {
        print_volume(json_array_get(volumes, 0), json_object_get(d, "properties"));
    } else {
        print_pool(d);
        if (json_array_size(volumes)) {
            putchar('\n');
            print_volumes(d);
        }
    }
    json_decref(d);
    cli_pool_done(&p);
    return 0;
}

/* --- tree --- */

struct tree {
    json_t *volumes, *snapshots;
    unsigned depth; /* of recursion: names on disk may form a circle if damaged */
};

#define TREE_DEPTH_MAX 64

static void tree_volume(struct tree *t, json_t *v, const char *prefix, const char *branch,
                        const char *below);

static bool is_clone_of(json_t *v, const char *volume, const char *snapshot)
{
    /* A volume that was rolled back has itself as origin. */
    return strcmp(get_str(v, "origin_volume"), volume) == 0 &&
           strcmp(get_str(v, "name"), volume) != 0 &&
           strcmp(get_str(v, "origin_snapshot"), snapshot) == 0;
}

/* Prints the clones of volume@snapshot below it. */
static void tree_clones(struct tree *t, const char *volume, const char *snapshot,
                        const char *prefix)
{
    json_t *v, *last = NULL;
    size_t i;
    json_array_foreach (t->volumes, i, v)
        if (is_clone_of(v, volume, snapshot))
            last = v;
    json_array_foreach (t->volumes, i, v)
        if (is_clone_of(v, volume, snapshot))
            tree_volume(t, v, prefix, v == last ? "└─ " : "├─ ", v == last ? "   " : "│  ");
}

static void tree_volume(struct tree *t, json_t *v, const char *prefix, const char *branch,
                        const char *below)
{
    json_t *s, *last = NULL;
    size_t i;
    char *next, *deeper;
    const char *name = get_str(v, "name");
    printf("%s%s%s  %s\n", prefix, branch, name, human_size(get_int(v, "size")));
    if (t->depth >= TREE_DEPTH_MAX || asprintf(&next, "%s%s", prefix, below) < 0)
        return;
    t->depth++;
    bool live_clones = false;
    json_t *w;
    json_array_foreach (t->volumes, i, w)
        live_clones |= is_clone_of(w, name, "");
    json_array_foreach (t->snapshots, i, s)
        if (strcmp(get_str(s, "volume"), name) == 0)
            last = s;
    json_array_foreach (t->snapshots, i, s) {
        if (strcmp(get_str(s, "volume"), name) != 0)
            continue;
        bool end = s == last && !live_clones;
        printf("%s%s@%s  %s\n", next, end ? "└─ " : "├─ ", get_str(s, "name"),
               human_time(get_int(s, "created")));
        if (asprintf(&deeper, "%s%s", next, end ? "   " : "│  ") < 0)
            break;
        tree_clones(t, name, get_str(s, "name"), deeper);
        free(deeper);
    }
    tree_clones(t, name, "", next);
    t->depth--;
    free(next);
}

static bool has_origin(struct tree *t, json_t *v)
{
    json_t *o;
    size_t i;
    const char *volume = get_str(v, "origin_volume"), *snapshot = get_str(v, "origin_snapshot");
    if (!*volume || strcmp(volume, get_str(v, "name")) == 0)
        return false;
    if (!*snapshot) {
        json_array_foreach (t->volumes, i, o)
            if (strcmp(get_str(o, "name"), volume) == 0)
                return true;
        return false;
    }
    json_array_foreach (t->snapshots, i, o)
        if (strcmp(get_str(o, "volume"), volume) == 0 && strcmp(get_str(o, "name"), snapshot) == 0)
            return true;
    return false;
}

int cli_tree(struct cli *c)
{
    struct cli_pool p;
    json_t *d, *v;
    size_t i;
    int r = describe(c, &p, &d);
    if (r < 0)
        return r;
    struct tree t = {json_object_get(d, "volumes"), json_object_get(d, "snapshots"), 0};
    if (c->json)
        cli_json(c, json_pack("{s:O, s:O}", "volumes", t.volumes, "snapshots", t.snapshots));
    else
        json_array_foreach (t.volumes, i, v)
            if (!has_origin(&t, v))
                tree_volume(&t, v, "", "", "");
    json_decref(d);
    cli_pool_done(&p);
    return 0;
}

int cli_du(struct cli *c)
{
    struct cli_pool p;
    json_t *d, *v, *s;
    size_t i, k;
    int r = describe(c, &p, &d);
    if (r < 0)
        return r;
    json_t *pool = json_object_get(d, "pool"), *volumes = json_object_get(d, "volumes"),
           *snapshots = json_object_get(d, "snapshots");
    if (c->json) {
        cli_json(c, json_pack("{s:O, s:O, s:O}", "pool", pool, "volumes", volumes, "snapshots",
                              snapshots));
    } else {
        struct cli_table t;
        table_init(&t, (const char *[]){"NAME", ">USED", ">OWN"}, 3);
        json_array_foreach (volumes, i, v) {
            table_row(&t);
            table_cell(&t, 0, "%s", get_str(v, "name"));
            table_cell(&t, 1, "%s", human_size(get_int(v, "referenced")));
            table_cell(&t, 2, "%s", human_size(get_int(v, "exclusive")));
            json_array_foreach (snapshots, k, s) {
                if (strcmp(get_str(s, "volume"), get_str(v, "name")) != 0)
                    continue;
                table_row(&t);
                table_cell(&t, 0, "%s@%s", get_str(s, "volume"), get_str(s, "name"));
                table_cell(&t, 1, "-");
                table_cell(&t, 2, "%s", human_size(get_int(s, "exclusive")));
            }
        }
        if (t.n_rows)
            table_print(&t, stdout);
        printf("%slive data %s, metadata %s, allocated %s\n", t.n_rows ? "\n" : "",
               human_size(get_int(pool, "live")), human_size(get_int(pool, "metadata")),
               human_size(get_int(pool, "allocated")));
    }
    json_decref(d);
    cli_pool_done(&p);
    return 0;
}
