/* SPDX-License-Identifier: MIT */
/* The watching disk of spy.h. Its operations yield. */
#include "tests/copy/spy.h"

#include <stdlib.h>

static struct spy *spy_of(struct vd_disk *d)
{
    return vd_container_of(d, struct spy, disk);
}

static void spy_enter(struct spy *s)
{
    s->in_flight++;
    s->in_flight_max = VD_MAX(s->in_flight_max, s->in_flight);
    for (uint64_t n = vd_rng_below(&s->rng, 4); n > 0; n--)
        vd_fiber_yield();
}

static int spy_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    struct spy *s = spy_of(d);
    uint64_t end = off + len;

    spy_enter(s);
    s->in_flight--;
    s->reads++;
    s->read_bytes += len;
    if (s->fail_read && end > s->fail_read_off)
        return s->fail_read;
    for (int i = 0; i < n; i++) {
        memcpy(iov[i].iov_base, s->data + off, iov[i].iov_len);
        off += iov[i].iov_len;
    }
    return 0;
}

static int spy_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len,
                      unsigned flags)
{
    struct spy *s = spy_of(d);
    uint64_t end = off + len;

    spy_enter(s);
    s->in_flight--;
    s->writes++;
    s->written_bytes += len;
    s->dirty = true;
    if (s->fail_write && end > s->fail_write_off)
        return s->fail_write;
    for (int i = 0; i < n; i++) {
        memcpy(s->data + off, iov[i].iov_base, iov[i].iov_len);
        off += iov[i].iov_len;
    }
    return 0;
}

static int spy_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct spy *s = spy_of(d);

    spy_enter(s);
    s->in_flight--;
    s->zeroes++;
    s->dirty = true;
    if (s->fail_zero && off + len > s->fail_zero_off)
        return s->fail_zero;
    memset(s->data + off, 0, len);
    return 0;
}

static int spy_flush(struct vd_disk *d)
{
    struct spy *s = spy_of(d);

    spy_enter(s);
    s->in_flight--;
    s->flushes++;
    if (s->fail_flush)
        return s->fail_flush;
    s->dirty = false;
    return 0;
}

static int spy_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret, int *n)
{
    struct spy *s = spy_of(d);
    uint64_t end = off + len;
    int used = 0;

    if (s->no_extents)
        return -EOPNOTSUPP;
    spy_enter(s);
    s->in_flight--;
    if (s->fail_extents)
        return s->fail_extents;
    while (off < end) {
        bool hole = s->hole[off / SPY_UNIT];
        unsigned flags = hole ? VD_EXTENT_HOLE | VD_EXTENT_ZERO : 0;
        uint64_t next = VD_MIN(end, (off / SPY_UNIT + 1) * SPY_UNIT);

        if (used > 0 && ret[used - 1].flags == flags) {
            ret[used - 1].len += next - off;
        } else if (used == *n) {
            break;
        } else {
            ret[used++] = (struct vd_extent){.off = off, .len = next - off, .flags = flags};
        }
        off = next;
    }
    *n = used;
    return 0;
}

static int spy_resize(struct vd_disk *d, uint64_t size, struct vd_error *err)
{
    struct spy *s = spy_of(d);

    spy_enter(s);
    s->in_flight--;
    s->resizes++;
    if (s->fail_resize)
        return vd_fail(err, s->fail_resize, "no-space", "the spy has no more room");
    if (size > s->size_max)
        return vd_fail(err, -ENOSPC, "no-space", "the spy ends at %" PRIu64, s->size_max);
    if (size < s->size)
        memset(s->data + size, 0, s->size - size);
    s->size = size;
    return 0;
}

static void spy_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    *ret = (struct vd_disk_info){.size = spy_of(d)->size,
                                 .block_min = VD_SECTOR,
                                 .block_pref = VD_BLOCK,
                                 .request_max = (uint32_t)VD_MIB(32)};
}

static void spy_close(struct vd_disk *d)
{
    struct spy *s = spy_of(d);

    free(s->data);
    free(s);
}

static const struct vd_disk_ops spy_ops = {
    .readv = spy_readv,
    .writev = spy_writev,
    .zero = spy_zero,
    .discard = spy_zero,
    .flush = spy_flush,
    .extents = spy_extents,
    .resize = spy_resize,
    .info = spy_info,
    .close = spy_close,
};

struct spy *spy_new(uint64_t size, uint64_t size_max, uint64_t seed)
{
    struct spy *s = calloc(1, sizeof(*s));

    assert(s && size <= size_max && size_max <= SPY_UNIT * SPY_UNITS);
    s->data = calloc(1, size_max + 1);
    assert(s->data);
    s->size = size;
    s->size_max = size_max;
    vd_rng_seed(&s->rng, seed);
    vd_disk_init(&s->disk, &spy_ops);
    return s;
}

void spy_scatter(struct spy *s)
{
    for (uint64_t off = 0; off < s->size; off += SPY_UNIT) {
        uint64_t len = VD_MIN(SPY_UNIT, s->size - off);

        s->hole[off / SPY_UNIT] = vd_rng_below(&s->rng, 3) == 0;
        memset(s->data + off, 0, len);
        if (s->hole[off / SPY_UNIT] || vd_rng_below(&s->rng, 5) == 0)
            continue;
        for (uint64_t n = 0; n < len; n += VD_SECTOR) {
            if (n % VD_KIB(32) == 0 && vd_rng_below(&s->rng, 3) == 0)
                n += VD_KIB(32) - VD_SECTOR;
            else if (vd_rng_below(&s->rng, 6) != 0)
                vd_rng_fill(&s->rng, s->data + off + n, VD_SECTOR);
        }
    }
}

void spy_fill(struct spy *s)
{
    for (uint64_t i = 0; i < s->size; i++)
        s->data[i] = (uint8_t)(1 + vd_rng_u64(&s->rng) % 255);
}
