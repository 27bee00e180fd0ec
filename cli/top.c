/* SPDX-License-Identifier: MIT */
/*
 * vdisk top: what the volumes of served pools do, every interval. Owners tell counts since they
 * began; rates and percentiles are differences of two looks, so any number of people may watch.
 * On a terminal it redraws and `q` ends it; else it prints. Yields.
 */
#include "cli/cli_priv.h"

#include "core/block/meter.h"
#include "core/io/readiness.h"

#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#define INTERVAL_MIN 0.1
#define INTERVAL_MAX 86400.0

/* A pool that is watched, and its last look. */
struct seen {
    struct vd_list link;
    struct cli_pool pool;
    json_t *last; /* NULL = none yet */
    bool there;
};

struct top {
    struct cli *cli;
    double interval_s;
    uint64_t count; /* 0 = until somebody ends it */
    bool one;       /* a pool was named */
    struct vd_list pools;
    struct vd_waitq q;
    bool ended;
    bool screen; /* draws on a terminal */
    struct vd_poll keys;
    struct vd_group key_fiber;
    struct termios saved;
};

static struct top *running;

static void end_top(struct cli *c)
{
    running->ended = true;
    vd_wake_all(&running->q);
}

static struct seen *seen_of(struct vd_list *link)
{
    return vd_container_of(link, struct seen, link);
}

/* ---- what happened between two looks ---- */

static void histogram_load(json_t *counts, struct vd_histogram *h, uint64_t sign)
{
    json_t *pair;
    size_t i;
    json_array_foreach (json_object_get(counts, "latency"), i, pair) {
        json_int_t bucket = json_integer_value(json_array_get(pair, 0));
        if (bucket >= 0 && bucket < VD_HISTOGRAM_BUCKETS)
            h->n[bucket] += sign * (uint64_t)json_integer_value(json_array_get(pair, 1));
    }
}

/* {"iops", "bandwidth", "errors", "p50_us", "p99_us"} of one kind of request. */
static json_t *kind_json(json_t *now, json_t *last, double seconds)
{
    struct vd_histogram h = {0};
    histogram_load(now, &h, 1);
    histogram_load(last, &h, UINT64_MAX); /* -1 */
    json_int_t requests = get_int(now, "requests") - get_int(last, "requests");
    json_int_t bytes = get_int(now, "bytes") - get_int(last, "bytes");
    return json_pack("{s:f, s:f, s:I, s:f, s:f}", "iops", (double)requests / seconds, "bandwidth",
                     (double)bytes / seconds, "errors",
                     get_int(now, "errors") - get_int(last, "errors"), "p50_us",
                     (double)vd_histogram_quantile_ns(&h, 0.5) / 1e3, "p99_us",
                     (double)vd_histogram_quantile_ns(&h, 0.99) / 1e3);
}

static json_t *volume_named(json_t *stats, const char *name)
{
    json_t *v;
    size_t i;
    json_array_foreach (json_object_get(stats, "volumes"), i, v)
        if (strcmp(get_str(v, "name"), name) == 0)
            return v;
    return NULL;
}

static json_t *volume_json(json_t *now, json_t *last, double seconds)
{
    json_t *v = json_pack(
        "{s:s, s:I, s:f, s:I, s:I}", "name", get_str(now, "name"), "in_flight",
        get_int(now, "in_flight"), "held",
        (double)(get_int(now, "held_ns") - get_int(last, "held_ns")) / 1e9 / seconds, "limit_iops",
        get_int(now, "limit_iops"), "limit_bandwidth", get_int(now, "limit_bandwidth"));
    for (int k = 0; k < VD_METER_KINDS; k++) {
        const char *kind = vd_meter_kind_names[k];
        json_object_set_new(
            v, kind, kind_json(json_object_get(now, kind), json_object_get(last, kind), seconds));
    }
    return v;
}

/* Of one pool; NULL where the two looks are not of the same owner. */
static json_t *pool_json(json_t *now, json_t *last)
{
    double seconds = (double)(get_int(now, "time_ns") - get_int(last, "time_ns")) / 1e9;
    if (seconds <= 0 || get_int(now, "pid") != get_int(last, "pid"))
        return NULL;
    json_t *p = json_object_get(now, "pool"), *q = json_object_get(last, "pool"), *v;
    json_t *volumes = json_array();
    size_t i;
    json_array_foreach (json_object_get(now, "volumes"), i, v)
        json_array_append_new(volumes,
                              volume_json(v, volume_named(last, get_str(v, "name")), seconds));
    json_int_t hits = get_int(p, "cache_hits") - get_int(q, "cache_hits");
    json_int_t misses = get_int(p, "cache_misses") - get_int(q, "cache_misses");
    json_t *pool = json_pack(
        "{s:s, s:s, s:I, s:I, s:f, s:O, s:O, s:O, s:O, s:O, s:O, s:O, s:O, s:f, s:f, s:o}", "path",
        get_str(now, "path"), "name", get_str(now, "name"), "pid", get_int(now, "pid"), "clients",
        get_int(now, "clients"), "seconds", seconds, "allocated", json_object_get(p, "allocated"),
        "capacity", json_object_get(p, "capacity"), "segments", json_object_get(p, "segments"),
        "segments_free", json_object_get(p, "segments_free"), "cleaning",
        json_object_get(p, "cleaning"), "backlog", json_object_get(p, "backlog"), "log",
        json_object_get(p, "log"), "cache_bytes", json_object_get(p, "cache_bytes"), "cleaned",
        (double)(get_int(p, "segments_cleaned") - get_int(q, "segments_cleaned")) / seconds,
        "cache_hit", hits + misses ? (double)hits / (double)(hits + misses) : 1.0, "volumes",
        volumes);
    if (pool && *get_str(p, "failed"))
        json_object_set(pool, "failed", json_object_get(p, "failed"));
    return pool;
}

