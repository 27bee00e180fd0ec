/* SPDX-License-Identifier: MIT */
/*
 * The exhaustive simulator: see exhaust.h. Every run starts from the same pool (of the seed),
 * prepares, arms a cut or a fault, acts, and goes on a little; then the disk is crashed in each of
 * the ways there are, reopened and judged. Nothing here suspends but the bodies that run on a
 * fiber.
 */
#include "tests/crash/exhaust.h"

#include "core/base/hash.h"
#include "format/od.h"
#include "tests/crash/scenario.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- one run ---- */

struct run {
    const struct scenario *s;
    int64_t cut;         /* at this device operation; 0 = never */
    enum vd_fault fault; /* VD_FAULT_COUNT: an allocation */
    uint64_t nth;        /* fault: the n-th from arming; 0 = none */
    bool forever;
    bool early; /* armed before the pool is opened */
    /* out */
    uint64_t ops; /* device operations from arming to the end */
    bool hit, refused, read_only;
};

static void arm(struct world *w, struct run *r)
{
    r->ops = vd_simdisk_ops(w->disk);
    if (r->cut)
        vd_simdisk_cut_after(w->disk, r->cut);
    if (r->nth) {
        w->faulty = true;
        if (r->fault == VD_FAULT_COUNT)
            memory_fail(r->nth, r->forever);
        else
            vd_simdisk_fault(w->disk, r->fault, r->nth, r->forever);
    }
}

static void look_at_failure(struct world *w, struct run *r)
{
    struct vd_store_info info;
    if (w->store && vd_store_info(w->store, &info) == 0)
        r->read_only = info.read_only;
}

/* Goes on after a fault: what was written is flushed and sealed, and all is read, if that works. */
static void carry_on(struct world *w)
{
    (void)world_flush(w, "b");
    world_idle(w);
    for (uint64_t s = 0; s < 768 && !world_failed(w); s += 256)
        (void)world_read(w, "b", NULL, s, s == 512 ? 259 : 256);
    (void)world_read(w, "b", "s2", 0, 256);
    (void)world_checkpoint(w);
    (void)world_flush(w, "b");
    world_idle(w);
}

static void run_body(struct world *w, void *arg)
{
    struct run *r = arg;
    if (r->early)
        arm(w, r);
    if (world_attach(w, 0) < 0) {
        r->refused = true;
        memory_fail(0, false);
        return;
    }
    if (r->s->prepare)
        r->s->prepare(w);
    if (!r->early)
        arm(w, r);
    r->s->act(w);
    if (w->store) {
        (void)world_write(w, "b", 16, 8, 0);
        (void)world_write(w, "b", 200, 9, 0);
    }
    if (r->nth)
        carry_on(w);
    look_at_failure(w, r);
    r->ops = vd_simdisk_ops(w->disk) - r->ops;
    r->hit = r->cut ? vd_simdisk_is_cut(w->disk) : vd_simdisk_fault_hit(w->disk) || memory_failed();
    vd_simdisk_clear_faults(w->disk);
    memory_fail(0, false);
    world_abandon(w);
}

/* ---- judging a crash ---- */

struct judge {
    enum oracle_floor floor;
    bool aftermath; /* goes on writing, crashes and looks again */
    int64_t cut;    /* the opening itself is cut here; 0 = not */
    uint64_t ops;   /* out: device operations of the opening */
    int opened;     /* out: what the opening returned */
    bool finished;  /* out: the opening was not cut */
};

/* A tail that was cut must not come back when the log grows over its place, and what is written
 * after a crash is as safe as before it. */
