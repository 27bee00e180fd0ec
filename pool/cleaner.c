/* SPDX-License-Identifier: MIT */
/*
 * The cleaner: empties segments that are mostly garbage by moving what is live in them.
 *
 * Victims are read whole; the headers in them say what every block was stored for, and the client
 * says whether it still is: moved is what the trees name and the overlays have not replaced for
 * good (docs/decisions/0016). Live runs, sorted by branch and lba, go to the cleaner's own stream,
 * are flushed, and only then published by a RELOCATE entry (I4). A relocation never decides which
 * version is current: it only says that what is at one address is now also at another, so it may
 * race with any write, trim or delete. A victim is emptied as a whole or left alone.
 *
 * Victims are pinned until their relocations are applied. Once these are flushed, a victim that
 * holds nothing else is free at once: the trees still name it, but only trees are read through
 * relocations, and a segment is never a victim while an overlay may point into it (I5,
 * docs/decisions/0003). Where that cannot be shown, the root that merges the relocations frees it.
 */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "pool/map_priv.h"

#include <math.h>
#include <stdlib.h>

#define VICTIMS_MAX 8
/* What a batch has moved is applied in one go, in which nothing else happens. */
#define VICTIM_BYTES VD_MIB(4)
#define SCAN_TURN_BLOCKS 32
/* Live share beyond which emptying a segment does not pay. */
#define FULLEST 0.85
#define FULLEST_URGENT 0.98
#define SPARSE 0.6

struct move {
    uint64_t branch;
    struct vd_run run; /* addr: where it lies now */
    const uint8_t *data;
    struct vd_addr to;
};

struct clean {
    struct vd_pool *p;
    struct bulk_stream *out;
    uint64_t planned; /* blocks that the output may take */
    uint64_t moving;  /* blocks to be relocated */
    struct {
        uint32_t seg, pieces;
    } used[VICTIMS_MAX + 2]; /* segments of the output */
    unsigned nused;
    uint32_t victim[VICTIMS_MAX];
    uint8_t *data[VICTIMS_MAX];
    bool unread[VICTIMS_MAX];    /* or to be read again */
    uint32_t moved[VICTIMS_MAX]; /* blocks, of each victim */
    uint32_t gone[VICTIMS_MAX];  /* named by the trees, and replaced by the overlays */
    uint64_t *seen;              /* bits: blocks of the victim that are accounted for */
    unsigned victims;
    uint64_t root;    /* counter of the root that the answers were about */
    uint32_t scanned; /* blocks since others had a turn */
    struct move *moves;
    size_t count, room;
    /* Instead of what is to be moved, a map of the segment is made (cleaner_learn). */
    struct seg_map *map;
    uint8_t teller; /* the header that is being asked about */
};

/* ---- buffers ---- */

/* Fresh memory costs more than what is done with it here. */
static uint8_t *buffer_get(struct vd_pool *p)
{
    void *buf = p->clean.buffers;
    if (!buf)
        return vd_alloc_aligned(p->chunk_size);
    memcpy(&p->clean.buffers, buf, sizeof(void *));
    return buf;
}

static void buffer_put(struct vd_pool *p, void *buf)
{
    if (!buf)
        return;
    memcpy(buf, &p->clean.buffers, sizeof(void *));
    p->clean.buffers = buf;
}

void cleaner_rest(struct vd_pool *p)
{
    while (p->clean.buffers)
        free(buffer_get(p));
}

/* ---- choosing ---- */

static double victim_score(const struct vd_pool *p, const struct pool_seg *s)
{
    double u = VD_MAX((double)s->live / p->seg_blocks, 0.02);
    double age = (double)(p->root.seq - s->last_seq + 1);
    /* Found by simulation (docs/decisions/0002): good for uniform and for skewed writes. */
    return (1 - u) * sqrt(age) / u;
}

