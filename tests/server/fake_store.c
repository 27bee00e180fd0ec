/* SPDX-License-Identifier: MIT */
/*
 * A pool that keeps everything in memory and writes it out whole when it is closed: behind the
 * functions of snapshot/snapshot.h, so that requests, jobs, the socket and the command line can be
 * tested with a store that is obviously right and can be made slow. Knows nothing of crashes.
 * Yields only in I/O.
 */
#include "tests/server/fake.h"

#include "core/base/text.h"
#include "core/io/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void block_unref(struct block *b)
{
    if (b && --b->refs == 0)
        free(b);
}

static void blocks_drop(struct view *v)
{
    for (uint64_t i = 0; i < fake_count(v->size); i++)
        block_unref(v->blocks[i]);
    free(v->blocks);
    v->blocks = NULL;
}

static void blocks_share(struct view *to, const struct view *from)
{
    to->size = from->size;
    to->blocks = calloc(fake_count(from->size) + 1, sizeof(*to->blocks));
    for (uint64_t i = 0; i < fake_count(from->size); i++)
        if ((to->blocks[i] = from->blocks[i]))
            to->blocks[i]->refs++;
}

struct view *fake_view_new(struct fake *f, struct view *volume, const char *name, uint64_t size)
{
    struct view *v = calloc(1, sizeof(*v));
    v->volume = volume;
    snprintf(v->name, sizeof(v->name), "%s", name);
    v->size = size;
    v->created = vd_loop_wall_s(vd_loop_current());
    v->epoch = f->epoch;
    v->blocks = calloc(fake_count(size) + 1, sizeof(*v->blocks));
    v->props = json_object();
    v->holds = json_object();
    vd_uuid_new(&v->uuid, vd_loop_rng(vd_loop_current()));
    vd_list_init(&v->disks);
    vd_list_push(&f->views, &v->link);
    return v;
}

void fake_view_free(struct view *v)
{
    vd_list_remove(&v->link);
    blocks_drop(v);
    json_decref(v->props);
    json_decref(v->holds);
    free(v);
}

struct view *fake_find(struct fake *f, const char *volume, const char *snapshot)
{
    vd_list_each (it, &f->views) {
        struct view *v = fake_view(it);
        if (snapshot ? v->volume && !strcmp(v->name, snapshot) && !strcmp(v->volume->name, volume)
                     : !v->volume && !strcmp(v->name, volume))
            return v;
    }
    return NULL;
}

static int need(struct fake *f, struct vd_target t, struct view **ret, struct vd_error *err)
{
    *ret = fake_find(f, t.volume, NULL);
    if (!*ret)
        return vd_fail(err, -ENOENT, "volume-not-found", "there is no volume \"%s\"", t.volume);
    if (t.snapshot && !(*ret = fake_find(f, t.volume, t.snapshot)))
        return vd_fail(err, -ENOENT, "snapshot-not-found", "%s has no snapshot \"%s\"", t.volume,
                       t.snapshot);
    return 0;
}

static int need_volume(struct fake *f, const char *name, struct view **ret, struct vd_error *err)
{
    return need(f, (struct vd_target){name, NULL}, ret, err);
}

static int new_name(struct fake *f, const char *name, struct vd_error *err)
{
    if (!vd_name_valid(name))
        return vd_fail(err, -EINVAL, "name-invalid", "\"%s\" is no volume name", name);
    if (fake_find(f, name, NULL))
        return vd_fail(err, -EEXIST, "volume-exists", "the volume \"%s\" exists already", name);
    return 0;
}

/* --- disks --- */

static struct fake_disk *disk_of(struct vd_disk *d)
{
    return vd_container_of(d, struct fake_disk, disk);
}

static void copy_part(struct view *v, uint64_t off, uint8_t *buf, size_t len, bool write)
{
    while (len) {
        size_t in = off % VD_BLOCK, n = VD_MIN(len, VD_BLOCK - in);
        struct block **at = &v->blocks[off / VD_BLOCK];
        if (write && (!*at || (*at)->refs > 1)) {
            struct block *own = calloc(1, sizeof(*own));
            own->refs = 1;
            if (*at)
                memcpy(own->data, (*at)->data, VD_BLOCK);
            block_unref(*at);
            *at = own;
        }
        if (write)
            memcpy((*at)->data + in, buf, n);
        else if (*at)
            memcpy(buf, (*at)->data + in, n);
        else
            memset(buf, 0, n);
        buf += n;
        off += n;
        len -= n;
    }
}

