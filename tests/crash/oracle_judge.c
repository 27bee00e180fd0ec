/* SPDX-License-Identifier: MIT */
/*
 * Is what was found after a crash something that a prefix of the history makes?
 *
 * Between two acknowledgements, a prefix is all that was acknowledged before, and any subset of
 * what was open: those intervals overlap one another, so no order among them is prescribed. Every
 * such set is tried, the newest first. Called by the crash tests only; never suspends.
 */
#include "tests/crash/oracle_priv.h"

#include <stdarg.h>
#include <stdio.h>

/* ---- comparing two states ---- */

struct difference {
    uint64_t sectors; /* that differ */
    uint64_t unreadable;
    bool names; /* what exists differs */
    /* the first one */
    const struct entry *expected;
    uint64_t sector;
    uint32_t found;
};

static void compare_page(const struct oracle *o, const struct entry *e,
                         const struct oracle_content *found, size_t i, struct difference *d)
{
    const struct page *f = found->page[i];
    uint64_t first = (uint64_t)i * PAGE_SECTORS;
    uint64_t n = VD_MIN(PAGE_SECTORS, found->sectors - first);
    for (uint64_t k = 0; k < n; k++) {
        uint32_t v = f ? f->v[k] : 0;
        if (v == ORACLE_UNREADABLE) {
            d->unreadable++;
            continue;
        }
        if (content_may_be(o, e->content, first + k, v))
            continue;
        if (d->sectors++ == 0) {
            d->expected = e;
            d->sector = first + k;
            d->found = v;
        }
    }
}

/* The entry of `found` that stands for e. */
static const struct entry *counterpart(const struct oracle_state *expected, const struct entry *e,
                                       const struct oracle_state *found)
{
    if (e->snapshot != NAME_UNKNOWN)
        return state_find(found, e->volume, e->snapshot);
    for (unsigned i = 0; i < found->n; i++) {
        const struct entry *f = &found->v[i];
        if (f->volume == e->volume && f->automatic && !state_find(expected, f->volume, f->snapshot))
            return f;
    }
    return NULL;
}

static void compare(const struct oracle *o, const struct oracle_state *expected,
                    const struct oracle_state *found, struct difference *d)
{
    *d = (struct difference){.names = expected->n != found->n};
    for (unsigned i = 0; i < expected->n; i++) {
        const struct entry *e = &expected->v[i], *f = counterpart(expected, e, found);
        if (!f || f->content->sectors != e->content->sectors) {
            d->names = true;
            continue;
        }
        for (size_t p = 0; p < e->content->npages; p++)
            if (e->content->page[p] != f->content->page[p])
                compare_page(o, e, f->content, p, d);
    }
}

/* ---- saying what is wrong ---- */

static const char *const kind_text[] = {
    [ORACLE_WRITE] = "write",
    [ORACLE_ZERO] = "zero",
    [ORACLE_CREATE] = "create",
    [ORACLE_DELETE] = "delete",
    [ORACLE_RENAME] = "rename",
    [ORACLE_RESIZE] = "resize",
    [ORACLE_SNAPSHOT] = "snapshot",
    [ORACLE_SNAPSHOT_DELETE] = "snapshot delete",
    [ORACLE_SNAPSHOT_RENAME] = "snapshot rename",
    [ORACLE_ROLLBACK] = "rollback",
    [ORACLE_CLONE] = "clone",
};

const char *op_text(const struct oracle *o, const struct oracle_op *op, char *buf, size_t len)
{
    char what[200];
    int n = snprintf(what, sizeof(what), "%s", op->c.t[0].volume);
    for (int k = 0; k < op->c.targets && n < 150; k++)
        if (op->c.t[k].snapshot[0] || k)
            n += snprintf(what + n, sizeof(what) - (size_t)n, "%s%s@%s", k ? " " : "",
                          k ? op->c.t[k].volume : "", op->c.t[k].snapshot);
    snprintf(buf, len,
             "%s %s [%" PRIu64 ", +%" PRIu64 ") to '%s'%s%s version %u, asked %" PRIu64 ", %s",
             kind_text[op->c.kind], what, op->c.sector, op->c.sectors, o->name[op->to],
             op->must ? " durable" : "", op->refused ? " refused" : "", op->version, op->sub,
             op->ack == UINT64_MAX ? "open" : "acknowledged");
    return buf;
}

struct text {
    char *buf;
    size_t len, at;
};
static void say(struct text *t, const char *fmt, ...) VD_PRINTF(2, 3);
static void say(struct text *t, const char *fmt, ...)
{
    if (t->at >= t->len)
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->buf + t->at, t->len - t->at, fmt, ap);
    va_end(ap);
    t->at += n > 0 ? (size_t)n : 0;
}

static void say_version(struct text *t, const struct oracle *o, uint32_t v)
{
    char buf[300];
    if (v == ORACLE_GARBAGE) {
        say(t, "GARBAGE");
        return;
    }
    say(t, "version %u", v);
    for (unsigned i = 0; i < o->ops; i++)
        if (v && o->op[i]->version == v)
            say(t, " (%s)", op_text(o, o->op[i], buf, sizeof(buf)));
}

