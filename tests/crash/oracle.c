/* SPDX-License-Identifier: MIT */
/*
 * The oracle's states and histories: see oracle.h. Judging is oracle_judge.c's.
 *
 * Invariants: pages and contents are shared and never changed while more than one holds them; a
 * step's state never changes once it is made. Called by the crash tests only; never suspends.
 */
#include "tests/crash/oracle_priv.h"

#include <stdio.h>

void *oracle_alloc(void *old, size_t len)
{
    void *p = realloc(old, len);
    if (!p)
        abort();
    return p;
}

/* ---- bytes ---- */

#define SECTOR_MAGIC UINT64_C(0x5ec70f00)

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void sector_fill(uint32_t version, uint64_t sector, uint64_t *w)
{
    w[0] = SECTOR_MAGIC << 32 | version;
    w[1] = sector;
    uint64_t x = mix(w[0] ^ mix(sector));
    for (unsigned i = 2; i < ORACLE_SECTOR / 8; i++)
        w[i] = x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
}

void oracle_fill(uint32_t version, uint64_t sector, void *buf, uint64_t sectors)
{
    for (uint64_t i = 0; i < sectors; i++)
        sector_fill(version, sector + i, (uint64_t *)((uint8_t *)buf + i * ORACLE_SECTOR));
}

uint32_t oracle_parse(uint64_t sector, const void *buf)
{
    static const uint64_t zeroes[ORACLE_SECTOR / 8];
    uint64_t first, want[ORACLE_SECTOR / 8];
    memcpy(&first, buf, sizeof(first));
    if (first >> 32 != SECTOR_MAGIC)
        return memcmp(buf, zeroes, sizeof(zeroes)) == 0 ? 0 : ORACLE_GARBAGE;
    sector_fill((uint32_t)first, sector, want);
    return memcmp(buf, want, sizeof(want)) == 0 ? (uint32_t)first : ORACLE_GARBAGE;
}

/* ---- names ---- */

int oracle_name_find(const struct oracle *o, const char *text)
{
    for (unsigned i = 0; i < o->names; i++)
        if (strcmp(o->name[i], text) == 0)
            return (int)i;
    return -1;
}

int oracle_name(struct oracle *o, const char *text)
{
    int i = oracle_name_find(o, text ? text : "");
    if (i >= 0)
        return i;
    o->name = oracle_alloc(o->name, (o->names + 1) * sizeof(*o->name));
    snprintf(o->name[o->names], ORACLE_NAME, "%s", text);
    return (int)o->names++;
}

/* ---- contents ---- */

static void page_unref(struct page *p)
{
    if (p && --p->refs == 0) {
        free(p->alt);
        free(p);
    }
}

struct oracle_content *content_ref(struct oracle_content *c)
{
    c->refs++;
    return c;
}

void content_unref(struct oracle_content *c)
{
    if (!c || --c->refs)
        return;
    for (size_t i = 0; i < c->npages; i++)
        page_unref(c->page[i]);
    free(c->page);
    free(c);
}

static struct oracle_content *content_new(uint64_t sectors)
{
    struct oracle_content *c = oracle_alloc(NULL, sizeof(*c));
    *c = (struct oracle_content){
        .refs = 1, .sectors = sectors, .npages = VD_DIV_UP(sectors, PAGE_SECTORS)};
    c->page = oracle_alloc(NULL, (c->npages + 1) * sizeof(*c->page));
    memset(c->page, 0, (c->npages + 1) * sizeof(*c->page));
    return c;
}

/* A copy of another size; what is new reads as zeroes. */
static struct oracle_content *content_copy(const struct oracle_content *from, uint64_t sectors)
{
    struct oracle_content *c = content_new(sectors);
    for (size_t i = 0; i < VD_MIN(c->npages, from->npages); i++)
        if ((c->page[i] = from->page[i]))
            c->page[i]->refs++;
    return c;
}