/* Could it be emptied, as soon as roots have made its content theirs? */
static bool victim_some_day(const struct vd_pool *p, const struct pool_seg *s, double most)
{
    return s->state == VD_SEG_CLOSED &&
           (s->stream == VD_STREAM_LOG || s->stream == VD_STREAM_CLEAN) && !s->stuck &&
           !s->rotten && !s->doomed && s->live > 0 && s->live <= most * p->seg_blocks;
}

static bool victim_possible(const struct vd_pool *p, const struct pool_seg *s, double most)
{
    return victim_some_day(p, s, most) && !s->victim && s->last_seq <= p->root.seq &&
           s->unpublished == 0 && !s->refilling && s->ghosts_until <= p->root.counter;
}

/* Blocks that moving what is live may take: a header for every 60 blocks at worst, and one more
 * where a segment of the output ends. */
static uint64_t move_cost(const struct pool_seg *s)
{
    return s->live + s->live / 60 + 2;
}

/* What a batch may take. A relocation changes a node: where blocks lie one by one, emptying dense
 * segments lets merges write more than it brings, which may be no more than there is space for. */
struct budget {
    uint64_t room;  /* blocks for the output */
    uint64_t moves; /* blocks in the victims so far */
    int64_t beyond; /* free blocks that merges do not need, with what the victims were so far */
};

/* With the blocks of the log that say where they are now. */
static uint64_t batch_cost(const struct pool_seg *s)
{
    return move_cost(s) + s->live / 60 + 1;
}

static bool budget_allows(const struct vd_pool *p, const struct budget *b, const struct pool_seg *s)
{
    return move_cost(s) <= b->room &&
           b->beyond + p->seg_blocks >=
               (int64_t)(batch_cost(s) + reserve_of_moves(p, b->moves + s->live));
}

static void budget_take(const struct vd_pool *p, struct budget *b, const struct pool_seg *s)
{
    b->room -= move_cost(s);
    b->moves += s->live;
    b->beyond += (int64_t)p->seg_blocks - (int64_t)batch_cost(s);
}

struct candidate {
    double score;
    uint32_t seg;
};

/* The best `most` candidates of which the budget allows each, best first; returns how many. */
static unsigned candidates_find(const struct vd_pool *p, bool urgent, const struct budget *b,
                                struct candidate *best, unsigned most)
{
    double fullest = urgent ? FULLEST_URGENT : space_cleans_sparse(p) ? SPARSE : FULLEST;
    unsigned n = 0;
    for (uint32_t i = 1; i < p->segs.count; i++) {
        const struct pool_seg *s = &p->segs.v[i];
        if (!victim_possible(p, s, fullest))
            continue;
        struct candidate c = {victim_score(p, s), i};
        if ((n == most && c.score <= best[n - 1].score) || !budget_allows(p, b, s))
            continue;
        unsigned at = n < most ? n++ : n - 1;
        for (; at > 0 && best[at - 1].score < c.score; at--)
            best[at] = best[at - 1];
        best[at] = c;
    }
    return n;
}

static struct budget budget_of(const struct vd_pool *p, const struct bulk_stream *out)
{
    uint64_t room = space_clean_room(p);
    uint64_t open = out->seg ? p->seg_blocks - out->block : 0;
    return (struct budget){
        .room = room - VD_MIN(room, p->clean.planned) + open,
        .beyond = space_to_clean(p) + (int64_t)open - (int64_t)p->clean.planned,
    };
}

enum clean_prospect cleaner_prospect(const struct vd_pool *p)
{
    struct candidate best;
    for (unsigned i = 0; i < CLEANERS; i++) {
        struct budget b = budget_of(p, &p->clean.out[i]);
        if (candidates_find(p, true, &b, &best, 1))
            return CLEAN_NOW;
    }
    for (uint32_t i = 1; i < p->segs.count; i++)
        if (victim_some_day(p, &p->segs.v[i], FULLEST_URGENT))
            return CLEAN_LATER;
    return CLEAN_NOTHING;
}