static int transfer(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, bool write)
{
    for (int i = 0; i < n; i++) {
        copy_part(disk_of(d)->view, off, iov[i].iov_base, iov[i].iov_len, write);
        off += iov[i].iov_len;
    }
    vd_fiber_yield();
    return 0;
}

static int disk_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    return transfer(d, off, iov, n, false);
}

/* Writes from VDISK_FAKE_FROM on wait while the file that VDISK_FAKE_STALL names is there: a slow
 * disk on demand. */
static int disk_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len,
                       unsigned flags)
{
    const char *stall = getenv("VDISK_FAKE_STALL");
    const char *from = getenv("VDISK_FAKE_FROM");
    while (stall && (!from || off >= strtoull(from, NULL, 10)) && access(stall, F_OK) == 0)
        vd_fiber_sleep(10000000);
    return transfer(d, off, iov, n, true);
}

static int disk_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    static uint8_t zero[VD_BLOCK];
    struct view *v = disk_of(d)->view;
    while (len) {
        uint64_t in = off % VD_BLOCK, n = VD_MIN(len, VD_BLOCK - in);
        if (n == VD_BLOCK) {
            block_unref(v->blocks[off / VD_BLOCK]);
            v->blocks[off / VD_BLOCK] = NULL;
        } else {
            copy_part(v, off, zero, n, true);
        }
        off += n;
        len -= n;
    }
    return 0;
}

static int disk_flush(struct vd_disk *d)
{
    return 0;
}

static int disk_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret,
                        int *n)
{
    struct view *v = disk_of(d)->view;
    int used = 0;
    while (len) {
        uint64_t part = VD_MIN(len, VD_BLOCK - off % VD_BLOCK);
        unsigned flags = v->blocks[off / VD_BLOCK] ? 0 : VD_EXTENT_HOLE | VD_EXTENT_ZERO;
        if (used && ret[used - 1].flags == flags) {
            ret[used - 1].len += part;
        } else {
            if (used == *n)
                break;
            ret[used++] = (struct vd_extent){off, part, flags};
        }
        off += part;
        len -= part;
    }
    *n = used;
    return 0;
}

static void resize(struct view *v, uint64_t size)
{
    struct block **blocks = calloc(fake_count(size) + 1, sizeof(*blocks));
    for (uint64_t i = 0; i < fake_count(v->size); i++) {
        if (i < fake_count(size))
            blocks[i] = v->blocks[i];
        else
            block_unref(v->blocks[i]);
    }
    free(v->blocks);
    v->blocks = blocks;
    v->size = size;
    vd_list_each (it, &v->disks)
        vd_disk_notify(&vd_container_of(it, struct fake_disk, link)->disk, VD_DISK_RESIZED);
}

static int disk_resize(struct vd_disk *d, uint64_t size, struct vd_error *err)
{
    resize(disk_of(d)->view, size);
    return 0;
}

static void disk_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    struct fake_disk *fd = disk_of(d);
    *ret = (struct vd_disk_info){.size = fd->view->size,
                                 .block_min = VD_SECTOR,
                                 .block_pref = VD_BLOCK,
                                 .request_max = 32u << 20,
                                 .read_only = fd->read_only,
                                 .uuid = fd->view->uuid};
}

static void disk_close(struct vd_disk *d)
{
    struct fake_disk *fd = disk_of(d);
    fd->view->opens--;
    fd->view->opens_rw -= !fd->read_only;
    vd_list_remove(&fd->link);
    free(fd);
}

static const struct vd_disk_ops disk_ops = {
    .readv = disk_readv,
    .writev = disk_writev,
    .zero = disk_zero,
    .discard = disk_zero,
    .flush = disk_flush,
    .extents = disk_extents,
    .resize = disk_resize,
    .info = disk_info,
    .close = disk_close,
};

static int fake_open(struct vd_store *s, struct vd_target t, bool read_only, struct vd_disk **ret,
                     struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *v;
    int r = need(f, t, &v, err);
    if (r < 0)
        return r;
    struct fake_disk *d = calloc(1, sizeof(*d));
    vd_disk_init(&d->disk, &disk_ops);
    d->fake = f;
    d->view = v;
    d->read_only = read_only || v->volume || v->read_only || f->read_only;
    v->opens++;
    v->opens_rw += !d->read_only;
    vd_list_push(&v->disks, &d->link);
    *ret = &d->disk;
    return 0;
}

