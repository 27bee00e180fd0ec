/* SPDX-License-Identifier: MIT */
/*
 * Background work of a serving owner: purges, folds and cleaning that commands and guests caused.
 * One fiber looks once a second and after each changing command; the work itself is a job, so it
 * can be seen and cancelled.
 *
 * 1. Never two settle jobs at once.
 * 2. Work that a job left undone is tried again only when its amount has changed.
 */
#include "server/settle_priv.h"

#include "core/base/log.h"
#include "server/request_priv.h"

#define LOOK_NS UINT64_C(1000000000)

static int settle_job(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err)
{
    struct vd_owner *o = job->owner;
    job->total = vd_store_backlog(o->store);
    int r = vd_store_settle(o->store, &job->cancel);
    job->done = job->total;
    return r < 0 ? vd_fail(err, r, "settle-failed", "background work: %s", strerror(-r)) : 0;
}

static void settle_fiber(void *arg)
{
    struct vd_owner *o = arg;
    struct vd_job *job = NULL;
    uint64_t left_before = 0;
    while (!o->closing) {
        uint64_t left = vd_store_backlog(o->store);
        if (left && left != left_before) {
            struct vd_error err = {0};
            struct vd_call call = {.owner = o, .wake = &o->settle};
            int r = vd_job_start(o, "settle", o->full_path, settle_job, NULL, NULL, &job, &err);
            if (r == 0) {
                job->quiet = true;
                r = vd_job_follow(job, &call, false, NULL, &err);
            }
            if (r < 0 && r != -ECANCELED)
                vd_log(VD_LOG_WARNING, "%s", err.message);
            left_before = vd_store_backlog(o->store);
        }
        if (!o->closing)
            (void)vd_wait_for(&o->settle, LOOK_NS);
    }
    o->settling = false;
    vd_group_done(&o->job_group);
}

int settle_start(struct vd_owner *o)
{
    vd_group_add(&o->job_group);
    int r = vd_fiber_spawn(o->loop, "settle watch", settle_fiber, o);
    if (r < 0)
        vd_group_done(&o->job_group);
    else
        o->settling = true;
    return r;
}

void settle_kick(struct vd_owner *o)
{
    if (o->settling)
        vd_wake_all(&o->settle);
}