/* The best few victims whose live blocks the cleaner has space to copy. */
static void choose(struct clean *c, bool urgent)
{
    struct vd_pool *p = c->p;
    struct budget b = budget_of(p, c->out);
    unsigned most = (unsigned)VD_MAX(1u, VD_MIN(VICTIMS_MAX, VICTIM_BYTES / p->chunk_size));
    struct candidate best[VICTIMS_MAX + VICTIMS_MAX / 2];
    unsigned n = candidates_find(p, urgent, &b, best, VD_ARRAY_SIZE(best));
    for (unsigned i = 0; i < n && c->victims < most; i++) {
        struct pool_seg *s = &p->segs.v[best[i].seg];
        if (!budget_allows(p, &b, s))
            continue;
        budget_take(p, &b, s);
        s->victim = true;
        s->pins++;
        c->planned += move_cost(s);
        c->moving += s->live;
        c->victim[c->victims++] = best[i].seg;
    }
    p->clean.planned += c->planned;
    p->clean.moving += c->moving;
}

/* ---- finding what is live ---- */

static int move_add(struct clean *c, uint64_t branch, const struct vd_run *run, const uint8_t *data)
{
    if (c->count == c->room) {
        size_t room = c->room ? c->room * 2 : 256;
        struct move *v = realloc(c->moves, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        c->moves = v;
        c->room = room;
    }
    c->moves[c->count++] = (struct move){.branch = branch, .run = *run, .data = data};
    return 0;
}

/* Is the block what its checksum says? Read once more if not: it may have been the way. */
static bool block_good(struct vd_pool *p, struct vd_addr at, uint8_t *data, uint64_t csum)
{
    if (vd_xxh3(data, VD_BLOCK) == csum)
        return true;
    return vd_dev_read(p->dev, addr_off(p, at), data, VD_BLOCK) == 0 &&
           vd_xxh3(data, VD_BLOCK) == csum;
}

/* -EBADMSG: a block is bad. */
static int run_add(struct clean *c, unsigned v, uint64_t branch, const struct vd_run *run)
{
    uint8_t *data = c->data[v] + (size_t)run->addr.sector * VD_SECTOR;
    for (uint64_t b = 0; b < run->blocks; b++) {
        struct vd_addr at = vd_addr_plus(run->addr, b);
        if (!block_good(c->p, at, data + b * VD_BLOCK, run->csum[b])) {
            vd_log(VD_LOG_ERROR, "%s: segment %u is not cleaned: bad checksum in sector %u",
                   vd_dev_path(c->p->dev), at.seg, at.sector);
            return -EBADMSG;
        }
    }
    c->moved[v] += (uint32_t)run->blocks;
    return move_add(c, branch, run, data);
}

/* The trees name this block. */
static void block_found(struct clean *c, uint64_t block)
{
    vd_bit_set(c->seen, block);
    if (c->map)
        map_name(c->map, (uint32_t)block, c->teller);
}

/* Asks the client about one hint. Several may be true of the same block, where it was filled again
 * with what had been there before: it counts once. */
static int hint_ask(struct clean *c, unsigned v, const struct pool_owner_query *q,
                    struct vd_run *runs)
{
    uint64_t branch, first = addr_block(q->addr);
    uint32_t gone;
    int n = c->p->client->owner(c->p->client_arg, q, runs, VD_CELL_BLOCKS, &branch, &gone);
    if (n < 0)
        return n;
    for (uint64_t i = 0; i < q->blocks; i++)
        if (gone >> i & 1) {
            c->gone[v]++;
            block_found(c, first + i);
        }
    for (int r = 0; r < n; r++) {
        for (uint64_t i = 0; i < runs[r].blocks; i++)
            block_found(c, addr_block(runs[r].addr) + i);
        int res = c->map ? 0 : run_add(c, v, branch, &runs[r]);
        if (res < 0)
            return res;
    }
    return 0;
}

/* Asks about each hint of one header. */
static int header_scan(struct clean *c, unsigned v, const struct vd_record *rec,
                       const uint8_t *header)
{
    struct entry_walk w = entries_of(rec, header);
    struct vd_entry e;
    struct vd_run *runs VD_CLEANUP(vd_cleanup_free) = malloc(VD_CELL_BLOCKS * sizeof(*runs));
    if (!runs)
        return -ENOMEM;
    int more;
    while ((more = entry_next(&w, &e)) > 0) {
        if (e.type != VD_ENTRY_WRITE && e.type != VD_ENTRY_BULK)
            continue;
        struct vd_addr at = entry_addr(rec, &e);
        uint32_t first = addr_block(at);
        if (at.seg != rec->at.seg || first + e.blocks > c->p->seg_blocks)
            continue;
        for (uint64_t from = 0, to; from < e.blocks; from = to + 1) {
            for (to = from; to < e.blocks && !vd_bit_get(c->seen, first + to); to++)
                ;
            struct pool_owner_query q = {.branch = e.branch,
                                         .lba = e.lba + from,
                                         .blocks = to - from,
                                         .addr = vd_addr_plus(at, from)};
            int r = q.blocks ? hint_ask(c, v, &q, runs) : 0;
            if (r < 0)
                return r;
        }
    }
    return more;
}

/* Has everything that the trees name in it been moved, or is it gone? */
static bool victim_empty(const struct clean *c, unsigned v)
{
    const struct vd_pool *p = c->p;
    return c->moved[v] + c->gone[v] == p->segs.v[c->victim[v]].live && c->root == p->root.counter;
}

/* Looks for the headers in one victim, at every block: where nothing needs them any more they may
 * have been filled with something else, and behind those that are needed there may be hint blocks.
 * -EBADMSG, -EIO: something cannot be read. */
static int victim_walk(struct clean *c, unsigned v)
{
    struct vd_pool *p = c->p;
    uint32_t seg = c->victim[v];
    int r = c->unread[v] ? vd_dev_read(p->dev, seg_off(p, seg), c->data[v], p->chunk_size) : 0;
    c->unread[v] = true;
    memset(c->seen, 0, p->seg_blocks / 8);
    for (uint32_t block = 0; r == 0 && block < p->seg_blocks; block++) {
        struct vd_record rec;
        struct pool_seg *s = &p->segs.v[seg]; /* the array may move while this waits */
        const uint8_t *header = c->data[v] + (size_t)block * VD_BLOCK;
        if (!seg_header(p, (struct vd_addr){seg, block * VD_SECTORS_PER_BLOCK}, header, &rec))
            continue;
        /* Replay knows of a segment only that entries name it; its first header says the rest. */
        if (block == 0 && s->rid == 0)
            s->rid = rec.rid;
        if (rec.rid != s->rid)
            continue;
        if (c->map) {
            c->teller = map_fix(p, c->map, block);
            c->map->hints += rec.flags & OD_RECORD_HINTS && c->teller == 0;
        }
        r = header_scan(c, v, &rec, header);
        c->scanned += 1 + rec.payload_blocks;
        if (c->scanned >= SCAN_TURN_BLOCKS) { /* others have waited long enough */
            c->scanned = 0;
            vd_fiber_yield();
        }
    }
    return r;
}

/* Finds what has to be moved out of one victim: all of it, or nothing, since a segment that cannot
 * be emptied would only take more space. One is read twice before it is given up. */
static int victim_scan(struct clean *c, unsigned v)
{
    struct vd_pool *p = c->p;
    size_t first = c->count;
    int r = 0;
    for (int tries = 0; tries < 2; tries++) {
        c->count = first;
        c->moved[v] = c->gone[v] = 0;
        r = victim_walk(c, v);
        if (r < 0 && r != -EBADMSG && r != -EIO)
            return r;
        if (r == 0 && (victim_empty(c, v) || c->root != p->root.counter))
            return 0;
    }
    c->count = first;
    c->moved[v] = c->gone[v] = 0;
    struct pool_seg *s = &p->segs.v[c->victim[v]];
    s->stuck = true;
    s->rotten = r < 0;
    return 0;
}

/* ---- moving ---- */

static int move_cmp(const void *a, const void *b)
{
    const struct move *x = a, *y = b;
    if (x->branch != y->branch)
        return x->branch < y->branch ? -1 : 1;
    if (x->run.lba != y->run.lba)
        return x->run.lba < y->run.lba ? -1 : 1;
    return x->run.born < y->run.born ? -1 : x->run.born > y->run.born;
}

/* An output segment with space for a header and the next run. */
static int out_room(struct clean *c, uint64_t blocks)
{
    struct vd_pool *p = c->p;
    struct bulk_stream *o = c->out;
    if (o->seg && o->block + 1 + blocks <= p->seg_blocks)
        return 0;
    if (o->seg)
        seg_close(p, o->seg);
    o->seg = 0;
    o->block = 0;
    int r = seg_open(p, VD_STREAM_CLEAN, &o->seg);
    uint64_t had = r == 0 ? VD_MIN(c->planned, (uint64_t)p->seg_blocks) : 0;
    c->planned -= had;
    p->clean.planned -= had;
    return r;
}

/* Pieces of output under way at once: each a bulk header and what lies behind it. */
#define OUT_PIECES 2u
#define PIECE_IOV (LOG_PAYLOAD_BLOCKS + 1)
struct out_pieces {
    uint8_t *headers;  /* OUT_PIECES blocks */
    struct iovec *iov; /* OUT_PIECES * PIECE_IOV */
    struct vd_io io[OUT_PIECES];
    unsigned n;
};

static int out_submit(struct clean *c, struct out_pieces *o)
{
    int r = o->n ? behind_io(c->p, o->io, (int)o->n) : 0;
    o->n = 0;
    if (r < 0 && c->out->seg) {
        /* Nothing may lie behind a header that is bad: headers are found one after another. */
        seg_close(c->p, c->out->seg);
        c->out->seg = 0;
    }
    return r;
}

/* A piece more that nothing names yet. */
static void out_used(struct clean *c, uint32_t seg)
{
    c->p->segs.v[seg].unpublished++;
    if (!c->nused || c->used[c->nused - 1].seg != seg) {
        assert(c->nused < VD_ARRAY_SIZE(c->used));
        c->used[c->nused].pieces = 0;
        c->used[c->nused++].seg = seg;
    }
    c->used[c->nused - 1].pieces++;
}

/* Makes moves [from, to) the next piece, at the end of the output. */
static void out_add(struct clean *c, struct out_pieces *o, size_t from, size_t to)
{
    struct vd_pool *p = c->p;
    struct bulk_stream *out = c->out;
    uint8_t *header = o->headers + (size_t)o->n * VD_BLOCK;
    struct iovec *iov = o->iov + (size_t)o->n * PIECE_IOV;
    struct vd_record rec = {.bulk = true,
                            .pool = p->pool64,
                            .incarnation = p->log.incarnation,
                            .rid = p->segs.v[out->seg].rid,
                            .at = {out->seg, out->block * VD_SECTORS_PER_BLOCK},
                            .wall_s = vd_loop_wall_s(p->loop)};
    memset(header, 0, VD_BLOCK);
    iov[0] = (struct iovec){header, VD_BLOCK};
    int n = 1;
    for (size_t i = from; i < to; i++) {
        struct move *m = &c->moves[i];
        struct vd_entry e = {.type = VD_ENTRY_WRITE,
                             .branch = m->branch,
                             .lba = m->run.lba,
                             .blocks = m->run.blocks,
                             .payload = rec.payload_blocks};
        memcpy(e.csum, m->run.csum, m->run.blocks * sizeof(e.csum[0]));
        rec.entries_len += (unsigned)entry_encode(&e, header + OD_RECORD_ENTRIES + rec.entries_len);
        rec.entry_count++;
        m->to = vd_addr_plus(rec.at, 1 + rec.payload_blocks);
        rec.payload_blocks += (uint32_t)m->run.blocks;
        iov[n++] = (struct iovec){(void *)(uintptr_t)m->data, m->run.blocks * VD_BLOCK};
    }
    record_seal(&rec, header);
    o->io[o->n++] =
        (struct vd_io){.op = VD_IO_WRITE, .off = addr_off(p, rec.at), .iov = iov, .iovcnt = n};
    out->block += 1 + rec.payload_blocks;
    out_used(c, rec.at.seg);
    map_header(p, rec.at, rec.payload_blocks);
    p->stats.written[VD_STREAM_CLEAN] += 1 + rec.payload_blocks;
}

/* Writes all moves; each piece as large as a header's entries allow. Unpublished counts stay up. */
static int moves_write(struct clean *c)
{
    uint8_t *headers VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned((size_t)OUT_PIECES * VD_BLOCK);
    struct iovec *iov VD_CLEANUP(vd_cleanup_free) =
        malloc((size_t)OUT_PIECES * PIECE_IOV * sizeof(*iov));
    struct out_pieces o = {.headers = headers, .iov = iov};
    int r = headers && iov ? 0 : -ENOMEM;
    for (size_t from = 0, to; r == 0 && from < c->count; from = to) {
        size_t entries = 0;
        uint32_t blocks = 0;
        r = out_room(c, c->moves[from].run.blocks);
        if (r < 0)
            break;
        uint32_t most = VD_MIN(c->p->seg_blocks - c->out->block - 1, LOG_PAYLOAD_BLOCKS);
        for (to = from; to < c->count; to++) {
            size_t need = sizeof(struct od_entry_write) + 8 * c->moves[to].run.blocks;
            if (entries + need > OD_RECORD_ENTRIES_MAX || blocks + c->moves[to].run.blocks > most)
                break;
            entries += need;
            blocks += (uint32_t)c->moves[to].run.blocks;
        }
        out_add(c, &o, from, to);
        if (o.n == OUT_PIECES)
            r = out_submit(c, &o);
    }
    int last = out_submit(c, &o);
    return r < 0 ? r : last;
}

/* The relocations as they go into the log: two copies of whole blocks. NULL: no memory. */
static uint8_t *moves_encode(const struct clean *c, struct vd_entry *e)
{
    *e = (struct vd_entry){.type = VD_ENTRY_RELOCATE,
                           .blocks = VD_DIV_UP(c->count, VD_RELOCATIONS_PER_BLOCK),
                           .count = (uint32_t)c->count};
    size_t len = e->blocks * VD_BLOCK;
    uint8_t *buf = vd_alloc_aligned(2 * len);
    if (!buf)
        return NULL;
    memset(buf, 0, len);
    for (size_t i = 0; i < c->count; i++) {
        const struct move *m = &c->moves[i];
        struct vd_relocation rel = {.branch = m->branch,
                                    .lba = m->run.lba,
                                    .blocks = (uint32_t)m->run.blocks,
                                    .from = m->run.addr,
                                    .to = m->to};
        relocation_encode(&rel, buf + i * sizeof(struct od_relocation));
    }
    memcpy(buf + len, buf, len);
    e->csum[0] = vd_xxh3(buf, len);
    return buf;
}

/* One operation for all that was moved, and for the segments that are empty with it. */
static int moves_publish(struct clean *c)
{
    struct vd_entry *e VD_CLEANUP(vd_cleanup_free) = calloc(1 + c->victims, sizeof(*e));
    uint8_t *relocations VD_CLEANUP(vd_cleanup_free) = NULL;
    unsigned n = 0;
    if (!e)
        return -ENOMEM;
    if (c->count) {
        relocations = moves_encode(c, &e[n++]);
        if (!relocations)
            return -ENOMEM;
    }
    for (unsigned v = 0; v < c->victims; v++)
        if (victim_empty(c, v))
            e[n++] = (struct vd_entry){.type = VD_ENTRY_EMPTIED, .addr = {c->victim[v], 0}};
    struct pool_op op = {
        .flags = POOL_OP_CLEANER, .entries = e, .count = n, .relocations = relocations};
    return n ? pool_commit(c->p, &op) : 0;
}

/* The batch is over. Where it failed, segments that hold nothing else are free again. */
static void used_done(struct clean *c, bool failed)
{
    for (unsigned i = 0; i < c->nused; i++) {
        struct pool_seg *s = &c->p->segs.v[c->used[i].seg];
        s->unpublished -= c->used[i].pieces;
        if (failed && s->last_seq == 0 && s->unpublished == 0 && s->state == VD_SEG_CLOSED)
            seg_release(c->p, c->used[i].seg);
    }
}

#define READ_BYTES VD_KIB(256)
#define READ_DEPTH 4u

/* Reads all victims. What cannot be read shows when it is looked at. */
static int victims_read(struct clean *c)
{
    struct vd_pool *p = c->p;
    struct vd_io io[READ_DEPTH];
    struct iovec iov[READ_DEPTH];
    unsigned n = 0;
    for (unsigned v = 0; v < c->victims; v++) {
        c->data[v] = buffer_get(p);
        if (!c->data[v])
            return -ENOMEM;
        for (uint32_t at = 0; at < p->chunk_size; at += READ_BYTES) {
            iov[n] = (struct iovec){c->data[v] + at, READ_BYTES};
            io[n] = (struct vd_io){.op = VD_IO_READ,
                                   .off = seg_off(p, c->victim[v]) + at,
                                   .iov = &iov[n],
                                   .iovcnt = 1};
            if (++n < READ_DEPTH)
                continue;
            (void)behind_io(p, io, (int)n);
            for (; n > 0; n--)
                c->unread[v] |= io[n - 1].res < 0;
        }
    }
    return 0;
}

static int clean_run(struct clean *c)
{
    struct vd_pool *p = c->p;
    uint64_t *seen VD_CLEANUP(vd_cleanup_free) = malloc(p->seg_blocks / 8);
    c->seen = seen;
    int r = seen ? victims_read(c) : -ENOMEM;
    for (unsigned v = 0; r == 0 && v < c->victims; v++)
        r = victim_scan(c, v);
    if (r == 0 && c->count) {
        qsort(c->moves, c->count, sizeof(*c->moves), move_cmp);
        r = moves_write(c);
#ifndef VD_PLANT_MOVED_NOT_FLUSHED
        if (r == 0)
            r = log_flush_now(p);
#endif
    }
    if (r == 0)
        r = moves_publish(c);
    used_done(c, r < 0);
    return r;
}

/* Frees the victims that can be shown to be empty once what was logged is durable. */
static int victims_release(struct clean *c)
{
    struct vd_pool *p = c->p;
#ifdef VD_PLANT_VICTIM_FREED_EARLY
    int r = 0;
#else
    int r = log_flush_to(p, p->log.applied_seq);
#endif
    for (unsigned v = 0; r == 0 && v < c->victims; v++) {
        struct pool_seg *s = &p->segs.v[c->victim[v]];
        if (s->pins == 0 && !s->doomed && victim_empty(c, v)) {
            s->ghosts_until = p->root.counter + 2;
            seg_release(p, c->victim[v]);
            p->clean.released++;
        }
    }
    return r;
}

bool cleaner_busy(const struct vd_pool *p)
{
    for (unsigned i = 0; i < CLEANERS; i++)
        if (p->clean.busy[i])
            return true;
    return false;
}

void cleaner_stop(struct vd_pool *p)
{
    p->clean.stopped = true;
    while (cleaner_busy(p))
        vd_wait(&p->clean.idle);
}

static unsigned slot_take(struct vd_pool *p)
{
    for (;;) {
        for (unsigned i = 0; i < CLEANERS; i++)
            if (!p->clean.busy[i]) {
                p->clean.busy[i] = true;
                return i;
            }
        vd_wait(&p->clean.idle);
    }
}

static int batch_run(struct clean *c, bool urgent)
{
    struct vd_pool *p = c->p;
    reserve_update(p);
    choose(c, urgent);
    if (!c->victims)
        return 0;
    vd_wake_all(&p->clean.help);
    int r = clean_run(c);
    p->clean.planned -= c->planned;
    p->clean.moving -= c->moving; /* the overlay says it now */
    for (unsigned v = 0; v < c->victims; v++) {
        struct pool_seg *s = &p->segs.v[c->victim[v]];
        s->pins--;
        s->victim_seq = p->log.applied_seq;
        s->victim = r == 0;
        buffer_put(p, c->data[v]);
    }
    if (r == 0)
        r = victims_release(c);
    free(c->moves);
    p->stats.cleaned += c->victims;
    return r < 0 ? r : (int)c->victims;
}

int cleaner_batch(struct vd_pool *p, bool urgent)
{
    struct clean *c VD_CLEANUP(vd_cleanup_free) = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    unsigned slot = slot_take(p);
    c->p = p;
    c->out = &p->clean.out[slot];
    c->root = p->root.counter;
    int r = p->clean.stopped ? 0 : batch_run(c, urgent);
    p->clean.busy[slot] = false;
    vd_wake_all(&p->clean.idle);
    return r;
}

/* ---- learning ---- */

#define LEARN_PART 16 /* of a segment must be dead, or knowing where is not worth much */

/* Of what an earlier session wrote there is no map. Where writes are forced, headers take half of
 * what is sparse: it is better emptied. */
static bool learnable(const struct vd_pool *p, uint32_t seg)
{
    const struct pool_seg *s = &p->segs.v[seg];
    if (log_flush_expected(&p->log) && s->live <= SPARSE * p->seg_blocks)
        return false;
    return !s->map && victim_possible(p, s, 1.0 - 1.0 / LEARN_PART) && s->last_seq &&
           s->pins == 0 && seg != p->root.log_seg.seg;
}

/* The map is of what the newest root names, so no merge may have begun meanwhile: -EAGAIN. */
static int learn_one(struct clean *c)
{
    struct vd_pool *p = c->p;
    uint32_t seg = c->victim[0];
    if (p->ckpt.running && !p->ckpt.held)
        vd_wait(&p->ckpt.finished);
    c->root = p->root.counter;
    c->map = map_new(p);
    if (!c->map)
        return -ENOMEM;
    int r = victim_walk(c, 0);
    struct pool_seg *s = &p->segs.v[seg];
    s->rotten = s->rotten || r == -EBADMSG || r == -EIO;
    if (r == 0 && (c->root != p->root.counter || p->ckpt.running))
        r = -EAGAIN;
    if (r < 0) {
        map_free(p, c->map);
        return r;
    }
    s->stuck = !map_adopt(p, seg, c->map);
    return s->stuck ? -EUCLEAN : 0;
}

#define LEARN_TRIES 3

/* What was written in an earlier session has no map, so small writes could not fill what is dead
 * there. To read a segment and find out is much cheaper than to empty it: the one where most is
 * dead. */
int cleaner_learn(struct vd_pool *p)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < p->segs.count; i++)
        if (learnable(p, i) && (!best || p->segs.v[i].live < p->segs.v[best].live))
            best = i;
    struct clean *c VD_CLEANUP(vd_cleanup_free) = calloc(1, sizeof(*c));
    uint64_t *seen VD_CLEANUP(vd_cleanup_free) = malloc(p->seg_blocks / 8);
    if (!best)
        return 0;
    if (!c || !seen)
        return -ENOMEM;
    c->p = p;
    c->seen = seen;
    c->victim[c->victims++] = best;
    p->segs.v[best].victim = true;
    p->segs.v[best].pins++;
    int r = victims_read(c);
    for (int tries = 0; tries < LEARN_TRIES && (tries == 0 || r == -EAGAIN); tries++)
        r = r < 0 && r != -EAGAIN ? r : learn_one(c);
    p->segs.v[best].victim = false;
    p->segs.v[best].pins--;
    buffer_put(p, c->data[0]);
    if (r < 0)
        return r;
    refill_learned(p, best);
    return 1;
}
