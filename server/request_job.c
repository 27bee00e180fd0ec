/* SPDX-License-Identifier: MIT */
/*
 * Requests about jobs, and those that look at the whole pool as a job: diff and check. Yields.
 */
#include "server/request_priv.h"

#include "snapshot/snapshot.h"

#include <stdio.h>

#define FINDINGS_MAX 1000u
#define EXTENTS_BATCH 512u

static int job_id(struct vd_call *call, unsigned *ret, struct vd_error *err)
{
    uint64_t id;
    int r = request_need_u64(call, "id", &id, err);
    if (r == 0 && (id == 0 || id > INT32_MAX))
        r = request_bad(err, "id");
    if (r == 0)
        *ret = (unsigned)id;
    return r;
}

static int no_job(unsigned id, struct vd_error *err)
{
    return vd_fail(err, -ENOENT, "job-not-found", "there is no job %u", id);
}

int request_job_list(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    json_t *list = json_array();
    vd_list_each (it, &call->owner->jobs) {
        struct vd_job *job = vd_container_of(it, struct vd_job, link);
        if (!job->quiet || job->state != VD_JOB_DONE)
            json_array_append_new(list, vd_job_json(job));
    }
    int r = imports_left(call->owner, list);
    *ret = json_pack("{s:o}", "jobs", list);
    return r;
}

/* Waits for one job and puts what became of it into *ret. */
static int wait_one(struct vd_call *call, struct vd_job *job, json_t **ret, struct vd_error *err)
{
    job->watchers++;
    int r = vd_job_follow(job, call, true, NULL, err);
    job->watchers--;
    if (r == 0)
        *ret = json_pack("{s:o}", "job", vd_job_json(job));
    return r;
}

/* {"id"?}: without it, all that run */
int request_job_wait(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct vd_owner *o = call->owner;
    unsigned id = 0;
    if (json_object_get(call->args, "id")) {
        int r = job_id(call, &id, err);
        if (r < 0)
            return r;
        struct vd_job *job = vd_job_find(o, id);
        if (job)
            return wait_one(call, job, ret, err);
        char volume[VD_NAME_MAX + 1];
        json_t *left;
        if (import_left_find(o, id, volume, &left, NULL) < 0)
            return no_job(id, err);
        json_decref(left);
        return vd_fail(err, -ESRCH, "job-not-running",
                       "job %u was interrupted and does not run: resume or cancel it", id);
    }
    for (;;) {
        struct vd_job *running = NULL;
        vd_list_each (it, &o->jobs) {
            struct vd_job *job = vd_container_of(it, struct vd_job, link);
            if (!running && job->state == VD_JOB_RUNNING && strcmp(job->kind, "settle") != 0)
                running = job;
        }
        if (!running)
            break;
        json_decref(*ret);
        *ret = NULL;
        int r = wait_one(call, running, ret, err);
        if (r < 0)
            return r;
    }
    if (!*ret)
        *ret = json_object();
    return 0;
}

/* Throws away what an interrupted import has made. */
static int cancel_left(struct vd_owner *o, unsigned id, json_t **ret, struct vd_error *err)
{
    char volume[VD_NAME_MAX + 1];
    json_t *left;
    int r = import_left_find(o, id, volume, &left, err);
    if (r < 0)
        return r;
    const char *final = json_string_value(json_object_get(left, "name"));
    if (final && strcmp(final, volume) == 0) /* complete but for the mark */
        r = vd_store_prop_set(o->store, volume, IMPORT_PROPERTY, NULL, err);
    else
        r = vd_store_volume_delete(o->store, volume, true, err);
    json_decref(left);
    if (r == 0)
        *ret = json_pack("{s:{s:i, s:s}}", "job", "id", (int)id, "state", "cancelled");
    return r;
}

int request_job_cancel(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    unsigned id = 0;
    int r = job_id(call, &id, err);
    if (r < 0)
        return r;
    struct vd_job *job = vd_job_find(call->owner, id);
    if (!job || job->state == VD_JOB_INTERRUPTED)
        return cancel_left(call->owner, id, ret, err);
    if (job->state != VD_JOB_RUNNING)
        return vd_fail(err, -ESRCH, "job-not-running", "job %u has ended (%s)", id,
                       vd_job_state_name(job->state));
    vd_job_cancel(job);
    job->watchers++;
    while (job->state == VD_JOB_RUNNING && !call->cancelled) {
        call->wake = &job->changed;
        vd_wait(&job->changed);
    }
    call->wake = NULL;
    job->watchers--;
    *ret = json_pack("{s:o}", "job", vd_job_json(job));
    return 0;
}

struct diff {
    struct vd_call *call;
    struct vd_job *job;
    struct request_target from, to;
    json_t *batch;
    bool list; /* send the extents, not just the sums */
    uint64_t extents, changed, zero;
};

