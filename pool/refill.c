/* SPDX-License-Identifier: MIT */
/*
 * Refilling: where space is short, small writes go into the dead blocks of closed segments, instead
 * of live blocks being moved out of them first (docs/decisions/0022). Their records name them by
 * address and have no payload.
 *
 * The maps of segments (map_priv.h) say which blocks are dead.
 *
 * I1: a block is written over only if the newest durable root does not name it, no record after
 * that root has anything to do with its segment but refills of other blocks, and nobody who
 * resolved an address before that root has it pinned. Each block is filled at most once between two
 * roots, so what a record says of it can be verified at replay like a payload.
 *
 * The headers in a segment do not know what it was refilled with, so one of its dead blocks becomes
 * a hint block that tells the cleaner. It is written with the last record that fills the segment,
 * or by the checkpoint before the root that covers it; after a crash, entries say where it was to
 * be.
 */
#include "core/base/text.h"
#include "pool/map_priv.h"

#include <stdlib.h>

/* Entries of one block each that a hint block holds. */
#define HINT_ENTRY (sizeof(struct od_entry_bulk) + 8)
#define REFILL_SLOTS (OD_BULK_ENTRIES_MAX / HINT_ENTRY)
/* A segment where one block of so many is a hint block that stays is for the cleaner. */
#define REFILL_HINTS_PART 16
#define REFILL_AT_ONCE 16       /* segments made ready in one look at all */
#define REFILL_SEG_MIN 4        /* dead blocks that make a segment worth it: one is for hints */
#define REFILL_MARGIN 8         /* slots ready beyond those promised */
#define REFILL_MIN UINT64_C(64) /* dead blocks that make it worth a root */
#define REFILL_KNOWN_PART 32    /* of all garbage */

/* Of a segment, until its hint block is complete. */
struct refill {
    struct vd_list link;
    uint32_t seg;
    uint16_t hints; /* block of the segment */
    uint8_t teller; /* its number there */
    bool tidied;
    uint64_t rid; /* of the segment then; 0: found by replay */
    uint16_t count, used;
    uint16_t slot[REFILL_SLOTS]; /* dead blocks, ascending */
    unsigned entries, len;
    uint8_t *block; /* the hint block */
};

/* ---- making segments ready ---- */

/* Dead blocks in it, if they are known and enough. */
static uint32_t seg_dead(const struct vd_pool *p, const struct pool_seg *s)
{
    if (!s->map || s->state != VD_SEG_CLOSED || s->rotten || s->refilling ||
        s->map->hints > p->seg_blocks / REFILL_HINTS_PART)
        return 0;
    uint32_t dead = p->seg_blocks - s->map->used;
    return dead >= REFILL_SEG_MIN ? dead : 0;
}

static bool refill_possible(const struct vd_pool *p, uint32_t seg)
{
    const struct pool_seg *s = &p->segs.v[seg];
    bool root_knows = s->last_seq <= p->root.seq && s->ghosts_until <= p->root.counter;
#ifdef VD_PLANT_REFILLED_BEFORE_ROOT
    root_knows = true;
#endif
    bool pinned = s->pins != 0;
#ifdef VD_PLANT_REFILLED_WHILE_PINNED
    pinned = false;
#endif
    /* What no record ever named the table may not know of. */
    return seg_dead(p, s) && s->last_seq && !s->victim && !s->doomed && s->unpublished == 0 &&
           root_knows && !pinned && seg != p->root.log_seg.seg;
}

void refill_count(struct vd_pool *p)
{
    p->refill.dead = p->refill.garbage = p->refill.filled = 0;
    p->refill.barren = p->refill.all_known = false;
    for (uint32_t i = 1; i < p->segs.count; i++) {
        const struct pool_seg *s = &p->segs.v[i];
        if (s->state == VD_SEG_CLOSED &&
            (s->stream == VD_STREAM_LOG || s->stream == VD_STREAM_CLEAN))
            p->refill.garbage += p->seg_blocks - s->live;
        if (refill_possible(p, i))
            p->refill.dead += VD_MIN(seg_dead(p, s), (uint32_t)REFILL_SLOTS);
    }
    p->refill.dead_at_root = p->refill.dead;
}

void refill_merge_ends(struct vd_pool *p, bool published)
{
    p->refill.filled_meanwhile = p->stats.refilled - p->refill.filled_before;
    for (uint32_t i = 1; i < p->segs.count; i++) {
        if (published)
            map_publish(p, i);
        else
            map_merge_failed(p, i);
    }
    refill_count(p);
}

