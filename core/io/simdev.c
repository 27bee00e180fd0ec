/* SPDX-License-Identifier: MIT */
/*
 * The simulated device: struct vd_dev over a simulated medium. Every call takes a random time, so
 * completions come in an order that the seed decides; here are the cuts, the faults, and the two
 * checks on the user: no overlapping changes in flight, no buffer changed under a write.
 *
 * Invariants:
 *  - what an operation does happens in one instant, at its completion;
 *  - after the cut nothing changes until vd_simdisk_crash: what was in flight stays in flight;
 *  - random numbers are drawn in the order of calls, never by address or time of day.
 */
#include "core/io/simdev.h"

#include "core/base/hash.h"
#include "core/io/loop_priv.h"
#include "core/io/simdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#define SLOW_NS UINT64_C(30000000000)

struct sim_dev {
    struct vd_dev dev;
    struct vd_simdisk *disk;
    bool exclusive, locked;
    bool caches; /* by the seed, so that small writes are handed over as well */
};

enum { NO_FAULT = -1 };
enum sim_op { SIM_OP_READ, SIM_OP_CHANGE, SIM_OP_FLUSH };

/* One operation under way. */
struct sim_call {
    struct loop_timer timer;
    struct loop_wait *wait;
    struct vd_simdisk *disk;
    enum sim_op op;
    const struct vd_io *io; /* transfers */
    struct sim_record *rec; /* changes */
    uint64_t hash;          /* of a write's source when it was submitted */
    uint64_t flush_seq;     /* what a flush covers */
    int fault;              /* enum vd_fault or NO_FAULT */
    uint64_t fault_draw;
    int res;
};

static struct sim_dev *sim_of(struct vd_dev *dev)
{
    return vd_container_of(dev, struct sim_dev, dev);
}

/* ---- faults and cuts ---- */

static bool fault_strikes(struct vd_simdisk *disk, enum vd_fault which)
{
    struct sim_fault *f = &disk->faults[which];
    if (!f->armed)
        return false;
    if (f->countdown > 1) {
        f->countdown--;
        return false;
    }
    f->hit = true;
    disk->writes_failed += which == VD_FAULT_WRITE_EIO;
    f->armed = f->forever;
    return true;
}

void vd_simdisk_fault(struct vd_simdisk *disk, enum vd_fault fault, uint64_t n, bool forever)
{
    if (disk->faults_cleared)
        memset(disk->faults, 0, sizeof(disk->faults));
    disk->faults_cleared = false;
    disk->faults[fault] =
        (struct sim_fault){.armed = true, .forever = forever, .countdown = VD_MAX(n, 1u)};
}

void vd_simdisk_clear_faults(struct vd_simdisk *disk)
{
    for (int i = 0; i < VD_FAULT_COUNT; i++)
        disk->faults[i].armed = false;
    disk->faults_cleared = true; /* whether one struck can still be asked */
}

bool vd_simdisk_fault_hit(const struct vd_simdisk *disk)
{
    for (int i = 0; i < VD_FAULT_COUNT; i++)
        if (disk->faults[i].hit)
            return true;
    return false;
}

uint64_t vd_simdisk_writes_failed(const struct vd_simdisk *disk, bool handed_over)
{
    return handed_over ? disk->handed_failed : disk->writes_failed;
}

void vd_simdisk_cut_after(struct vd_simdisk *disk, int64_t n)
{
    disk->cut_in = n > 0 ? n : -1;
    if (n == 0)
        disk->cut = true;
}

bool vd_simdisk_is_cut(const struct vd_simdisk *disk)
{
    return disk->cut;
}

uint64_t vd_simdisk_ops(const struct vd_simdisk *disk)
{
    return disk->ops;
}

/* A change or a flush begins. True if it is the one that is cut. */
static bool op_counts(struct vd_simdisk *disk)
{
    disk->ops++;
    if (disk->cut_in > 0 && --disk->cut_in == 0) {
        disk->cut = true;
        disk->cut_in = -1;
        return true;
    }
    return false;
}

/* ---- memory of transfers ---- */

static uint64_t iov_hash(const struct vd_io *io)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        simdisk_die("out of memory");
    XXH3_64bits_reset(state);
    for (int i = 0; i < io->iovcnt; i++)
        XXH3_64bits_update(state, io->iov[i].iov_base, io->iov[i].iov_len);
    uint64_t h = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return h;
}

static uint64_t io_len(const struct vd_io *io)
{
    uint64_t len = 0;
    for (int i = 0; i < io->iovcnt; i++)
        len += io->iov[i].iov_len;
    return len;
}

