/* SPDX-License-Identifier: MIT */
/* See fake_store.h. Runs on one loop; requests may suspend when told to. */
#include "tests/nbd/fake_store.h"

#include "core/io/loop.h"

#include <stdio.h>
#include <stdlib.h>

/* One open handle; several may share a volume, as with a real store. */
struct fake_disk {
    struct vd_disk disk;
    struct fake_volume *volume;
    struct vd_list link;
    bool read_only;
};

static struct fake_disk *fake_of(struct vd_disk *d)
{
    return vd_container_of(d, struct fake_disk, disk);
}

/* What every request goes through first. VD_YIELDS */
static int obstacle(struct vd_disk *d, uint64_t off, uint64_t len)
{
    struct fake_store *fs = fake_of(d)->volume->store;
    if (fs->shuffle)
        for (uint64_t n = vd_rng_below(vd_loop_rng(vd_loop_current()), 4); n > 0; n--)
            vd_fiber_yield();
    fs->waiting++;
    while (fs->paused)
        vd_wait(&fs->pause_q);
    fs->waiting--;
    if (fs->fail_len > 0 && off < fs->fail_off + fs->fail_len && fs->fail_off < off + len)
        return fs->fail;
    return 0;
}

static int fake_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    struct fake_volume *v = fake_of(d)->volume;
    int r = obstacle(d, off, len);
    v->reads++;
    return r < 0 ? r : vd_disk_readv(v->memory, off, iov, n, 0);
}

static int fake_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len,
                       unsigned flags)
{
    struct fake_volume *v = fake_of(d)->volume;
    int r = obstacle(d, off, len);
    v->writes++;
    v->fua_writes += (flags & VD_DISK_FUA) != 0;
    return r < 0 ? r : vd_disk_writev(v->memory, off, iov, n, flags);
}

static int fake_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct fake_volume *v = fake_of(d)->volume;
    int r = obstacle(d, off, len);
    v->zeroes++;
    v->kept_zeroes += (flags & VD_DISK_NO_UNMAP) != 0;
    v->fua_others += (flags & VD_DISK_FUA) != 0;
    return r < 0 ? r : vd_disk_zero(v->memory, off, len, flags);
}

static int fake_discard(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct fake_volume *v = fake_of(d)->volume;
    int r = obstacle(d, off, len);
    v->discards++;
    v->fua_others += (flags & VD_DISK_FUA) != 0;
    return r < 0 ? r : vd_disk_discard(v->memory, off, len, flags);
}

static int fake_flush(struct vd_disk *d)
{
    struct fake_volume *v = fake_of(d)->volume;
    obstacle(d, 0, 0);
    v->flushes++;
    return v->store->fail_flush;
}

static int fake_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret,
                        int *n)
{
    int r = obstacle(d, off, len);
    return r < 0 ? r : vd_disk_extents(fake_of(d)->volume->memory, off, len, ret, n);
}

static struct vd_uuid fake_uuid(const struct fake_volume *v)
{
    struct vd_uuid uuid = {.b = {1}};
    uuid.b[1] = (uint8_t)(v - v->store->volumes);
    return uuid;
}

static void fake_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    vd_disk_info(fake_of(d)->volume->memory, ret);
    ret->read_only = fake_of(d)->read_only;
    ret->uuid = fake_uuid(fake_of(d)->volume);
}

static void fake_close(struct vd_disk *d)
{
    struct fake_disk *fd = fake_of(d);
    fd->volume->opens--;
    vd_list_remove(&fd->link);
    free(fd);
}

static const struct vd_disk_ops fake_disk_ops = {
    .readv = fake_readv,
    .writev = fake_writev,
    .zero = fake_zero,
    .discard = fake_discard,
    .flush = fake_flush,
    .extents = fake_extents,
    .info = fake_info,
    .close = fake_close,
};

static struct fake_store *store_of(struct vd_store *s)
{
    return vd_container_of(s, struct fake_store, store);
}

static int fake_volumes(struct vd_store *s, vd_volume_fn *fn, void *arg)
{
    struct fake_store *fs = store_of(s);
    for (unsigned i = 0; i < fs->n_volumes; i++) {
        struct fake_volume *v = &fs->volumes[i];
        struct vd_volume_info info = {0};
        if (v->snapshot[0])
            continue;
        snprintf(info.name, sizeof(info.name), "%s", v->name);
        int r = fn(arg, &info);
        if (r != 0)
            return r;
    }
    return 0;
}

static int fake_snapshots(struct vd_store *s, const char *volume, vd_snapshot_fn *fn, void *arg)
{
    struct fake_store *fs = store_of(s);
    for (unsigned i = 0; i < fs->n_volumes; i++) {
        struct fake_volume *v = &fs->volumes[i];
        struct vd_snapshot_info info = {0};
        if (!v->snapshot[0] || (volume && strcmp(volume, v->name) != 0))
            continue;
        snprintf(info.volume, sizeof(info.volume), "%s", v->name);
        snprintf(info.name, sizeof(info.name), "%s", v->snapshot);
        info.uuid = fake_uuid(v);
        int r = fn(arg, &info);
        if (r != 0)
            return r;
    }
    return 0;
}

