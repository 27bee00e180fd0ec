/* SPDX-License-Identifier: MIT */
/*
 * Jobs: long work of an owner, one fiber each, that can be watched, waited for and cancelled by any
 * client. A job that has ended stays in the list until newer ones push it out.
 */
#ifndef VD_SERVER_JOB_H
#define VD_SERVER_JOB_H

#include "core/base/error.h"
#include "core/io/fiber.h"

#include <jansson.h>

struct vd_owner;
struct vd_call;

enum vd_job_state {
    VD_JOB_RUNNING,
    VD_JOB_DONE,
    VD_JOB_FAILED,
    VD_JOB_CANCELLED,
    VD_JOB_INTERRUPTED, /* stopped by the owner's end; can be resumed */
};

struct vd_job;
/* The work itself, on a fiber of its own. Looks at job->cancel, keeps job->done and ->total.
 * *ret is a result object or stays NULL. VD_YIELDS */
typedef int vd_job_fn(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err);

struct vd_job {
    struct vd_list link;
    struct vd_owner *owner;
    unsigned id;
    const char *kind;     /* a literal */
    char *target;         /* for people */
    uint64_t done, total; /* bytes or other units; total 0 = unknown */
    uint64_t started_s, ended_s;
    enum vd_job_state state;
    bool cancel;    /* somebody wants it to stop */
    bool hold_over; /* and to be resumable: the owner ends */
    struct vd_error err;
    json_t *result;
    struct vd_waitq changed;
    bool quiet;        /* of no interest once it is done */
    unsigned watchers; /* calls that look at it: it is not to be freed */
    vd_job_fn *fn;
    void *arg;
    void (*free_arg)(void *arg);
    void (*look)(struct vd_job *job, void *arg); /* brings `done` up to date, if set */
    void (*unblock)(void *arg); /* called when it is cancelled, if set: wakes it from a pipe */
};

/* Starts a job; `arg` is taken over in any case and freed by free_arg when the work has ended. The
 * job belongs to the owner. */
int vd_job_start(struct vd_owner *o, const char *kind, const char *target, vd_job_fn *fn, void *arg,
                 void (*free_arg)(void *), struct vd_job **ret, struct vd_error *err);
/* Waits for its end, telling the call's client how far it is. A cancelled call cancels the job, or
 * with `only_watch` just stops waiting (-ECANCELED). Returns what the job returned; ret may be
 * NULL. VD_YIELDS */
int vd_job_follow(struct vd_job *job, struct vd_call *call, bool only_watch, json_t **ret,
                  struct vd_error *err);
/* vd_job_start and vd_job_follow; with "detach" in the call's arguments only {"job": {...}}. */
int vd_job_call(struct vd_call *call, const char *kind, const char *target, vd_job_fn *fn,
                void *arg, void (*free_arg)(void *), json_t **ret, struct vd_error *err);
/* NULL when there is none of that id. */
struct vd_job *vd_job_find(struct vd_owner *o, unsigned id);
void vd_job_cancel(struct vd_job *job);
json_t *vd_job_json(struct vd_job *job);
const char *vd_job_state_name(enum vd_job_state state);
/* Cancels all that run, holding over what can be resumed. */
void vd_jobs_interrupt(struct vd_owner *o);
void vd_jobs_free(struct vd_owner *o);

#endif
