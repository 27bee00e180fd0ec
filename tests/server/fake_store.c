/* SPDX-License-Identifier: MIT */
/*
 * A pool that keeps everything in memory and writes it out whole when it is closed: behind the
 * functions of snapshot/snapshot.h, so that requests, jobs, the socket and the command line can be
 * tested with a store that is obviously right. Knows nothing of crashes. Yields only in I/O.
 */
#include "core/base/text.h"
#include "core/io/loop.h"
#include "snapshot/snapshot.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAGIC "FAKEPOOL"

struct block {
    unsigned refs;
    uint8_t data[VD_BLOCK];
};

struct view {
    struct vd_list link;
    struct view *volume; /* NULL: is one */
    char name[VD_NAME_MAX + 1];
    char origin_volume[VD_NAME_MAX + 1], origin_snapshot[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t size, created, epoch;
    struct block **blocks;
    bool automatic, read_only;
    unsigned opens, opens_rw;
    json_t *props, *holds;
    struct vd_list disks;
};

struct fake {
    struct vd_store store;
    struct vd_dev *dev;
    bool read_only;
    char name[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t capacity, epoch, backlog;
    struct vd_list views;
};

struct fake_disk {
    struct vd_disk disk;
    struct vd_list link;
    struct fake *fake;
    struct view *view;
    bool read_only;
};

static struct fake *fake_of(struct vd_store *s)
{
    return vd_container_of(s, struct fake, store);
}

static struct view *view_of(struct vd_list *l)
{
    return vd_container_of(l, struct view, link);
}

static uint64_t count(uint64_t size)
{
    return VD_DIV_UP(size, VD_BLOCK);
}

static void block_unref(struct block *b)
{
    if (b && --b->refs == 0)
        free(b);
}

static void blocks_drop(struct view *v)
{
    for (uint64_t i = 0; i < count(v->size); i++)
        block_unref(v->blocks[i]);
    free(v->blocks);
    v->blocks = NULL;
}

static void blocks_share(struct view *to, const struct view *from)
{
    to->size = from->size;
    to->blocks = calloc(count(from->size) + 1, sizeof(*to->blocks));
    for (uint64_t i = 0; i < count(from->size); i++)
        if ((to->blocks[i] = from->blocks[i]))
            to->blocks[i]->refs++;
}

static struct view *view_new(struct fake *f, struct view *volume, const char *name, uint64_t size)
{
    struct view *v = calloc(1, sizeof(*v));
    v->volume = volume;
    snprintf(v->name, sizeof(v->name), "%s", name);
    v->size = size;
    v->created = vd_loop_wall_s(vd_loop_current());
    v->epoch = f->epoch;
    v->blocks = calloc(count(size) + 1, sizeof(*v->blocks));
    v->props = json_object();
    v->holds = json_object();
    vd_uuid_new(&v->uuid, vd_loop_rng(vd_loop_current()));
    vd_list_init(&v->disks);
    vd_list_push(&f->views, &v->link);
    return v;
}

static void view_free(struct view *v)
{
    vd_list_remove(&v->link);
    blocks_drop(v);
    json_decref(v->props);
    json_decref(v->holds);
    free(v);
}

static struct view *find(struct fake *f, const char *volume, const char *snapshot)
{
    vd_list_each (it, &f->views) {
        struct view *v = view_of(it);
        if (snapshot ? v->volume && !strcmp(v->name, snapshot) && !strcmp(v->volume->name, volume)
                     : !v->volume && !strcmp(v->name, volume))
            return v;
    }
    return NULL;
}

static int need(struct fake *f, struct vd_target t, struct view **ret, struct vd_error *err)
{
    *ret = find(f, t.volume, NULL);
    if (!*ret)
        return vd_fail(err, -ENOENT, "volume-not-found", "there is no volume \"%s\"", t.volume);
    if (t.snapshot && !(*ret = find(f, t.volume, t.snapshot)))
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
    if (find(f, name, NULL))
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
    struct block **blocks = calloc(count(size) + 1, sizeof(*blocks));
    for (uint64_t i = 0; i < count(v->size); i++) {
        if (i < count(size))
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
        n += view_of(it)->volume == v;
    return n;
}

static unsigned clones_of(struct fake *f, const struct view *s)
{
    unsigned n = 0;
    vd_list_each (it, &f->views)
        n += !view_of(it)->volume && !strcmp(view_of(it)->origin_volume, s->volume->name) &&
             !strcmp(view_of(it)->origin_snapshot, s->name);
    return n;
}

static uint64_t bytes(const struct view *v, bool exclusive)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < count(v->size); i++)
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
        ret->live += bytes(view_of(it), true);
        ret->volumes += !view_of(it)->volume;
        ret->snapshots += view_of(it)->volume != NULL;
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
        if (view_of(it)->volume)
            continue;
        volume_info(f, view_of(it), &info);
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
        struct view *v = view_of(it);
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
        view_new(fake_of(s), NULL, name, size);
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
        if (view_of(it)->volume == v)
            view_free(view_of(it));
    view_free(v);
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
    json_object_foreach(v->props, key,
                        value) if ((r = fn(arg, key, json_string_value(value)))) break;
    return r;
}

static struct view *snapshot(struct fake *f, struct view *v, const char *name)
{
    struct view *snap = view_new(f, v, name, 0);
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
        if (find(f, t[i].volume, t[i].snapshot))
            return vd_fail(err, -EEXIST, "snapshot-exists", "%s@%s exists already", t[i].volume,
                           t[i].snapshot);
    }
    for (int i = 0; i < n; i++)
        snapshot(f, find(f, t[i].volume, NULL), t[i].snapshot);
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
        view_free(find(f, t[i].volume, t[i].snapshot));
    f->backlog++;
    return 0;
}

