/* SPDX-License-Identifier: MIT */
/*
 * The simulated back end. Its clock stands still while fibers run and jumps to the next timer when
 * none can; every operation on a real file is done at once and completes after a random virtual
 * time, so that completions come in an order that the seed decides.
 *
 * Real sockets and pipes work too, for protocol tests whose both ends live on one loop: they are
 * looked at in each turn. With a peer outside the loop the order of events is its own.
 */
#include "core/io/loop_priv.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define SIM_EPOCH_NS UINT64_C(1000000000)
#define SIM_TURN_NS 100u /* so that a fiber which yields until some time comes gets there */

struct sim {
    uint64_t now_ns;
    struct vd_list polls; /* struct loop_op, by link */
    unsigned npolls;
    struct pollfd *pfds;
    unsigned pfds_max;
};

static int sim_init(struct vd_loop *loop)
{
    struct sim *sim = calloc(1, sizeof(*sim));
    if (!sim)
        return -ENOMEM;
    sim->now_ns = SIM_EPOCH_NS;
    vd_list_init(&sim->polls);
    loop->be = sim;
    return 0;
}

static void sim_done(struct vd_loop *loop)
{
    struct sim *sim = loop->be;
    free(sim->pfds);
    free(sim);
}

static int sim_start(struct vd_loop *loop)
{
    (void)loop;
    return 0;
}

static uint64_t sim_now_ns(struct vd_loop *loop)
{
    return ((struct sim *)loop->be)->now_ns;
}

static void op_due(struct loop_timer *timer)
{
    struct loop_op *op = vd_container_of(timer, struct loop_op, timer);
    loop_op_complete(op->wait->fiber->loop, op, op->res);
}

static void sim_submit(struct vd_loop *loop, struct loop_op *op)
{
    struct sim *sim = loop->be;
    if (op->kind == OP_POLL || op->kind == OP_RECV) {
        vd_list_push(&sim->polls, &op->link);
        sim->npolls++;
        return;
    }
    op->res = loop_op_execute(op);
    uint64_t latency = 10000 + vd_rng_below(&loop->rng, 200000);
    loop_timer_start(loop, &op->timer, sim->now_ns + latency, op_due);
}

static void sim_cancel(struct vd_loop *loop, struct loop_op *op)
{
    struct sim *sim = loop->be;
    vd_list_remove(&op->link);
    sim->npolls--;
    loop_op_complete(loop, op, -ECANCELED);
}

/* Looks at all descriptors waited for; blocking, also at the poke. True if anything came. */
static int sim_poll(struct vd_loop *loop, bool block)
{
    struct sim *sim = loop->be;
    if (sim->npolls + 1 > sim->pfds_max) {
        unsigned max = sim->npolls * 2 + 8;
        struct pollfd *bigger = reallocarray(sim->pfds, max, sizeof(*bigger));
        if (!bigger)
            return -ENOMEM;
        sim->pfds = bigger;
        sim->pfds_max = max;
    }
    nfds_t n = 0;
    vd_list_each (it, &sim->polls) {
        struct loop_op *op = vd_container_of(it, struct loop_op, link);
        short events = op->kind == OP_POLL ? (short)op->flags : POLLIN;
        sim->pfds[n++] = (struct pollfd){.fd = op->fd, .events = events};
    }
    sim->pfds[n++] = (struct pollfd){.fd = loop->poke_fd, .events = POLLIN};
    int r = poll(sim->pfds, n, block ? -1 : 0);
    if (r < 0)
        return errno == EINTR ? 0 : -errno;
    uint64_t count;
    if (sim->pfds[n - 1].revents && read(loop->poke_fd, &count, sizeof(count)) < 0)
        return -errno;
    nfds_t i = 0;
    vd_list_each_safe (it, &sim->polls) {
        struct loop_op *op = vd_container_of(it, struct loop_op, link);
        short events = sim->pfds[i++].revents;
        if (!events)
            continue;
        vd_list_remove(&op->link);
        sim->npolls--;
        if (!loop_op_try(loop, op, events)) {
            vd_list_push(&sim->polls, &op->link);
            sim->npolls++;
            break; /* its neighbours have moved; the next turn looks again */
        }
    }
    return r > 0;
}

static int sim_wait(struct vd_loop *loop, uint64_t until_ns)
{
    struct sim *sim = loop->be;
    int r = sim->npolls ? sim_poll(loop, false) : 0;
    if (r < 0)
        return r;
    if (until_ns == 0 || r > 0) {
        sim->now_ns += SIM_TURN_NS;
        return 0;
    }
    if (until_ns != LOOP_NEVER) {
        sim->now_ns = VD_MAX(sim->now_ns, until_ns);
        return 0;
    }
    if (!sim->npolls)
        return -EDEADLK;
    loop->stats.wakeups++;
    r = sim_poll(loop, true);
    return r < 0 ? r : 0;
}

const struct loop_ops loop_sim_ops = {
    .name = "sim",
    .init = sim_init,
    .done = sim_done,
    .start = sim_start,
    .wait = sim_wait,
    .submit = sim_submit,
    .cancel = sim_cancel,
    .now_ns = sim_now_ns,
};