static void overlap_check(const struct vd_simdisk *disk, uint64_t off, uint64_t len)
{
    vd_list_each (it, &disk->in_flight) {
        const struct sim_record *rec = vd_container_of(it, struct sim_record, link);
        if (rec->len && off < rec->off + rec->len && rec->off < off + len)
            simdisk_die("[%" PRIu64 ", +%" PRIu64 ") is changed while a change of [%" PRIu64
                        ", +%" PRIu64 ") is in flight",
                        off, len, rec->off, rec->len);
    }
}

/* ---- completion ---- */

static int write_complete(struct sim_call *c)
{
    struct vd_simdisk *disk = c->disk;
    struct sim_record *rec = c->rec;
    if (c->io && iov_hash(c->io) != c->hash)
        simdisk_die("the source of the write at %" PRIu64 " changed while it was in flight",
                    rec->off);
    switch (c->fault) {
    case VD_FAULT_LOST_WRITE:
        vd_list_remove(&rec->link);
        simdisk_record_free(rec);
        return 0;
    case VD_FAULT_MISDIRECTED:
        if (rec->off + rec->len + VD_BLOCK <= disk->size)
            rec->off += VD_BLOCK;
        else if (rec->off >= VD_BLOCK)
            rec->off -= VD_BLOCK;
        break;
    case VD_FAULT_WRITE_EIO:
        disk->handed_failed += rec->handed_over;
        if (c->fault_draw % 4 == 0) {
            vd_list_remove(&rec->link);
            simdisk_record_free(rec);
        } else {
            simdisk_tear(disk, rec);
            simdisk_apply(disk, rec);
        }
        return -EIO;
    default:
        break;
    }
    if (c->io && (c->io->flags & VD_IO_DSYNC))
        simdisk_apply_durable(disk, rec);
    else
        simdisk_apply(disk, rec);
    return 0;
}

static int read_complete(struct sim_call *c)
{
    uint64_t off = c->io->off, len = io_len(c->io);
    if (c->fault == VD_FAULT_READ_EIO || off + len > c->disk->size)
        return -EIO;
    for (int i = 0; i < c->io->iovcnt; i++) {
        simdisk_read(c->disk, off, c->io->iov[i].iov_base, c->io->iov[i].iov_len);
        off += c->io->iov[i].iov_len;
    }
    if (c->fault == VD_FAULT_READ_FLIP) {
        uint64_t bit = c->fault_draw % (len * 8);
        for (int i = 0; i < c->io->iovcnt; i++) {
            const struct iovec *v = &c->io->iov[i];
            if (bit / 8 < v->iov_len) {
                ((uint8_t *)v->iov_base)[bit / 8] ^= (uint8_t)(1u << (bit % 8));
                break;
            }
            bit -= v->iov_len * 8;
        }
    }
    return 0;
}

static void call_due(struct loop_timer *timer)
{
    struct sim_call *c = vd_container_of(timer, struct sim_call, timer);
    if (c->disk->cut)
        c->res = -ENODEV; /* a change stays in flight until the crash decides */
    else if (c->res == 0)
        switch (c->op) {
        case SIM_OP_READ:
            c->res = read_complete(c);
            break;
        case SIM_OP_CHANGE:
            c->res = write_complete(c);
            break;
        case SIM_OP_FLUSH:
            simdisk_flush(c->disk, c->flush_seq, c->fault == VD_FAULT_FLUSH_EIO);
            c->res = c->fault == VD_FAULT_FLUSH_EIO ? -EIO : 0;
            break;
        }
    loop_wait_done(c->wait);
}

/* ---- submission ---- */

static void call_begin(struct sim_call *c, uint64_t latency_max_ns)
{
    struct vd_loop *loop = c->wait->fiber->loop;
    uint64_t latency = 5000 + vd_rng_below(&c->disk->rng, latency_max_ns);
    if (fault_strikes(c->disk, VD_FAULT_SLOW))
        latency += SLOW_NS;
    if (loop->backend != VD_LOOP_SIM)
        latency = 0;
    loop->stats.io++;
    loop_timer_start(loop, &c->timer, vd_loop_now_ns(loop) + latency, call_due);
}

static void read_begin(struct sim_call *c)
{
    c->op = SIM_OP_READ;
    if (fault_strikes(c->disk, VD_FAULT_READ_EIO))
        c->fault = VD_FAULT_READ_EIO;
    else if (fault_strikes(c->disk, VD_FAULT_READ_FLIP))
        c->fault = VD_FAULT_READ_FLIP;
    if (c->fault != NO_FAULT)
        c->fault_draw = vd_rng_u64(&c->disk->rng);
    call_begin(c, 100000);
}