/* ---- printing ---- */

static const char *micro(double us, char *buf, size_t len)
{
    if (us <= 0)
        snprintf(buf, len, "-");
    else if (us < 1000)
        snprintf(buf, len, "%.0f us", us);
    else if (us < 1e6)
        snprintf(buf, len, "%.1f ms", us / 1e3);
    else
        snprintf(buf, len, "%.1f s", us / 1e6);
    return buf;
}

static double get_real(json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_volume(struct cli_table *t, json_t *v)
{
    static const char *const kinds[] = {"read", "write"};
    char buf[32];
    table_row(t);
    table_cell(t, 0, "%s", get_str(v, "name"));
    for (int k = 0; k < 2; k++) {
        json_t *kind = json_object_get(v, kinds[k]);
        table_cell(t, 1 + 4 * k, "%.0f", get_real(kind, "iops"));
        table_cell(t, 2 + 4 * k, "%s", human_size((json_int_t)get_real(kind, "bandwidth")));
        table_cell(t, 3 + 4 * k, "%s", micro(get_real(kind, "p50_us"), buf, sizeof(buf)));
        table_cell(t, 4 + 4 * k, "%s", micro(get_real(kind, "p99_us"), buf, sizeof(buf)));
    }
    table_cell(t, 9, "%d%s", (int)get_int(v, "in_flight"),
               get_real(v, "held") > 0 ? " (limited)" : "");
}

static void print_pool(json_t *pool)
{
    struct cli_table t;
    json_t *v;
    size_t i;
    printf("%s  process %d  clients %d\n", get_str(pool, "path"), (int)get_int(pool, "pid"),
           (int)get_int(pool, "clients"));
    printf("cleaner %s %.1f/s  free segments %lld of %lld  to clean up %s  log %s  cache %s, hits "
           "%.0f %%\n",
           get_bool(pool, "cleaning") ? "busy" : "idle", get_real(pool, "cleaned"),
           (long long)get_int(pool, "segments_free"), (long long)get_int(pool, "segments"),
           human_size(get_int(pool, "backlog")), human_size(get_int(pool, "log")),
           human_size(get_int(pool, "cache_bytes")), 100 * get_real(pool, "cache_hit"));
    if (*get_str(pool, "failed"))
        printf("FAILED: %s\n", get_str(pool, "failed"));
    table_init(&t,
               (const char *[]){"VOLUME", ">READS/S", ">BYTES/S", ">P50", ">P99", ">WRITES/S",
                                ">BYTES/S", ">P50", ">P99", ">IN FLIGHT"},
               10);
    json_array_foreach (json_object_get(pool, "volumes"), i, v)
        print_volume(&t, v);
    table_print(&t, stdout);
}

static void print_look(struct top *t, json_t *pools)
{
    json_t *pool;
    size_t i;
    char schema[40];
    if (t->cli->json) {
        json_t *o = json_pack("{s:s, s:O}", "schema",
                              cli_schema(t->cli->cmd, schema, sizeof(schema)), "pools", pools);
        char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
        if (text)
            puts(text);
        free(text);
        json_decref(o);
        return;
    }
    if (t->screen)
        fputs("\033[H\033[J", stdout);
    json_array_foreach (pools, i, pool) {
        if (i)
            putchar('\n');
        print_pool(pool);
    }
    if (t->screen)
        fputs("\nq ends this.\n", stdout);
    else if (json_array_size(pools))
        putchar('\n');
}

/* ---- looking ---- */

static void seen_free(struct seen *s)
{
    vd_list_remove(&s->link);
    json_decref(s->last);
    cli_pool_done(&s->pool);
    free(s);
}

static void add_owner(void *arg, json_t *hello)
{
    struct top *t = arg;
    const char *path = get_str(hello, "path");
    if (!get_bool(hello, "serving"))
        return;
    vd_list_each (it, &t->pools)
        if (strcmp(seen_of(it)->pool.path, path) == 0) {
            seen_of(it)->there = true;
            return;
        }
    struct seen *s = calloc(1, sizeof(*s));
    if (!s || !(s->pool.path = strdup(path))) {
        free(s);
        return;
    }
    s->there = true;
    vd_list_push(&t->pools, &s->link);
}

/* The pools that are served now. VD_YIELDS */
static int find_pools(struct top *t)
{
    if (t->one)
        return 0;
    vd_list_each (it, &t->pools)
        seen_of(it)->there = false;
    int r = vd_client_owners(add_owner, t, &t->cli->err);
    vd_list_each_safe (it, &t->pools)
        if (!seen_of(it)->there)
            seen_free(seen_of(it));
    return r;
}

/* Looks at every pool; appends what is new since the last look. VD_YIELDS */
static int look(struct top *t, json_t *pools)
{
    int r = find_pools(t);
    if (r == 0 && vd_list_empty(&t->pools))
        r = cli_fail(t->cli, -ENOENT, "not-served",
                     "no pool is being served: there is nothing to see");
    vd_list_each_safe (it, &t->pools) {
        struct seen *s = seen_of(it);
        json_t *now = NULL;
        if (r < 0 || t->ended)
            break;
        r = cli_call(t->cli, &s->pool, "stats", json_object(), -1, &now);
        if (r < 0 && !t->one) { /* it has ended just now */
            r = 0;
            continue;
        }
        json_t *pool = r == 0 && s->last ? pool_json(now, s->last) : NULL;
        if (pool)
            json_array_append_new(pools, pool);
        json_decref(s->last);
        s->last = now;
    }
    return r;
}

static int watch(struct top *t)
{
    uint64_t left = t->count ? t->count : UINT64_MAX;
    json_t *first = json_array();
    int r = look(t, first);
    json_decref(first);
    while (r == 0 && left-- > 0 && !t->ended) {
        (void)vd_wait_for(&t->q, (uint64_t)(t->interval_s * 1e9));
        if (t->ended)
            break;
        json_t *pools = json_array();
        r = look(t, pools);
        if (r == 0 && !t->ended) {
            print_look(t, pools);
            if (fflush(stdout) != 0)
                r = cli_fail(t->cli, -EIO, "output", "the output is closed");
        }
        json_decref(pools);
    }
    return t->ended ? 0 : r;
}

/* ---- the terminal ---- */

static void key_fiber(void *arg)
{
    struct top *t = arg;
    char c;
    while (!t->ended) {
        int r = vd_poll_wait(&t->keys, POLLIN);
        if (r <= 0 || read(STDIN_FILENO, &c, 1) != 1)
            break;
        if (c == 'q' || c == 'Q')
            end_top(t->cli);
    }
    vd_group_done(&t->key_fiber);
}

static void screen_begin(struct top *t)
{
    vd_group_init(&t->key_fiber);
    t->screen = !t->cli->json && isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) &&
                tcgetattr(STDIN_FILENO, &t->saved) == 0;
    if (!t->screen)
        return;
    struct termios raw = t->saved;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    vd_poll_init(&t->keys, STDIN_FILENO);
    vd_group_add(&t->key_fiber);
    if (vd_fiber_spawn(vd_loop_current(), "keys", key_fiber, t) < 0)
        vd_group_done(&t->key_fiber);
}

