/* SPDX-License-Identifier: MIT */
/*
 * The io_uring back end: one ring per loop, one system call at the end of a turn, which submits
 * what the turn has produced and collects completions. A turn that produces many transfers does not
 * keep the device waiting for its end: they are handed over a few at a time.
 *
 * Before it sleeps it may watch the completion queue for a moment, if many transfers are under
 * way: the next of them is near, it is met awake, and the dear sleep and wake are saved. A few take
 * the device's whole latency, and whoever sleeps meanwhile is woken on the processor that the
 * answer came to, which is quicker than to be met on another. It also watches after a write that
 * was handed over (dev_aio.h) or a call of another thread: who asked has been answered, and what it
 * does next is near. How long to watch is learned (watch.h), so an idle loop takes no CPU at all,
 * and a busy machine's processors are left to others.
 */
#include "core/base/watch.h"
#include "core/io/loop_priv.h"

#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RING_ENTRIES 256u
#define RING_COMPLETIONS 4096u
#define HAND_OVER 4u /* transfers not yet submitted, to submit them in the midst of a turn */
#define SPIN_MAX_NS 200000u
#define SPIN_TRANSFERS 12u     /* under way, to watch for the next */
#define SPIN_CROWDED_NS 20000u /* a yield that took so long has let somebody else run */
#define FLAT_LEN_MAX (UINT64_C(1) << 30)

struct uring {
    struct io_uring ring;
    bool deferred;      /* completions are posted only when we enter the kernel */
    bool poke_lost;     /* the read of poke_fd is to be submitted (again) */
    uint64_t poke;      /* what it reads; its address marks its completion */
    uint64_t spin_ns;   /* how long to watch before sleeping */
    unsigned transfers; /* under way: what a device does, not waits for peers */
};

static int uring_init(struct vd_loop *loop)
{
    struct uring *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    /* From the best set of flags to the plainest, by kernel. */
    const unsigned flags[] = {
        IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_R_DISABLED,
    };
    int r = -EINVAL;
    struct io_uring_params p;
    for (size_t i = 0; i < VD_ARRAY_SIZE(flags) && r == -EINVAL; i++) {
        memset(&p, 0, sizeof(p));
        p.flags = flags[i] | IORING_SETUP_CQSIZE;
        p.cq_entries = RING_COMPLETIONS;
        r = io_uring_queue_init_params(RING_ENTRIES, &u->ring, &p);
        u->deferred = flags[i] & IORING_SETUP_DEFER_TASKRUN;
    }
    const unsigned needed = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP;
    if (r == 0 && (p.features & needed) != needed) {
        io_uring_queue_exit(&u->ring);
        r = -ENOSYS;
    }
    if (r < 0) {
        free(u);
        return r;
    }
    u->poke_lost = true;
    loop->be = u;
    loop->awake = true;
    return 0;
}

static void uring_done(struct vd_loop *loop)
{
    struct uring *u = loop->be;
    io_uring_queue_exit(&u->ring);
    free(u);
}

static int uring_start(struct vd_loop *loop)
{
    struct uring *u = loop->be;
    /* The ring binds itself to the thread that enables it. Not every build of the library exports
     * the call for it. The second time it is enabled already. */
    long r = syscall(SYS_io_uring_register, u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    return r < 0 && errno != EBADFD ? -errno : 0;
}

/* ---- collecting ---- */

static unsigned reap(struct vd_loop *loop)
{
    struct uring *u = loop->be;
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        void *who = io_uring_cqe_get_data(cqe);
        n++;
        if (who == &u->poke) {
            u->poke_lost = true;
        } else if (who) {
            struct loop_op *op = who;
            u->transfers -= op_is_transfer(op->kind);
            loop_op_complete(loop, op, cqe->res);
        }
    }
    io_uring_cq_advance(&u->ring, n);
    return n;
}

/* True if entering the kernel, or only looking, would give us something. */
static bool something_came(struct uring *u)
{
    unsigned flags = IO_URING_READ_ONCE(*u->ring.sq.kflags);
    return io_uring_cq_ready(&u->ring) || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

static int enter(struct uring *u)
{
    int r = io_uring_submit_and_get_events(&u->ring);
    /* Full or interrupted is not failed: what was not taken stays in the queue. */
    return r < 0 && r != -EAGAIN && r != -EBUSY && r != -EINTR ? r : 0;
}

/* ---- submitting ---- */

static struct io_uring_sqe *get_sqe(struct vd_loop *loop)
{
    struct uring *u = loop->be;
    for (;;) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (sqe)
            return sqe;
        int r = enter(u); /* the queue is full: send it out early */
        if (r < 0)
            return NULL;
        (void)reap(loop);
    }
}

static void prep_transfer(struct io_uring_sqe *sqe, const struct loop_op *op)
{
    bool write = op->kind == OP_WRITEV;
    if (op->iovcnt == 1) { /* spares the kernel a copy of the vector */
        unsigned len = (unsigned)VD_MIN(op->iov[0].iov_len, FLAT_LEN_MAX);
        io_uring_prep_rw(write ? IORING_OP_WRITE : IORING_OP_READ, sqe, op->fd, op->iov[0].iov_base,
                         len, op->off);
    } else {
        io_uring_prep_rw(write ? IORING_OP_WRITEV : IORING_OP_READV, sqe, op->fd, op->iov,
                         op->iovcnt, op->off);
    }
    sqe->rw_flags = op->flags;
}