static void write_begin(struct sim_call *c)
{
    struct vd_simdisk *disk = c->disk;
    const struct vd_io *io = c->io;
    uint64_t len = io_len(io);
    c->op = SIM_OP_CHANGE;
    if (io->off + len > disk->size_max)
        c->res = -ENOSPC;
    if (c->res == 0) {
        overlap_check(disk, io->off, len);
        c->rec = simdisk_record_new(SIM_WRITE, io->off, len);
        uint8_t *to = c->rec->data;
        for (int i = 0; i < io->iovcnt; i++) {
            memcpy(to, io->iov[i].iov_base, io->iov[i].iov_len);
            to += io->iov[i].iov_len;
        }
        c->hash = iov_hash(io);
        vd_list_push(&disk->in_flight, &c->rec->link);
        static const enum vd_fault kinds[] = {VD_FAULT_WRITE_EIO, VD_FAULT_LOST_WRITE,
                                              VD_FAULT_MISDIRECTED};
        for (size_t i = 0; i < VD_ARRAY_SIZE(kinds) && c->fault == NO_FAULT; i++)
            if (fault_strikes(disk, kinds[i]))
                c->fault = kinds[i];
        if (c->fault != NO_FAULT)
            c->fault_draw = vd_rng_u64(&disk->rng);
    }
    (void)op_counts(disk);
    call_begin(c, 200000);
}

static struct sim_call *calls_begin(struct vd_dev *dev, struct vd_io *ios, int n,
                                    struct loop_wait *wait)
{
    struct sim_call *calls = vd_simdisk_memory((size_t)n, sizeof(*calls));
    if (!calls)
        simdisk_die("out of memory");
    loop_wait_init(wait, (unsigned)n);
    for (int i = 0; i < n; i++) {
        struct sim_call *c = &calls[i];
        c->wait = wait;
        c->disk = sim_of(dev)->disk;
        c->io = &ios[i];
        c->fault = NO_FAULT;
        if (c->disk->cut) {
            c->res = -ENODEV;
            call_begin(c, 1000);
        } else if (ios[i].op == VD_IO_READ) {
            read_begin(c);
        } else {
            write_begin(c);
        }
    }
    return calls;
}

static int calls_end(struct sim_call *calls, struct vd_io *ios, int n, struct loop_wait *wait)
{
    loop_wait(wait);
    int failed = 0;
    for (int i = 0; i < n; i++) {
        ios[i].res = calls[i].res;
        if (ios[i].res < 0 && !failed)
            failed = ios[i].res;
    }
    free(calls);
    return failed;
}

static int sim_io(struct vd_dev *dev, struct vd_io *ios, int n)
{
    struct loop_wait wait;
    struct sim_call *calls = calls_begin(dev, ios, n, &wait);
    return calls_end(calls, ios, n, &wait);
}

struct sim_batch {
    struct loop_wait wait;
    struct sim_call *calls;
};

/* Handed over when all of it could be submitted before any cut. */
static bool sim_begin(struct vd_dev *dev, struct vd_io_batch *batch)
{
    struct sim_batch *b = vd_simdisk_memory(1, sizeof(*b));
    if (!b)
        return false;
    b->calls = calls_begin(dev, batch->ios, batch->n, &b->wait);
    batch->priv = b;
    batch->begun = batch->n;
    bool all = !sim_of(dev)->disk->cut;
    for (int i = 0; i < batch->n; i++)
        all = all && b->calls[i].res == 0;
    for (int i = 0; i < batch->n && all; i++)
        b->calls[i].rec->handed_over = true;
    return all;
}

static void sim_end(struct vd_dev *dev, struct vd_io_batch *batch)
{
    struct sim_batch *b = batch->priv;
    (void)dev;
    if (b)
        (void)calls_end(b->calls, batch->ios, batch->n, &b->wait);
    free(b);
}

/* Runs one operation that is not a transfer; `rec` is its change, if it makes one. */
static int sim_single(struct vd_dev *dev, enum sim_op op, struct sim_record *rec, int fault)
{
    struct vd_simdisk *disk = sim_of(dev)->disk;
    struct loop_wait wait;
    loop_wait_init(&wait, 1);
    struct sim_call c = {
        .wait = &wait, .disk = disk, .op = op, .rec = rec, .flush_seq = disk->seq, .fault = fault};
    if (rec)
        vd_list_push(&disk->in_flight, &rec->link);
    (void)op_counts(disk);
    call_begin(&c, op == SIM_OP_FLUSH ? 1000000 : 100000);
    loop_wait(&wait);
    return c.res;
}