static struct fake_volume *find(struct fake_store *fs, struct vd_target t)
{
    for (unsigned i = 0; i < fs->n_volumes; i++) {
        struct fake_volume *v = &fs->volumes[i];
        if (strcmp(v->name, t.volume) == 0 &&
            strcmp(v->snapshot, t.snapshot ? t.snapshot : "") == 0)
            return v;
    }
    return NULL;
}

/* By the bytes, block by block. */
static int fake_diff(struct vd_store *s, struct vd_target from, struct vd_target to, uint64_t off,
                     uint64_t len, vd_diff_fn *fn, void *arg, struct vd_error *err)
{
    static uint8_t x[VD_BLOCK], y[VD_BLOCK];
    struct fake_volume *a = find(store_of(s), from), *b = find(store_of(s), to);
    struct vd_disk_info info;
    int r = a && b ? 0 : vd_fail(err, -ENOENT, "snapshot-not-found", "there is no such view");
    if (r < 0)
        return r;
    vd_disk_info(b->memory, &info);
    for (uint64_t at = VD_ROUND_DOWN(off, VD_BLOCK); r == 0 && at < VD_MIN(off + len, info.size);
         at += VD_BLOCK) {
        size_t part = (size_t)VD_MIN(info.size - at, (uint64_t)VD_BLOCK);
        r = vd_disk_read(a->memory, at, x, part);
        if (r == 0)
            r = vd_disk_read(b->memory, at, y, part);
        if (r == 0 && memcmp(x, y, part) != 0)
            r = fn(arg, &(struct vd_extent){.off = at, .len = part});
    }
    return r;
}

static int fake_open(struct vd_store *s, struct vd_target t, bool read_only, struct vd_disk **ret,
                     struct vd_error *err)
{
    struct fake_store *fs = store_of(s);
    struct fake_volume *v = find(fs, t);
    if (v) {
        struct fake_disk *fd = calloc(1, sizeof(*fd));
        if (!fd)
            return vd_fail(err, -ENOMEM, "no-memory", "not enough memory");
        vd_disk_init(&fd->disk, &fake_disk_ops);
        fd->volume = v;
        fd->read_only = read_only || v->read_only;
        vd_list_push(&v->handles, &fd->link);
        v->opens++;
        *ret = &fd->disk;
        return 0;
    }
    return vd_fail(err, -ENOENT, "volume-not-found", "there is no volume \"%s\"", t.volume);
}

static const struct vd_store_ops fake_store_ops = {
    .volumes = fake_volumes,
    .snapshots = fake_snapshots,
    .open = fake_open,
    .diff = fake_diff,
};

void fake_store_init(struct fake_store *fs)
{
    memset(fs, 0, sizeof(*fs));
    fs->store.ops = &fake_store_ops;
    vd_waitq_init(&fs->pause_q);
}

void fake_store_done(struct fake_store *fs)
{
    for (unsigned i = 0; i < fs->n_volumes; i++) {
        assert(fs->volumes[i].opens == 0);
        vd_disk_unref(fs->volumes[i].memory);
    }
}

struct fake_volume *fake_volume_add(struct fake_store *fs, const char *name, uint64_t size)
{
    struct fake_volume *v = &fs->volumes[fs->n_volumes];
    if (fs->n_volumes == FAKE_VOLUMES || vd_disk_memory(size, &v->memory) < 0)
        return NULL;
    v->store = fs;
    snprintf(v->name, sizeof(v->name), "%s", name);
    vd_list_init(&v->handles);
    fs->n_volumes++;
    return v;
}

struct fake_volume *fake_snapshot_add(struct fake_store *fs, struct fake_volume *v,
                                      const char *name)
{
    struct vd_disk_info info;
    uint8_t buf[1024];
    vd_disk_info(v->memory, &info);
    struct fake_volume *snap = fake_volume_add(fs, v->name, info.size);
    if (!snap)
        return NULL;
    snprintf(snap->snapshot, sizeof(snap->snapshot), "%s", name);
    for (uint64_t off = 0; off < info.size; off += sizeof(buf)) {
        size_t len = (size_t)VD_MIN(sizeof(buf), info.size - off);
        if (vd_disk_read(v->memory, off, buf, len) < 0 ||
            vd_disk_write(snap->memory, off, buf, len, 0) < 0)
            return NULL;
    }
    return snap;
}

void fake_resume(struct fake_store *fs)
{
    fs->paused = false;
    vd_wake_all(&fs->pause_q);
}

void fake_notify(struct fake_volume *v, enum vd_disk_event event)
{
    vd_list_each_safe (l, &v->handles) {
        vd_disk_notify(&vd_container_of(l, struct fake_disk, link)->disk, event);
    }
}

int fake_resize(struct fake_volume *v, uint64_t size)
{
    int r = vd_disk_resize(v->memory, size, NULL);
    if (r == 0)
        fake_notify(v, VD_DISK_RESIZED);
    return r;
}
