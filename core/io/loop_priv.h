/* SPDX-License-Identifier: MIT */
/*
 * Inside core/io: what the loop, its back ends, fibers, devices and streams share.
 *
 * Invariants:
 *  L1 everything here belongs to the loop's thread, except loop_msg_send and the inbox behind it;
 *  L2 a completion only marks and wakes, it never runs fiber code: so it may come at any time, also
 *     while its own fiber is still submitting;
 *  L3 an operation's memory (loop_op, buffers) stays put until it has completed, cancelled or not.
 */
#ifndef VD_IO_LOOP_PRIV_H
#define VD_IO_LOOP_PRIV_H

#include "core/base/list.h"
#include "core/io/fiber.h"
#include "core/io/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#define LOOP_NEVER UINT64_MAX

/* ---- timers: an intrusive pairing heap, so that starting one cannot fail ---- */

struct loop_timer {
    struct loop_timer *child, *next, *prev; /* prev: the sibling before, or the parent */
    uint64_t at_ns, seq;                    /* equal times fire in the order they were started */
    void (*fn)(struct loop_timer *timer);   /* on the loop's thread, outside fibers; marks, wakes */
    bool armed;
};
void loop_timer_start(struct vd_loop *loop, struct loop_timer *t, uint64_t at_ns,
                      void (*fn)(struct loop_timer *timer));
void loop_timer_stop(struct vd_loop *loop, struct loop_timer *t); /* also if it is not armed */
/* LOOP_NEVER if there is none. */
uint64_t loop_timer_next_ns(const struct vd_loop *loop);

/* ---- messages from other threads ---- */

struct loop_msg {
    struct vd_list link;
    void (*fn)(struct vd_loop *loop, struct loop_msg *msg);
};
/* From any thread: has msg->fn called on the loop's thread. */
void loop_msg_send(struct vd_loop *loop, struct loop_msg *msg);
/* In loop.c: CLOCK_MONOTONIC, for the back ends whose clock it is. */
uint64_t loop_clock_ns(struct vd_loop *loop);
/* In signal.c: ends all vd_loop_wait_signal. */
void loop_signals_cancel(struct vd_loop *loop);

/* ---- threads for what blocks ---- */

struct work {
    struct loop_msg msg; /* its fn is called on the loop when `run` has returned */
    void (*run)(struct work *work);
};
struct workpool;
/* Threads start as they are needed, up to `threads_max`, and end with the pool. */
struct workpool *workpool_new(struct vd_loop *loop, unsigned threads_max);
void workpool_free(struct workpool *pool);
/* -EAGAIN if not even one thread can be had. */
int workpool_submit(struct workpool *pool, struct work *work);

/* ---- operations of the kernel ---- */

enum op_kind { OP_READV, OP_WRITEV, OP_FDATASYNC, OP_FALLOCATE, OP_POLL, OP_RECV };

/* What a device does, as opposed to waits for a peer. */
static inline bool op_is_transfer(enum op_kind kind)
{
    return kind <= OP_FALLOCATE;
}

/* A fiber waiting for `pending` operations. */
struct loop_wait {
    struct vd_fiber *fiber;
    unsigned pending;
    bool parked; /* it sleeps for this and nothing else, so the last completion wakes it */
};

struct loop_op {
    enum op_kind kind;
    int fd;
    int flags;         /* RWF_*, the mode of fallocate, poll events, MSG_* */
    int res;           /* out: the system call's result or -errno; poll: the events */
    bool in_flight;    /* between loop_op_submit and its completion */
    uint64_t off, len; /* of fallocate */
    const struct iovec *iov;
    unsigned iovcnt;
    void *buf; /* OP_RECV, of size `len` */
    struct loop_wait *wait;
    struct loop_op *next; /* the owner's chain, or the loop's spare ones */
    struct vd_list link;  /* the back end's */
    union {
        struct loop_timer timer; /* SIM */
        struct work work;        /* epoll */
    };
};
void loop_op_submit(struct vd_loop *loop, struct loop_op *op);
void loop_op_complete(struct vd_loop *loop, struct loop_op *op, int res);
/* Makes an OP_POLL or OP_RECV in flight complete soon, with -ECANCELED if nothing else came. */
void loop_op_cancel(struct vd_loop *loop, struct loop_op *op);
void loop_wait_init(struct loop_wait *w, unsigned pending);
void loop_wait(struct loop_wait *w); /* VD_YIELDS */
/* One completion. */
void loop_wait_done(struct loop_wait *w);
/* Submits one operation, waits for it, returns its result. VD_YIELDS */
int loop_op_run(struct vd_loop *loop, struct loop_op *op);
/* Spare operations, kept for ever once made; NULL if there is no memory. */
struct loop_op *loop_op_get(struct vd_loop *loop);
void loop_op_put(struct vd_loop *loop, struct loop_op *op);
/* Does a device operation (READV..FALLOCATE) in the calling thread. */
int loop_op_execute(const struct loop_op *op);
/* Tries an OP_POLL or OP_RECV whose descriptor has `events`; false: it must go on waiting. */
bool loop_op_try(struct vd_loop *loop, struct loop_op *op, short events);
/* To be called before a descriptor that was used in OP_POLL or OP_RECV is closed. */
void loop_fd_forget(struct vd_loop *loop, int fd);

