/* SPDX-License-Identifier: MIT */
/*
 * Attributes: what the store knows of volumes and snapshots, as files and directories have it.
 *
 * The kernel keeps no attributes and no names: what changes through a command or another door is
 * seen at once. How much of a disk is in use is counted, if that can be done in a moment; the
 * store's own number is that of the last checkpoint, and a file that has just been written must not
 * look as if nothing were in it.
 *
 * Jobs of workers.
 */
#include "fuse/fuse_priv.h"

#include <stdio.h>
#include <sys/stat.h>

#define COUNT_NS UINT64_C(50000000)            /* counting a live volume takes no longer */
#define COUNT_SNAPSHOT_NS UINT64_C(1000000000) /* a snapshot, which is counted once */
#define COUNT_KEEP_NS UINT64_C(1000000000)     /* and is not done again for so long */

struct find {
    const struct vd_uuid *id;
    char *name;
    union {
        struct vd_volume_info volume;
        struct vd_snapshot_info snapshot;
    };
    bool found;
};

static int match_volume(void *arg, const struct vd_volume_info *info)
{
    struct find *f = arg;
    if (!vd_uuid_equal(&info->uuid, f->id))
        return 0;
    f->volume = *info;
    f->found = true;
    return 1;
}

static int match_snapshot(void *arg, const struct vd_snapshot_info *info)
{
    struct find *f = arg;
    if (!vd_uuid_equal(&info->uuid, f->id))
        return 0;
    f->snapshot = *info;
    f->found = true;
    return 1;
}

/* By name, or if it was renamed, by what it is; the node then learns the new name. VD_YIELDS */
static int volume_get(struct vd_fuse_server *s, struct fnode *n, struct finfo *ret)
{
    struct find f = {.id = &n->key.volume};
    int r = vd_store_volume(s->store, n->volume, &f.volume, NULL);
    if (r < 0 || !vd_uuid_equal(&f.volume.uuid, f.id)) {
        r = vd_store_volumes(s->store, match_volume, &f);
        if (r < 0 || !f.found)
            return r < 0 ? r : -ENOENT;
        snprintf(n->volume, sizeof(n->volume), "%s", f.volume.name);
    }
    *ret = (struct finfo){
        .size = f.volume.size,
        .usage = f.volume.referenced,
        .exclusive = f.volume.exclusive,
        .created_s = f.volume.created_s,
        .snapshots = f.volume.snapshots,
        .read_only = f.volume.read_only,
    };
    return 0;
}

static int snapshot_get(struct vd_fuse_server *s, struct fnode *n, struct finfo *ret)
{
    struct find f = {.id = &n->key.snapshot};
    int r = vd_store_snapshots(s->store, n->volume, match_snapshot, &f);
    if (r < 0 || !f.found)
        return r < 0 ? r : -ENOENT;
    snprintf(n->snapshot, sizeof(n->snapshot), "%s", f.snapshot.name);
    *ret = (struct finfo){
        .size = f.snapshot.size,
        .exclusive = f.snapshot.exclusive,
        .created_s = f.snapshot.created_s,
        .read_only = true,
    };
    return 0;
}

/* Counts what is not a hole, until `end_ns`; *ret_off: how far it got. Where there is nothing it
 * takes longer and longer strides: a large disk is mostly empty. VD_YIELDS */
static int count_data(struct vd_fuse_server *s, struct vd_disk *disk, uint64_t end_ns,
                      uint64_t *ret, uint64_t *ret_off)
{
    struct vd_disk_info info;
    struct vd_extent ext[32];
    uint64_t stride = VD_GIB(1), sum = 0, off = 0;
    vd_disk_info(disk, &info);
    while (off < info.size && vd_loop_now_ns(s->loop) < end_ns) {
        int n = (int)VD_ARRAY_SIZE(ext);
        uint64_t before = sum;
        int r = vd_disk_extents(disk, off, VD_MIN(info.size - off, stride), ext, &n);
        if (r < 0)
            return r;
        for (int i = 0; i < n; i++) {
            if (!(ext[i].flags & VD_EXTENT_HOLE))
                sum += ext[i].len;
            off += ext[i].len;
        }
        stride = sum > before ? VD_GIB(1) : VD_MIN(2 * stride, VD_VOLUME_MAX / 4);
        vd_disk_info(disk, &info); /* it may have been resized */
    }
    *ret = sum;
    *ret_off = VD_MIN(off, info.size);
    return 0;
}