static int sim_flush(struct vd_dev *dev)
{
    struct vd_simdisk *disk = sim_of(dev)->disk;
    if (disk->cut)
        return -ENODEV;
    bool fails = fault_strikes(disk, VD_FAULT_FLUSH_EIO);
    return sim_single(dev, SIM_OP_FLUSH, NULL, fails ? (int)VD_FAULT_FLUSH_EIO : NO_FAULT);
}

static int sim_allocate(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    struct vd_simdisk *disk = sim_of(dev)->disk;
    if (disk->cut)
        return -ENODEV;
    /* A host that is full refuses only what is not there yet. */
    if (off + len > disk->size_max ||
        (!simdisk_has(disk, off, len) && fault_strikes(disk, VD_FAULT_ENOSPC))) {
        (void)op_counts(disk);
        vd_fiber_yield();
        return -ENOSPC;
    }
    int r = sim_single(dev, SIM_OP_CHANGE, simdisk_record_new(SIM_GROW, off + len, 0), NO_FAULT);
    if (r == 0)
        simdisk_allocate(disk, off, len);
    return r;
}

static int sim_punch(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    struct vd_simdisk *disk = sim_of(dev)->disk;
    if (disk->cut)
        return -ENODEV;
    if (off >= disk->size)
        return 0;
    len = VD_MIN(len, disk->size - off);
    overlap_check(disk, off, len);
    struct sim_record *rec = simdisk_record_new(SIM_PUNCH, off, len);
    rec->punch_leaves = (int)vd_rng_below(&disk->rng, 3);
    return sim_single(dev, SIM_OP_CHANGE, rec, NO_FAULT);
}

static int sim_truncate(struct vd_dev *dev, uint64_t size)
{
    struct vd_simdisk *disk = sim_of(dev)->disk;
    if (disk->cut)
        return -ENODEV;
    if (size > disk->size_max)
        return -ENOSPC;
    if (size < disk->size)
        overlap_check(disk, size, disk->size - size);
    enum sim_kind kind = size > disk->size ? SIM_GROW : SIM_TRUNCATE;
    return sim_single(dev, SIM_OP_CHANGE, simdisk_record_new(kind, size, 0), NO_FAULT);
}

static uint64_t sim_unwritten(struct vd_dev *dev, uint64_t off)
{
    const struct vd_simdisk *disk = sim_of(dev)->disk;
    while (off < disk->size && simdisk_has(disk, off, VD_BLOCK))
        off += VD_BLOCK;
    return off;
}

static void sim_info(struct vd_dev *dev, struct vd_dev_info *ret)
{
    const struct vd_simdisk *disk = sim_of(dev)->disk;
    ret->size = disk->size;
    ret->allocated = vd_simdisk_allocated(disk);
    ret->is_file = ret->can_allocate = ret->can_punch = ret->hands_over = true;
    ret->caches = sim_of(dev)->caches;
    ret->st_ino = disk->id;
}

static void sim_close(struct vd_dev *dev)
{
    struct sim_dev *s = sim_of(dev);
    if (s->locked && s->exclusive)
        s->disk->open_exclusive--;
    else
        s->disk->open_shared--;
    free(dev->path);
    free(s);
}

static const struct vd_dev_ops sim_dev_ops = {
    .io = sim_io,
    .begin = sim_begin,
    .end = sim_end,
    .flush = sim_flush,
    .allocate = sim_allocate,
    .punch = sim_punch,
    .truncate = sim_truncate,
    .unwritten = sim_unwritten,
    .info = sim_info,
    .close = sim_close,
};

int vd_simdev_open(struct vd_simdisk *disk, unsigned flags, struct vd_dev **ret)
{
    bool exclusive = !(flags & VD_DEV_RDONLY), locked = !(flags & VD_DEV_NO_LOCK);
    if (disk->cut)
        return -ENODEV;
    if (locked && (disk->open_exclusive || (exclusive && disk->open_shared)))
        return -EBUSY;
    struct sim_dev *s = vd_simdisk_memory(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    if (asprintf(&s->dev.path, "sim-%" PRIu64, disk->id) < 0) {
        free(s);
        return -ENOMEM;
    }
    s->dev.ops = &sim_dev_ops;
    s->dev.read_only = !exclusive;
    s->disk = disk;
    s->exclusive = exclusive;
    s->locked = locked;
    s->caches = exclusive && vd_rng_below(&disk->rng, 2);
    if (locked && exclusive)
        disk->open_exclusive++;
    else
        disk->open_shared++;
    *ret = &s->dev;
    return 0;
}
