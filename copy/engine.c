/* SPDX-License-Identifier: MIT */
/*
 * The engine of copy/: a few fibers that repeat a step until the end, planning under one mutex and
 * moving data outside it.
 *
 * Invariants
 *  1. Pieces are planned in order of offset and each exactly once; they complete in any order.
 *  2. The first failure is kept, and no piece is started after it; those in flight are waited for.
 *  3. A buffer belongs to one fiber; nothing that yields holds the plan mutex except looking at
 *     extents, reading a stream and growing the target.
 *
 * Called by the jobs in this folder, on a fiber. Everything here that does I/O yields.
 */
#include "copy/copy_priv.h"

#include "core/base/hash.h"
#include "core/base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Zeroes within data shorter than this are written as data: a request of its own costs more. */
#define ZERO_RUN_MIN VD_KIB(16)

void copy_side_init(struct copy_side *s, struct vd_disk *disk, const char *name)
{
    struct vd_disk_info info;

    vd_disk_info(disk, &info);
    *s = (struct copy_side){.disk = disk, .name = name, .size = info.size};
}

void copy_run_init(struct copy_run *r, const struct vd_copy_options *opt, struct vd_error *err)
{
    *r = (struct copy_run){.err = err, .diff_off = UINT64_MAX};
    if (opt)
        r->opt = *opt;
    if (r->opt.fibers == 0)
        r->opt.fibers = COPY_FIBERS_DEFAULT;
    r->opt.fibers = VD_MIN(r->opt.fibers, COPY_FIBERS_MAX);
    if (r->opt.buffer == 0)
        r->opt.buffer = COPY_BUFFER_DEFAULT;
    r->opt.buffer = VD_MIN(r->opt.buffer, (uint32_t)COPY_BUFFER_MAX);
    r->opt.buffer = (uint32_t)VD_ROUND_UP(r->opt.buffer, COPY_BUFFER_STEP);
    if (r->opt.size_limit == 0 || r->opt.size_limit > VD_VOLUME_MAX)
        r->opt.size_limit = VD_VOLUME_MAX;
    vd_group_init(&r->group);
    vd_fmutex_init(&r->plan);
    vd_waitq_init(&r->turn);
}

int copy_fail(struct copy_run *r, int rc, const char *id, const char *fmt, ...)
{
    char text[sizeof(r->err->message)];
    va_list args;

    if (r->rc == 0) {
        r->rc = rc;
        va_start(args, fmt);
        vsnprintf(text, sizeof(text), fmt, args);
        va_end(args);
        vd_fail(r->err, rc, id, "%s", text);
    }
    vd_wake_all(&r->turn);
    return rc;
}

int copy_fail_io(struct copy_run *r, int rc, const char *id, const char *what, uint64_t off)
{
    const char *why = strerrordesc_np(-rc);

    return copy_fail(r, rc, id, "cannot %s at offset %" PRIu64 ": %s", what, off,
                     why ? why : "unknown error");
}

void copy_report(struct copy_run *r)
{
    r->stats.done = r->stats.data + r->stats.zeroed + r->stats.skipped;
    if (r->opt.progress)
        r->opt.progress(r->opt.arg, &r->stats);
}

static bool run_stopped(struct copy_run *r)
{
    if (r->rc == 0 && r->opt.cancel && *r->opt.cancel)
        copy_fail(r, -ECANCELED, "copy-cancelled", "cancelled");
    return r->rc != 0;
}

static void run_fiber(void *arg)
{
    struct copy_run *r = arg;
    uint8_t *buf = r->memory + r->each * r->began++;

    while (!run_stopped(r) && r->step(r, buf) > 0)
        ;
    vd_group_done(&r->group);
}

int copy_run_go(struct copy_run *r, copy_step_fn *step, unsigned buffers)
{
    unsigned started = 0;
    int rc = 0;

    r->step = step;
    r->each = (size_t)r->opt.buffer * buffers;
    r->began = 0;
    r->memory = vd_alloc_large(r->each * r->opt.fibers);
    if (!r->memory)
        return copy_fail(r, -ENOMEM, "no-memory", "no memory for copy buffers of %zu bytes",
                         r->each * r->opt.fibers);
    while (started < r->opt.fibers) {
        vd_group_add(&r->group);
        rc = vd_fiber_spawn(vd_loop_current(), "copy", run_fiber, r);
        if (rc < 0) {
            vd_group_done(&r->group);
            break;
        }
        started++;
    }
    /* Fewer fibers than wished for are slower, none cannot copy. */
    if (started == 0)
        copy_fail(r, rc, "no-memory", "no memory for a copy fiber");
    vd_group_wait(&r->group);
    free(r->memory);
    return r->rc;
}