/* --- what is asked --- */

static unsigned snapshots_of(struct fake *f, const struct view *v)
{
    unsigned n = 0;
    vd_list_each (it, &f->views)
        n += fake_view(it)->volume == v;
    return n;
}

static unsigned clones_of(struct fake *f, const struct view *s)
{
    unsigned n = 0;
    vd_list_each (it, &f->views)
        n += !fake_view(it)->volume && !strcmp(fake_view(it)->origin_volume, s->volume->name) &&
             !strcmp(fake_view(it)->origin_snapshot, s->name);
    return n;
}

static uint64_t bytes(const struct view *v, bool exclusive)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < fake_count(v->size); i++)
        if (v->blocks[i] && (!exclusive || v->blocks[i]->refs == 1))
            n += VD_BLOCK;
    return n;
}

static int fake_info(struct vd_store *s, struct vd_store_info *ret)
{
    struct fake *f = fake_of(s);
    struct vd_dev_info di;
    vd_dev_info(f->dev, &di);
    *ret = (struct vd_store_info){.uuid = f->uuid,
                                  .created_s = 1,
                                  .capacity = f->capacity,
                                  .allocated = di.allocated,
                                  .devices = 1,
                                  .format_major = 1,
                                  .chunk_size = 1u << 20,
                                  .read_only = f->read_only};
    memcpy(ret->name, f->name, sizeof(ret->name));
    vd_list_each (it, &f->views) {
        ret->live += bytes(fake_view(it), true);
        ret->volumes += !fake_view(it)->volume;
        ret->snapshots += fake_view(it)->volume != NULL;
    }
    return 0;
}

static void volume_info(struct fake *f, struct view *v, struct vd_volume_info *ret)
{
    *ret = (struct vd_volume_info){.uuid = v->uuid,
                                   .size = v->size,
                                   .created_s = v->created,
                                   .read_only = v->read_only,
                                   .snapshots = snapshots_of(f, v),
                                   .opens = v->opens,
                                   .opens_rw = v->opens_rw,
                                   .depth = *v->origin_volume ? 1 : 0,
                                   .referenced = bytes(v, false),
                                   .exclusive = bytes(v, true)};
    memcpy(ret->name, v->name, sizeof(ret->name));
    memcpy(ret->origin_volume, v->origin_volume, sizeof(ret->origin_volume));
    memcpy(ret->origin_snapshot, v->origin_snapshot, sizeof(ret->origin_snapshot));
}

static int fake_volumes(struct vd_store *s, vd_volume_fn *fn, void *arg)
{
    struct fake *f = fake_of(s);
    vd_list_each (it, &f->views) {
        struct vd_volume_info info;
        if (fake_view(it)->volume)
            continue;
        volume_info(f, fake_view(it), &info);
        int r = fn(arg, &info);
        if (r)
            return r;
    }
    return 0;
}

static int fake_volume(struct vd_store *s, const char *name, struct vd_volume_info *ret,
                       struct vd_error *err)
{
    struct view *v;
    int r = need_volume(fake_of(s), name, &v, err);
    if (r == 0)
        volume_info(fake_of(s), v, ret);
    return r;
}

static int fake_snapshots(struct vd_store *s, const char *volume, vd_snapshot_fn *fn, void *arg)
{
    struct fake *f = fake_of(s);
    vd_list_each (it, &f->views) {
        struct view *v = fake_view(it);
        if (!v->volume || (volume && strcmp(volume, v->volume->name)))
            continue;
        struct vd_snapshot_info info = {.uuid = v->uuid,
                                        .size = v->size,
                                        .epoch = v->epoch,
                                        .created_s = v->created,
                                        .exclusive = bytes(v, true),
                                        .clones = clones_of(f, v),
                                        .holds = (unsigned)json_object_size(v->holds),
                                        .automatic = v->automatic};
        memcpy(info.name, v->name, sizeof(info.name));
        memcpy(info.volume, v->volume->name, sizeof(info.volume));
        int r = fn(arg, &info);
        if (r)
            return r;
    }
    return 0;
}

/* --- what is done --- */

static int fake_create(struct vd_store *s, const char *name, uint64_t size, struct vd_error *err)
{
    int r = new_name(fake_of(s), name, err);
    if (r == 0)
        fake_view_new(fake_of(s), NULL, name, size);
    return r;
}