void refill_learned(struct vd_pool *p, uint32_t seg)
{
    p->refill.learned++;
    if (!refill_possible(p, seg))
        return;
    uint32_t dead = VD_MIN(seg_dead(p, &p->segs.v[seg]), (uint32_t)REFILL_SLOTS);
    p->refill.dead += dead;
    p->refill.dead_at_root += dead;
    p->refill.barren = false;
}

struct refill *refill_of(struct vd_list *link)
{
    return vd_container_of(link, struct refill, link);
}

static void refill_free(struct refill *f)
{
    free(f->block);
    free(f);
}

static struct refill *refill_new(uint32_t seg, uint16_t hints)
{
    struct refill *f = calloc(1, sizeof(*f));
    if (f)
        f->block = vd_alloc_aligned(VD_BLOCK);
    if (!f || !f->block) {
        free(f);
        return NULL;
    }
    memset(f->block, 0, VD_BLOCK);
    vd_list_init(&f->link);
    f->seg = seg;
    f->hints = hints;
    return f;
}

static void refill_open(struct vd_pool *p, uint32_t seg)
{
    struct pool_seg *s = &p->segs.v[seg];
    struct refill *f = refill_new(seg, 0);
    if (!f)
        return;
    map_forget(p, s->map);
    for (uint32_t b = 1; b < p->seg_blocks && f->count < REFILL_SLOTS; b++) {
        if (map_used(p, s->map, b))
            continue;
        if (f->hints)
            f->slot[f->count++] = (uint16_t)b;
        else
            f->hints = (uint16_t)b;
    }
    if (f->count == 0) {
        refill_free(f);
        return;
    }
    f->teller = map_fix(p, s->map, f->hints);
    f->rid = s->rid;
    s->refilling = true;
    p->refill.dead -= VD_MIN(p->refill.dead, f->count);
    p->refill.slots += f->count;
    vd_list_push(&p->refill.ready, &f->link);
}

/* The emptiest few of all. */
static void refill_prepare(struct vd_pool *p)
{
    uint32_t best[REFILL_AT_ONCE];
    unsigned n = 0;
    for (uint32_t i = 1; i < p->segs.count; i++) {
        if (!refill_possible(p, i))
            continue;
        uint32_t used = p->segs.v[i].map->used;
        if (n == REFILL_AT_ONCE && used >= p->segs.v[best[n - 1]].map->used)
            continue;
        unsigned at = n < REFILL_AT_ONCE ? n++ : n - 1;
        for (; at > 0 && p->segs.v[best[at - 1]].map->used > used; at--)
            best[at] = best[at - 1];
        best[at] = i;
    }
    for (unsigned i = 0; i < n; i++)
        refill_open(p, best[i]);
    p->refill.barren = n == 0;
    vd_wake_one(&p->refill.untidy);
}

/* Each block filled makes another one dead, so a few are enough to go on with; but where most of
 * what is dead is not known, the cleaner finds it, and makes it known by writing new segments. */
bool refill_works(const struct vd_pool *p)
{
    return p->refill.dead_at_root >= VD_MAX(REFILL_MIN, p->refill.garbage / REFILL_KNOWN_PART);
}

bool refill_runs_out(const struct vd_pool *p)
{
    uint64_t known = p->refill.dead_at_root;
    uint64_t least = VD_MAX(known / 8, VD_MIN(known / 2, p->refill.filled_meanwhile * 5 / 4));
    return !log_flush_expected(&p->log) && p->refill.filled &&
           p->refill.dead + p->refill.slots < least;
}

bool refill_promise(struct vd_pool *p, uint32_t blocks)
{
    uint64_t need = p->refill.promised + blocks + REFILL_MARGIN;
    if (p->refill.slots < need && !p->refill.barren)
        refill_prepare(p);
    if (p->refill.slots < need)
        return false;
    p->refill.promised += blocks;
    return true;
}

/* ---- filling ---- */

/* No more goes into it: its segment is like any other again. */
static void refill_leave(struct vd_pool *p, struct refill *f)
{
    struct pool_seg *s = &p->segs.v[f->seg];
    vd_list_remove(&f->link);
    s->refilling = false;
    p->refill.slots -= (uint64_t)(f->count - f->used);
    p->refill.dead += (uint64_t)(f->count - f->used);
    if (!s->map)
        return;
    if (f->entries)
        s->map->hints += f->teller == 0;
    else
        map_unfix(p, s->map, f->hints, f->teller);
}

