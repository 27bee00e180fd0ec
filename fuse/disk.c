/* SPDX-License-Identifier: MIT */
/*
 * What is open in the store, and access to it by the byte: files have no sectors.
 *
 * Invariants:
 *  1. A change of part of a sector reads the sector first, and no other change of it falls between
 *     that and its write: a read-modify-write waits for every earlier hold that it overlaps, any
 *     other change for earlier read-modify-writes. Holds wait only for earlier ones, so in no
 *     circle. All files of a volume share one writable fdisk, and so its holds.
 *  2. A disk that is gone is given back as soon as nobody is inside (fdisk_enter), though files of
 *     it are still open.
 */
#include "core/base/text.h"
#include "fuse/fuse_priv.h"

#include <stdio.h>

struct hold {
    struct vd_list link;
    uint64_t first, end; /* sectors */
    bool rmw;
};

/* ---- open and closed ---- */

static void disk_release(struct fdisk *d)
{
    struct vd_disk *disk = d->disk;
    if (!disk || d->users > 0 || (d->opens > 0 && !d->gone))
        return;
    d->disk = NULL;
    vd_disk_unwatch(&d->watch);
    vd_list_remove(&d->link);
    d->users++; /* unref may suspend */
    vd_disk_unref(disk);
    d->users--;
}

static void disk_drop(struct fdisk *d)
{
    disk_release(d);
    if (!d->disk && d->opens == 0 && d->users == 0)
        free(d);
}

static void gone_main(void *arg)
{
    struct fdisk *d = arg;
    struct vd_fuse_server *s = d->server;
    d->opens--;
    disk_drop(d);
    vd_group_done(&s->fibers);
}

static void disk_event(struct vd_disk_watch *w, enum vd_disk_event event)
{
    struct fdisk *d = vd_container_of(w, struct fdisk, watch);
    struct vd_fuse_server *s = d->server;
    fstale_disk(d);
    if (event != VD_DISK_GONE || d->gone)
        return;
    d->gone = true;
    d->opens++; /* it stays until the fiber has had its turn */
    vd_group_add(&s->fibers);
    if (vd_fiber_spawn(s->loop, "fuse-gone", gone_main, d) < 0) {
        d->opens--; /* the last user gives it back */
        vd_group_done(&s->fibers);
    }
}

static struct fdisk *disk_find(struct vd_fuse_server *s, const struct fnode *n, bool writable)
{
    vd_list_each (l, &s->disks) {
        struct fdisk *d = vd_container_of(l, struct fdisk, link);
        if (d->writable == writable && !d->gone && vd_uuid_equal(&d->volume, &n->key.volume) &&
            vd_uuid_equal(&d->snapshot, &n->key.snapshot))
            return d;
    }
    return NULL;
}

bool fdisk_is_open(struct vd_fuse_server *s, const struct fnode *n)
{
    return disk_find(s, n, false) || disk_find(s, n, true);
}

/* The store's disk by the node's names, if it still is what the node stands for. VD_YIELDS */
static int store_open(struct vd_fuse_server *s, const struct fnode *n, bool writable,
                      struct vd_disk **ret)
{
    struct vd_target t = {.volume = n->volume, .snapshot = n->snapshot[0] ? n->snapshot : NULL};
    struct vd_disk *disk;
    struct vd_disk_info info;
    int r = vd_store_open(s->store, t, !writable, &disk, NULL);
    if (r < 0)
        return r;
    vd_disk_info(disk, &info);
    if (!vd_uuid_equal(&info.uuid, t.snapshot ? &n->key.snapshot : &n->key.volume))
        r = -ENOENT;
    else if (writable && info.read_only)
        r = -EROFS;
    if (r < 0) {
        vd_disk_unref(disk);
        return r;
    }
    *ret = disk;
    return 0;
}

static struct fdisk *disk_new(struct vd_fuse_server *s, const struct fnode *n, bool writable)
{
    struct fdisk *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->server = s;
    d->writable = writable;
    d->volume = n->key.volume;
    d->snapshot = n->key.snapshot;
    d->connected_s = vd_loop_wall_s(s->loop);
    d->watch.fn = disk_event;
    vd_list_init(&d->watch.link);
    vd_list_init(&d->link);
    vd_list_init(&d->holds);
    vd_waitq_init(&d->released);
    return d;
}

int fdisk_open(struct vd_fuse_server *s, const struct fnode *n, bool writable, pid_t pid, uid_t uid,
               struct fdisk **ret)
{
    struct fdisk *d = disk_find(s, n, writable);
    if (!d) {
        struct vd_disk *disk;
        int r = store_open(s, n, writable, &disk);
        if (r < 0)
            return r;
        d = disk_find(s, n, writable); /* somebody else may have been quicker */
        if (d) {
            vd_disk_unref(disk);
        } else {
            d = disk_new(s, n, writable);
            if (!d) {
                vd_disk_unref(disk);
                return -ENOMEM;
            }
            d->disk = disk;
            vd_disk_watch(disk, &d->watch);
            vd_list_push(&s->disks, &d->link);
        }
    }
    d->opens++;
    snprintf(d->peer, sizeof(d->peer), "pid %d, uid %u", (int)pid, (unsigned)uid);
    snprintf(d->export, sizeof(d->export), n->snapshot[0] ? "%s@%s" : "%s", n->volume, n->snapshot);
    *ret = d;
    return 0;
}