int copy_run_end(struct copy_run *r, struct vd_copy_stats *ret)
{
    int rc;

    if (r->rc == 0 && r->dst && !(r->opt.flags & VD_COPY_NO_FLUSH)) {
        rc = vd_disk_flush(r->dst);
        if (rc < 0)
            copy_fail_io(r, rc, "copy-flush", "flush the target", r->end);
    }
    if (ret)
        *ret = r->stats;
    return r->rc;
}

int copy_side_look(struct copy_run *r, struct copy_side *s, uint64_t off, uint64_t len,
                   bool *ret_zero, uint64_t *ret_len)
{
    const struct vd_extent *e;
    int rc;

    if (off >= s->size) {
        *ret_zero = true;
        *ret_len = len;
        return 0;
    }
    len = VD_MIN(len, s->size - off);
    while (s->idx < s->n && s->ext[s->idx].off + s->ext[s->idx].len <= off)
        s->idx++;
    if (s->idx == s->n) {
        s->idx = 0;
        s->n = COPY_EXTENTS;
        rc = vd_disk_extents(s->disk, off, s->size - off, s->ext, &s->n);
        if (rc == -EOPNOTSUPP || (rc == 0 && s->n == 0)) {
            s->ext[0] = (struct vd_extent){.off = off, .len = s->size - off};
            s->n = 1;
        } else if (rc < 0) {
            s->n = 0;
            return copy_fail(r, rc, "copy-read",
                             "cannot read the extents of the %s at offset %" PRIu64 ": %s", s->name,
                             off, strerrordesc_np(-rc));
        }
    }
    e = &s->ext[s->idx];
    *ret_zero = (e->flags & VD_EXTENT_ZERO) != 0;
    *ret_len = VD_MIN(len, e->off + e->len - off);
    return 0;
}

uint64_t copy_data_len(const struct copy_run *r, uint64_t off, uint64_t len)
{
    return VD_MIN(len, r->opt.buffer - off % r->opt.buffer);
}

int copy_take(struct copy_run *r, uint64_t zero_max, struct copy_item *ret)
{
    bool zero = false;
    uint64_t len = 0;
    int rc = 0;

    vd_fmutex_lock(&r->plan);
    if (r->rc == 0 && r->pos < r->end) {
        rc = copy_side_look(r, &r->a, r->pos, r->end - r->pos, &zero, &len);
        if (rc == 0) {
            len = zero ? VD_MIN(len, zero_max) : copy_data_len(r, r->pos, len);
            *ret =
                (struct copy_item){.kind = zero ? COPY_ZERO : COPY_DATA, .off = r->pos, .len = len};
            r->pos += len;
            rc = 1;
        }
    }
    vd_fmutex_unlock(&r->plan);
    return rc;
}

int copy_zero(struct copy_run *r, uint64_t off, uint64_t len)
{
    int rc;

    if (r->opt.flags & VD_COPY_TARGET_ZERO) {
        r->stats.skipped += len;
        return 0;
    }
    rc = vd_disk_zero(r->dst, off, len, 0);
    if (rc < 0)
        return copy_fail_io(r, rc, "copy-write", "zero the target", off);
    r->stats.zeroed += len;
    return 0;
}

static int write_data(struct copy_run *r, uint64_t off, const uint8_t *buf, uint64_t len)
{
    int rc = vd_disk_write(r->dst, off, buf, len, 0);

    if (rc < 0)
        return copy_fail_io(r, rc, "copy-write", "write to the target", off);
    r->stats.data += len;
    return 0;
}

/* How far buf is zero (or, with zero = false, is not), in whole blocks up to len. */
static uint64_t stretch(const uint8_t *buf, uint64_t len, bool zero)
{
    uint64_t n = 0;

    while (n < len && vd_is_zero(buf + n, VD_MIN(VD_BLOCK, len - n)) == zero)
        n += VD_MIN(VD_BLOCK, len - n);
    return n;
}

int copy_write(struct copy_run *r, uint64_t off, const uint8_t *buf, uint64_t len)
{
    uint64_t data = 0; /* bytes at the front that are to be written as data */
    uint64_t zero;
    int rc;

    if (r->opt.flags & VD_COPY_NO_ZERO_DETECT)
        return write_data(r, off, buf, len);
    while (data < len) {
        data += stretch(buf + data, len - data, false);
        zero = stretch(buf + data, len - data, true);
        /* A short stretch inside data goes along with it; a whole piece of zeroes never does. */
        if (zero < ZERO_RUN_MIN && zero < len) {
            data += zero;
            if (data < len)
                continue;
            zero = 0;
        }
        rc = data ? write_data(r, off, buf, data) : 0;
        if (rc == 0 && zero)
            rc = copy_zero(r, off + data, zero);
        if (rc < 0)
            return rc;
        off += data + zero;
        buf += data + zero;
        len -= data + zero;
        data = 0;
    }
    return 0;
}
