/* SPDX-License-Identifier: MIT */
/* Commands on jobs, and those that look at a whole pool or volume: check and diff. Yields. */
#include "cli/ends_priv.h"

#include "core/base/log.h"
#include "server/wire.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

static int job_id(struct cli *c, int i, json_int_t *ret)
{
    char *end;
    errno = 0;
    long long id = strtoll(c->args[i], &end, 10);
    if (errno || end == c->args[i] || *end || id <= 0 || id > INT_MAX)
        return cli_fail(c, -EINVAL, "usage", "\"%.60s\" is no job number: see \"vdisk job list\"",
                        c->args[i]);
    *ret = id;
    return 0;
}

/* What the interrupted import recorded of its source. */
struct recorded {
    char *source, *format;
    bool trust;
};

static int recorded_source(struct cli *c, const struct cli_pool *p, json_int_t id,
                           struct recorded *ret)
{
    json_t *result, *job;
    size_t i;
    int r = cli_call(c, p, "job-list", json_object(), -1, &result);
    if (r < 0)
        return r;
    *ret = (struct recorded){0};
    json_array_foreach (json_object_get(result, "jobs"), i, job)
        if (get_int(job, "id") == id && !ret->source) {
            ret->source = strdup(get_str(job, "source"));
            ret->format = strdup(get_str(job, "format"));
            ret->trust = get_bool(job, "trust");
        }
    json_decref(result);
    if (!ret->source || !ret->format)
        return cli_fail(c, -ENOENT, "job-not-found", "there is no job %d", (int)id);
    if (*ret->source)
        return 0;
    return cli_fail(c, -ESRCH, "job-not-interrupted",
                    "job %d cannot be resumed: only an interrupted import can", (int)id);
}

static int resume(struct cli *c, const struct cli_pool *p, json_int_t id, json_t **ret)
{
    struct recorded rec = {0};
    struct cli_end source;
    int r = recorded_source(c, p, id, &rec);
    if (r == 0)
        r = cli_source_reopen(c, c->n_args > 2 ? c->args[2] : rec.source, rec.format, rec.trust,
                              &source);
    if (r == 0) {
        r = cli_job_from(c, p, "job-resume", json_pack("{s:I}", "id", id), &source, ret);
        cli_end_done(&source);
    }
    free(rec.source);
    free(rec.format);
    return r;
}

int cli_job_resume(struct cli *c)
{
    struct cli_pool p;
    json_int_t id;
    json_t *result;
    int r = job_id(c, 1, &id);
    if (r == 0)
        r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    r = resume(c, &p, id, &result);
    cli_pool_done(&p);
    if (r < 0)
        return r;
    if (c->json && !cli_flag(c, "detach"))
        cli_json(c, json_incref(result));
    json_decref(result);
    return 0;
}

static void print_check(struct cli *c, const struct cli_pool *p, json_t *result)
{
    json_t *finding;
    size_t i;
    json_array_foreach (json_object_get(result, "findings"), i, finding)
        puts(json_string_value(finding));
    json_int_t found = get_int(result, "found");
    json_int_t shown = (json_int_t)json_array_size(json_object_get(result, "findings"));
    if (found > shown)
        printf("... and %lld more\n", (long long)(found - shown));
    if (get_bool(result, "sound"))
        printf("No damage found: %lld nodes, %lld runs", (long long)get_int(result, "nodes"),
               (long long)get_int(result, "runs"));
    else
        printf("DAMAGED: %lld errors in %lld nodes, %lld runs",
               (long long)get_int(result, "errors"), (long long)get_int(result, "nodes"),
               (long long)get_int(result, "runs"));
    if (get_bool(result, "data"))
        printf(", %lld blocks of data", (long long)get_int(result, "blocks"));
    puts(".");
}

int cli_check(struct cli *c)
{
    struct cli_pool p;
    json_t *result;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    /* What is found is the result; it need not be told twice. */
    if (!getenv("VDISK_LOG"))
        vd_log_set_sink(NULL, NULL, VD_LOG_ERROR);
    r = cli_job_call(c, &p, "check", json_pack("{s:b}", "data", cli_flag(c, "data")), -1, &result);
    if (r == 0 && !cli_flag(c, "detach")) {
        r = get_bool(result, "sound") ? 0 : EXIT_DAMAGE;
        if (c->json)
            cli_json(c, json_incref(result));
        else
            print_check(c, &p, result);
    }
    if (r >= 0)
        json_decref(result);
    cli_pool_done(&p);
    return r;
}

/* --- other jobs --- */

static void print_jobs(struct cli *c, const struct cli_pool *p, json_t *result)
{
    json_t *j;
    size_t i;
    struct cli_table t;
    table_init(&t, (const char *[]){">ID", "KIND", "TARGET", "STATE", ">DONE", ">TOTAL"}, 6);
    json_array_foreach (json_object_get(result, "jobs"), i, j) {
        json_int_t total = get_int(j, "total");
        table_row(&t);
        table_cell(&t, 0, "%d", (int)get_int(j, "id"));
        table_cell(&t, 1, "%s", get_str(j, "kind"));
        table_cell(&t, 2, "%s", get_str(j, "target"));
        table_cell(&t, 3, "%s", get_str(j, "state"));
        table_cell(&t, 4, "%s", human_size(get_int(j, "done")));
        table_cell(&t, 5, "%s", total ? human_size(total) : "-");
    }
    if (t.n_rows)
        table_print(&t, stdout);
}