/* The one to take slots from. Segments that could not be written have lost their map. */
static struct refill *refill_first(struct vd_pool *p)
{
    for (;;) {
        if (vd_list_empty(&p->refill.ready) && !p->refill.barren)
            refill_prepare(p);
        if (vd_list_empty(&p->refill.ready))
            return NULL;
        struct refill *f = refill_of(p->refill.ready.next);
        if (p->segs.v[f->seg].map)
            return f;
        refill_leave(p, f);
        if (f->used)
            vd_list_push(&p->refill.found, &f->link);
        else
            refill_free(f); /* no header of it has been given up */
    }
}

bool refill_slot(struct vd_pool *p, struct vd_addr *ret, struct refill **from)
{
    struct refill *f = refill_first(p);
    if (!f)
        return false;
    uint32_t block = f->slot[f->used++];
    struct seg_map *m = p->segs.v[f->seg].map;
    if (m->tellers)
        m->tellers->of[block] = f->teller;
    *ret = (struct vd_addr){f->seg, block * VD_SECTORS_PER_BLOCK};
    *from = f;
    p->refill.slots--;
    return true;
}

uint16_t refill_hints(const struct refill *f)
{
    return f->hints;
}

static struct vd_addr hints_addr(const struct refill *f)
{
    return (struct vd_addr){f->seg, (uint32_t)f->hints * VD_SECTORS_PER_BLOCK};
}

static void refill_seal(struct vd_pool *p, struct refill *f)
{
    struct vd_record rec = {.bulk = true,
                            .flags = OD_RECORD_HINTS,
                            .pool = p->pool64,
                            .incarnation = p->log.incarnation,
                            .rid = p->segs.v[f->seg].rid,
                            .at = hints_addr(f),
                            .entry_count = f->entries,
                            .entries_len = f->len,
                            .wall_s = vd_loop_wall_s(p->loop)};
    record_seal(&rec, f->block);
}

struct vd_io refill_io(struct vd_pool *p, struct refill *f, struct iovec *iov)
{
    *iov = (struct iovec){f->block, VD_BLOCK};
    return (struct vd_io){
        .op = VD_IO_WRITE, .off = addr_off(p, hints_addr(f)), .iov = iov, .iovcnt = 1};
}

/* An entry that a record has just got: for the hint block as well. */
static void refill_note(struct refill *f, const void *entry, size_t len)
{
    memcpy(f->block + OD_RECORD_ENTRIES + f->len, entry, len);
    f->len += (unsigned)len;
    f->entries++;
}

bool refill_filled(struct vd_pool *p, struct refill *f, uint64_t seq, const void *entry, size_t len,
                   struct vd_list *full)
{
    refill_note(f, entry, len);
    p->segs.v[f->seg].last_seq = seq;
    p->refill.filled++;
    if (f->used < f->count)
        return false;
    refill_leave(p, f);
    refill_seal(p, f);
    vd_list_push(full, &f->link);
    return true;
}

void refill_done(struct vd_list *full)
{
    struct vd_list *l;
    while ((l = vd_list_pop(full)))
        refill_free(refill_of(l));
}

/* ---- tidying ---- */

/* Headers that tell of a few blocks only are a waste of blocks: a hint block that has room tells of
 * these too, and the next root makes the headers dead. Where there is no time for that, they stay.
 */
#define TIDY_LIVE 40 /* blocks that a header tells of */

static struct refill *refill_find(const struct vd_pool *p, uint32_t seg, uint16_t hints)
{
    vd_list_each (it, &p->refill.ready) {
        struct refill *f = refill_of(it);
        if (f->seg == seg && f->hints == hints)
            return f;
    }
    return NULL;
}

static size_t refill_room(const struct refill *f)
{
    size_t slots = (size_t)(f->count - f->used) * HINT_ENTRY;
    return OD_BULK_ENTRIES_MAX - f->len - slots;
}

