/* SPDX-License-Identifier: MIT */
/*
 * Pipes. From a stream: each fiber in turn fills its buffer under the plan mutex (bytes come in
 * order) and writes it outside (in any order). To a stream: fibers read in any order and wait for
 * their turn to write. Called on a fiber; yields. A fiber that is blocked in a stream notices
 * cancellation only when the stream moves or is shut down.
 */
#include "copy/copy_priv.h"

#define GROW_MIN VD_MIB(64)

/* Fills `buf` up to `len`; *ret_len is shorter at the end of the stream only. */
static int stream_fill(struct copy_run *r, uint8_t *buf, uint64_t len, uint64_t *ret_len)
{
    ssize_t n;

    for (*ret_len = 0; *ret_len < len; *ret_len += (uint64_t)n) {
        n = vd_stream_read_some(r->stream, buf + *ret_len, len - *ret_len);
        if (n < 0)
            return copy_fail_io(r, (int)n, "copy-read", "read the stream", r->pos + *ret_len);
        if (n == 0)
            break;
    }
    return 0;
}

static int target_resize(struct copy_run *r, uint64_t size)
{
    struct vd_error err = {0};
    int rc = vd_disk_resize(r->dst, size, &err);

    if (rc < 0)
        return copy_fail(r, rc, err.id[0] ? err.id : "copy-write",
                         "cannot make the target %" PRIu64 " bytes long: %s", size,
                         err.message[0] ? err.message : strerrordesc_np(-rc));
    r->dst_size = size;
    return 0;
}

/* Makes room for [0, need). Sizes grow in big steps: each is an operation on a volume. */
static int target_reach(struct copy_run *r, uint64_t need)
{
    uint64_t size;

    if (need <= r->dst_size)
        return 0;
    if (!(r->opt.flags & VD_COPY_GROW))
        return copy_fail(r, -ERANGE, "target-too-small",
                         "the stream is longer than the target of %" PRIu64 " bytes", r->dst_size);
    if (need > r->opt.size_limit)
        return copy_fail(r, -ERANGE, "target-too-small",
                         "the stream is longer than the limit of %" PRIu64 " bytes",
                         r->opt.size_limit);
    size = r->dst_size + VD_MAX(r->dst_size / 2, GROW_MIN);
    size = VD_MAX(need,
                  VD_MIN(VD_ROUND_UP(size, VD_BLOCK), VD_ROUND_DOWN(r->opt.size_limit, VD_BLOCK)));
    return target_resize(r, size);
}

/* The stream's next piece, padded with zeroes to a block (to a sector where the target ends). */
static int stream_take(struct copy_run *r, uint8_t *buf, struct copy_item *ret)
{
    uint64_t len = 0, padded = 0;
    int rc = 0;

    vd_fmutex_lock(&r->plan);
    if (r->rc == 0 && !r->finished) {
        rc = stream_fill(r, buf, r->opt.buffer, &len);
        r->finished = len < r->opt.buffer;
        padded = VD_ROUND_UP(len, VD_BLOCK);
        if (!(r->opt.flags & VD_COPY_GROW) && r->pos + padded > r->dst_size)
            padded = VD_ROUND_UP(len, VD_SECTOR);
        memset(buf + len, 0, padded - len);
        if (rc == 0)
            rc = target_reach(r, r->pos + padded);
        if (rc == 0 && len > 0) {
            *ret = (struct copy_item){.kind = COPY_DATA, .off = r->pos, .len = padded};
            r->pos += padded;
            rc = 1;
        }
    }
    vd_fmutex_unlock(&r->plan);
    return rc;
}

static int from_step(struct copy_run *r, uint8_t *buf)
{
    struct copy_item item = {0};
    int rc = stream_take(r, buf, &item);

    if (rc <= 0)
        return rc;
    rc = copy_write(r, item.off, buf, item.len);
    if (rc < 0)
        return rc;
    copy_report(r);
    return 1;
}

/* Gives a target that grew the stream's length, but at least one block: what an empty stream leaves
 * there is zero, and counts as nothing done. */
static int target_cut(struct copy_run *r)
{
    uint64_t size = VD_MAX(r->pos, VD_BLOCK);
    int rc = r->dst_size == size ? 0 : target_resize(r, size);

    if (rc == 0 && r->pos == 0 && !(r->opt.flags & VD_COPY_TARGET_ZERO)) {
        rc = vd_disk_zero(r->dst, 0, size, 0);
        if (rc < 0)
            copy_fail_io(r, rc, "copy-write", "zero the target", 0);
    }
    return rc;
}

/* What the stream did not reach, once it has ended: cut off, or zero. */
static int rest_step(struct copy_run *r, uint8_t *buf)
{
    uint64_t len;
    int rc;

    if (r->opt.flags & VD_COPY_GROW)
        return target_cut(r);
    if (r->pos == r->dst_size)
        return 0;
    len = VD_MIN(r->dst_size - r->pos, COPY_ZERO_MAX);
    rc = copy_zero(r, r->pos, len);
    if (rc < 0)
        return rc;
    r->pos += len;
    copy_report(r);
    return 1;
}

int vd_copy_from_stream(struct vd_stream *src, struct vd_disk *dst,
                        const struct vd_copy_options *opt, struct vd_copy_stats *ret,
                        struct vd_error *err)
{
    struct copy_run r;
    struct vd_disk_info info;

    copy_run_init(&r, opt, err);
    vd_disk_info(dst, &info);
    r.stream = src;
    r.dst = dst;
    r.dst_size = info.size;
    if (!(r.opt.flags & VD_COPY_GROW))
        r.stats.total = info.size;
    if (copy_run_go(&r, from_step, 1) == 0) {
        r.opt.fibers = 1;
        copy_run_go(&r, rest_step, 1);
    }
    return copy_run_end(&r, ret);
}

static int to_step(struct copy_run *r, uint8_t *buf)
{
    struct copy_item item;
    int rc = copy_take(r, r->opt.buffer, &item);

    if (rc <= 0)
        return rc;
    if (item.kind == COPY_ZERO)
        memset(buf, 0, item.len);
    else
        rc = vd_disk_read(r->a.disk, item.off, buf, item.len);
    if (rc < 0)
        return copy_fail_io(r, rc, "copy-read", "read the source", item.off);
    while (r->rc == 0 && r->turn_pos != item.off)
        vd_wait(&r->turn);
    if (r->rc < 0)
        return r->rc;
    rc = vd_stream_write(r->stream, buf, item.len);
    if (rc < 0)
        return copy_fail_io(r, rc, "copy-write", "write to the stream", item.off);
    r->turn_pos += item.len;
    vd_wake_all(&r->turn);
    r->stats.data += item.len;
    copy_report(r);
    return 1;
}

int vd_copy_to_stream(struct vd_disk *src, struct vd_stream *dst, const struct vd_copy_options *opt,
                      struct vd_copy_stats *ret, struct vd_error *err)
{
    struct copy_run r;

    copy_run_init(&r, opt, err);
    copy_side_init(&r.a, src, "source");
    r.stream = dst;
    r.end = r.stats.total = r.a.size;
    copy_run_go(&r, to_step, 1);
    return copy_run_end(&r, ret);
}
