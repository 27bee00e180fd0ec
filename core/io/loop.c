/* SPDX-License-Identifier: MIT */
/*
 * The event loop: turns of "run what is ready, send out and collect I/O, fire timers", the same for
 * all back ends, and the inbox through which other threads reach it.
 *
 * Invariants L1..L3 are in loop_priv.h, and:
 *  L4 one call of the back end per turn, which both submits and collects;
 *  L5 the loop sleeps only when no fiber is ready and the inbox was empty after it was declared so.
 */
#include "core/io/loop_priv.h"

#include "core/base/log.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define POST_STACKS 32u /* kept at hand for other threads */

__thread struct vd_loop *loop_this_thread;

/* ---- making and freeing ---- */

static void loop_destroy(struct vd_loop *loop)
{
    close(loop->poke_fd);
    pthread_mutex_destroy(&loop->inbox_lock);
    free(loop);
}

/* It is held for less than a sleep takes: the loop may see that the inbox is full while the sender
 * still has it. */
static void inbox_lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

static int loop_make(const struct loop_ops *ops, enum vd_loop_backend backend, uint64_t seed,
                     struct vd_loop **ret)
{
    struct vd_loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return -ENOMEM;
    loop->ops = ops;
    loop->backend = backend;
    fiber_set_init(&loop->fibers);
    vd_list_init(&loop->inbox);
    fiber_stacks_init(&loop->stacks);
    vd_list_init(&loop->signal_waits);
    inbox_lock_init(&loop->inbox_lock);
    if (!seed && backend != VD_LOOP_SIM)
        seed = vd_entropy_u64();
    vd_rng_seed(&loop->rng, seed);
    /* Blocking: io_uring then waits for it instead of answering EAGAIN. Nobody else reads an empty
     * one. */
    loop->poke_fd = eventfd(0, EFD_CLOEXEC);
    if (loop->poke_fd < 0) {
        int r = -errno;
        pthread_mutex_destroy(&loop->inbox_lock);
        free(loop);
        return r;
    }
    int r = ops->init(loop);
    if (r < 0) {
        loop_destroy(loop);
        return r;
    }
    *ret = loop;
    return 0;
}

int vd_loop_new(enum vd_loop_backend backend, uint64_t seed, struct vd_loop **ret)
{
    if (backend == VD_LOOP_AUTO) {
        const char *name = getenv("VDISK_LOOP");
        if (name && strcmp(name, "epoll") == 0)
            backend = VD_LOOP_EPOLL;
        else if (name && strcmp(name, "uring") == 0)
            backend = VD_LOOP_URING;
    }
    switch (backend) {
    case VD_LOOP_URING:
        return loop_make(&loop_uring_ops, backend, seed, ret);
    case VD_LOOP_EPOLL:
        return loop_make(&loop_epoll_ops, backend, seed, ret);
    case VD_LOOP_SIM:
        return loop_make(&loop_sim_ops, backend, seed, ret);
    case VD_LOOP_AUTO:
        break;
    }
    int r = loop_make(&loop_uring_ops, VD_LOOP_URING, seed, ret);
    if (r == 0)
        return 0;
    vd_log(VD_LOG_INFO, "io_uring is not to be had (%s), using epoll", strerrordesc_np(-r));
    return loop_make(&loop_epoll_ops, VD_LOOP_EPOLL, seed, ret);
}

void vd_loop_free(struct vd_loop *loop)
{
    if (!loop)
        return;
    assert(!loop->running);
    workpool_free(loop->offload);
    loop->ops->done(loop);
    struct vd_list *it;
    while ((it = vd_list_pop(&loop->inbox))) { /* posts that came too late; no work is left */
        struct loop_msg *msg = vd_container_of(it, struct loop_msg, link);
        fiber_discard(&loop->fibers, vd_container_of(msg, struct vd_fiber, msg));
    }
    fiber_stacks_lend(&loop->stacks, &loop->fibers.cached, UINT_MAX);
    fiber_set_done(&loop->fibers);
    while (loop->spare_ops) {
        struct loop_op *op = loop->spare_ops;
        loop->spare_ops = op->next;
        free(op);
    }
    loop_destroy(loop);
}

/* ---- messages from other threads ---- */

void loop_msg_send(struct vd_loop *loop, struct loop_msg *msg)
{
    /* The poke is inside the lock: the loop may be freed as soon as the message has been seen. */
    pthread_mutex_lock(&loop->inbox_lock);
    vd_list_push(&loop->inbox, &msg->link);
    if (!atomic_exchange(&loop->inbox_full, true) && !atomic_load(&loop->awake)) {
        uint64_t one = 1;
        ssize_t n = write(loop->poke_fd, &one, sizeof(one));
        (void)n; /* cannot fail: the counter never gets near its limit */
    }
    pthread_mutex_unlock(&loop->inbox_lock);
}

