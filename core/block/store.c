/* SPDX-License-Identifier: MIT */
/*
 * The other half of waist 2: every call on a store passes here on its way to the implementation.
 * What no implementation should have to look at is refused here: names that are no names, sizes
 * that no volume may have, empty lists of targets. Everything else is the implementation's.
 *
 * Called on the store's loop; suspends only in the implementation.
 */
#include "core/block/store.h"

#include "core/base/text.h"

static int name_check(const char *name, const char *what, struct vd_error *err)
{
    if (name && vd_name_valid(name))
        return 0;
    return vd_fail(err, -EINVAL, "name-invalid",
                   "\"%.130s\" cannot be the name of a %s: use up to 127 letters, digits, "
                   "\".\", \"_\" and \"-\", starting with a letter or digit",
                   name ? name : "", what);
}

static int size_check(uint64_t size, struct vd_error *err)
{
    if (size > 0 && size % VD_SECTOR == 0 && size <= VD_VOLUME_MAX)
        return 0;
    return vd_fail(err, -EINVAL, "size-invalid",
                   "a volume's size must be a multiple of 512 bytes, more than 0 and at most "
                   "8 EiB - 1 MiB; %" PRIu64 " is not",
                   size);
}

/* A target that must name a snapshot. */
static int snapshot_check(struct vd_target t, struct vd_error *err)
{
    int r = name_check(t.volume, "volume", err);
    return r < 0 ? r : name_check(t.snapshot, "snapshot", err);
}

static int target_check(struct vd_target t, struct vd_error *err)
{
    return t.snapshot ? snapshot_check(t, err) : name_check(t.volume, "volume", err);
}

static int targets_check(const struct vd_target *t, int n, struct vd_error *err)
{
    if (n < 1)
        return vd_fail(err, -EINVAL, "name-invalid", "no snapshot is named");
    for (int i = 0; i < n; i++) {
        int r = snapshot_check(t[i], err);
        if (r < 0)
            return r;
    }
    return 0;
}

int vd_store_info(struct vd_store *s, struct vd_store_info *ret)
{
    return s->ops->info(s, ret);
}

int vd_store_volumes(struct vd_store *s, vd_volume_fn *fn, void *arg)
{
    return s->ops->volumes(s, fn, arg);
}

int vd_store_volume(struct vd_store *s, const char *name, struct vd_volume_info *ret,
                    struct vd_error *err)
{
    int r = name_check(name, "volume", err);
    return r < 0 ? r : s->ops->volume(s, name, ret, err);
}

int vd_store_snapshots(struct vd_store *s, const char *volume, vd_snapshot_fn *fn, void *arg)
{
    return s->ops->snapshots(s, volume, fn, arg);
}

int vd_store_open(struct vd_store *s, struct vd_target t, bool read_only, struct vd_disk **ret,
                  struct vd_error *err)
{
    int r = target_check(t, err);
    return r < 0 ? r : s->ops->open(s, t, read_only || t.snapshot, ret, err);
}

int vd_store_volume_create(struct vd_store *s, const char *name, uint64_t size,
                           struct vd_error *err)
{
    int r = name_check(name, "volume", err);
    if (r == 0)
        r = size_check(size, err);
    return r < 0 ? r : s->ops->volume_create(s, name, size, err);
}

int vd_store_volume_delete(struct vd_store *s, const char *name, bool recursive,
                           struct vd_error *err)
{
    int r = name_check(name, "volume", err);
    return r < 0 ? r : s->ops->volume_delete(s, name, recursive, err);
}

int vd_store_volume_rename(struct vd_store *s, const char *name, const char *to,
                           struct vd_error *err)
{
    int r = name_check(name, "volume", err);
    if (r == 0)
        r = name_check(to, "volume", err);
    return r < 0 ? r : s->ops->volume_rename(s, name, to, err);
}