/* ---- back ends ---- */

struct loop_ops {
    const char *name;
    int (*init)(struct vd_loop *loop);
    void (*done)(struct vd_loop *loop);
    int (*start)(struct vd_loop *loop); /* on the thread that will run it */
    /* Sends out what was submitted and collects what has completed. Blocks until something has, or
     * until `until_ns` (0: does not block; LOOP_NEVER). 0 or -errno. */
    int (*wait)(struct vd_loop *loop, uint64_t until_ns);
    void (*submit)(struct vd_loop *loop, struct loop_op *op);
    void (*cancel)(struct vd_loop *loop, struct loop_op *op);
    void (*forget)(struct vd_loop *loop, int fd);
    uint64_t (*now_ns)(struct vd_loop *loop);
};
extern const struct loop_ops loop_uring_ops, loop_epoll_ops, loop_sim_ops;

/* ---- fibers ---- */

/* A place to switch to. */
struct fiber_ctx {
    void *sp;
    const void *stack_bottom; /* for the sanitizers */
    size_t stack_len;
    void *sanitizer;
};

/* READY: new or yielded; WOKEN: was suspended. Both stand in the ready list, but one that yielded
 * in its own until the turn ends. */
enum fiber_state { FIBER_READY, FIBER_WOKEN, FIBER_RUNNING, FIBER_SUSPENDED, FIBER_ENDED };

/* Lives at the top of its own stack. */
struct vd_fiber {
    struct vd_list link; /* ready list */
    struct vd_list all;  /* loop->fibers, or the cache of stacks */
    struct vd_loop *loop;
    const char *name;
    void (*fn)(void *arg);
    void *arg;
    enum fiber_state state;
    bool woken; /* a wake came before its suspend */
    char *map;  /* the mapping: guard page, then the stack */
    unsigned valgrind_id;
    struct loop_msg msg; /* its way from another thread */
    struct fiber_ctx ctx;
};

/* Stacks kept for fibers to come. */
struct fiber_stacks {
    struct vd_list fibers;
    unsigned count;
};
void fiber_stacks_init(struct fiber_stacks *stacks);
/* Moves some, while there are any, until `to` has `most`. */
void fiber_stacks_lend(struct fiber_stacks *from, struct fiber_stacks *to, unsigned most);

struct fiber_set {
    struct vd_list ready, yielded, all;
    struct fiber_stacks cached;
    unsigned count;
    size_t high_water; /* of stacks already unmapped */
    struct vd_fiber *current;
    struct fiber_ctx scheduler;
};
void fiber_set_init(struct fiber_set *set);
/* Unmaps everything; fibers that are left are dropped where they stand. */
void fiber_set_done(struct fiber_set *set);
/* A fiber not yet known to the loop, on one of `stacks` if there is one. */
struct vd_fiber *fiber_new(struct fiber_stacks *stacks, const char *name, void (*fn)(void *),
                           void *arg);
void fiber_start(struct vd_loop *loop, struct vd_fiber *fiber);
/* Runs those that are ready, and those that they wake, as far as one turn goes. */
void fiber_run_ready(struct vd_loop *loop);
void fiber_discard(struct fiber_set *set, struct vd_fiber *fiber); /* one never started */
size_t fiber_high_water(const struct fiber_set *set);

/* fiber_ctx.c: the switch itself. `dying`: the one left will never be switched to again. */
void fiber_ctx_make(struct fiber_ctx *ctx, char *stack, size_t len, char *top);
void fiber_ctx_drop(struct fiber_ctx *ctx);
void fiber_ctx_adopt_thread(struct fiber_ctx *ctx);
void fiber_ctx_switch(struct fiber_ctx *from, struct fiber_ctx *to, bool dying);
/* First thing on a new stack; `came_from` learns the bounds of the stack that was left. */
void fiber_ctx_arrived(struct fiber_ctx *ctx, struct fiber_ctx *came_from);
void fiber_entry(void) __attribute__((noreturn));
size_t fiber_stack_len(void);

/* ---- the loop ---- */

struct vd_loop {
    const struct loop_ops *ops;
    enum vd_loop_backend backend;
    void *be; /* the back end's state */
    struct fiber_set fibers;
    struct loop_timer *timers;
    uint64_t timer_seq;
    struct vd_rng rng;
    struct vd_loop_stats stats;
    struct loop_op *spare_ops;
    bool answered_lately;     /* somebody was, at once, and so may go on at once */
    struct workpool *offload; /* made at first use */
    struct vd_list signal_waits;
    bool stop;    /* leave vd_loop_run at the next turn */
    bool stopped; /* was ever told to stop */
    bool running;

    pthread_mutex_t inbox_lock;
    struct vd_list inbox;       /* under the lock */
    struct fiber_stacks stacks; /* under the lock: for the fibers of vd_loop_post */
    atomic_bool inbox_full;     /* set by senders, cleared by the loop before it looks */
    atomic_bool awake;          /* the back end looks at inbox_full before it sleeps again */
    int poke_fd;                /* eventfd that ends the back end's sleep */
};
extern __thread struct vd_loop *loop_this_thread;

#endif