static struct page *page_own(struct oracle_content *c, size_t i)
{
    struct page *old = c->page[i];
    if (old && old->refs == 1)
        return old;
    struct page *p = oracle_alloc(NULL, sizeof(*p));
    if (old) {
        *p = *old;
        p->alt = NULL;
        p->room = p->nalt;
        if (p->nalt) {
            p->alt = oracle_alloc(NULL, p->nalt * sizeof(*p->alt));
            memcpy(p->alt, old->alt, p->nalt * sizeof(*p->alt));
        }
        old->refs--;
    } else {
        memset(p, 0, sizeof(*p));
    }
    p->refs = 1;
    c->page[i] = p;
    return p;
}

static void page_add_alt(struct page *p, uint32_t at, uint32_t version)
{
    for (unsigned i = 0; i < p->nalt; i++)
        if (p->alt[i].at == at && p->alt[i].version == version)
            return;
    if (p->nalt == p->room) {
        p->room = p->room ? p->room * 2 : 16;
        p->alt = oracle_alloc(p->alt, p->room * sizeof(*p->alt));
    }
    p->alt[p->nalt++] = (struct alt){at, version};
}

/* What a change asked for at `sub` leaves of the sector: its own version, and those of changes that
 * were not over by then. */
static void page_put(const struct oracle *o, struct page *p, uint32_t at, uint32_t version,
                     uint64_t sub)
{
    for (unsigned i = 0; i < p->nalt;)
        if (p->alt[i].at == at && o->ver[p->alt[i].version].ack < sub)
            p->alt[i] = p->alt[--p->nalt];
        else
            i++;
    if (o->ver[p->v[at]].ack > sub)
        page_add_alt(p, at, p->v[at]);
    p->v[at] = version;
}

static struct oracle_content *entry_own(struct entry *e)
{
    if (e->content->refs > 1) {
        struct oracle_content *c = content_copy(e->content, e->content->sectors);
        content_unref(e->content);
        e->content = c;
    }
    return e->content;
}

void oracle_content_set(struct oracle_content *c, uint64_t sector, uint32_t version)
{
    if (sector < c->sectors && (version || c->page[sector / PAGE_SECTORS]))
        page_own(c, sector / PAGE_SECTORS)->v[sector % PAGE_SECTORS] = version;
}

uint64_t oracle_content_differs(const struct oracle_content *a, const struct oracle_content *b,
                                uint64_t at, uint64_t end)
{
    const struct page *p, *q;
    for (; at < end; at++) {
        size_t i = at / PAGE_SECTORS;
        if (at % PAGE_SECTORS == 0 && i < a->npages && i < b->npages && a->page[i] == b->page[i]) {
            at += PAGE_SECTORS - 1;
            continue;
        }
        uint32_t x = at < a->sectors ? content_at(a, at, &p) : 0;
        uint32_t y = at < b->sectors ? content_at(b, at, &q) : 0;
        if (x != y && x != ORACLE_UNREADABLE && y != ORACLE_UNREADABLE)
            return at;
    }
    return VD_MAX(at, end);
}

bool content_may_be(const struct oracle *o, const struct oracle_content *c, uint64_t sector,
                    uint32_t found)
{
    const struct page *p;
    uint32_t at = sector % PAGE_SECTORS;
    if (version_is(o, content_at(c, sector, &p), found))
        return true;
    for (unsigned i = 0; p && i < p->nalt; i++)
        if (p->alt[i].at == at && version_is(o, p->alt[i].version, found))
            return true;
    return false;
}

/* ---- states ---- */

struct oracle_state *oracle_state_new(void)
{
    struct oracle_state *s = oracle_alloc(NULL, sizeof(*s));
    *s = (struct oracle_state){0};
    return s;
}

void oracle_state_free(struct oracle_state *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->n; i++)
        content_unref(s->v[i].content);
    free(s->v);
    free(s);
}

struct oracle_state *state_copy(const struct oracle_state *s)
{
    struct oracle_state *to = oracle_alloc(NULL, sizeof(*to));
    *to = (struct oracle_state){.n = s->n, .room = s->n};
    to->v = oracle_alloc(NULL, (s->n + 1) * sizeof(*s->v));
    for (unsigned i = 0; i < s->n; i++) {
        to->v[i] = s->v[i];
        content_ref(to->v[i].content);
    }
    return to;
}

