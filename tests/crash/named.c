/* SPDX-License-Identifier: MIT */
/*
 * Drives the named cases: see named.h. A pool is prepared once and copied for each cut; the case
 * runs up to the cut, the disk is crashed in every way there is, reopened, checked, and judged by
 * the oracle; then the case goes on, loses power, and is judged again. Called by the tests, outside
 * of fibers.
 */
#include "tests/crash/named.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

void named_check(const struct world *w, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (world_failed(w))
        fail_msg("%s: %s", what, w->why);
}

/* ---- fibers ---- */

struct side {
    struct world *w;
    struct vd_group *g;
    named_fiber_fn *fn;
    void *arg;
};

static void side_main(void *arg)
{
    struct side *s = arg;
    s->fn(s->w, s->arg);
    vd_group_done(s->g);
    free(s);
}

void named_spawn(struct world *w, struct vd_group *g, named_fiber_fn *fn, void *arg)
{
    struct side *s = malloc(sizeof(*s));
    if (!s)
        abort();
    *s = (struct side){w, g, fn, arg};
    vd_group_add(g);
    if (vd_fiber_spawn(vd_loop_current(), "side", side_main, s) < 0)
        abort();
}

/* ---- one run ---- */

static void prepare_body(struct world *w, void *arg)
{
    const struct named *n = arg;
    w->may_fill = n->may_fill;
    world_format(w, &n->opt);
    (void)world_attach(w, 0);
    n->prepare(w);
    world_detach(w);
}

void named_prepare(const struct named *n, uint64_t seed, struct world *ret)
{
    world_init(ret, seed);
    world_run(ret, seed, prepare_body, (void *)(uintptr_t)n);
    named_check(ret, "preparing");
}

void named_copy(const struct world *base, uint64_t seed, struct world *ret)
{
    world_clone(base, seed, ret);
    ret->oracle = oracle_fork(base->oracle, oracle_live(base->oracle));
    ret->oracle_borrowed = false;
}

struct run {
    const struct named *n;
    int64_t cut;  /* at this operation; 0 = never */
    uint64_t ops; /* out: operations of `act` */
    void (*look)(struct world *w);
    enum oracle_floor floor;
};

static void run_body(struct world *w, void *arg)
{
    struct run *r = arg;
    (void)world_attach(w, 0);
    if (r->n->before)
        r->n->before(w);
    uint64_t ops = vd_simdisk_ops(w->disk);
    if (r->cut)
        vd_simdisk_cut_after(w->disk, r->cut);
    r->n->act(w);
    r->ops = vd_simdisk_ops(w->disk) - ops;
    if (r->look && !world_failed(w))
        r->look(w);
    world_abandon(w);
}

/* After a loss of power in the end, so that what recovery did is durable or not needed. */
static void recover_body(struct world *w, void *arg)
{
    struct run *r = arg;
    if (world_reopen(w, 0, r->floor) < 0 || !r->n->after)
        return;
    w->may_fill = r->n->may_fill;
    r->n->after(w);
    world_crash(w, vd_rng_below(&w->rng, 2) ? VD_CRASH_POWER : VD_CRASH_POWER_DROP);
    (void)world_reopen(w, 0, ORACLE_DURABLE);
}

void named_once(const struct named *n, uint64_t seed, void (*look)(struct world *w))
{
    struct world base, w;
    named_prepare(n, seed, &base);
    named_copy(&base, seed, &w);
    struct run r = {.n = n, .look = look, .floor = ORACLE_ACKNOWLEDGED};
    world_run(&w, seed, run_body, &r);
    named_check(&w, "seed %" PRIu64 ", not cut", seed);
    vd_simdisk_crash(w.disk, VD_CRASH_PROCESS, seed);
    world_run(&w, seed, recover_body, &r);
    named_check(&w, "seed %" PRIu64 ", after the end", seed);
    world_done(&w);
    world_done(&base);
}

/* ---- cuts ---- */

static const char *const kind_name[] = {"process", "power", "power-drop", "power-keep"};

void named_judge(const struct named *n, const struct world *cut, uint64_t point, enum vd_crash kind,
                 uint64_t seed)
{
    struct world w;
    world_clone(cut, seed, &w);
    vd_simdisk_crash(w.disk, kind, seed);
    struct run r = {.n = n,
                    .floor = kind == VD_CRASH_PROCESS ? ORACLE_ACKNOWLEDGED : ORACLE_DURABLE};
    world_run(&w, seed, recover_body, &r);
    named_check(&w, "cut at operation %" PRIu64 ", crash %s, seed %" PRIu64, point, kind_name[kind],
                seed);
    world_done(&w);
}

unsigned named_cut_everywhere(const struct named *n)
{
    const uint64_t seed = 1;
    unsigned states = 0, powers = n->powers ? n->powers : 2;
    struct world base, w;
    named_prepare(n, seed, &base);
    named_copy(&base, seed, &w);
    struct run dry = {.n = n};
    world_run(&w, seed, run_body, &dry);
    named_check(&w, "not cut");
    world_done(&w);
    assert_true(dry.ops > 0);
    uint64_t step = n->points && dry.ops > n->points ? dry.ops / n->points : 1;
    for (uint64_t p = 1; p <= dry.ops + 1; p += step) {
        named_copy(&base, seed, &w);
        struct run r = {.n = n, .cut = (int64_t)p};
        world_run(&w, seed, run_body, &r);
        named_check(&w, "cut at operation %" PRIu64, p);
        named_judge(n, &w, p, VD_CRASH_PROCESS, p);
        named_judge(n, &w, p, VD_CRASH_POWER_DROP, p);
        named_judge(n, &w, p, VD_CRASH_POWER_KEEP, p);
        for (unsigned i = 0; i < powers; i++)
            named_judge(n, &w, p, VD_CRASH_POWER, p * 100 + i);
        states += 3 + powers;
        world_done(&w);
    }
    world_done(&base);
    return states;
}
