/* SPDX-License-Identifier: MIT */
/*
 * Fibers: stackful coroutines pinned to the loop they were spawned on. Code on a fiber reads like
 * blocking code; whatever is marked VD_YIELDS may run other fibers meanwhile. All the calls below
 * must be made on the loop's thread. None of the objects below is for sharing between threads.
 */
#ifndef VD_IO_FIBER_H
#define VD_IO_FIBER_H

#include "core/base/list.h"
#include "core/io/loop.h"

struct vd_fiber;

#define VD_FIBER_STACK VD_KIB(64) /* guarded below; the high-water mark is checked in tests */

/* Starts fn(arg) on `loop` at the loop's next turn. `name` must outlive the fiber. -ENOMEM. */
int vd_fiber_spawn(struct vd_loop *loop, const char *name, void (*fn)(void *arg), void *arg);
/* The running fiber; NULL outside one. */
struct vd_fiber *vd_fiber_current(void);
/* Lets every other runnable fiber go first. VD_YIELDS */
void vd_fiber_yield(void);
/* VD_YIELDS */
void vd_fiber_sleep(uint64_t ns);
/* The primitives beneath everything else: suspend until vd_fiber_wake (which may come first, once:
 * then suspend returns at once). VD_YIELDS */
void vd_fiber_suspend(void);
void vd_fiber_wake(struct vd_fiber *fiber);

/* A queue of waiting fibers, first in first out. Wait in a loop that re-checks its condition:
 *     while (!condition) vd_wait(&q);                                                       */
struct vd_waitq {
    struct vd_list fibers;
};
void vd_waitq_init(struct vd_waitq *q);
void vd_wait(struct vd_waitq *q); /* VD_YIELDS */
/* 0 when woken, -ETIMEDOUT after `ns`. VD_YIELDS */
int vd_wait_for(struct vd_waitq *q, uint64_t ns);
void vd_wake_one(struct vd_waitq *q);
void vd_wake_all(struct vd_waitq *q);
bool vd_waitq_empty(const struct vd_waitq *q);

/* Mutual exclusion across yields, fair. */
struct vd_fmutex {
    bool held;
    struct vd_waitq q;
};
void vd_fmutex_init(struct vd_fmutex *m);
void vd_fmutex_lock(struct vd_fmutex *m); /* VD_YIELDS */
void vd_fmutex_unlock(struct vd_fmutex *m);

/* Counts fibers in flight: add before spawning, done at the end of each, wait for zero. */
struct vd_group {
    unsigned pending;
    struct vd_waitq q;
};
void vd_group_init(struct vd_group *g);
void vd_group_add(struct vd_group *g);
void vd_group_done(struct vd_group *g);
void vd_group_wait(struct vd_group *g); /* VD_YIELDS */

/* Runs fn(arg) on an offload thread (blocking or CPU-heavy code) and returns what it returned.
 * In SIM it runs in place, after a yield. VD_YIELDS */
int vd_offload(int (*fn)(void *arg), void *arg);

/* Test helper and command-line entry: makes a loop, runs fn(arg) on a fiber until all fibers have
 * ended, frees the loop; returns fn's value or -errno of the loop. */
int vd_fiber_main(enum vd_loop_backend backend, uint64_t seed, int (*fn)(void *arg), void *arg);

#endif
