/* SPDX-License-Identifier: MIT */
/*
 * Jobs of an owner.
 *
 * 1. A job runs on its own fiber and outlives the call that started it only when detached.
 * 2. A job in the list may be freed only when it has ended and nobody watches it.
 *
 * Called on the owner's loop by request handlers; vd_job_follow yields.
 */
#include "server/job.h"

#include "server/owner.h"
#include "server/wire.h"

#include <stdlib.h>

#define JOBS_KEPT 32u                   /* ended ones */
#define JOBS_MAX 64u                    /* running ones */
#define PROGRESS_NS UINT64_C(200000000) /* between two progress events of one watcher */

const char *vd_job_state_name(enum vd_job_state state)
{
    static const char *const names[] = {"running", "done", "failed", "cancelled", "interrupted"};
    return names[state];
}

static void job_free(struct vd_job *job)
{
    vd_list_remove(&job->link);
    json_decref(job->result);
    free(job->target);
    free(job);
}

static struct vd_job *job_of(struct vd_list *link)
{
    return vd_container_of(link, struct vd_job, link);
}

/* Forgets the oldest ended jobs beyond what is kept. */
static void jobs_trim(struct vd_owner *o)
{
    unsigned ended = 0;
    vd_list_each (it, &o->jobs)
        ended += job_of(it)->state != VD_JOB_RUNNING;
    vd_list_each_safe (it, &o->jobs) {
        struct vd_job *job = job_of(it);
        if (job->state == VD_JOB_RUNNING || job->watchers)
            continue;
        if (ended > JOBS_KEPT || (job->quiet && job->state == VD_JOB_DONE)) {
            job_free(job);
            ended--;
        }
    }
}

static void job_fiber(void *arg)
{
    struct vd_job *job = arg;
    struct vd_owner *o = job->owner;
    json_t *result = NULL;
    int r = job->fn(job, job->arg, &result, &job->err);
    if (job->free_arg)
        job->free_arg(job->arg);
    job->arg = NULL;
    job->unblock = NULL;
    job->look = NULL;
    job->result = result;
    job->ended_s = vd_loop_wall_s(o->loop);
    if (r == 0)
        job->state = VD_JOB_DONE;
    else if (r == -ECANCELED && job->hold_over)
        job->state = VD_JOB_INTERRUPTED;
    else if (r == -ECANCELED)
        job->state = VD_JOB_CANCELLED;
    else
        job->state = VD_JOB_FAILED;
    if (r < 0 && job->err.code == 0)
        vd_fail_at(&job->err, r, "%s", job->kind);
    vd_wake_all(&job->changed);
    vd_group_done(&o->job_group);
    jobs_trim(o);
}

int vd_job_start(struct vd_owner *o, const char *kind, const char *target, vd_job_fn *fn, void *arg,
                 void (*free_arg)(void *), struct vd_job **ret, struct vd_error *err)
{
    struct vd_job *job = NULL;
    int r = 0;
    if (o->cutting)
        r = vd_fail(err, -ECANCELED, "owner-closing", "the owner of the pool is ending");
    else if (o->job_group.pending >= JOBS_MAX)
        r = vd_fail(err, -EBUSY, "too-many-jobs", "%u jobs run already: wait for one", JOBS_MAX);
    else if (!(job = calloc(1, sizeof(*job))) || !(job->target = strdup(target)))
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    if (r == 0) {
        job->owner = o;
        job->id = o->next_job;
        job->kind = kind;
        job->fn = fn;
        job->arg = arg;
        job->free_arg = free_arg;
        job->started_s = vd_loop_wall_s(o->loop);
        vd_waitq_init(&job->changed);
        r = vd_fiber_spawn(o->loop, kind, job_fiber, job);
        if (r < 0)
            vd_fail(err, r, "no-memory", "cannot start a job: %s", strerror(-r));
    }
    if (r < 0) {
        if (free_arg)
            free_arg(arg);
        if (job)
            free(job->target);
        free(job);
        return r;
    }
    o->next_job++;
    vd_group_add(&o->job_group);
    vd_list_push(&o->jobs, &job->link);
    *ret = job;
    return 0;
}