struct entry *state_find(const struct oracle_state *s, int volume, int snapshot)
{
    for (unsigned i = 0; i < s->n; i++)
        if (s->v[i].volume == volume && s->v[i].snapshot == snapshot)
            return &s->v[i];
    return NULL;
}

/* Takes the content over. An entry that exists stays as it is. */
static void state_add(struct oracle_state *s, int volume, int snapshot, bool automatic,
                      struct oracle_content *content)
{
    if (state_find(s, volume, snapshot)) {
        content_unref(content);
        return;
    }
    if (s->n >= s->room) {
        s->room = s->n + 8;
        s->v = oracle_alloc(s->v, s->room * sizeof(*s->v));
    }
    s->v[s->n++] = (struct entry){volume, snapshot, automatic, content};
}

static void state_remove(struct oracle_state *s, struct entry *e)
{
    content_unref(e->content);
    *e = s->v[--s->n];
}

struct oracle_content *oracle_state_add(struct oracle *o, struct oracle_state *s,
                                        const char *volume, const char *snapshot, uint64_t sectors,
                                        bool automatic)
{
    struct oracle_content *c = content_new(sectors);
    state_add(s, oracle_name(o, volume), oracle_name(o, snapshot), automatic, c);
    return c;
}

/* ---- applying changes ---- */

static void apply_content(const struct oracle *o, struct entry *e, const struct oracle_op *op,
                          bool alternatives)
{
    struct oracle_content *c = entry_own(e);
    uint64_t end = VD_MIN(op->c.sector + op->c.sectors, c->sectors);
    bool huge = op->c.kind == ORACLE_ZERO && op->c.sectors >= 64u * PAGE_SECTORS;
    for (uint64_t s = op->c.sector; s < end;) {
        size_t i = s / PAGE_SECTORS;
        uint64_t to = VD_MIN(end, (i + 1) * (uint64_t)PAGE_SECTORS);
        if (huge && to - s == PAGE_SECTORS) { /* nobody races with these */
            page_unref(c->page[i]);
            c->page[i] = NULL;
            s = to;
            continue;
        }
        struct page *p = page_own(c, i);
        for (; s < to; s++)
            if (alternatives)
                page_add_alt(p, s % PAGE_SECTORS, op->version);
            else
                page_put(o, p, s % PAGE_SECTORS, op->version, op->sub);
    }
}

/* The content of volume k of a snapshot operation. Writes that were under way at the same time may
 * be in it or not. */
static struct oracle_content *snapshot_content(const struct oracle *o, const struct entry *live,
                                               const struct oracle_op *op, int k)
{
    struct entry e = {.content = NULL};
    for (unsigned i = 0; i < o->ops; i++) {
        const struct oracle_op *w = o->op[i];
        if (w->refused || !op_is_content(w) || w->volume[0] != op->volume[k] || !ops_overlap(w, op))
            continue;
        if (!e.content && !op->base[k])
            break;
        if (!e.content)
            e.content = content_copy(op->base[k], op->base[k]->sectors);
        apply_content(o, &e, w, true);
    }
    return e.content ? e.content : content_ref(live->content);
}

static void apply_snapshot(const struct oracle *o, struct oracle_state *s,
                           const struct oracle_op *op)
{
    for (int k = 0; k < op->c.targets; k++) {
        const struct entry *live = state_find(s, op->volume[k], NAME_LIVE);
        if (live)
            state_add(s, op->volume[k], op->snapshot[k], false, snapshot_content(o, live, op, k));
    }
}

static void apply_rollback(struct oracle_state *s, const struct oracle_op *op)
{
    struct entry *live = state_find(s, op->volume[0], NAME_LIVE);
    const struct entry *snap = state_find(s, op->volume[0], op->snapshot[0]);
    if (!live || !snap)
        return;
    struct oracle_content *tip = live->content;
    live->content = content_ref(snap->content);
    if (op->c.discard)
        content_unref(tip);
    else
        state_add(s, op->volume[0], op->to, true, tip);
}

static void apply_names(struct oracle_state *s, const struct oracle_op *op)
{
    for (unsigned i = 0; i < s->n; i++) {
        struct entry *e = &s->v[i];
        if (e->volume != op->volume[0])
            continue;
        if (op->c.kind == ORACLE_RENAME)
            e->volume = op->to;
        else if (op->c.kind == ORACLE_DELETE)
            state_remove(s, &s->v[i--]);
        else if (e->snapshot == op->snapshot[0])
            e->snapshot = op->to;
    }
}