int cli_job_list(struct cli *c)
{
    struct cli_pool p;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    r = cli_call_print(c, &p, "job-list", json_object(), print_jobs);
    cli_pool_done(&p);
    return r;
}

static int job_command(struct cli *c, const char *command, bool optional)
{
    struct cli_pool p;
    json_int_t id;
    json_t *args = json_object();
    int r = 0;
    if (c->n_args > 1 || !optional) {
        r = job_id(c, 1, &id);
        json_object_set_new(args, "id", json_integer(id));
    }
    if (r == 0)
        r = cli_pool_get(c, 0, &p);
    if (r < 0) {
        json_decref(args);
        return r;
    }
    r = cli_call_print(c, &p, command, args, NULL);
    cli_pool_done(&p);
    return r;
}

int cli_job_wait(struct cli *c)
{
    return job_command(c, "job-wait", true);
}

int cli_job_cancel(struct cli *c)
{
    return job_command(c, "job-cancel", false);
}

/* --- diff --- */

struct diff_out {
    bool json, first;
};

static void print_extents(struct cli *c, json_t *event)
{
    struct diff_out *out = c->event_arg;
    json_t *e;
    size_t i;
    if (strcmp(get_str(event, "event"), "extents") != 0)
        return;
    cli_progress_end(c);
    json_array_foreach (json_object_get(event, "extents"), i, e) {
        if (out->json)
            printf("%s\n    {\"offset\": %lld, \"length\": %lld, \"zero\": %s}",
                   out->first ? "" : ",", (long long)get_int(e, "offset"),
                   (long long)get_int(e, "length"), get_bool(e, "zero") ? "true" : "false");
        else
            printf("%lld %lld %s\n", (long long)get_int(e, "offset"),
                   (long long)get_int(e, "length"), get_bool(e, "zero") ? "zero" : "data");
        out->first = false;
    }
}

static int diff_targets(struct cli *c, struct cli_pool *from, struct cli_pool *to)
{
    int r = cli_pool_get(c, 0, from);
    if (r < 0)
        return r;
    if (!from->ref.snapshot)
        r = cli_fail(c, -EINVAL, "target-invalid",
                     "the snapshot to compare from is missing: write %s@SNAPSHOT", c->args[0]);
    if (r == 0 && c->n_args > 1) {
        r = cli_pool_get(c, 1, to);
        if (r == 0 && !cli_same_pool(from, to)) {
            cli_pool_done(to);
            r = cli_fail(c, -EINVAL, "usage", "%.200s is in another pool than %.200s", c->args[1],
                         c->args[0]);
        }
    }
    if (r < 0)
        cli_pool_done(from);
    return r;
}

int cli_diff(struct cli *c)
{
    struct cli_pool from, to = {0};
    json_t *result, *target;
    char schema[40];
    bool summary = cli_flag(c, "summary");
    struct diff_out out = {c->json, true};
    int r = diff_targets(c, &from, &to);
    if (r < 0)
        return r;
    target = to.path ? cli_target_json(&to) : json_object();
    if (from.ref.volume && !json_object_get(target, "volume"))
        json_object_set_new(target, "volume", json_string(from.ref.volume));
    json_t *args = json_pack("{s:o, s:o, s:b}", "from", cli_target_json(&from), "to", target,
                             "list", !summary);
    /* The list may be long, so it is printed as it comes; an error then closes the object. */
    if (c->json && !summary)
        printf("{\n  \"schema\": \"%s\",\n  \"extents\": [",
               cli_schema(c->cmd, schema, sizeof(schema)));
    c->on_event = print_extents;
    c->event_arg = &out;
    r = cli_call(c, &from, "diff", args, -1, &result);
    if (c->json && !summary) {
        fputs(out.first ? "]" : "\n  ]", stdout);
        if (r < 0) {
            json_t *e = vd_wire_error(&c->err);
            char *text = e ? json_dumps(e, JSON_COMPACT) : NULL;
            printf(",\n  \"error\": %s", text ? text : "null");
            free(text);
            json_decref(e);
            c->json = false; /* it has been told */
        } else {
            printf(",\n  \"changed\": %lld,\n  \"zero\": %lld",
                   (long long)get_int(result, "changed"), (long long)get_int(result, "zero"));
        }
        puts("\n}");
    } else if (r == 0 && c->json) {
        cli_json(c, json_incref(result));
    } else if (r == 0 && summary) {
        printf("%s changed, of it %s now zero, in %lld ranges\n",
               human_size(get_int(result, "changed")), human_size(get_int(result, "zero")),
               (long long)get_int(result, "count"));
    }
    if (r == 0)
        json_decref(result);
    cli_pool_done(&from);
    cli_pool_done(&to);
    return r;
}
