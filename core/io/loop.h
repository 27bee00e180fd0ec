/* SPDX-License-Identifier: MIT */
/*
 * The event loop: one per thread. It runs fibers, timers, device and socket I/O, and owns time and
 * random numbers. Three back ends: io_uring; epoll with a small thread pool for file I/O, where
 * io_uring is forbidden; and a simulated one, whose clock jumps and whose order of events comes
 * from a seed, so that one seed replays a run exactly.
 */
#ifndef VD_IO_LOOP_H
#define VD_IO_LOOP_H

#include "core/base/base.h"
#include "core/base/rng.h"

struct vd_loop;

enum vd_loop_backend { VD_LOOP_AUTO, VD_LOOP_URING, VD_LOOP_EPOLL, VD_LOOP_SIM };

/* AUTO takes io_uring when the kernel grants it, else epoll; the environment variable VDISK_LOOP
 * (uring, epoll) overrides it. `seed` matters to SIM only (others seed from entropy when 0).
 * -ENOSYS / -EPERM when the back end asked for is not to be had. */
int vd_loop_new(enum vd_loop_backend backend, uint64_t seed, struct vd_loop **ret);
/* Takes NULL. All fibers must have ended; any that are left, after a deadlock or a stop, are
 * dropped where they stand, with what they own. */
void vd_loop_free(struct vd_loop *loop);
/* Runs until no fiber is left or vd_loop_stop was called. Returns 0 or -errno of the back end.
 * In SIM: -EDEADLK when fibers are left and nothing can ever wake them. */
int vd_loop_run(struct vd_loop *loop);
/* Makes vd_loop_run return after one more turn, in which those it woke (vd_loop_wait_signal) run;
 * running again goes on with the fibers that are left. On the loop's thread. */
void vd_loop_stop(struct vd_loop *loop);
enum vd_loop_backend vd_loop_backend(const struct vd_loop *loop);
const char *vd_loop_backend_name(const struct vd_loop *loop);
/* Monotonic; in SIM virtual. */
uint64_t vd_loop_now_ns(struct vd_loop *loop);
/* Wall clock in seconds since 1970; in SIM derived from the virtual clock. */
uint64_t vd_loop_wall_s(struct vd_loop *loop);
struct vd_rng *vd_loop_rng(struct vd_loop *loop);
/* The loop running on this thread; NULL outside one. */
struct vd_loop *vd_loop_current(void);

/* Counters for tests and benchmarks, since the loop was made. */
struct vd_loop_stats {
    uint64_t wakeups;          /* times the thread slept in the kernel and was woken */
    uint64_t switches;         /* fiber switches */
    uint64_t io;               /* device requests completed */
    uint64_t stack_high_water; /* deepest fiber stack seen, bytes */
};
void vd_loop_stats(const struct vd_loop *loop, struct vd_loop_stats *ret);

/* Posts fn(arg) from any thread to be run, as a new fiber, on `loop`. The only call of this header
 * that other threads may make. -ENOMEM. */
int vd_loop_post(struct vd_loop *loop, void (*fn)(void *arg), void *arg);

/* SIGTERM, SIGINT and the like arrive on a signalfd of the loop: waits for the next of those given
 * in `set` (a NULL-terminated 0-ended list of numbers) and returns its number, or -ECANCELED after
 * vd_loop_stop. The signals must be blocked in all threads before. VD_YIELDS */
int vd_loop_wait_signal(const int *signals);

#endif