static void aftermath(struct world *w)
{
    static const enum vd_crash kinds[] = {VD_CRASH_PROCESS, VD_CRASH_POWER_KEEP,
                                          VD_CRASH_POWER_DROP, VD_CRASH_POWER};
    enum vd_crash kind = kinds[vd_rng_below(&w->rng, VD_ARRAY_SIZE(kinds))];
    const char *volume = oracle_has(w->oracle, oracle_live(w->oracle), "c", NULL, NULL) ? "c" : "b";
    for (uint64_t i = vd_rng_below(&w->rng, 4); i > 0; i--)
        (void)world_write(w, volume, vd_rng_below(&w->rng, 12) * 8, 8 * i, 0);
    if (vd_rng_below(&w->rng, 2))
        (void)world_flush(w, volume);
    if (vd_rng_below(&w->rng, 3) == 0)
        world_idle(w);
    world_crash(w, kind);
    enum oracle_floor floor = kind == VD_CRASH_PROCESS ? ORACLE_ACKNOWLEDGED : ORACLE_DURABLE;
    struct oracle_verdict first = w->verdict;
    (void)world_reopen(w, 0, floor);
    w->verdict = first;
}

static void judge_body(struct world *w, void *arg)
{
    struct judge *j = arg;
    uint64_t before = vd_simdisk_ops(w->disk);
    if (j->cut)
        vd_simdisk_cut_after(w->disk, j->cut);
    j->opened = world_attach(w, 0);
    j->ops = vd_simdisk_ops(w->disk) - before;
    j->finished = !vd_simdisk_is_cut(w->disk);
    if (j->opened < 0 || j->cut)
        return;
    if (world_judge(w, j->floor) == 0 && j->aftermath)
        aftermath(w);
}

static enum outcome outcome_of(const struct world *w, const struct run *r, const struct judge *j)
{
    if (j->opened < 0)
        return OUT_REFUSED;
    if (w->verdict.unreadable)
        return OUT_UNREADABLE;
    if (r->read_only)
        return OUT_READ_ONLY;
    if (r->nth && (r->refused || w->error))
        return OUT_ERROR;
    if (w->verdict.lost)
        return OUT_PREFIX;
    return OUT_WHOLE;
}

/* ---- cases ---- */

static uint64_t mix_seed(uint64_t a, uint64_t b)
{
    struct vd_rng rng;
    vd_rng_seed(&rng, a * UINT64_C(0x9e3779b97f4a7c15) + b);
    return vd_rng_u64(&rng);
}

struct caseid {
    unsigned row;
    enum column column;
    uint64_t point;
    unsigned kind, again;
};

static const char *case_text(const struct exhaust *x, const struct caseid *id, char *buf,
                             size_t len)
{
    snprintf(buf, len, "--seed %" PRIu64 " --case %s:%s:%" PRIu64 ":%u:%u", x->seed,
             scenarios[id->row].name, column_name[id->column], id->point, id->kind, id->again);
    return buf;
}

static void case_at(const struct exhaust *x, const struct caseid *id)
{
    char buf[200];
    x->at(x->arg, case_text(x, id, buf, sizeof(buf)));
}

/* Counts the state, or reports the failure. */
static void case_end(struct exhaust *x, const struct caseid *id, const struct world *w,
                     enum outcome o)
{
    char buf[200];
    if (world_failed(w)) {
        x->report->failures++;
        x->failed(x->arg, case_text(x, id, buf, sizeof(buf)), w->why);
        return;
    }
    report_count(x->report, id->row, id->column, o);
}

/* Up to `limit` of the points 1..n, evenly spread from a start that the seed chooses: calls fn. */
static void points(struct exhaust *x, uint64_t n, uint64_t salt,
                   void (*fn)(struct exhaust *x, uint64_t point, void *arg), void *arg)
{
    uint64_t step = x->limit && n > x->limit ? n / x->limit : 1;
    for (uint64_t p = 1 + mix_seed(x->seed, salt) % step; p <= n; p += step)
        fn(x, p, arg);
}

/* ---- cuts ---- */

struct cuts {
    const struct world *base;
    unsigned row;
    /* of the point under way */
    struct world *cut; /* after the cut, closed */
    struct run run;
    struct caseid id;
    enum vd_crash kind;
    uint64_t seed;
};

