/* SPDX-License-Identifier: MIT */
/*
 * Calls that the kernel may hold up until we have answered it: each has a thread of its own.
 * vd_offload has a few threads for everybody, and writes to the pool need them too: were all of
 * them held up, the answers that they wait for would never be given.
 *
 * fthread_run is called on fibers and yields.
 */
#include "fuse/fuse_priv.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

struct call {
    struct vd_loop *loop;
    struct vd_fiber *fiber;
    int (*fn)(void *arg);
    void *arg;
    int ret;
    bool over;
};

/* On the loop. */
static void call_over(void *arg)
{
    struct call *c = arg;
    c->over = true;
    vd_fiber_wake(c->fiber);
}

static void *thread_main(void *arg)
{
    struct call *c = arg;
    c->ret = c->fn(c->arg);
    while (vd_loop_post(c->loop, call_over, c) < 0)
        usleep(1000); /* no memory: somebody waits for this, so try again */
    return NULL;
}

static int thread_start(struct call *c)
{
    sigset_t all, old;
    pthread_t id;
    sigfillset(&all); /* signals belong to the loop */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&id, NULL, thread_main, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0)
        pthread_detach(id);
    return -r;
}

int fthread_run(int (*fn)(void *arg), void *arg)
{
    struct call c = {.loop = vd_loop_current(), .fiber = vd_fiber_current(), .fn = fn, .arg = arg};
    if (thread_start(&c) < 0)
        return vd_offload(fn, arg);
    while (!c.over)
        vd_fiber_suspend();
    return c.ret;
}