static void inbox_deliver(struct vd_loop *loop)
{
    if (!atomic_load(&loop->inbox_full))
        return;
    struct vd_list batch, *it;
    vd_list_init(&batch);
    pthread_mutex_lock(&loop->inbox_lock);
    atomic_store(&loop->inbox_full, false);
    vd_list_push_all(&batch, &loop->inbox);
    fiber_stacks_lend(&loop->fibers.cached, &loop->stacks, POST_STACKS);
    pthread_mutex_unlock(&loop->inbox_lock);
    while ((it = vd_list_pop(&batch))) {
        struct loop_msg *msg = vd_container_of(it, struct loop_msg, link);
        msg->fn(loop, msg);
    }
}

static void post_arrived(struct vd_loop *loop, struct loop_msg *msg)
{
    fiber_start(loop, vd_container_of(msg, struct vd_fiber, msg));
    loop->answered_lately = true; /* or soon: its sender waits for it, and goes on then */
}

int vd_loop_post(struct vd_loop *loop, void (*fn)(void *arg), void *arg)
{
    /* Made here, so that a lack of memory is known here. */
    pthread_mutex_lock(&loop->inbox_lock);
    struct vd_fiber *f = fiber_new(&loop->stacks, "post", fn, arg);
    pthread_mutex_unlock(&loop->inbox_lock);
    if (!f)
        return -ENOMEM;
    f->msg.fn = post_arrived;
    loop_msg_send(loop, &f->msg);
    return 0;
}

/* ---- running ---- */

static void timers_fire(struct vd_loop *loop)
{
    if (!loop->timers)
        return;
    uint64_t now = vd_loop_now_ns(loop);
    while (loop->timers && loop->timers->at_ns <= now) {
        struct loop_timer *t = loop->timers;
        loop_timer_stop(loop, t);
        t->fn(t);
    }
}

static void stuck_report(struct vd_loop *loop)
{
    vd_list_each (it, &loop->fibers.all) {
        vd_log(VD_LOG_ERROR, "fiber '%s' waits for something that can never come",
               vd_container_of(it, struct vd_fiber, all)->name);
    }
}

int vd_loop_run(struct vd_loop *loop)
{
    assert(!loop_this_thread);
    loop_this_thread = loop;
    loop->running = true;
    loop->stop = false;
    fiber_ctx_adopt_thread(&loop->fibers.scheduler);
    int r = loop->ops->start(loop);
    while (r == 0) {
        inbox_deliver(loop);
        timers_fire(loop);
        bool last = loop->stop; /* those that the stop has woken still run */
        fiber_run_ready(loop);
        if (last || (loop->fibers.count == 0 && !atomic_load(&loop->inbox_full)))
            break;
        bool busy = loop->stop || !vd_list_empty(&loop->fibers.ready) ||
                    atomic_load(&loop->inbox_full) || loop->fibers.count == 0;
        r = loop->ops->wait(loop, busy ? 0 : loop_timer_next_ns(loop));
    }
    if (r == -EDEADLK)
        stuck_report(loop);
    loop->running = false;
    loop_this_thread = NULL;
    return r;
}

void vd_loop_stop(struct vd_loop *loop)
{
    loop->stop = loop->stopped = true;
    loop_signals_cancel(loop);
}

struct main_call {
    int (*fn)(void *arg);
    void *arg;
    int ret;
};

static void main_fiber(void *arg)
{
    struct main_call *call = arg;
    call->ret = call->fn(call->arg);
}

int vd_fiber_main(enum vd_loop_backend backend, uint64_t seed, int (*fn)(void *arg), void *arg)
{
    struct main_call call = {.fn = fn, .arg = arg};
    struct vd_loop *loop;
    int r = vd_loop_new(backend, seed, &loop);
    if (r < 0)
        return r;
    r = vd_fiber_spawn(loop, "main", main_fiber, &call);
    if (r == 0)
        r = vd_loop_run(loop);
    vd_loop_free(loop);
    return r < 0 ? r : call.ret;
}

/* ---- questions ---- */

enum vd_loop_backend vd_loop_backend(const struct vd_loop *loop)
{
    return loop->backend;
}

const char *vd_loop_backend_name(const struct vd_loop *loop)
{
    return loop->ops->name;
}

uint64_t loop_clock_ns(struct vd_loop *loop)
{
    struct timespec ts;
    (void)loop;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

uint64_t vd_loop_now_ns(struct vd_loop *loop)
{
    return loop->ops->now_ns(loop);
}

uint64_t vd_loop_wall_s(struct vd_loop *loop)
{
    if (loop->backend == VD_LOOP_SIM)
        return UINT64_C(1700000000) + vd_loop_now_ns(loop) / UINT64_C(1000000000);
    return (uint64_t)time(NULL);
}

struct vd_rng *vd_loop_rng(struct vd_loop *loop)
{
    return &loop->rng;
}

struct vd_loop *vd_loop_current(void)
{
    return loop_this_thread;
}

void vd_loop_stats(const struct vd_loop *loop, struct vd_loop_stats *ret)
{
    *ret = loop->stats;
    ret->stack_high_water = fiber_high_water(&loop->fibers);
}