static int emit_progress(struct vd_call *call, const struct vd_job *job)
{
    if (!call->emit)
        return 0;
    return call->emit(call->arg, json_pack("{s:s, s:i, s:s, s:I, s:I}", "event", "progress", "job",
                                           (int)job->id, "kind", job->kind, "done",
                                           (json_int_t)job->done, "total", (json_int_t)job->total));
}

int vd_job_follow(struct vd_job *job, struct vd_call *call, bool only_watch, json_t **ret,
                  struct vd_error *err)
{
    struct vd_waitq *before = call->wake;
    uint64_t told = UINT64_MAX;
    job->watchers++;
    call->wake = &job->changed;
    while (job->state == VD_JOB_RUNNING) {
        if (call->cancelled && only_watch)
            break;
        if (call->cancelled)
            vd_job_cancel(job);
        /* A wake-up is the end or a cancellation, a time-out the moment to say how far it is. */
        bool ended = vd_wait_for(&job->changed, PROGRESS_NS) == 0;
        if (job->look)
            job->look(job, job->arg);
        if (!ended && job->done != told) {
            told = job->done;
            if (emit_progress(call, job) < 0)
                call->cancelled = true;
        }
    }
    call->wake = before;
    job->watchers--;
    if (job->state == VD_JOB_RUNNING)
        return vd_fail(err, -ECANCELED, "cancelled", "job %u goes on", job->id);
    if (job->state != VD_JOB_DONE) {
        if (err)
            *err = job->err;
        return job->err.code;
    }
    (void)emit_progress(call, job);
    if (ret)
        *ret = job->result ? json_incref(job->result) : json_object();
    return 0;
}

int vd_job_call(struct vd_call *call, const char *kind, const char *target, vd_job_fn *fn,
                void *arg, void (*free_arg)(void *), json_t **ret, struct vd_error *err)
{
    struct vd_job *job;
    bool detach = json_is_true(json_object_get(call->args, "detach"));
    int r = vd_job_start(call->owner, kind, target, fn, arg, free_arg, &job, err);
    if (r < 0)
        return r;
    if (!detach)
        return vd_job_follow(job, call, false, ret, err);
    *ret = json_pack("{s:o}", "job", vd_job_json(job));
    return 0;
}

struct vd_job *vd_job_find(struct vd_owner *o, unsigned id)
{
    vd_list_each (it, &o->jobs)
        if (job_of(it)->id == id)
            return job_of(it);
    return NULL;
}

void vd_job_cancel(struct vd_job *job)
{
    job->cancel = true;
    if (job->unblock && job->state == VD_JOB_RUNNING)
        job->unblock(job->arg);
}

json_t *vd_job_json(struct vd_job *job)
{
    if (job->look)
        job->look(job, job->arg);
    json_t *o = json_pack(
        "{s:i, s:s, s:o, s:s, s:I, s:I, s:I}", "id", (int)job->id, "kind", job->kind, "target",
        vd_wire_text(job->target), "state",
        job->cancel && job->state == VD_JOB_RUNNING ? "stopping" : vd_job_state_name(job->state),
        "done", (json_int_t)job->done, "total", (json_int_t)job->total, "started",
        (json_int_t)job->started_s);
    if (job->ended_s)
        json_object_set_new(o, "ended", json_integer((json_int_t)job->ended_s));
    if (job->err.code)
        json_object_set_new(o, "error", vd_wire_error(&job->err));
    return o;
}

void vd_jobs_interrupt(struct vd_owner *o)
{
    vd_list_each (it, &o->jobs) {
        struct vd_job *job = job_of(it);
        if (job->state != VD_JOB_RUNNING)
            continue;
        job->hold_over = true;
        vd_job_cancel(job);
    }
}

void vd_jobs_free(struct vd_owner *o)
{
    vd_list_each_safe (it, &o->jobs)
        job_free(job_of(it));
}