static int fake_snapshot_rename(struct vd_store *s, struct vd_target t, const char *to,
                                struct vd_error *err)
{
    struct view *v;
    int r = need(fake_of(s), t, &v, err);
    if (r == 0 && find(fake_of(s), t.volume, to))
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
    struct view *v = view_new(f, NULL, name, 0);
    free(v->blocks);
    blocks_share(v, from);
    snprintf(v->origin_volume, sizeof(v->origin_volume), "%s", t.volume);
    snprintf(v->origin_snapshot, sizeof(v->origin_snapshot), "%s", t.snapshot ? t.snapshot : "");
    return 0;
}

static int fake_diff(struct vd_store *s, struct vd_target from, struct vd_target to, vd_diff_fn *fn,
                     void *arg, struct vd_error *err)
{
    struct fake *f = fake_of(s);
    struct view *a, *b;
    int r = need(f, from, &a, err);
    if (r == 0)
        r = need(f, to, &b, err);
    struct vd_extent e = {0};
    for (uint64_t i = 0; r == 0 && i <= count(b->size); i++) {
        bool end = i == count(b->size);
        struct block *was = i < count(a->size) ? a->blocks[i] : NULL;
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

static const struct vd_store_ops fake_ops = {
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

/* --- on the device: a header block with the length, then JSON, then the blocks it counts --- */

struct fake_image {
    uint8_t *bytes;
    size_t len, room;
};

static void append(struct fake_image *m, const void *data, size_t len)
{
    if (m->len + len > m->room) {
        m->room = 2 * (m->len + len) + VD_BLOCK;
        uint8_t *grown = vd_alloc_aligned(m->room);
        if (m->bytes)
            memcpy(grown, m->bytes, m->len);
        free(m->bytes);
        m->bytes = grown;
    }
    memcpy(m->bytes + m->len, data, len);
    m->len += len;
}

static json_t *view_json(const struct view *v)
{
    char uuid[VD_UUID_TEXT];
    json_t *at = json_array();
    vd_uuid_format(&v->uuid, uuid);
    for (uint64_t i = 0; i < count(v->size); i++)
        if (v->blocks[i])
            json_array_append_new(at, json_integer((json_int_t)i));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:b, s:O, s:O, s:o}", "name",
                     v->name, "volume", v->volume ? v->volume->name : "", "uuid", uuid, "from",
                     v->origin_volume, "at", v->origin_snapshot, "size", (json_int_t)v->size,
                     "created", (json_int_t)v->created, "epoch", (json_int_t)v->epoch, "automatic",
                     v->automatic, "read_only", v->read_only, "props", v->props, "holds", v->holds,
                     "blocks", at);
}

static int save(struct fake *f)
{
    struct fake_image m = {0};
    char uuid[VD_UUID_TEXT];
    static uint8_t header[VD_BLOCK];
    json_t *views = json_array();
    vd_list_each (it, &f->views)
        json_array_append_new(views, view_json(view_of(it)));
    vd_uuid_format(&f->uuid, uuid);
    json_t *v = json_pack("{s:s, s:s, s:I, s:I, s:o}", "name", f->name, "uuid", uuid, "capacity",
                          (json_int_t)f->capacity, "epoch", (json_int_t)f->epoch, "views", views);
    char *text = json_dumps(v, 0);
    uint64_t len = strlen(text);
    json_decref(v);
    memset(header, 0, sizeof(header));
    memcpy(header, MAGIC, 8);
    memcpy(header + 8, &len, sizeof(len));
    append(&m, header, sizeof(header));
    append(&m, text, len);
    free(text);
    memset(header, 0, sizeof(header));
    append(&m, header, VD_ROUND_UP(m.len, VD_BLOCK) - m.len);
    vd_list_each (it, &f->views)
        for (uint64_t i = 0; i < count(view_of(it)->size); i++)
            if (view_of(it)->blocks[i])
                append(&m, view_of(it)->blocks[i]->data, VD_BLOCK);
    int r = vd_dev_allocate(f->dev, 0, m.len);
    if (r == 0 || r == -EOPNOTSUPP)
        r = vd_dev_write(f->dev, 0, m.bytes, m.len);
    if (r == 0)
        r = vd_dev_flush(f->dev);
    free(m.bytes);
    return r;
}

static void view_load(struct fake *f, json_t *j, const uint8_t **data)
{
    const char *volume = json_string_value(json_object_get(j, "volume"));
    struct view *v = view_new(f, *volume ? find(f, volume, NULL) : NULL,
                              json_string_value(json_object_get(j, "name")),
                              (uint64_t)json_integer_value(json_object_get(j, "size")));
    json_t *at;
    size_t i;
    vd_uuid_parse(json_string_value(json_object_get(j, "uuid")), &v->uuid);
    snprintf(v->origin_volume, sizeof(v->origin_volume), "%s",
             json_string_value(json_object_get(j, "from")));
    snprintf(v->origin_snapshot, sizeof(v->origin_snapshot), "%s",
             json_string_value(json_object_get(j, "at")));
    v->created = (uint64_t)json_integer_value(json_object_get(j, "created"));
    v->epoch = (uint64_t)json_integer_value(json_object_get(j, "epoch"));
    v->automatic = json_is_true(json_object_get(j, "automatic"));
    v->read_only = json_is_true(json_object_get(j, "read_only"));
    json_object_update(v->props, json_object_get(j, "props"));
    json_object_update(v->holds, json_object_get(j, "holds"));
    json_array_foreach(json_object_get(j, "blocks"), i, at)
    {
        struct block *b = calloc(1, sizeof(*b));
        b->refs = 1;
        memcpy(b->data, *data, VD_BLOCK);
        *data += VD_BLOCK;
        v->blocks[json_integer_value(at)] = b;
    }
}

static int load(struct fake *f, struct vd_error *err)
{
    struct vd_dev_info di;
    vd_dev_info(f->dev, &di);
    size_t size = VD_ROUND_DOWN(di.size, VD_BLOCK);
    uint8_t *all = vd_alloc_aligned(size);
    uint64_t len = 0;
    int r = size ? vd_dev_read(f->dev, 0, all, size) : 0;
    if (r == 0 && (!size || memcmp(all, MAGIC, 8) != 0))
        r = vd_fail(err, -ENODEV, "not-a-pool", "this is no vdisk pool");
    if (r == 0)
        memcpy(&len, all + 8, sizeof(len));
    json_t *v = r == 0 ? json_loadb((char *)all + VD_BLOCK, len, 0, NULL) : NULL, *one;
    if (r == 0 && !v)
        r = vd_fail(err, -EUCLEAN, "damaged", "the pool is damaged");
    if (r == 0) {
        const uint8_t *data = all + VD_ROUND_UP(VD_BLOCK + len, VD_BLOCK);
        size_t i;
        snprintf(f->name, sizeof(f->name), "%s", json_string_value(json_object_get(v, "name")));
        vd_uuid_parse(json_string_value(json_object_get(v, "uuid")), &f->uuid);
        f->capacity = (uint64_t)json_integer_value(json_object_get(v, "capacity"));
        f->epoch = (uint64_t)json_integer_value(json_object_get(v, "epoch"));
        json_array_foreach(json_object_get(v, "views"), i, one) view_load(f, one, &data);
    }
    json_decref(v);
    free(all);
    return r;
}

static struct fake *fake_new(struct vd_dev *dev)
{
    struct fake *f = calloc(1, sizeof(*f));
    f->store.ops = &fake_ops;
    f->dev = dev;
    f->epoch = 1;
    vd_list_init(&f->views);
    return f;
}

static void fake_free(struct fake *f)
{
    while (!vd_list_empty(&f->views))
        view_free(view_of(f->views.prev));
    free(f);
}

int vd_pool_format(struct vd_dev *const *devs, int n, const struct vd_format_options *opt,
                   bool *ret_no_reserve, struct vd_error *err)
{
    struct fake *f = fake_new(devs[0]);
    snprintf(f->name, sizeof(f->name), "%s", opt->name ? opt->name : "");
    f->capacity = opt->capacity;
    vd_uuid_new(&f->uuid, vd_loop_rng(vd_loop_current()));
    *ret_no_reserve = false;
    int r = save(f);
    fake_free(f);
    return r < 0 ? vd_fail(err, r, "write-failed", "%s", strerror(-r)) : 0;
}

int vd_store_attach(struct vd_dev **devs, int n, unsigned flags, struct vd_store **ret,
                    struct vd_error *err)
{
    struct fake *f = fake_new(devs[0]);
    f->read_only = flags & VD_ATTACH_RDONLY;
    int r = load(f, err);
    if (r < 0) {
        vd_dev_close(f->dev);
        fake_free(f);
        return r;
    }
    *ret = &f->store;
    return 0;
}

int vd_store_detach(struct vd_store *s, struct vd_error *err)
{
    struct fake *f = fake_of(s);
    int r = f->read_only ? 0 : save(f);
    vd_dev_close(f->dev);
    fake_free(f);
    return r < 0 ? vd_fail(err, r, "write-failed", "%s", strerror(-r)) : 0;
}

void vd_store_abandon(struct vd_store *s)
{
    vd_dev_close(fake_of(s)->dev);
    fake_free(fake_of(s));
}

int vd_pool_identify(struct vd_dev *dev, struct vd_identity *ret, struct vd_error *err)
{
    struct fake *f = fake_new(dev);
    int r = load(f, err);
    if (r == 0) {
        *ret = (struct vd_identity){.pool_uuid = f->uuid, .dev_count = 1};
        memcpy(ret->pool_name, f->name, sizeof(ret->pool_name));
    }
    fake_free(f);
    return r;
}

int vd_store_check(struct vd_store *s, bool data, vd_check_fn *fn, void *arg, const bool *cancel,
                   struct vd_check_report *ret, struct vd_error *err)
{
    vd_list_each (it, &fake_of(s)->views)
        ret->runs++;
    return 0;
}