void state_apply(const struct oracle *o, struct oracle_state *s, const struct oracle_op *op)
{
    struct entry *e = state_find(s, op->volume[0], op->snapshot[0]);
    switch (op->c.kind) {
    case ORACLE_WRITE:
    case ORACLE_ZERO:
        if (e)
            apply_content(o, e, op, op->c.maybe);
        break;
    case ORACLE_CREATE:
        state_add(s, op->volume[0], NAME_LIVE, false, content_new(op->c.sectors));
        break;
    case ORACLE_RESIZE:
        if (e) {
            struct oracle_content *c = content_copy(e->content, op->c.sectors);
            /* What a shrink cuts off the last page must not come back. */
            uint64_t from = op->c.sectors, to = VD_ROUND_UP(from, PAGE_SECTORS);
            for (; from < to && c->page[from / PAGE_SECTORS]; from++)
                page_put(o, page_own(c, from / PAGE_SECTORS), from % PAGE_SECTORS, 0, UINT64_MAX);
            content_unref(e->content);
            e->content = c;
        }
        break;
    case ORACLE_SNAPSHOT:
        apply_snapshot(o, s, op);
        break;
    case ORACLE_SNAPSHOT_DELETE:
        for (int k = 0; k < op->c.targets; k++)
            if ((e = state_find(s, op->volume[k], op->snapshot[k])))
                state_remove(s, e);
        break;
    case ORACLE_DELETE:
    case ORACLE_RENAME:
    case ORACLE_SNAPSHOT_RENAME:
        apply_names(s, op);
        break;
    case ORACLE_ROLLBACK:
        apply_rollback(s, op);
        break;
    case ORACLE_CLONE:
        if (e)
            state_add(s, op->to, NAME_LIVE, false, content_ref(e->content));
        break;
    }
}

/* ---- histories ---- */

static uint32_t version_new(struct oracle *o, bool zero)
{
    o->ver = oracle_alloc(o->ver, (o->vers + 1) * sizeof(*o->ver));
    o->ver[o->vers] = (struct version){.ack = UINT64_MAX, .zero = zero};
    return o->vers++;
}

static void step_add(struct oracle *o, struct oracle_op *op, struct oracle_state *s)
{
    o->step = oracle_alloc(o->step, (o->steps + 1) * sizeof(*o->step));
    o->step[o->steps++] = (struct step){op, s};
}

struct oracle *oracle_new(void)
{
    struct oracle *o = oracle_alloc(NULL, sizeof(*o));
    *o = (struct oracle){0};
    (void)oracle_name(o, "");
    (void)oracle_name(o, "*");
    version_new(o, true);
    o->ver[0].ack = 0;
    step_add(o, NULL, oracle_state_new());
    return o;
}

void oracle_free(struct oracle *o)
{
    if (!o)
        return;
    for (unsigned i = 0; i < o->ops; i++) {
        for (int k = 0; k < ORACLE_TARGETS; k++)
            content_unref(o->op[i]->base[k]);
        free(o->op[i]);
    }
    for (unsigned i = 0; i < o->steps; i++)
        oracle_state_free(o->step[i].state);
    free(o->op);
    free(o->step);
    free(o->ver);
    free(o->name);
    free(o);
}

struct oracle *oracle_fork(const struct oracle *o, const struct oracle_state *s)
{
    struct oracle *f = oracle_alloc(NULL, sizeof(*f));
    *f = (struct oracle){.names = o->names, .vers = o->vers, .clock = o->clock + 1};
    f->name = oracle_alloc(NULL, o->names * sizeof(*o->name));
    memcpy(f->name, o->name, o->names * sizeof(*o->name));
    f->ver = oracle_alloc(NULL, o->vers * sizeof(*o->ver));
    memcpy(f->ver, o->ver, o->vers * sizeof(*o->ver));
    for (uint32_t i = 0; i < f->vers; i++)
        f->ver[i].ack = VD_MIN(f->ver[i].ack, f->clock);
    step_add(f, NULL, state_copy(s));
    return f;
}