/* Makes info->usage as true as it can be. VD_YIELDS */
static void usage_count(struct vd_fuse_server *s, struct fnode *n, struct finfo *info)
{
    uint64_t now = vd_loop_now_ns(s->loop), counted, off;
    struct vd_target t = {.volume = n->volume, .snapshot = n->snapshot[0] ? n->snapshot : NULL};
    struct vd_disk *disk;
    if (n->usage_ns > 0 && (t.snapshot || now - n->usage_ns < COUNT_KEEP_NS)) {
        info->usage = n->usage;
        return;
    }
    if (vd_store_open(s->store, t, true, &disk, NULL) < 0)
        return;
    if (count_data(s, disk, now + (t.snapshot ? COUNT_SNAPSHOT_NS : COUNT_NS), &counted, &off) ==
        0) {
        if (off >= info->size)
            info->usage = counted;
        else if (t.snapshot && off > 0) /* the store has no number: the rest is as what was seen */
            info->usage = (uint64_t)((double)counted / (double)off * (double)info->size);
        else
            info->usage = VD_MAX(info->usage, counted);
    }
    vd_disk_unref(disk);
    n->usage = info->usage;
    n->usage_ns = vd_loop_now_ns(s->loop);
}

int finfo_get(struct vd_fuse_server *s, const struct fnode *node, struct finfo *ret)
{
    struct fnode *n = (struct fnode *)(uintptr_t)node;
    if (n->key.kind == F_ROOT) {
        *ret = (struct finfo){.created_s = s->start_s};
        return 0;
    }
    int r = volume_get(s, n, ret);
    if (r == 0 && !vd_uuid_is_nil(&n->key.snapshot))
        r = snapshot_get(s, n, ret);
    if (r == 0 && n->key.kind == F_DISK)
        usage_count(s, n, ret);
    return r;
}

void finfo_stat(struct vd_fuse_server *s, const struct fnode *n, const struct finfo *info,
                struct stat *ret)
{
    bool fixed = (s->flags & VD_FUSE_READ_ONLY) || n->snapshot[0] || info->read_only;
    struct timespec created = {.tv_sec = (time_t)info->created_s};
    *ret = (struct stat){
        .st_ino = n->ino,
        .st_uid = s->uid,
        .st_gid = s->gid,
        .st_blksize = (blksize_t)VD_KIB(128),
        .st_ctim = created,
        .st_mtim = n->mtime.tv_sec ? n->mtime : created,
    };
    ret->st_atim = ret->st_mtim;
    if (n->mtime.tv_sec)
        ret->st_ctim = n->mtime;
    if (!fnode_is_file(n)) {
        bool can_make = n->key.kind == F_SNAPSHOTS && !(s->flags & VD_FUSE_READ_ONLY);
        ret->st_mode = (mode_t)(S_IFDIR | ((can_make ? 0777u : 0555u) & ~s->mask));
        ret->st_nlink = 2;
        return;
    }
    ret->st_mode = (mode_t)(S_IFREG | ((fixed ? 0444u : 0666u) & ~s->mask));
    ret->st_nlink = 1;
    if (n->key.kind == F_PART) {
        ret->st_size = (off_t)(n->start < info->size ? VD_MIN(n->len, info->size - n->start) : 0);
        ret->st_blocks = ret->st_size / 512;
    } else {
        ret->st_size = (off_t)info->size;
        ret->st_blocks = (blkcnt_t)VD_DIV_UP(info->usage, 512u);
    }
}

/* VD_YIELDS */
static void reply_attr(struct fjob *j)
{
    struct finfo info;
    struct stat st;
    int r = finfo_get(j->server, j->node, &info);
    if (r < 0) {
        fjob_done(j, r);
        return;
    }
    finfo_stat(j->server, j->node, &info, &st);
    fuse_reply_attr(j->req, &st, 0);
    fjob_free(j);
}

void fattr_get(struct fjob *j)
{
    reply_attr(j);
}

/* Growing is resizing. VD_YIELDS */
static int size_set(struct fjob *j)
{
    struct vd_fuse_server *s = j->server;
    struct fnode *n = j->node;
    struct finfo info;
    int r = finfo_get(s, n, &info);
    if (r < 0)
        return r;
    if (n->snapshot[0] || info.read_only || (s->flags & VD_FUSE_READ_ONLY))
        return -EROFS;
    uint64_t size = n->key.kind == F_PART ? n->len : info.size;
    if (j->len == size)
        return 0;
    /* Opening with O_TRUNC, as a shell's > does, leaves a disk alone, as it does a block device. */
    if (j->len == 0 && !j->h)
        return 0;
    if (j->len < size || n->key.kind == F_PART)
        return -EPERM;
    if (j->len % VD_SECTOR != 0)
        return -EINVAL;
    return vd_store_volume_resize(s->store, n->volume, j->len, false, NULL);
}