static void say_names(struct text *t, const struct oracle *o, const struct oracle_state *s)
{
    for (unsigned i = 0; i < s->n; i++)
        say(t, " %s%s%s:%" PRIu64, o->name[s->v[i].volume], s->v[i].snapshot ? "@" : "",
            o->name[s->v[i].snapshot], s->v[i].content->sectors);
}

static void explain(const struct oracle *o, const struct oracle_state *found,
                    const struct oracle_state *nearest, unsigned acked, struct text *t)
{
    struct difference d;
    char buf[300];
    compare(o, nearest, found, &d);
    say(t, "no prefix of %u changes makes it; nearest: %u acknowledged of %u, ", o->ops, acked,
        o->steps - 1);
    if (d.names) {
        say(t, "and then it should be\n ");
        say_names(t, o, nearest);
        say(t, "\nbut it is\n ");
        say_names(t, o, found);
    } else {
        const struct page *p;
        say(t, "%" PRIu64 " sectors differ, first %s@%s sector %" PRIu64 ": ", d.sectors,
            o->name[d.expected->volume], o->name[d.expected->snapshot], d.sector);
        say_version(t, o, d.found);
        say(t, ", expected ");
        say_version(t, o, content_at(d.expected->content, d.sector, &p));
    }
    unsigned from = o->ops > 12 ? o->ops - 12 : 0;
    say(t, "\nlast changes:");
    for (unsigned i = from; i < o->ops; i++)
        say(t, "\n  %s", op_text(o, o->op[i], buf, sizeof(buf)));
}

/* ---- trying prefixes ---- */

struct search {
    const struct oracle *o;
    const struct oracle_state *found;
    enum oracle_floor floor;
    const bool *seen; /* by version */
    struct oracle_verdict *v;
    struct oracle_state *nearest;
    struct difference least;
    unsigned nearest_acked;
};

static bool must_survive(const struct search *s, const struct oracle_op *op)
{
    if (op->ack == UINT64_MAX || op->refused || s->floor == ORACLE_NOTHING)
        return false;
    return op->must || s->floor == ORACLE_ACKNOWLEDGED;
}

/* What was open just before moment t, without `but`. *must gets the ones that any set must hold: a
 * write shows that it happened by what it left, and one that left nothing makes no difference.
 * SKIP: `but` must be in; STOP: so must something that was not even asked for by then. */
enum { SKIP = -1, STOP = -2 };
static int open_at(const struct search *s, uint64_t t, const struct oracle_op *but,
                   const struct oracle_op *open[OPEN_MAX], uint64_t *must)
{
    int n = 0;
    bool skip = false;
    *must = 0;
    for (unsigned i = 0; i < s->o->ops; i++) {
        const struct oracle_op *op = s->o->op[i];
        if (op->refused || op->ack < t)
            continue;
        bool needed = must_survive(s, op), write = op->c.kind == ORACLE_WRITE;
        if (op->sub >= t && needed)
            return STOP;
        if (op == but && needed)
            skip = true;
        if (op->sub >= t || op == but || (write && !needed && !s->seen[op->version]))
            continue;
        if (n == OPEN_MAX) {
            skip |= needed;
            continue; /* gives up on sets with it: may accuse, never acquits wrongly */
        }
        if (needed || write)
            *must |= UINT64_C(1) << n;
        open[n++] = op;
    }
    return skip ? SKIP : n;
}

/* Does base and the set make what was found? */
static bool try_set(struct search *s, unsigned acked, const struct oracle_op *const *open, int n,
                    uint64_t set)
{
    struct oracle_state *st = state_copy(s->o->step[acked].state);
    for (int i = 0; i < n; i++)
        if (set >> i & 1)
            state_apply(s->o, st, open[i]);
    struct difference d;
    compare(s->o, st, s->found, &d);
    if (!d.names && d.sectors == 0) {
        s->v->unreadable = (unsigned)d.unreadable;
        s->v->lost = s->o->steps - 1 - acked;
        for (int i = 0; i < n; i++) {
            bool in = set >> i & 1;
            if (open[i]->ack != UINT64_MAX)
                s->v->lost -= in;
            else
                s->v->kept += in;
        }
        oracle_state_free(st);
        return true;
    }
    bool nearer = !s->nearest || (s->least.names && !d.names) ||
                  (s->least.names == d.names && d.sectors < s->least.sectors);
    if (nearer) {
        oracle_state_free(s->nearest);
        s->nearest = st;
        s->least = d;
        s->nearest_acked = acked;
    } else {
        oracle_state_free(st);
    }
    return false;
}

/* Prefixes that hold the first `acked` acknowledged changes and not the next one. 1 found, 0 not,
 * STOP: no earlier one can be allowed either. */
