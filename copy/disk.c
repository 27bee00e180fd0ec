/* SPDX-License-Identifier: MIT */
/*
 * Disk to disk: each piece that the source calls zero is made zero in the target, the rest is read
 * and written. Called on a fiber; yields.
 */
#include "copy/copy_priv.h"

static int disk_step(struct copy_run *r, uint8_t *buf)
{
    struct copy_item item;
    int rc = copy_take(r, COPY_ZERO_MAX, &item);

    if (rc <= 0)
        return rc;
    if (item.kind == COPY_ZERO) {
        rc = copy_zero(r, item.off, item.len);
    } else {
        rc = vd_disk_read(r->a.disk, item.off, buf, item.len);
        if (rc < 0)
            return copy_fail_io(r, rc, "copy-read", "read the source", item.off);
        rc = copy_write(r, item.off, buf, item.len);
    }
    if (rc < 0)
        return rc;
    copy_report(r);
    return 1;
}

int vd_copy_disk(struct vd_disk *src, struct vd_disk *dst, const struct vd_copy_options *opt,
                 struct vd_copy_stats *ret, struct vd_error *err)
{
    struct copy_run r;
    struct vd_disk_info info;

    copy_run_init(&r, opt, err);
    copy_side_init(&r.a, src, "source");
    vd_disk_info(dst, &info);
    if (info.size < r.a.size)
        return vd_fail(err, -ERANGE, "target-too-small",
                       "the target has %" PRIu64 " bytes, the source %" PRIu64, info.size,
                       r.a.size);
    r.dst = dst;
    r.end = r.stats.total = info.size;
    copy_run_go(&r, disk_step, 1);
    return copy_run_end(&r, ret);
}