static void uring_submit(struct vd_loop *loop, struct loop_op *op)
{
    struct uring *u = loop->be;
    struct io_uring_sqe *sqe = get_sqe(loop);
    if (!sqe) {
        loop_op_complete(loop, op, -EIO);
        return;
    }
    u->transfers += op_is_transfer(op->kind);
    switch (op->kind) {
    case OP_READV:
    case OP_WRITEV:
        prep_transfer(sqe, op);
        break;
    case OP_FDATASYNC:
        io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
        break;
    case OP_FALLOCATE:
        io_uring_prep_fallocate(sqe, op->fd, op->flags, (off_t)op->off, (off_t)op->len);
        break;
    case OP_POLL:
        io_uring_prep_poll_add(sqe, op->fd, (unsigned)op->flags);
        break;
    case OP_RECV:
        io_uring_prep_recv(sqe, op->fd, op->buf, op->len, op->flags);
        break;
    }
    io_uring_sqe_set_data(sqe, op);
    /* What is not taken stays in the queue; a broken ring is told of by the next enter. */
    if (op_is_transfer(op->kind) && io_uring_sq_ready(&u->ring) >= HAND_OVER)
        (void)io_uring_submit(&u->ring);
}

static void uring_cancel(struct vd_loop *loop, struct loop_op *op)
{
    struct io_uring_sqe *sqe = get_sqe(loop);
    if (!sqe)
        return; /* the ring is broken; vd_loop_run is about to say so */
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NULL);
}

/* ---- waiting ---- */

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Watches for up to spin_ns. True if something came. Whoever else wants the processor gets it at
 * each look; then it is time to sleep, since a sleeper that is woken has its turn sooner. */
static bool spin(struct vd_loop *loop, uint64_t now, uint64_t until_ns)
{
    struct uring *u = loop->be;
    uint64_t end = VD_MIN(now + u->spin_ns, until_ns), before;
    do {
        for (int i = 0; i < 20; i++) {
            if (something_came(u) || atomic_load_explicit(&loop->inbox_full, memory_order_relaxed))
                return true;
            cpu_relax();
        }
        before = loop_clock_ns(loop);
        (void)sched_yield();
        now = loop_clock_ns(loop);
        if (now - before > SPIN_CROWDED_NS)
            u->spin_ns = 0;
    } while (now < end && u->spin_ns);
    return false;
}

/* Returns at once if the inbox is full. Whoever fills it later sees that a poke is wanted. */
static int sleep_until(struct vd_loop *loop, uint64_t now_ns, uint64_t until_ns)
{
    struct uring *u = loop->be;
    struct __kernel_timespec ts, *tsp = NULL;
    struct io_uring_cqe *cqe;
    if (until_ns != LOOP_NEVER) {
        uint64_t ns = until_ns - now_ns;
        ts.tv_sec = (int64_t)(ns / UINT64_C(1000000000));
        ts.tv_nsec = (long long)(ns % UINT64_C(1000000000));
        tsp = &ts;
    }
    atomic_store(&loop->awake, false);
    int r = 0;
    if (!atomic_load(&loop->inbox_full)) {
        loop->stats.wakeups++;
        r = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, tsp, NULL);
    }
    atomic_store(&loop->awake, true);
    return r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY ? r : 0;
}

static int uring_wait(struct vd_loop *loop, uint64_t until_ns)
{
    struct uring *u = loop->be;
    int r = 0;
    if (u->poke_lost) {
        struct io_uring_sqe *sqe = get_sqe(loop);
        if (!sqe)
            return -EIO;
        io_uring_prep_read(sqe, loop->poke_fd, &u->poke, sizeof(u->poke), 0);
        io_uring_sqe_set_data(sqe, &u->poke);
        u->poke_lost = false;
    }
    uint64_t now = until_ns ? loop_clock_ns(loop) : 0;
    if (until_ns <= now) { /* fibers are ready, or a timer is due */
        if (io_uring_sq_ready(&u->ring) || something_came(u))
            r = enter(u);
        (void)reap(loop);
        return r;
    }
    bool met = something_came(u);
    if ((u->spin_ns && (u->transfers >= SPIN_TRANSFERS || loop->answered_lately)) || met) {
        if (io_uring_sq_ready(&u->ring)) {
            r = enter(u);
            if (r < 0)
                return r;
        }
        met = reap(loop) > 0 || spin(loop, now, until_ns);
        if (met) {
            r = something_came(u) ? enter(u) : 0;
            (void)reap(loop);
            u->spin_ns = vd_watch_learn(u->spin_ns, 0, SPIN_MAX_NS);
            return r;
        }
        loop->answered_lately = false;
    }
    r = sleep_until(loop, now, until_ns);
    if (r == 0 && reap(loop) > 0)
        u->spin_ns = vd_watch_learn(u->spin_ns, loop_clock_ns(loop) - now, SPIN_MAX_NS);
    else if (u->spin_ns)
        u->spin_ns = vd_watch_learn(u->spin_ns, LOOP_NEVER, SPIN_MAX_NS);
    return r;
}

const struct loop_ops loop_uring_ops = {
    .name = "io_uring",
    .init = uring_init,
    .done = uring_done,
    .start = uring_start,
    .wait = uring_wait,
    .submit = uring_submit,
    .cancel = uring_cancel,
    .now_ns = loop_clock_ns,
};