/* Takes over what the header says of blocks that it still tells of. */
static void header_take_over(struct vd_pool *p, struct refill *f, uint8_t teller,
                             const struct vd_record *rec, const uint8_t *header)
{
    struct seg_map *m = p->segs.v[f->seg].map;
    struct entry_walk w = entries_of(rec, header);
    struct vd_entry e;
    while (entry_next(&w, &e) > 0) {
        if (e.type != VD_ENTRY_BULK && e.type != VD_ENTRY_WRITE)
            continue;
        struct vd_addr at = entry_addr(rec, &e);
        for (uint64_t i = 0; i < e.blocks && at.seg == f->seg; i++) {
            struct vd_entry one = {.type = VD_ENTRY_BULK,
                                   .branch = e.branch,
                                   .lba = e.lba + i,
                                   .blocks = 1,
                                   .addr = vd_addr_plus(at, i),
                                   .hints = f->hints,
                                   .csum = {e.csum[i]}};
            uint32_t block = addr_block(one.addr);
            uint8_t entry[HINT_ENTRY];
            if (block >= p->seg_blocks || !map_told(m, block, teller) ||
                refill_room(f) < sizeof(entry))
                continue;
            entry_encode(&one, entry);
            refill_note(f, entry, sizeof(entry));
            m->tellers->of[block] = f->teller;
        }
    }
}

/* VD_YIELDS */
static void refill_tidy(struct vd_pool *p, struct refill *f, uint8_t *buf)
{
    uint32_t seg = f->seg;
    uint16_t hints = f->hints;
    uint8_t weak[REFILL_SLOTS];
    unsigned n = map_weak(p, p->segs.v[seg].map, TIDY_LIVE, (unsigned)(refill_room(f) / HINT_ENTRY),
                          weak, VD_ARRAY_SIZE(weak));
    for (unsigned i = 0; i < n; i++) {
        uint16_t block = p->segs.v[seg].map->tellers->at[weak[i]];
        struct vd_addr at = {seg, (uint32_t)block * VD_SECTORS_PER_BLOCK};
        struct vd_record rec;
        int r = vd_dev_read(p->dev, addr_off(p, at), buf, VD_BLOCK);
        f = refill_find(p, seg, hints); /* or it has been used up meanwhile */
        if (!f || !p->segs.v[seg].map || !p->segs.v[seg].map->tellers)
            return;
        if (r == 0 && seg_header(p, at, buf, &rec) && rec.rid == p->segs.v[seg].rid)
            header_take_over(p, f, weak[i], &rec, buf);
    }
}

static void refill_tidier(void *arg)
{
    struct vd_pool *p = arg;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_BLOCK);
    while (buf && !p->closing && !pool_failed(p)) {
        struct refill *f = NULL;
        vd_list_each (it, &p->refill.ready)
            if (!f && !refill_of(it)->tidied)
                f = refill_of(it);
        if (!f) {
            vd_wait(&p->refill.untidy);
            continue;
        }
        f->tidied = true;
        if (p->segs.v[f->seg].map && p->segs.v[f->seg].map->tellers)
            refill_tidy(p, f, buf);
    }
    pool_fiber_ends(p);
}

int refill_start(struct vd_pool *p)
{
    return pool_spawn(p, "refill-tidier", refill_tidier);
}

/* ---- hint blocks ---- */

/* Replay found an entry whose hint block may not have been written. */
int refill_found(struct vd_pool *p, const struct vd_entry *e)
{
    struct refill *f = NULL;
    for (struct vd_list *it = p->refill.found.prev; it != &p->refill.found && !f; it = it->prev) {
        f = refill_of(it);
        if (f->seg != e->addr.seg || f->hints != e->hints)
            f = NULL;
    }
    if (!f) {
        f = refill_new(e->addr.seg, e->hints);
        if (!f)
            return -ENOMEM;
        vd_list_push(&p->refill.found, &f->link);
    }
    if (f->len + entry_size(e) <= OD_BULK_ENTRIES_MAX) {
        size_t len = entry_encode(e, f->block + OD_RECORD_ENTRIES + f->len);
        f->len += (unsigned)len;
        f->entries++;
    }
    return 0;
}

/* Do the entries of a header, all of one block, include this one? */
static bool entries_include(const uint8_t *header, unsigned len, const uint8_t *entry)
{
    for (size_t at = 0; at + HINT_ENTRY <= len; at += HINT_ENTRY)
        if (memcmp(header + OD_RECORD_ENTRIES + at, entry, HINT_ENTRY) == 0)
            return true;
    return false;
}

/* Is the hint block there, with all that replay found? What lies in its place may be an older one,
 * or one that a checkpoint wrote whose root covers some of the entries: then it knows more. */