static const struct {
    enum column column;
    enum vd_crash kind;
} crash_kinds[] = {
    {COL_PROCESS, VD_CRASH_PROCESS},       {COL_POWER, VD_CRASH_POWER},
    {COL_POWER, VD_CRASH_POWER},           {COL_POWER_DROP, VD_CRASH_POWER_DROP},
    {COL_POWER_KEEP, VD_CRASH_POWER_KEEP},
};

static enum oracle_floor floor_of(enum vd_crash kind)
{
    return kind == VD_CRASH_PROCESS ? ORACLE_ACKNOWLEDGED : ORACLE_DURABLE;
}

static enum outcome cut_outcome(const struct cuts *c, const struct world *w, bool was_open)
{
    struct judge j = {.opened = 0};
    struct run run = c->run;
    run.read_only = false; /* it is no wonder, without a device */
    enum outcome o = outcome_of(w, &run, &j);
    return o == OUT_WHOLE && was_open && w->verdict.kept == 0 ? OUT_WITHOUT : o;
}

/* The first recovery is cut at `point`; the second must do. */
static void cut_again(struct exhaust *x, uint64_t point, void *arg)
{
    struct cuts *c = arg;
    struct caseid id = c->id;
    id.column = COL_AGAIN;
    id.again = (unsigned)point;
    if (x->only_again > 0 && (uint64_t)x->only_again != point)
        return;
    case_at(x, &id);
    struct world w;
    uint64_t seed = mix_seed(c->seed, point);
    world_clone(c->cut, c->seed, &w);
    vd_simdisk_crash(w.disk, c->kind, c->seed);
    struct judge j = {.cut = (int64_t)point};
    world_run(&w, seed, judge_body, &j);
    enum vd_crash second = point % 2 ? c->kind : VD_CRASH_POWER;
    vd_simdisk_crash(w.disk, second, seed);
    /* What a power cut may lose, it may lose after a death of the process too. */
    j = (struct judge){.floor = VD_MAX(floor_of(c->kind), floor_of(second))};
    w.stopped = false;
    w.error = 0;
    if (!world_failed(&w))
        world_run(&w, seed + 1, judge_body, &j);
    case_end(x, &id, &w, cut_outcome(c, &w, true));
    world_done(&w);
}

static void cut_kind(struct exhaust *x, struct cuts *c, unsigned k)
{
    struct world w;
    c->kind = crash_kinds[k].kind;
    c->seed = mix_seed(x->seed, (c->id.point << 8) + k + ((uint64_t)c->row << 32));
    c->id.column = crash_kinds[k].column;
    c->id.kind = k;
    c->id.again = 0;
    uint64_t ops = 0;
    if (x->only_again <= 0 || x->only_column == COL_AGAIN) {
        struct judge j = {.floor = floor_of(c->kind), .aftermath = c->seed % 3 == 0};
        case_at(x, &c->id);
        world_clone(c->cut, c->seed, &w);
        vd_simdisk_crash(w.disk, c->kind, c->seed);
        world_run(&w, c->seed, judge_body, &j);
        ops = j.ops;
        case_end(x, &c->id, &w, cut_outcome(c, &w, c->run.hit));
        bool failed = world_failed(&w);
        world_done(&w);
        if (failed)
            return;
    }
    /* Not after every point: the recoveries are much alike. */
    bool all = x->limit == 0 || x->only_column == COL_AGAIN;
    if (all || c->seed % 4 == 1)
        points(x, ops, c->seed, cut_again, c);
}

