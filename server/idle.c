/* SPDX-License-Identifier: MIT */
/*
 * Letting go of memory: an owner whose clients have asked for nothing for half a minute gives back
 * what is only there to be quick (cached nodes, buffers, spare pages of the allocator). What comes
 * next finds less in memory, and nothing else is different.
 *
 * 1. It lets go once per idle time, and only after something happened.
 *
 * One fiber of a serving owner; yields.
 */
#include "server/idle_priv.h"

#include "core/base/log.h"
#include "server/request_priv.h"

#include <malloc.h>

#define LOOK_NS UINT64_C(1000000000)
#define IDLE_NS UINT64_C(30000000000)

static void let_go(struct vd_owner *o)
{
    vd_store_trim(o->store);
    vd_doors_trim(o);
    malloc_trim(0);
    vd_log(VD_LOG_DEBUG, "%s: idle, memory is given back", o->path);
}

static bool jobs_run(struct vd_owner *o)
{
    vd_list_each (it, &o->jobs)
        if (vd_container_of(it, struct vd_job, link)->state == VD_JOB_RUNNING)
            return true;
    return false;
}

static void idle_fiber(void *arg)
{
    struct vd_owner *o = arg;
    uint64_t seen = UINT64_MAX, since_ns = 0;
    bool done = false;
    while (!o->closing) {
        uint64_t now = vd_loop_now_ns(o->loop), requests = vd_gates_requests(o->gates);
        if (requests != seen || jobs_run(o)) {
            seen = requests;
            since_ns = now;
            done = false;
        } else if (!done && now - since_ns >= IDLE_NS) {
            let_go(o);
            done = true;
        }
        (void)vd_wait_for(&o->idle, LOOK_NS);
    }
    vd_group_done(&o->job_group);
}

int idle_start(struct vd_owner *o)
{
    vd_group_add(&o->job_group);
    int r = vd_fiber_spawn(o->loop, "idle watch", idle_fiber, o);
    if (r < 0)
        vd_group_done(&o->job_group);
    return r;
}

void idle_kick(struct vd_owner *o)
{
    vd_wake_all(&o->idle);
}