static int fake_delete(struct vd_store *s, const char *name, bool recursive, struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *v;
    int r = need_volume(f, name, &v, err);
    if (r < 0)
        return r;
    if (v->opens)
        return vd_fail(err, -EBUSY, "volume-busy", "the volume \"%s\" is in use", name);
    if (snapshots_of(f, v) && !recursive)
        return vd_fail(err, -ENOTEMPTY, "volume-has-snapshots",
                       "the volume \"%s\" has %u snapshots", name, snapshots_of(f, v));
    vd_list_each_safe (it, &f->views)
        if (fake_view(it)->volume == v)
            fake_view_free(fake_view(it));
    fake_view_free(v);
    f->backlog++;
    return 0;
}

static int fake_rename(struct vd_store *s, const char *name, const char *to, struct vd_error *err)
{
    struct view *v;
    int r = need_volume(fake_of(s), name, &v, err);
    if (r == 0)
        r = new_name(fake_of(s), to, err);
    if (r == 0)
        snprintf(v->name, sizeof(v->name), "%s", to);
    return r;
}

static int fake_resize(struct vd_store *s, const char *name, uint64_t size, bool shrink,
                       struct vd_error *err)
{
    struct view *v;
    int r = need_volume(fake_of(s), name, &v, err);
    if (r == 0 && size < v->size && !shrink)
        r = vd_fail(err, -EINVAL, "shrink-refused", "the volume \"%s\" would become smaller", name);
    if (r == 0)
        resize(v, size);
    return r;
}

static int fake_prop_set(struct vd_store *s, const char *volume, const char *prop,
                         const char *value, struct vd_error *err)
{
    struct view *v;
    int r = need_volume(fake_of(s), volume, &v, err);
    if (r < 0)
        return r;
    bool ro = !strcmp(prop, "read-only");
    if ((!ro && strcmp(prop, "comment") && strncmp(prop, "user.", 5)) ||
        (ro && value && strcmp(value, "on") && strcmp(value, "off")))
        return vd_fail(err, -EINVAL, "property-invalid", "%s=%s is not a property", prop,
                       value ? value : "");
    if (ro)
        v->read_only = value && !strcmp(value, "on");
    if (value)
        json_object_set_new(v->props, prop, json_string(value));
    else
        json_object_del(v->props, prop);
    return 0;
}

static int fake_props(struct vd_store *s, const char *volume, vd_prop_fn *fn, void *arg,
                      struct vd_error *err)
{
    struct view *v;
    const char *key;
    json_t *value;
    int r = need_volume(fake_of(s), volume, &v, err);
    if (r < 0)
        return r;
    json_object_foreach (v->props, key, value)
        if ((r = fn(arg, key, json_string_value(value))))
            break;
    return r;
}

static struct view *snapshot(struct fake *f, struct view *v, const char *name)
{
    struct view *snap = fake_view_new(f, v, name, 0);
    free(snap->blocks);
    blocks_share(snap, v);
    return snap;
}

static int fake_snapshot_create(struct vd_store *s, const struct vd_target *t, int n,
                                struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *v;
    for (int i = 0; i < n; i++) {
        int r = need_volume(f, t[i].volume, &v, err);
        if (r < 0)
            return r;
        if (fake_find(f, t[i].volume, t[i].snapshot))
            return vd_fail(err, -EEXIST, "snapshot-exists", "%s@%s exists already", t[i].volume,
                           t[i].snapshot);
    }
    for (int i = 0; i < n; i++)
        snapshot(f, fake_find(f, t[i].volume, NULL), t[i].snapshot);
    f->epoch++;
    return 0;
}

static int fake_snapshot_delete(struct vd_store *s, const struct vd_target *t, int n,
                                struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *v;
    for (int i = 0; i < n; i++) {
        int r = need(f, t[i], &v, err);
        if (r < 0)
            return r;
        if (json_object_size(v->holds))
            return vd_fail(err, -EBUSY, "snapshot-held", "%s@%s is held", t[i].volume,
                           t[i].snapshot);
    }
    for (int i = 0; i < n; i++)
        fake_view_free(fake_find(f, t[i].volume, t[i].snapshot));
    f->backlog++;
    return 0;
}

static int fake_snapshot_rename(struct vd_store *s, struct vd_target t, const char *to,
                                struct vd_error *err)
{
    struct view *v;
    int r = need(fake_of(s), t, &v, err);
    if (r == 0 && fake_find(fake_of(s), t.volume, to))
        r = vd_fail(err, -EEXIST, "snapshot-exists", "%s@%s exists already", t.volume, to);
    if (r == 0)
        snprintf(v->name, sizeof(v->name), "%s", to);
    return r;
}