void fdisk_close(struct fdisk *d)
{
    assert(d->opens > 0);
    d->opens--;
    disk_drop(d);
}

int fdisk_enter(struct fdisk *d)
{
    if (d->gone)
        return -ENODEV;
    d->users++;
    d->requests++;
    return 0;
}

void fdisk_leave(struct fdisk *d)
{
    d->users--;
    if (d->users == 0 && d->gone)
        disk_drop(d);
}

uint64_t fdisk_size(const struct fdisk *d)
{
    struct vd_disk_info info;
    if (d->gone || !d->disk)
        return 0;
    vd_disk_info(d->disk, &info);
    return info.size;
}

/* ---- changes that exclude each other ---- */

static bool hold_blocked(const struct fdisk *d, const struct hold *h)
{
    vd_list_each (l, &d->holds) {
        const struct hold *o = vd_container_of(l, struct hold, link);
        if (o == h)
            return false;
        if ((h->rmw || o->rmw) && o->first < h->end && h->first < o->end)
            return true;
    }
    return false;
}

/* VD_YIELDS */
static void hold_take(struct fdisk *d, struct hold *h, uint64_t off, uint64_t len, bool rmw)
{
    h->first = off / VD_SECTOR;
    h->end = VD_DIV_UP(off + len, VD_SECTOR);
    h->rmw = rmw;
    vd_list_push(&d->holds, &h->link);
    d->rmw += rmw;
    while (d->rmw > 0 && hold_blocked(d, h))
        vd_wait(&d->released);
}

static void hold_release(struct fdisk *d, struct hold *h)
{
    vd_list_remove(&h->link);
    if (d->rmw > 0)
        vd_wake_all(&d->released);
    d->rmw -= h->rmw;
}

/* ---- by the byte ---- */

static bool whole_sectors(uint64_t off, uint64_t len)
{
    return (off | len) % VD_SECTOR == 0;
}

/* A buffer for the whole sectors that [off, off + len) touches. */
static int sectors_new(uint64_t off, size_t len, uint8_t **ret, size_t *ret_len)
{
    *ret_len = VD_ROUND_UP(off + len, (uint64_t)VD_SECTOR) - VD_ROUND_DOWN(off, VD_SECTOR);
    *ret = vd_alloc_aligned(VD_ROUND_UP(*ret_len, (size_t)VD_BLOCK));
    return *ret ? 0 : -ENOMEM;
}

int fdisk_read(struct fdisk *d, uint64_t off, void *buf, size_t len)
{
    uint8_t *sectors;
    size_t sectors_len;
    d->read_bytes += len;
    if (whole_sectors(off, len))
        return vd_disk_read(d->disk, off, buf, len);
    int r = sectors_new(off, len, &sectors, &sectors_len);
    if (r < 0)
        return r;
    r = vd_disk_read(d->disk, VD_ROUND_DOWN(off, VD_SECTOR), sectors, sectors_len);
    if (r == 0)
        memcpy(buf, sectors + off % VD_SECTOR, len);
    free(sectors);
    return r;
}

/* Under a hold. VD_YIELDS */
static int write_parts(struct fdisk *d, uint64_t off, const void *buf, size_t len)
{
    uint8_t *sectors;
    size_t sectors_len;
    int r = sectors_new(off, len, &sectors, &sectors_len);
    if (r < 0)
        return r;
    uint64_t first = VD_ROUND_DOWN(off, VD_SECTOR), end = first + sectors_len;
    if (off % VD_SECTOR != 0)
        r = vd_disk_read(d->disk, first, sectors, VD_SECTOR);
    bool last = (off + len) % VD_SECTOR != 0 && (sectors_len > VD_SECTOR || off % VD_SECTOR == 0);
    if (r == 0 && last)
        r = vd_disk_read(d->disk, end - VD_SECTOR, sectors + sectors_len - VD_SECTOR, VD_SECTOR);
    if (r == 0) {
        memcpy(sectors + off % VD_SECTOR, buf, len);
        r = vd_disk_write(d->disk, first, sectors, sectors_len, 0);
    }
    free(sectors);
    return r;
}

int fdisk_write(struct fdisk *d, uint64_t off, const void *buf, size_t len)
{
    struct hold h;
    bool whole = whole_sectors(off, len);
    d->write_bytes += len;
    hold_take(d, &h, off, len, !whole);
    int r = whole ? vd_disk_write(d->disk, off, buf, len, 0) : write_parts(d, off, buf, len);
    hold_release(d, &h);
    return r;
}

/* Less than a sector. VD_YIELDS */
static int zero_part(struct fdisk *d, uint64_t off, size_t len)
{
    static const uint8_t zeroes[VD_SECTOR];
    return len > 0 ? fdisk_write(d, off, zeroes, len) : 0;
}

int fdisk_zero(struct fdisk *d, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t end = off + len;
    uint64_t first = VD_ROUND_UP(off, (uint64_t)VD_SECTOR), last = VD_ROUND_DOWN(end, VD_SECTOR);
    if (first > last)
        return zero_part(d, off, len);
    int r = zero_part(d, off, first - off);
    if (r == 0 && first < last) {
        struct hold h;
        hold_take(d, &h, first, last - first, false);
        r = vd_disk_zero(d->disk, first, last - first, flags);
        hold_release(d, &h);
    }
    return r == 0 ? zero_part(d, last, end - last) : r;
}