int vd_store_volume_resize(struct vd_store *s, const char *name, uint64_t size, bool shrink,
                           struct vd_error *err)
{
    int r = name_check(name, "volume", err);
    if (r == 0)
        r = size_check(size, err);
    return r < 0 ? r : s->ops->volume_resize(s, name, size, shrink, err);
}

int vd_store_prop_set(struct vd_store *s, const char *volume, const char *prop, const char *value,
                      struct vd_error *err)
{
    int r = name_check(volume, "volume", err);
    return r < 0 ? r : s->ops->prop_set(s, volume, prop, value, err);
}

int vd_store_props(struct vd_store *s, const char *volume, vd_prop_fn *fn, void *arg,
                   struct vd_error *err)
{
    int r = name_check(volume, "volume", err);
    return r < 0 ? r : s->ops->props(s, volume, fn, arg, err);
}

int vd_store_snapshot_create(struct vd_store *s, const struct vd_target *t, int n,
                             struct vd_error *err)
{
    int r = targets_check(t, n, err);
    return r < 0 ? r : s->ops->snapshot_create(s, t, n, err);
}

int vd_store_snapshot_delete(struct vd_store *s, const struct vd_target *t, int n,
                             struct vd_error *err)
{
    int r = targets_check(t, n, err);
    return r < 0 ? r : s->ops->snapshot_delete(s, t, n, err);
}

int vd_store_snapshot_rename(struct vd_store *s, struct vd_target t, const char *to,
                             struct vd_error *err)
{
    int r = snapshot_check(t, err);
    if (r == 0)
        r = name_check(to, "snapshot", err);
    return r < 0 ? r : s->ops->snapshot_rename(s, t, to, err);
}

int vd_store_snapshot_hold(struct vd_store *s, struct vd_target t, const char *tag, bool release,
                           struct vd_error *err)
{
    int r = snapshot_check(t, err);
    if (r == 0)
        r = name_check(tag, "hold", err);
    return r < 0 ? r : s->ops->snapshot_hold(s, t, tag, release, err);
}

int vd_store_rollback(struct vd_store *s, struct vd_target t, bool discard, bool force,
                      char *ret_kept, struct vd_error *err)
{
    int r = snapshot_check(t, err);
    return r < 0 ? r : s->ops->rollback(s, t, discard, force, ret_kept, err);
}

int vd_store_clone(struct vd_store *s, struct vd_target t, const char *name, struct vd_error *err)
{
    int r = target_check(t, err);
    if (r == 0)
        r = name_check(name, "volume", err);
    return r < 0 ? r : s->ops->clone(s, t, name, err);
}

int vd_store_diff(struct vd_store *s, struct vd_target from, struct vd_target to, vd_diff_fn *fn,
                  void *arg, struct vd_error *err)
{
    return vd_store_diff_part(s, from, to, 0, VD_VOLUME_MAX, fn, arg, err);
}

int vd_store_diff_part(struct vd_store *s, struct vd_target from, struct vd_target to, uint64_t off,
                       uint64_t len, vd_diff_fn *fn, void *arg, struct vd_error *err)
{
    if (off > VD_VOLUME_MAX || len > VD_VOLUME_MAX - off)
        return vd_fail(err, -EINVAL, "range-invalid", "no volume is as large as that");
    int r = from.volume ? target_check(from, err) : 0;
    if (r == 0)
        r = target_check(to, err);
    return r < 0 ? r : s->ops->diff(s, from, to, off, len, fn, arg, err);
}

int vd_store_flush(struct vd_store *s)
{
    return s->ops->flush(s);
}

int vd_store_settle(struct vd_store *s, const bool *cancel)
{
    return s->ops->settle(s, cancel);
}

uint64_t vd_store_backlog(struct vd_store *s)
{
    return s->ops->backlog(s);
}

void vd_store_trim(struct vd_store *s)
{
    if (s->ops->trim)
        s->ops->trim(s);
}