static int try_gap(struct search *s, unsigned acked)
{
    const struct oracle *o = s->o;
    const struct oracle_op *open[OPEN_MAX];
    const struct oracle_op *next = acked + 1 < o->steps ? o->step[acked + 1].op : NULL;
    uint64_t must;
    int n = open_at(s, next ? next->ack : UINT64_MAX - 1, next, open, &must);
    if (n < 0)
        return n == SKIP ? 0 : STOP;
    int free_bit[OPEN_MAX], bits = 0;
    for (int i = 0; i < n && bits < SUBSETS_MAX; i++)
        if (!(must >> i & 1))
            free_bit[bits++] = i;
    for (unsigned pick = 1u << bits; pick-- > 0;) {
        uint64_t set = must;
        for (int b = 0; b < bits; b++)
            set |= (uint64_t)(pick >> b & 1) << free_bit[b];
        if (try_set(s, acked, open, n, set))
            return 1;
    }
    return 0;
}

/* Which versions can be seen anywhere in what was found. */
static bool *versions_seen(const struct oracle *o, const struct oracle_state *found)
{
    bool *seen = oracle_alloc(NULL, o->vers + 1);
    memset(seen, 0, o->vers + 1);
    for (unsigned i = 0; i < found->n; i++)
        for (size_t p = 0; p < found->v[i].content->npages; p++) {
            const struct page *page = found->v[i].content->page[p];
            for (unsigned k = 0; page && k < PAGE_SECTORS; k++)
                if (page->v[k] < o->vers)
                    seen[page->v[k]] = true;
        }
    return seen;
}

int oracle_judge(const struct oracle *o, const struct oracle_state *found, enum oracle_floor floor,
                 struct oracle_verdict *ret, char *why, size_t len)
{
    bool *seen VD_CLEANUP(vd_cleanup_free) = versions_seen(o, found);
    struct search s = {.o = o, .found = found, .floor = floor, .seen = seen, .v = ret};
    *ret = (struct oracle_verdict){0};
    int r = 0;
    for (unsigned acked = o->steps; acked-- > 0 && r == 0;)
        r = try_gap(&s, acked);
    if (r <= 0) {
        struct text t = {why, len, 0};
        if (s.nearest)
            explain(o, found, s.nearest, s.nearest_acked, &t);
        else
            say(&t, "no prefix is allowed at all");
    }
    oracle_state_free(s.nearest);
    return r > 0 ? 0 : -EUCLEAN;
}

/* ---- reads ---- */

struct oracle_read {
    int volume;
    uint64_t sector, sectors, sub;
    struct oracle_content *content; /* NULL: there was none */
};

struct oracle_read *oracle_read_begin(struct oracle *o, const char *volume, const char *snapshot,
                                      uint64_t sector, uint64_t sectors)
{
    struct oracle_read *r = oracle_alloc(NULL, sizeof(*r));
    *r = (struct oracle_read){.volume = snapshot && snapshot[0] ? -1 : oracle_name(o, volume),
                              .sector = sector,
                              .sectors = sectors,
                              .sub = ++o->clock};
    const struct entry *e =
        state_find(oracle_live(o), oracle_name(o, volume), oracle_name(o, snapshot));
    r->content = e ? content_ref(e->content) : NULL;
    return r;
}

/* May sector s have been written with `found` while the read was under way? */
static bool written_meanwhile(const struct oracle *o, const struct oracle_read *r, uint64_t s,
                              uint32_t found)
{
    for (unsigned i = 0; i < o->ops; i++) {
        const struct oracle_op *op = o->op[i];
        if (op->volume[0] != r->volume || op->refused || op->ack < r->sub)
            continue;
        if (!op_is_content(op))
            return true; /* what a control operation does at the same time is not judged */
        if (s >= op->c.sector && s < op->c.sector + op->c.sectors &&
            version_is(o, op->version, found))
            return true;
    }
    return false;
}

int oracle_read_end(struct oracle *o, struct oracle_read *r, const void *buf, char *why, size_t len)
{
    int res = 0;
    for (uint64_t i = 0; i < r->sectors && r->content && res == 0; i++) {
        uint64_t s = r->sector + i;
        uint32_t found = oracle_parse(s, (const uint8_t *)buf + i * ORACLE_SECTOR);
        if (s >= r->content->sectors || content_may_be(o, r->content, s, found) ||
            written_meanwhile(o, r, s, found))
            continue;
        struct text t = {why, len, 0};
        const struct page *p;
        say(&t, "a read of sector %" PRIu64 " of %s returned ", s,
            r->volume < 0 ? "a snapshot" : o->name[r->volume]);
        say_version(&t, o, found);
        say(&t, ", expected ");
        say_version(&t, o, content_at(r->content, s, &p));
        res = -EUCLEAN;
    }
    oracle_read_drop(o, r);
    return res;
}

void oracle_read_drop(struct oracle *o, struct oracle_read *r)
{
    (void)o;
    content_unref(r->content);
    free(r);
}