void fattr_set(struct fjob *j)
{
    struct vd_fuse_server *s = j->server;
    struct fnode *n = j->node;
    int r = 0;
    if (j->flags & FUSE_SET_ATTR_MODE) {
        struct finfo info;
        struct stat st;
        r = finfo_get(s, n, &info);
        if (r == 0) {
            finfo_stat(s, n, &info, &st);
            r = (st.st_mode & 07777) == ((mode_t)j->mode & 07777) ? 0 : -EPERM;
        }
    }
    if (r == 0 && (j->flags & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
        r = -EPERM;
    if (r == 0 && (j->flags & FUSE_SET_ATTR_SIZE))
        r = fnode_is_file(n) ? size_set(j) : -EISDIR;
    if (r == 0 && (j->flags & FUSE_SET_ATTR_MTIME_NOW))
        clock_gettime(CLOCK_REALTIME, &n->mtime);
    else if (r == 0 && (j->flags & FUSE_SET_ATTR_MTIME))
        n->mtime = j->mtime;
    if (r < 0)
        fjob_done(j, r);
    else
        reply_attr(j);
}

void fattr_statfs(struct fjob *j)
{
    struct vd_store_info info;
    int r = vd_store_info(j->server->store, &info);
    if (r < 0) {
        fjob_done(j, r);
        return;
    }
    uint64_t taken = info.live + info.metadata + info.reserved;
    uint64_t left = info.capacity > taken ? info.capacity - taken : 0;
    struct statvfs st = {
        .f_bsize = VD_BLOCK,
        .f_frsize = VD_BLOCK,
        .f_blocks = info.capacity / VD_BLOCK,
        .f_bfree = left / VD_BLOCK,
        .f_bavail = left / VD_BLOCK,
        .f_files = info.volumes + info.snapshots,
        .f_namemax = VD_NAME_MAX,
    };
    fuse_reply_statfs(j->req, &st);
    fjob_free(j);
}

/* ---- extended attributes ---- */

/* The last is for snapshots only. */
static const char xattr_names[] = "user.vdisk.id\0user.vdisk.volume\0user.vdisk.state\0"
                                  "user.vdisk.usage\0user.vdisk.exclusive\0user.vdisk.snapshot";

static bool has_xattrs(const struct fnode *n)
{
    return n->key.kind == F_DISK || n->key.kind == F_VOLUME || n->key.kind == F_SNAPSHOT;
}

/* A value as text; -ENODATA. */
static int xattr_value(struct fjob *j, const struct finfo *info, char *buf, size_t len)
{
    const struct fnode *n = j->node;
    const char *what = j->name + strlen("user.vdisk.");
    bool fixed = info->read_only || (j->server->flags & VD_FUSE_READ_ONLY);
    if (strcmp(what, "id") == 0) {
        vd_uuid_format(n->snapshot[0] ? &n->key.snapshot : &n->key.volume, buf);
        return (int)strlen(buf);
    }
    if (strcmp(what, "volume") == 0)
        return snprintf(buf, len, "%s", n->volume);
    if (strcmp(what, "snapshot") == 0 && n->snapshot[0])
        return snprintf(buf, len, "%s", n->snapshot);
    if (strcmp(what, "state") == 0)
        return snprintf(buf, len, "%s",
                        n->snapshot[0] ? "snapshot"
                        : fixed        ? "read-only"
                                       : "read-write");
    if (strcmp(what, "usage") == 0)
        return snprintf(buf, len, "%" PRIu64, info->usage);
    if (strcmp(what, "exclusive") == 0)
        return snprintf(buf, len, "%" PRIu64, info->exclusive);
    return -ENODATA;
}

static void reply_bytes(struct fjob *j, const char *bytes, size_t len)
{
    if (j->len == 0)
        fuse_reply_xattr(j->req, len);
    else if (j->len < len)
        fuse_reply_err(j->req, ERANGE);
    else
        fuse_reply_buf(j->req, bytes, len);
    fjob_free(j);
}

void fattr_xattr_get(struct fjob *j)
{
    struct finfo info;
    char value[2 * VD_NAME_MAX];
    int r = has_xattrs(j->node) ? finfo_get(j->server, j->node, &info) : -ENODATA;
    if (r == 0 && j->node->key.kind != F_DISK)
        usage_count(j->server, j->node, &info);
    if (r == 0)
        r = xattr_value(j, &info, value, sizeof(value));
    if (r < 0)
        fjob_done(j, r);
    else
        reply_bytes(j, value, (size_t)r);
}

void fattr_xattr_list(struct fjob *j)
{
    size_t len = sizeof(xattr_names);
    if (!j->node->snapshot[0])
        len -= sizeof("user.vdisk.snapshot");
    reply_bytes(j, xattr_names, has_xattrs(j->node) ? len : 0);
}