static int diff_send(struct diff *d)
{
    json_t *batch = d->batch;
    if (json_array_size(batch) == 0 || !d->call->emit)
        return 0;
    d->batch = json_array();
    int r =
        d->call->emit(d->call->arg, json_pack("{s:s, s:o}", "event", "extents", "extents", batch));
    return r < 0 ? -ECANCELED : 0;
}

static int diff_extent(void *arg, const struct vd_extent *e)
{
    struct diff *d = arg;
    d->extents++;
    d->changed += e->len;
    if (e->flags & VD_EXTENT_ZERO)
        d->zero += e->len;
    d->job->done = e->off + e->len;
    if (d->job->cancel)
        return -ECANCELED;
    if (!d->list)
        return 0;
    json_array_append_new(d->batch,
                          json_pack("{s:I, s:I, s:b}", "offset", (json_int_t)e->off, "length",
                                    (json_int_t)e->len, "zero", (e->flags & VD_EXTENT_ZERO) != 0));
    return json_array_size(d->batch) < EXTENTS_BATCH ? 0 : diff_send(d);
}

static int diff_job(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err)
{
    struct diff *d = arg;
    struct vd_volume_info info;
    struct vd_target to = d->to.t;
    struct vd_target from = d->from.t;
    d->job = job;
    if (vd_store_volume(job->owner->store, to.volume, &info, NULL) == 0)
        job->total = info.size;
    int r = vd_store_diff(job->owner->store, from, to, diff_extent, d, err);
    if (r == 0)
        r = diff_send(d);
    if (r == -ECANCELED)
        return vd_fail(err, r, "cancelled", "the listing was cancelled");
    if (r < 0)
        return r;
    job->done = job->total;
    *ret = json_pack("{s:I, s:I, s:I}", "count", (json_int_t)d->extents, "changed",
                     (json_int_t)d->changed, "zero", (json_int_t)d->zero);
    return 0;
}

/* {"from": TARGET, "to": TARGET, "list": bool}; events carry the extents */
int request_diff(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    char text[TARGET_TEXT];
    struct vd_job *job;
    struct diff *d = calloc(1, sizeof(*d));
    if (!d)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    d->call = call;
    d->list = request_flag(call, "list");
    d->batch = json_array();
    int r =
        request_target(call, json_object_get(call->args, "from"), TARGET_SNAPSHOT, &d->from, err);
    if (r == 0)
        r = request_target(call, json_object_get(call->args, "to"), TARGET_EITHER, &d->to, err);
    /* Never detached: the job sends to the client itself. */
    if (r == 0)
        r = vd_job_start(call->owner, "diff", request_target_text(&d->to, text, sizeof(text)),
                         diff_job, d, NULL, &job, err);
    if (r == 0)
        r = vd_job_follow(job, call, false, ret, err);
    json_decref(d->batch);
    free(d);
    return r;
}

struct check {
    bool data;
    json_t *findings;
    uint64_t count;
    struct vd_check_report report; /* fills as it goes */
};

static void check_finding(void *arg, const char *finding)
{
    struct check *c = arg;
    if (c->count++ < FINDINGS_MAX)
        json_array_append_new(c->findings, vd_wire_text(finding));
}

static void check_free(void *arg)
{
    struct check *c = arg;
    json_decref(c->findings);
    free(c);
}

static void check_look(struct vd_job *job, void *arg)
{
    struct check *c = arg;
    job->done = VD_MIN(c->report.blocks_checked * VD_BLOCK, job->total);
}

static int check_job(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err)
{
    struct check *c = arg;
    struct vd_store_info info;
    struct vd_check_report rep;
    if (c->data && vd_store_info(job->owner->store, &info) == 0) {
        job->total = info.live;
        job->look = check_look;
    }
    int r =
        vd_store_check(job->owner->pool, c->data, check_finding, c, &job->cancel, &c->report, err);
    rep = c->report;
    job->done = job->total;
    if (r == -ECANCELED)
        return vd_fail(err, r, "cancelled", "the check was cancelled");
    if (r < 0 && r != -EUCLEAN)
        return r;
    if (err)
        *err = (struct vd_error){0};
    *ret = json_pack("{s:b, s:b, s:O, s:I, s:I, s:I, s:I, s:I, s:I}", "sound", r == 0, "data",
                     c->data, "findings", c->findings, "found", (json_int_t)c->count, "nodes",
                     (json_int_t)rep.nodes, "runs", (json_int_t)rep.runs, "blocks",
                     (json_int_t)rep.blocks_checked, "errors", (json_int_t)rep.errors, "repairable",
                     (json_int_t)rep.repaired_copies);
    return 0;
}

/* {"data": bool, "detach"?} */
int request_check(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct check *c = calloc(1, sizeof(*c));
    if (!c || !(c->findings = json_array())) {
        free(c);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    c->data = request_flag(call, "data");
    return vd_job_call(call, "check", call->owner->full_path, check_job, c, check_free, ret, err);
}