static void screen_end(struct top *t)
{
    if (!t->screen)
        return;
    t->ended = true;
    vd_poll_kick(&t->keys);
    vd_group_wait(&t->key_fiber);
    vd_poll_done(&t->keys);
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &t->saved);
}

static int parse_options(struct top *t)
{
    const char *interval = cli_text(t->cli, "interval"), *count = cli_text(t->cli, "count");
    char *end;
    t->interval_s = 1;
    if (interval) {
        t->interval_s = strtod(interval, &end);
        if (*end || end == interval || !(t->interval_s >= INTERVAL_MIN) ||
            t->interval_s > INTERVAL_MAX)
            return cli_fail(t->cli, -EINVAL, "usage",
                            "--interval is a number of seconds, 0.1 or more");
    }
    if (count) {
        t->count = strtoull(count, &end, 10);
        if (*end || *count < '0' || *count > '9' || t->count == 0)
            return cli_fail(t->cli, -EINVAL, "usage", "--count is a number, 1 or more");
    }
    return 0;
}

int cli_top(struct cli *c)
{
    struct top t = {.cli = c};
    vd_list_init(&t.pools);
    vd_waitq_init(&t.q);
    int r = parse_options(&t);
    if (r == 0 && (c->n_args || cli_text(c, "pool"))) {
        struct seen *s = calloc(1, sizeof(*s));
        r = s ? cli_pool_get(c, 0, &s->pool) : cli_fail(c, -ENOMEM, "no-memory", "out of memory");
        t.one = true;
        if (r == 0)
            vd_list_push(&t.pools, &s->link);
        else
            free(s);
    }
    if (r < 0)
        return r;
    running = &t;
    c->on_signal = end_top;
    screen_begin(&t);
    r = watch(&t);
    screen_end(&t);
    while (!vd_list_empty(&t.pools))
        seen_free(seen_of(t.pools.next));
    return r;
}