static void cut_point(struct exhaust *x, uint64_t point, void *arg)
{
    struct cuts *c = arg;
    struct world w;
    if (x->only_point > 0 && (uint64_t)x->only_point != point)
        return;
    c->id = (struct caseid){.row = c->row, .column = COL_PROCESS, .point = point};
    c->run = (struct run){.s = &scenarios[c->row], .cut = (int64_t)point};
    case_at(x, &c->id);
    world_clone(c->base, x->seed, &w);
    /* The oracle of the base stays as it is. */
    w.oracle = oracle_fork(c->base->oracle, oracle_live(c->base->oracle));
    w.oracle_borrowed = false;
    world_run(&w, x->seed, run_body, &c->run);
    c->cut = &w;
    if (world_failed(&w))
        case_end(x, &c->id, &w, OUT_WHOLE);
    for (unsigned k = 0; k < VD_ARRAY_SIZE(crash_kinds) && !world_failed(&w); k++)
        if (x->only_kind < 0 || (unsigned)x->only_kind == k)
            cut_kind(x, c, k);
    world_done(&w);
}

void exhaust_cuts(struct exhaust *x, unsigned row)
{
    struct world base, w;
    scenario_base(&scenarios[row], &base, x->seed);
    struct cuts c = {.base = &base, .row = row};
    struct caseid id = {.row = row};
    if (world_failed(&base)) {
        case_end(x, &id, &base, OUT_WHOLE);
        world_done(&base);
        return;
    }
    /* Once through, to count. */
    struct run dry = {.s = &scenarios[row]};
    case_at(x, &id);
    world_clone(&base, x->seed, &w);
    w.oracle = oracle_fork(base.oracle, oracle_live(base.oracle));
    w.oracle_borrowed = false;
    world_run(&w, x->seed, run_body, &dry);
    if (world_failed(&w))
        case_end(x, &id, &w, OUT_WHOLE);
    else
        points(x, dry.ops + 1, row, cut_point, &c);
    world_done(&w);
    world_done(&base);
}

/* ---- faults ---- */

static const struct fault_kind {
    enum vd_fault fault;
    bool forever;
    bool damage; /* the medium itself is wrong afterwards: errors stay */
} fault_kinds[COL_COUNT] = {
    [COL_READ_EIO] = {VD_FAULT_READ_EIO, false, false},
    [COL_WRITE_EIO] = {VD_FAULT_WRITE_EIO, false, false},
    [COL_WRITE_DEAD] = {VD_FAULT_WRITE_EIO, true, false},
    [COL_FLUSH_EIO] = {VD_FAULT_FLUSH_EIO, false, false},
    [COL_ENOSPC] = {VD_FAULT_ENOSPC, false, false},
    [COL_FULL] = {VD_FAULT_ENOSPC, true, false},
    [COL_LOST] = {VD_FAULT_LOST_WRITE, false, true},
    [COL_MISDIRECTED] = {VD_FAULT_MISDIRECTED, false, true},
    [COL_FLIP] = {VD_FAULT_READ_FLIP, false, false},
    [COL_ROT] = {VD_FAULT_READ_FLIP, false, true},
    [COL_SLOW] = {VD_FAULT_SLOW, false, false},
    [COL_NO_MEMORY] = {VD_FAULT_COUNT, false, false},
    [COL_STARVED] = {VD_FAULT_COUNT, true, false},
};

/* Flips a bit somewhere that matters: in every third case in the head, else in a header, a node, or
 * just any block that is not empty. */
static void rot(struct vd_simdisk *disk, struct vd_rng *rng)
{
    static const uint32_t magics[] = {OD_MAGIC_RECORD, OD_MAGIC_NODE, 0};
    uint32_t want = magics[vd_rng_below(rng, VD_ARRAY_SIZE(magics))];
    uint64_t size = vd_simdisk_size(disk), at = 0;
    bool head = vd_rng_below(rng, 4) == 0;
    for (int tries = 0; tries < 400; tries++) {
        uint32_t word[64];
        at = vd_rng_below(rng, (head ? VD_MIN(size, VD_MIB(1)) : size) / VD_BLOCK) * VD_BLOCK;
        vd_simdisk_peek(disk, at, word, sizeof(word));
        if (head || want == 0 ? !vd_is_zero(word, sizeof(word)) : word[0] == want)
            break;
    }
    vd_simdisk_rot(disk, at + vd_rng_below(rng, VD_BLOCK), (unsigned)vd_rng_below(rng, 8));
}

