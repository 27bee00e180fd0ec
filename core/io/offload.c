/* SPDX-License-Identifier: MIT */
/*
 * vd_offload: a function that blocks or computes for long runs on another thread while the fiber
 * waits. In SIM it runs in place after a yield, so that a seed replays it.
 */
#include "core/io/loop_priv.h"

#define OFFLOAD_THREADS 4u

struct offload {
    struct work work;
    struct loop_wait wait;
    int (*fn)(void *arg);
    void *arg;
    int ret;
};

static void offload_run(struct work *work)
{
    struct offload *o = vd_container_of(work, struct offload, work);
    o->ret = o->fn(o->arg);
}

static void offload_over(struct vd_loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct offload *o = vd_container_of(msg, struct offload, work.msg);
    loop_wait_done(&o->wait);
}

int vd_offload(int (*fn)(void *arg), void *arg)
{
    struct vd_loop *loop = vd_loop_current();
    if (loop->backend == VD_LOOP_SIM) {
        vd_fiber_yield();
        return fn(arg);
    }
    struct offload o = {.work.run = offload_run, .work.msg.fn = offload_over, .fn = fn, .arg = arg};
    loop_wait_init(&o.wait, 1);
    if (!loop->offload)
        loop->offload = workpool_new(loop, OFFLOAD_THREADS);
    if (!loop->offload || workpool_submit(loop->offload, &o.work) < 0)
        return fn(arg); /* no thread to be had: late is better than never */
    loop_wait(&o.wait);
    return o.ret;
}
