/* SPDX-License-Identifier: MIT */
/*
 * The simulated medium: a sparse array of 4 KiB blocks, each with what is visible (`cur`) and what
 * would survive a loss of power (`dur`), and the list of changes that lie between the two.
 *
 * Invariants:
 *  S1 replaying `unflushed` over `dur`, in order and completely, gives `cur`, but for changes whose
 *     flush was made to fail;
 *  S2 a change never overwrites a durable one that completed after it (dur_seq);
 *  S3 cur and dur of a block are one buffer when they are equal because of a flush; NULL is zeroes.
 * Tests only, so a lack of memory aborts. Never yields.
 */
#include "core/io/simdisk.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_BLOCKS 512u

struct sim_chunk {
    uint64_t idx;
    struct sim_chunk *next; /* of the bucket */
    uint8_t *cur[CHUNK_BLOCKS], *dur[CHUNK_BLOCKS];
    uint64_t dur_seq[CHUNK_BLOCKS];
    bool allocated[CHUNK_BLOCKS];
};

void simdisk_die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("simulated device: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

void *(*vd_simdisk_memory)(size_t n, size_t size) = calloc;

static void *sim_alloc(size_t len)
{
    void *p = vd_simdisk_memory(1, len);
    if (!p)
        simdisk_die("out of memory");
    return p;
}

/* ---- chunks ---- */

static size_t bucket_of(uint64_t idx, size_t nbuckets)
{
    return (size_t)((idx * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (nbuckets - 1);
}

static struct sim_chunk *chunk_find(const struct vd_simdisk *disk, uint64_t block)
{
    uint64_t idx = block / CHUNK_BLOCKS;
    struct sim_chunk *c = disk->buckets[bucket_of(idx, disk->nbuckets)];
    while (c && c->idx != idx)
        c = c->next;
    return c;
}

static void buckets_grow(struct vd_simdisk *disk)
{
    size_t n = disk->nbuckets * 2;
    struct sim_chunk **bigger = sim_alloc(n * sizeof(*bigger));
    for (size_t i = 0; i < disk->nbuckets; i++) {
        struct sim_chunk *next;
        for (struct sim_chunk *c = disk->buckets[i]; c; c = next) {
            next = c->next;
            size_t b = bucket_of(c->idx, n);
            c->next = bigger[b];
            bigger[b] = c;
        }
    }
    free(disk->buckets);
    disk->buckets = bigger;
    disk->nbuckets = n;
}

static struct sim_chunk *chunk_get(struct vd_simdisk *disk, uint64_t block)
{
    struct sim_chunk *c = chunk_find(disk, block);
    if (c)
        return c;
    if (disk->nchunks >= disk->nbuckets)
        buckets_grow(disk);
    c = sim_alloc(sizeof(*c));
    c->idx = block / CHUNK_BLOCKS;
    size_t b = bucket_of(c->idx, disk->nbuckets);
    c->next = disk->buckets[b];
    disk->buckets[b] = c;
    disk->nchunks++;
    return c;
}

#define chunks_each(disk, c)                         \
    for (size_t b_ = 0; b_ < (disk)->nbuckets; b_++) \
        for (struct sim_chunk *c = (disk)->buckets[b_]; c; c = c->next)

static void cur_drop(struct sim_chunk *c, unsigned i)
{
    if (c->cur[i] != c->dur[i])
        free(c->cur[i]);
    c->cur[i] = NULL;
}

static void dur_drop(struct sim_chunk *c, unsigned i)
{
    if (c->dur[i] != c->cur[i])
        free(c->dur[i]);
    c->dur[i] = NULL;
}

static uint8_t *block_copy(const void *data)
{
    uint8_t *p = sim_alloc(VD_BLOCK);
    memcpy(p, data, VD_BLOCK);
    return p;
}

static void block_mark(struct vd_simdisk *disk, struct sim_chunk *c, unsigned i, bool allocated)
{
    if (c->allocated[i] == allocated)
        return;
    c->allocated[i] = allocated;
    disk->allocated_blocks += allocated ? 1 : UINT64_MAX;
}

/* ---- changes ---- */

struct sim_record *simdisk_record_new(enum sim_kind kind, uint64_t off, uint64_t len)
{
    struct sim_record *rec = sim_alloc(sizeof(*rec));
    vd_list_init(&rec->link);
    rec->kind = kind;
    rec->off = off;
    rec->len = len;
    if (kind == SIM_WRITE)
        rec->data = sim_alloc(len);
    return rec;
}

void simdisk_record_free(struct sim_record *rec)
{
    free(rec->data);
    free(rec);
}

static void garbage_fill(uint8_t *p, uint64_t block)
{
    memset(p, 0xde, VD_BLOCK);
    memcpy(p, &block, sizeof(block));
}

static void cur_write(struct vd_simdisk *disk, const struct sim_record *rec)
{
    for (uint64_t at = 0; at < rec->len; at += VD_BLOCK) {
        uint64_t block = (rec->off + at) / VD_BLOCK;
        struct sim_chunk *c = chunk_get(disk, block);
        unsigned i = block % CHUNK_BLOCKS;
        cur_drop(c, i);
        c->cur[i] = block_copy(rec->data + at);
        block_mark(disk, c, i, true);
    }
    disk->size = VD_MAX(disk->size, rec->off + rec->len);
}

static void dur_write(struct vd_simdisk *disk, const struct sim_record *rec)
{
    for (uint64_t at = 0; at < rec->len; at += VD_BLOCK) {
        uint64_t block = (rec->off + at) / VD_BLOCK;
        struct sim_chunk *c = chunk_get(disk, block);
        unsigned i = block % CHUNK_BLOCKS;
        if (c->dur_seq[i] >= rec->seq)
            continue; /* S2 */
        c->dur_seq[i] = rec->seq;
        dur_drop(c, i);
        if (c->cur[i] && memcmp(c->cur[i], rec->data + at, VD_BLOCK) == 0)
            c->dur[i] = c->cur[i];
        else
            c->dur[i] = block_copy(rec->data + at);
    }
    if (rec->off + rec->len > disk->durable_size) {
        disk->durable_size = rec->off + rec->len;
        disk->durable_size_seq = VD_MAX(disk->durable_size_seq, rec->seq);
    }
}

static void punch(struct vd_simdisk *disk, const struct sim_record *rec, bool durable)
{
    for (uint64_t at = 0; at < rec->len; at += VD_BLOCK) {
        uint64_t block = (rec->off + at) / VD_BLOCK;
        struct sim_chunk *c = chunk_find(disk, block);
        unsigned i = block % CHUNK_BLOCKS;
        if (!c) { /* a hole already: on to the next chunk */
            at += (uint64_t)(CHUNK_BLOCKS - i - 1) * VD_BLOCK;
            continue;
        }
        if (durable ? c->dur_seq[i] >= rec->seq : false)
            continue; /* S2 */
        uint8_t **side = durable ? &c->dur[i] : &c->cur[i];
        bool was = *side != NULL;
        if (!durable)
            block_mark(disk, c, i, false);
        if (!was || rec->punch_leaves == PUNCH_OLD)
            continue;
        if (durable)
            dur_drop(c, i);
        else
            cur_drop(c, i);
        if (rec->punch_leaves == PUNCH_GARBAGE) {
            *side = sim_alloc(VD_BLOCK);
            garbage_fill(*side, block);
        }
    }
}

static void cur_truncate(struct vd_simdisk *disk, uint64_t size)
{
    chunks_each(disk, c)
    {
        for (unsigned i = 0; i < CHUNK_BLOCKS; i++)
            if ((c->idx * CHUNK_BLOCKS + i) * VD_BLOCK >= size) {
                cur_drop(c, i);
                block_mark(disk, c, i, false);
            }
    }
    disk->size = size;
}

static void dur_truncate(struct vd_simdisk *disk, const struct sim_record *rec)
{
    chunks_each(disk, c)
    {
        for (unsigned i = 0; i < CHUNK_BLOCKS; i++)
            if ((c->idx * CHUNK_BLOCKS + i) * VD_BLOCK >= rec->off && c->dur_seq[i] < rec->seq)
                dur_drop(c, i);
    }
    if (rec->seq > disk->durable_size_seq) {
        disk->durable_size = rec->off;
        disk->durable_size_seq = rec->seq;
    }
}

static void cur_apply(struct vd_simdisk *disk, const struct sim_record *rec)
{
    switch (rec->kind) {
    case SIM_WRITE:
        cur_write(disk, rec);
        break;
    case SIM_PUNCH:
        punch(disk, rec, false);
        break;
    case SIM_GROW:
        disk->size = VD_MAX(disk->size, rec->off);
        break;
    case SIM_TRUNCATE:
        cur_truncate(disk, rec->off);
        break;
    }
}

static void dur_apply(struct vd_simdisk *disk, const struct sim_record *rec)
{
    switch (rec->kind) {
    case SIM_WRITE:
        dur_write(disk, rec);
        break;
    case SIM_PUNCH:
        punch(disk, rec, true);
        break;
    case SIM_GROW:
        if (rec->off > disk->durable_size) {
            disk->durable_size = rec->off;
            disk->durable_size_seq = rec->seq;
        }
        break;
    case SIM_TRUNCATE:
        dur_truncate(disk, rec);
        break;
    }
}

void simdisk_apply(struct vd_simdisk *disk, struct sim_record *rec)
{
    vd_list_remove(&rec->link);
    rec->seq = ++disk->seq;
    cur_apply(disk, rec);
    vd_list_push(&disk->unflushed, &rec->link);
}

void simdisk_apply_durable(struct vd_simdisk *disk, struct sim_record *rec)
{
    simdisk_apply(disk, rec);
    vd_list_remove(&rec->link);
    dur_apply(disk, rec);
    simdisk_record_free(rec);
}

void simdisk_flush(struct vd_simdisk *disk, uint64_t seq, bool lose)
{
    vd_list_each_safe (it, &disk->unflushed) {
        struct sim_record *rec = vd_container_of(it, struct sim_record, link);
        if (rec->seq > seq)
            break;
        if (!lose)
            dur_apply(disk, rec);
        vd_list_remove(&rec->link);
        simdisk_record_free(rec);
    }
}

void simdisk_read(const struct vd_simdisk *disk, uint64_t off, void *buf, size_t len)
{
    uint8_t *out = buf;
    while (len) {
        uint64_t block = off / VD_BLOCK;
        size_t skip = off % VD_BLOCK, n = VD_MIN(len, VD_BLOCK - skip);
        struct sim_chunk *c = chunk_find(disk, block);
        const uint8_t *p = c ? c->cur[block % CHUNK_BLOCKS] : NULL;
        if (p)
            memcpy(out, p + skip, n);
        else
            memset(out, 0, n);
        out += n;
        off += n;
        len -= n;
    }
}

void simdisk_allocate(struct vd_simdisk *disk, uint64_t off, uint64_t len)
{
    for (uint64_t block = off / VD_BLOCK; block < (off + len) / VD_BLOCK; block++)
        block_mark(disk, chunk_get(disk, block), block % CHUNK_BLOCKS, true);
}

bool simdisk_has(const struct vd_simdisk *disk, uint64_t off, uint64_t len)
{
    for (uint64_t block = off / VD_BLOCK; block < (off + len) / VD_BLOCK; block++) {
        const struct sim_chunk *c = chunk_find(disk, block);
        if (!c || !c->allocated[block % CHUNK_BLOCKS])
            return false;
    }
    return true;
}

/* ---- crashes ---- */

static void durable_read_block(const struct vd_simdisk *disk, uint64_t block, uint8_t *buf)
{
    struct sim_chunk *c = chunk_find(disk, block);
    const uint8_t *p = c ? c->dur[block % CHUNK_BLOCKS] : NULL;
    if (p)
        memcpy(buf, p, VD_BLOCK);
    else
        memset(buf, 0, VD_BLOCK);
}

/* Tears `rec` over `base`: either a prefix of its sectors arrived, or any set of them. */
static void record_tear(struct vd_simdisk *disk, struct sim_record *rec, bool over_durable)
{
    uint64_t sectors = rec->len / VD_SECTOR;
    bool prefix = vd_rng_below(&disk->rng, 2);
    uint64_t arrived = vd_rng_below(&disk->rng, sectors + 1);
    uint64_t bits = 0;
    uint8_t *base = disk->scratch; /* a fiber's stack is small */
    for (uint64_t s = 0; s < sectors; s++) {
        uint64_t at = s * VD_SECTOR;
        if (s % 64 == 0)
            bits = vd_rng_u64(&disk->rng);
        if (at % VD_BLOCK == 0) {
            if (over_durable)
                durable_read_block(disk, (rec->off + at) / VD_BLOCK, base);
            else
                simdisk_read(disk, rec->off + at, base, VD_BLOCK);
        }
        bool there = prefix ? s < arrived : (bits >> (s % 64)) & 1;
        if (!there)
            memcpy(rec->data + at, base + at % VD_BLOCK, VD_SECTOR);
    }
}

void simdisk_tear(struct vd_simdisk *disk, struct sim_record *rec)
{
    record_tear(disk, rec, false);
}

enum fate { FATE_KEEP, FATE_DROP, FATE_TEAR };

static enum fate fate_draw(struct vd_simdisk *disk, const struct sim_record *rec)
{
    uint64_t x = vd_rng_below(&disk->rng, 4);
    if (rec->kind != SIM_WRITE)
        return x < 2 ? FATE_KEEP : FATE_DROP;
    return x < 2 ? FATE_KEEP : x == 2 ? FATE_DROP : FATE_TEAR;
}

/* Writes in flight reach the medium in any order. */
static struct sim_record *in_flight_draw(struct vd_simdisk *disk)
{
    uint64_t n = 0;
    vd_list_each (it, &disk->in_flight) {
        n++;
    }
    if (!n)
        return NULL;
    uint64_t pick = vd_rng_below(&disk->rng, n);
    struct vd_list *it = disk->in_flight.next;
    while (pick--)
        it = it->next;
    vd_list_remove(it);
    return vd_container_of(it, struct sim_record, link);
}

static void crash_process(struct vd_simdisk *disk)
{
    struct sim_record *rec;
    while ((rec = in_flight_draw(disk))) {
        enum fate fate = rec->handed_over ? FATE_KEEP : fate_draw(disk, rec);
        if (fate == FATE_DROP) {
            simdisk_record_free(rec);
            continue;
        }
        if (fate == FATE_TEAR)
            simdisk_tear(disk, rec);
        simdisk_apply(disk, rec);
    }
}

static void crash_power(struct vd_simdisk *disk, enum vd_crash kind)
{
    struct sim_record *rec;
    while ((rec = in_flight_draw(disk))) {
        rec->seq = ++disk->seq;
        vd_list_push(&disk->unflushed, &rec->link);
    }
    struct vd_list *it;
    while ((it = vd_list_pop(&disk->unflushed))) {
        rec = vd_container_of(it, struct sim_record, link);
        enum fate fate = fate_draw(disk, rec);
        if (kind != VD_CRASH_POWER)
            fate = kind == VD_CRASH_POWER_KEEP ? FATE_KEEP : FATE_DROP;
        if (fate == FATE_TEAR)
            record_tear(disk, rec, true);
        if (fate != FATE_DROP)
            dur_apply(disk, rec);
        simdisk_record_free(rec);
    }
    /* What is left is what there is. */
    chunks_each(disk, c)
    {
        for (unsigned i = 0; i < CHUNK_BLOCKS; i++) {
            cur_drop(c, i);
            c->cur[i] = c->dur[i];
            if (c->cur[i])
                block_mark(disk, c, i, true);
        }
    }
    disk->size = disk->durable_size;
}

void vd_simdisk_crash(struct vd_simdisk *disk, enum vd_crash kind, uint64_t seed)
{
    if (disk->open_shared || disk->open_exclusive)
        simdisk_die("crash while a device is open");
    vd_rng_seed(&disk->rng, seed);
    if (kind == VD_CRASH_PROCESS)
        crash_process(disk);
    else
        crash_power(disk, kind);
    disk->cut = false;
    disk->cut_in = -1;
    memset(disk->faults, 0, sizeof(disk->faults));
}

/* ---- life, and looking from outside ---- */

struct vd_simdisk *vd_simdisk_new(uint64_t size, uint64_t size_max, uint64_t seed)
{
    static _Atomic uint64_t last_id;
    struct vd_simdisk *disk = sim_alloc(sizeof(*disk));
    disk->size = disk->durable_size = size;
    disk->size_max = VD_MAX(size, size_max);
    disk->id = ++last_id;
    disk->nbuckets = 64;
    disk->buckets = sim_alloc(disk->nbuckets * sizeof(struct sim_chunk *));
    vd_list_init(&disk->in_flight);
    vd_list_init(&disk->unflushed);
    vd_rng_seed(&disk->rng, seed);
    disk->cut_in = -1;
    return disk;
}

static void records_free(struct vd_list *head)
{
    struct vd_list *it;
    while ((it = vd_list_pop(head)))
        simdisk_record_free(vd_container_of(it, struct sim_record, link));
}

void vd_simdisk_free(struct vd_simdisk *disk)
{
    if (!disk)
        return;
    if (disk->open_shared || disk->open_exclusive)
        simdisk_die("freed while a device is open");
    records_free(&disk->in_flight);
    records_free(&disk->unflushed);
    for (size_t b = 0; b < disk->nbuckets; b++) {
        struct sim_chunk *next;
        for (struct sim_chunk *c = disk->buckets[b]; c; c = next) {
            next = c->next;
            for (unsigned i = 0; i < CHUNK_BLOCKS; i++) {
                cur_drop(c, i);
                free(c->dur[i]);
            }
            free(c);
        }
    }
    free(disk->buckets);
    free(disk);
}

static void records_copy(struct vd_list *to, const struct vd_list *from)
{
    vd_list_init(to);
    vd_list_each (it, from) {
        const struct sim_record *rec = vd_container_of(it, struct sim_record, link);
        struct sim_record *copy = simdisk_record_new(rec->kind, rec->off, rec->len);
        copy->seq = rec->seq;
        copy->punch_leaves = rec->punch_leaves;
        copy->handed_over = rec->handed_over;
        if (rec->data)
            memcpy(copy->data, rec->data, rec->len);
        vd_list_push(to, &copy->link);
    }
}

struct vd_simdisk *vd_simdisk_clone(const struct vd_simdisk *disk, uint64_t seed)
{
    struct vd_simdisk *copy = sim_alloc(sizeof(*copy));
    *copy = *disk;
    copy->open_shared = copy->open_exclusive = 0;
    copy->nchunks = 0;
    copy->buckets = sim_alloc(copy->nbuckets * sizeof(struct sim_chunk *));
    vd_rng_seed(&copy->rng, seed);
    records_copy(&copy->in_flight, &disk->in_flight);
    records_copy(&copy->unflushed, &disk->unflushed);
    chunks_each(disk, c)
    {
        struct sim_chunk *to = chunk_get(copy, c->idx * CHUNK_BLOCKS);
        memcpy(to->allocated, c->allocated, sizeof(c->allocated));
        memcpy(to->dur_seq, c->dur_seq, sizeof(c->dur_seq));
        for (unsigned i = 0; i < CHUNK_BLOCKS; i++) {
            to->cur[i] = c->cur[i] ? block_copy(c->cur[i]) : NULL;
            if (c->dur[i])
                to->dur[i] = c->dur[i] == c->cur[i] ? to->cur[i] : block_copy(c->dur[i]);
        }
    }
    return copy;
}

static void side_poke(uint8_t **side, const uint8_t *other, size_t skip, const void *buf, size_t n)
{
    if (!*side || *side == other) {
        uint8_t *own = *side ? block_copy(*side) : sim_alloc(VD_BLOCK);
        *side = own;
    }
    memcpy(*side + skip, buf, n);
}

void vd_simdisk_poke(struct vd_simdisk *disk, uint64_t off, const void *buf, size_t len)
{
    const uint8_t *in = buf;
    while (len) {
        uint64_t block = off / VD_BLOCK;
        unsigned i = block % CHUNK_BLOCKS;
        size_t skip = off % VD_BLOCK, n = VD_MIN(len, VD_BLOCK - skip);
        struct sim_chunk *c = chunk_get(disk, block);
        /* One side at a time, each in a buffer of its own. */
        side_poke(&c->dur[i], c->cur[i], skip, in, n);
        side_poke(&c->cur[i], c->dur[i], skip, in, n);
        block_mark(disk, c, i, true);
        in += n;
        off += n;
        len -= n;
    }
}

void vd_simdisk_rot(struct vd_simdisk *disk, uint64_t off, unsigned bit)
{
    struct sim_chunk *c = chunk_get(disk, off / VD_BLOCK);
    unsigned i = off / VD_BLOCK % CHUNK_BLOCKS;
    uint8_t flip = (uint8_t)(1u << (bit & 7));
    uint8_t cur = (uint8_t)((c->cur[i] ? c->cur[i][off % VD_BLOCK] : 0) ^ flip);
    uint8_t dur = (uint8_t)((c->dur[i] ? c->dur[i][off % VD_BLOCK] : 0) ^ flip);
    side_poke(&c->dur[i], c->cur[i], off % VD_BLOCK, &dur, 1);
    side_poke(&c->cur[i], c->dur[i], off % VD_BLOCK, &cur, 1);
}

void vd_simdisk_peek(struct vd_simdisk *disk, uint64_t off, void *buf, size_t len)
{
    simdisk_read(disk, off, buf, len);
}

uint64_t vd_simdisk_size(const struct vd_simdisk *disk)
{
    return disk->size;
}

uint64_t vd_simdisk_allocated(const struct vd_simdisk *disk)
{
    return disk->allocated_blocks * VD_BLOCK;
}
