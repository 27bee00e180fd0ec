/* SPDX-License-Identifier: MIT */
/*
 * What fibers wait on: time, queues, mutexes, groups. On the loop's thread; the functions marked
 * VD_YIELDS in fiber.h suspend, the others do not.
 *
 * Invariant: a waiter's node lies on its own stack and is linked exactly while it waits, so a wake
 * meant for something else makes it look again, never return early.
 */
#include "core/io/loop_priv.h"

struct waiter {
    struct vd_list link;
    struct vd_fiber *fiber;
};

struct timed_waiter {
    struct waiter w;
    struct loop_timer timer;
    bool timed_out;
};

/* Not inlined: the compiler would warn of a local's address in the queue, which is the idea. */
__attribute__((noinline)) static void waiter_enqueue(struct vd_waitq *q, struct waiter *w)
{
    vd_list_push(&q->fibers, &w->link);
}

/* ---- time ---- */

static void sleep_over(struct loop_timer *timer)
{
    struct timed_waiter *tw = vd_container_of(timer, struct timed_waiter, timer);
    tw->timed_out = true;
    vd_list_remove(&tw->w.link);
    vd_fiber_wake(tw->w.fiber);
}

static uint64_t deadline_after(struct vd_loop *loop, uint64_t ns)
{
    uint64_t now = vd_loop_now_ns(loop);
    return ns < LOOP_NEVER - 1 - now ? now + ns : LOOP_NEVER - 1;
}

void vd_fiber_sleep(uint64_t ns)
{
    struct timed_waiter tw = {.w.fiber = vd_fiber_current()};
    struct vd_loop *loop = tw.w.fiber->loop;
    vd_list_init(&tw.w.link);
    loop_timer_start(loop, &tw.timer, deadline_after(loop, ns), sleep_over);
    while (!tw.timed_out)
        vd_fiber_suspend();
}

/* ---- queues ---- */

void vd_waitq_init(struct vd_waitq *q)
{
    vd_list_init(&q->fibers);
}

void vd_wait(struct vd_waitq *q)
{
    struct waiter w = {.fiber = vd_fiber_current()};
    waiter_enqueue(q, &w);
    while (!vd_list_empty(&w.link))
        vd_fiber_suspend();
}

int vd_wait_for(struct vd_waitq *q, uint64_t ns)
{
    struct timed_waiter tw = {.w.fiber = vd_fiber_current()};
    struct vd_loop *loop = tw.w.fiber->loop;
    waiter_enqueue(q, &tw.w);
    loop_timer_start(loop, &tw.timer, deadline_after(loop, ns), sleep_over);
    while (!vd_list_empty(&tw.w.link))
        vd_fiber_suspend();
    loop_timer_stop(loop, &tw.timer);
    return tw.timed_out ? -ETIMEDOUT : 0;
}

void vd_wake_one(struct vd_waitq *q)
{
    struct vd_list *it = vd_list_pop(&q->fibers);
    if (it)
        vd_fiber_wake(vd_container_of(it, struct waiter, link)->fiber);
}

void vd_wake_all(struct vd_waitq *q)
{
    while (!vd_list_empty(&q->fibers))
        vd_wake_one(q);
}

bool vd_waitq_empty(const struct vd_waitq *q)
{
    return vd_list_empty(&q->fibers);
}

/* ---- mutual exclusion ---- */

void vd_fmutex_init(struct vd_fmutex *m)
{
    m->held = false;
    vd_waitq_init(&m->q);
}

void vd_fmutex_lock(struct vd_fmutex *m)
{
    if (!m->held) {
        m->held = true;
        return;
    }
    vd_wait(&m->q); /* handed over, still held, by unlock */
}

void vd_fmutex_unlock(struct vd_fmutex *m)
{
    assert(m->held);
    if (vd_waitq_empty(&m->q))
        m->held = false;
    else
        vd_wake_one(&m->q);
}

/* ---- groups ---- */

void vd_group_init(struct vd_group *g)
{
    g->pending = 0;
    vd_waitq_init(&g->q);
}

void vd_group_add(struct vd_group *g)
{
    g->pending++;
}

void vd_group_done(struct vd_group *g)
{
    assert(g->pending > 0);
    if (--g->pending == 0)
        vd_wake_all(&g->q);
}

void vd_group_wait(struct vd_group *g)
{
    while (g->pending)
        vd_wait(&g->q);
}
