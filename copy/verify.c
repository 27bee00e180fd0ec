/* SPDX-License-Identifier: MIT */
/*
 * Comparing two disks. A piece that both call zero is equal unread; where one does, only the other
 * is read. Pieces are planned in order, so once a difference is found nothing before it is left
 * unplanned, and the smallest found when all fibers have ended is the first there is.
 * Called on a fiber; yields.
 */
#include "copy/copy_priv.h"

#include "core/base/hash.h"

struct pair {
    uint64_t off, len;
    bool zero_a, zero_b;
};

static int pair_take(struct copy_run *r, struct pair *ret)
{
    uint64_t len_b = 0;
    int rc = 0;

    vd_fmutex_lock(&r->plan);
    if (r->rc == 0 && r->diff_off == UINT64_MAX && r->pos < r->end) {
        ret->off = r->pos;
        rc = copy_side_look(r, &r->a, r->pos, r->end - r->pos, &ret->zero_a, &ret->len);
        if (rc == 0)
            rc = copy_side_look(r, &r->b, r->pos, ret->len, &ret->zero_b, &len_b);
        if (rc == 0) {
            ret->len = VD_MIN(ret->len, len_b);
            if (!ret->zero_a || !ret->zero_b)
                ret->len = copy_data_len(r, r->pos, ret->len);
            r->pos += ret->len;
            rc = 1;
        }
    }
    vd_fmutex_unlock(&r->plan);
    return rc;
}

static int side_read(struct copy_run *r, struct copy_side *s, const struct pair *p, uint8_t *buf,
                     bool zero)
{
    int rc;

    if (zero) {
        memset(buf, 0, p->len);
        return 0;
    }
    rc = vd_disk_read(s->disk, p->off, buf, p->len);
    if (rc < 0)
        return copy_fail(r, rc, "copy-read", "cannot read the %s at offset %" PRIu64 ": %s",
                         s->name, p->off, strerrordesc_np(-rc));
    return 0;
}

static int verify_step(struct copy_run *r, uint8_t *buf)
{
    uint8_t *other = buf + r->opt.buffer;
    struct pair p;
    uint64_t i = 0;
    int rc = pair_take(r, &p);

    if (rc <= 0)
        return rc;
    if (p.zero_a && p.zero_b) {
        r->stats.skipped += p.len;
        copy_report(r);
        return 1;
    }
    rc = side_read(r, &r->a, &p, buf, p.zero_a);
    if (rc == 0)
        rc = side_read(r, &r->b, &p, other, p.zero_b);
    if (rc < 0)
        return rc;
    if (memcmp(buf, other, p.len) != 0) {
        while (buf[i] == other[i])
            i++;
        r->diff_off = VD_MIN(r->diff_off, p.off + i);
        return 0;
    }
    r->stats.data += p.len;
    copy_report(r);
    return 1;
}

int vd_copy_verify(struct vd_disk *a, struct vd_disk *b, const struct vd_copy_options *opt,
                   uint64_t *ret_off, struct vd_copy_stats *ret, struct vd_error *err)
{
    struct copy_run r;
    int rc;

    copy_run_init(&r, opt, err);
    copy_side_init(&r.a, a, "first disk");
    copy_side_init(&r.b, b, "second disk");
    r.end = r.stats.total = VD_MAX(r.a.size, r.b.size);
    copy_run_go(&r, verify_step, 2);
    rc = copy_run_end(&r, ret);
    if (rc < 0 || r.diff_off == UINT64_MAX)
        return rc;
    if (ret_off)
        *ret_off = r.diff_off;
    return vd_fail(err, -EBADMSG, "copy-differs", "the disks differ, first at offset %" PRIu64,
                   r.diff_off);
}