static bool hints_there(struct vd_pool *p, const struct refill *f, uint64_t rid, uint8_t *buf)
{
    struct vd_record rec;
    struct vd_addr at = hints_addr(f);
    if (vd_dev_read(p->dev, addr_off(p, at), buf, VD_BLOCK) < 0 || !seg_header(p, at, buf, &rec) ||
        !(rec.flags & OD_RECORD_HINTS) || !rec.bulk || rec.rid != rid)
        return false;
#ifdef VD_PLANT_OLD_HINTS_TRUSTED
    return rec.entries_len >= f->len;
#endif
    for (size_t i = 0; i + HINT_ENTRY <= f->len; i += HINT_ENTRY)
        if (!entries_include(buf, rec.entries_len, f->block + OD_RECORD_ENTRIES + i))
            return false;
    return true;
}

/* Replay may have learned of a segment only that entries name it; its first header says the rest.
 */
static void rid_learn(struct vd_pool *p, uint32_t seg, uint8_t *buf)
{
    struct vd_record rec;
    struct vd_addr at = {seg, 0};
    if (p->segs.v[seg].rid == 0 && vd_dev_read(p->dev, addr_off(p, at), buf, VD_BLOCK) == 0 &&
        seg_header(p, at, buf, &rec))
        p->segs.v[seg].rid = rec.rid;
}

static int hints_write(struct vd_pool *p, struct refill *f)
{
    struct iovec iov;
    refill_seal(p, f);
    struct vd_io io = refill_io(p, f, &iov);
#ifdef VD_PLANT_HINTS_NOT_WRITTEN
    return 0;
#endif
    return behind_io(p, &io, 1);
}

/* All hints of entries that the coming root covers. Where one cannot be written, its blocks cannot
 * be moved, and the segment is not refilled any more, so that older headers stay. VD_YIELDS */
int refill_checkpoint(struct vd_pool *p)
{
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_BLOCK);
    struct vd_list partial, *l;
    if (!buf)
        return -ENOMEM;
    vd_list_init(&partial);
    vd_list_each_safe (it, &p->refill.ready) {
        struct refill *f = refill_of(it);
        struct pool_seg *s = &p->segs.v[f->seg];
        refill_leave(p, f);
        if (f->entries == 0) {
            refill_free(f);
            continue;
        }
        vd_list_push(&partial, &f->link);
        /* Headers that a hint block took over from stay until that is durable. */
        s->ghosts_until = VD_MAX(s->ghosts_until, p->root.counter + 1);
    }
    p->refill.barren = false;
    p->refill.filled_before = p->stats.refilled;
    /* Records under way may carry hint blocks whose other entries the root covers: where one fails,
     * they are found. What is made ready from here on, the root covers nothing of. */
    log_settle(p);
    while ((l = vd_list_pop(&p->refill.found))) {
        struct refill *f = refill_of(l);
        rid_learn(p, f->seg, buf);
        if (f->entries == 0 || hints_there(p, f, p->segs.v[f->seg].rid, buf))
            refill_free(f);
        else
            vd_list_push(&partial, &f->link);
    }
    while ((l = vd_list_pop(&partial))) {
        struct refill *f = refill_of(l);
        bool same = f->rid == 0 || f->rid == p->segs.v[f->seg].rid;
        int r = same ? hints_write(p, f) : 0;
        if (r < 0) {
            vd_log(VD_LOG_WARNING, "%s: hints of segment %u cannot be written: %s",
                   vd_dev_path(p->dev), f->seg, strerror(-r));
            map_drop(p, f->seg);
        }
        refill_free(f);
    }
    return 0;
}

void refill_rest(struct vd_pool *p)
{
    struct vd_list *l;
    while (!vd_list_empty(&p->refill.ready)) {
        struct refill *f = refill_of(p->refill.ready.next);
        refill_leave(p, f);
        if (f->entries) /* its hint block, which tells of something, is not written */
            map_drop(p, f->seg);
        refill_free(f);
    }
    while ((l = vd_list_pop(&p->refill.found))) {
        map_drop(p, refill_of(l)->seg);
        refill_free(refill_of(l));
    }
}

void refill_init(struct vd_pool *p)
{
    vd_waitq_init(&p->refill.untidy);
    vd_list_init(&p->refill.ready);
    vd_list_init(&p->refill.found);
}

void refill_end(struct vd_pool *p)
{
    refill_done(&p->refill.ready);
    refill_done(&p->refill.found);
}