struct oracle_op *oracle_begin(struct oracle *o, const struct oracle_change *c)
{
    struct oracle_op *op = oracle_alloc(NULL, sizeof(*op));
    *op = (struct oracle_op){.c = *c, .ack = UINT64_MAX, .sub = ++o->clock};
    for (int k = 0; k < c->targets; k++) {
        op->volume[k] = oracle_name(o, c->t[k].volume);
        op->snapshot[k] = oracle_name(o, c->t[k].snapshot);
    }
    op->to = c->kind == ORACLE_ROLLBACK && !c->to[0] ? NAME_UNKNOWN : oracle_name(o, c->to);
    op->version = op_is_content(op) ? version_new(o, c->kind == ORACLE_ZERO) : 0;
    if (c->kind == ORACLE_SNAPSHOT)
        for (int k = 0; k < c->targets; k++) {
            const struct entry *e = state_find(oracle_live(o), op->volume[k], NAME_LIVE);
            op->base[k] = e ? content_ref(e->content) : NULL;
        }
    o->op = oracle_alloc(o->op, (o->ops + 1) * sizeof(struct oracle_op *));
    o->op[o->ops++] = op;
    return op;
}

uint32_t oracle_version(const struct oracle_op *op)
{
    return op->version;
}

bool oracle_leaves(const struct oracle_op *op, uint64_t *sector, uint64_t *sectors,
                   uint32_t *version)
{
    *version = op->c.kind == ORACLE_WRITE ? op->version : 0;
    *sector = op->c.sector;
    *sectors = op->c.sectors;
    return op->c.kind == ORACLE_WRITE || op->c.kind == ORACLE_ZERO;
}

void oracle_kept(struct oracle *o, struct oracle_op *op, const char *name)
{
    op->to = oracle_name(o, name);
}

void oracle_end(struct oracle *o, struct oracle_op *op, enum oracle_end how, bool durable)
{
    op->refused = how == ORACLE_REFUSED;
    if (how != ORACLE_DONE)
        return;
    op->ack = ++o->clock;
    op->must = durable;
    if (op->version)
        o->ver[op->version].ack = op->ack;
    struct oracle_state *s = state_copy(oracle_live(o));
    state_apply(o, s, op);
    step_add(o, op, s);
}

uint64_t oracle_now(struct oracle *o)
{
    return ++o->clock;
}

void oracle_flushed(struct oracle *o, uint64_t when)
{
    for (unsigned i = 1; i < o->steps; i++)
        o->step[i].op->must |= o->step[i].op->ack < when;
}

const struct oracle_state *oracle_live(const struct oracle *o)
{
    return o->step[o->steps - 1].state;
}

bool oracle_has(const struct oracle *o, const struct oracle_state *s, const char *volume,
                const char *snapshot, uint64_t *ret_sectors)
{
    const struct entry *e =
        state_find(s, oracle_name_find(o, volume), oracle_name_find(o, snapshot ? snapshot : ""));
    if (e && ret_sectors)
        *ret_sectors = e->content->sectors;
    return e;
}

void oracle_each(const struct oracle *o, const struct oracle_state *s, oracle_entry_fn *fn,
                 void *arg)
{
    for (unsigned i = 0; i < s->n; i++)
        fn(arg, o->name[s->v[i].volume], o->name[s->v[i].snapshot], s->v[i].content->sectors);
}

unsigned oracle_changes(const struct oracle *o)
{
    return o->ops;
}

uint32_t oracle_sector(const struct oracle *o, const char *volume, const char *snapshot,
                       uint64_t sector)
{
    const struct entry *e = state_find(oracle_live(o), oracle_name_find(o, volume),
                                       oracle_name_find(o, snapshot ? snapshot : ""));
    if (!e || sector >= e->content->sectors)
        return ORACLE_GARBAGE;
    const struct page *p;
    uint32_t v = content_at(e->content, sector, &p);
    for (unsigned i = 0; p && i < p->nalt; i++)
        if (p->alt[i].at == sector % PAGE_SECTORS)
            return ORACLE_GARBAGE;
    return o->ver[v].zero ? 0 : v;
}