static int fake_hold(struct vd_store *s, struct vd_target t, const char *tag, bool release,
                     struct vd_error *err)
{
    struct view *v;
    int r = need(fake_of(s), t, &v, err);
    if (r < 0)
        return r;
    if (!release)
        return json_object_set_new(v->holds, tag, json_true());
    if (json_object_del(v->holds, tag) < 0)
        return vd_fail(err, -ENOENT, "hold-not-found", "%s@%s has no hold \"%s\"", t.volume,
                       t.snapshot, tag);
    return 0;
}

static int fake_rollback(struct vd_store *s, struct vd_target t, bool discard, bool force,
                         char *ret_kept, struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *v, *snap;
    int r = need(f, t, &snap, err);
    if (r < 0)
        return r;
    v = snap->volume;
    if (v->opens && !force)
        return vd_fail(err, -EBUSY, "volume-busy", "the volume \"%s\" is in use", v->name);
    if (!discard) {
        snprintf(ret_kept, VD_NAME_MAX + 1, "rollback-%u", (unsigned)f->epoch++);
        snapshot(f, v, ret_kept)->automatic = true;
    }
    blocks_drop(v);
    blocks_share(v, snap);
    vd_list_each (it, &v->disks)
        vd_disk_notify(&vd_container_of(it, struct fake_disk, link)->disk, VD_DISK_REPLACED);
    return 0;
}

static int fake_clone(struct vd_store *s, struct vd_target t, const char *name,
                      struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *from;
    int r = need(f, t, &from, err);
    if (r == 0)
        r = new_name(f, name, err);
    if (r < 0)
        return r;
    struct view *v = fake_view_new(f, NULL, name, 0);
    free(v->blocks);
    blocks_share(v, from);
    snprintf(v->origin_volume, sizeof(v->origin_volume), "%s", t.volume);
    snprintf(v->origin_snapshot, sizeof(v->origin_snapshot), "%s", t.snapshot ? t.snapshot : "");
    return 0;
}

static int fake_diff(struct vd_store *s, struct vd_target from, struct vd_target to, uint64_t off,
                     uint64_t len, vd_diff_fn *fn, void *arg, struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *a, *b;
    int r = need(f, from, &a, err);
    if (r == 0)
        r = need(f, to, &b, err);
    struct vd_extent e = {0};
    uint64_t stop = r < 0 ? 0 : VD_MIN(fake_count(b->size), VD_DIV_UP(off + len, VD_BLOCK));
    for (uint64_t i = off / VD_BLOCK; r == 0 && i <= stop; i++) {
        bool end = i == stop;
        struct block *was = i < fake_count(a->size) ? a->blocks[i] : NULL;
        unsigned flags = !end && b->blocks[i] ? 0 : VD_EXTENT_ZERO;
        bool differs = !end && was != b->blocks[i];
        if (e.len && (!differs || flags != e.flags)) {
            r = fn(arg, &e);
            e.len = 0;
        }
        if (differs && !e.len)
            e = (struct vd_extent){i * VD_BLOCK, 0, flags};
        if (differs)
            e.len += VD_BLOCK;
    }
    return r;
}

static int fake_flush(struct vd_store *s)
{
    return 0;
}

static int fake_settle(struct vd_store *s, const bool *cancel)
{
    fake_of(s)->backlog = 0;
    return 0;
}

static uint64_t fake_backlog(struct vd_store *s)
{
    return fake_of(s)->backlog;
}

const struct vd_store_ops fake_ops = {
    .info = fake_info,
    .volumes = fake_volumes,
    .volume = fake_volume,
    .snapshots = fake_snapshots,
    .open = fake_open,
    .volume_create = fake_create,
    .volume_delete = fake_delete,
    .volume_rename = fake_rename,
    .volume_resize = fake_resize,
    .prop_set = fake_prop_set,
    .props = fake_props,
    .snapshot_create = fake_snapshot_create,
    .snapshot_delete = fake_snapshot_delete,
    .snapshot_rename = fake_snapshot_rename,
    .snapshot_hold = fake_hold,
    .rollback = fake_rollback,
    .clone = fake_clone,
    .diff = fake_diff,
    .flush = fake_flush,
    .settle = fake_settle,
    .backlog = fake_backlog,
};