struct faults {
    const struct world *base;
    unsigned row;
    enum column column;
};

/* Crashes what the run left in one way, and judges. */
static void fault_judge(struct exhaust *x, const struct caseid *id, const struct world *after,
                        const struct run *r, enum vd_crash kind)
{
    struct world w;
    uint64_t seed = mix_seed(x->seed, id->point * 31 + id->kind * 7 + id->row);
    bool damage = fault_kinds[id->column].damage;
    /* Where the medium lies about a write that no flush has covered yet, nobody can know. */
    struct judge j = {.floor = damage ? ORACLE_DURABLE : floor_of(kind)};
    case_at(x, id);
    world_clone(after, seed, &w);
    vd_simdisk_crash(w.disk, kind, seed);
    w.faulty = damage;
    if (id->column == COL_ROT)
        rot(w.disk, &w.rng);
    int error = after->error;
    world_run(&w, seed, judge_body, &j);
    w.error = w.error ? w.error : error;
    case_end(x, id, &w, outcome_of(&w, r, &j));
    world_done(&w);
}

/* False if the operation was over before the n-th chance for the fault. */
static bool fault_case(struct exhaust *x, const struct faults *f, uint64_t n, bool early)
{
    const struct fault_kind *k = &fault_kinds[f->column];
    struct caseid id = {f->row, f->column, n, early, 0};
    struct run r = {.s = &scenarios[f->row],
                    .fault = k->fault,
                    .nth = n,
                    .forever = k->forever,
                    .early = early};
    if (f->column == COL_ROT) /* strikes later, and nothing before */
        r.nth = UINT64_MAX;
    if (x->only_point > 0 && ((uint64_t)x->only_point != n || x->only_kind != early))
        return true;
    struct world w;
    case_at(x, &id);
    world_clone(f->base, x->seed, &w);
    w.oracle = oracle_fork(f->base->oracle, oracle_live(f->base->oracle));
    w.oracle_borrowed = false;
    world_run(&w, mix_seed(x->seed, n), run_body, &r);
    bool hit = r.hit || r.refused || f->column == COL_ROT;
    if (world_failed(&w)) {
        case_end(x, &id, &w, OUT_WHOLE);
    } else if (hit) {
        fault_judge(x, &id, &w, &r, VD_CRASH_PROCESS);
        if (!k->damage)
            fault_judge(x, &id, &w, &r, VD_CRASH_POWER_DROP);
    }
    world_done(&w);
    return hit;
}

void exhaust_faults(struct exhaust *x, unsigned row, enum column c)
{
    struct world base;
    scenario_base(&scenarios[row], &base, x->seed);
    struct faults f = {.base = &base, .row = row, .column = c};
    struct caseid id = {row, c, 0, 0, 0};
    if (world_failed(&base)) {
        case_end(x, &id, &base, OUT_WHOLE);
        world_done(&base);
        return;
    }
    for (int early = 0; early < 2; early++) {
        if (x->only_point > 0) {
            (void)fault_case(x, &f, (uint64_t)x->only_point, early);
            continue;
        }
        /* All of them; or 1, 2, 4, ... and some in between. */
        uint64_t n = 1, last = 0, most = c == COL_ROT ? VD_MAX(x->limit, 8u) : UINT64_MAX;
        unsigned done = 0;
        while (n <= most && (!x->limit || done < x->limit) && fault_case(x, &f, n, early)) {
            done++;
            last = n;
            n += x->limit ? 1 + mix_seed(x->seed, n + row) % (n + 1) : 1;
        }
        /* Where it was over sooner, the last chances are as good as any. */
        for (n = last + 1; x->limit && c != COL_ROT && done > 0 && done < x->limit; n++, done++)
            if (!fault_case(x, &f, n, early))
                break;
    }
    world_done(&base);
}
