/* SPDX-License-Identifier: MIT */
/*
 * Directories: names that lead to nodes, listings, and the two that programs may make and remove.
 *
 * A listing is taken when the directory is opened (and is what rewinding shows), so what comes and
 * goes meanwhile moves nothing. Jobs of workers, but for fdir_read and fdir_release, which do not
 * yield.
 */
#include "core/base/text.h"
#include "fuse/fuse_priv.h"

#include <stdio.h>
#include <sys/stat.h>

struct entry {
    char name[VD_NAME_MAX + 1];
    uint64_t ino;
    bool dir;
};
struct listing {
    struct vd_list link;
    struct entry *e;
    size_t n, room;
    int failed;
};

static int listing_add(struct listing *l, const char *name, const struct fkey *key)
{
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 16;
        struct entry *e = reallocarray(l->e, room, sizeof(*e));
        if (!e)
            return l->failed = -ENOMEM;
        l->e = e;
        l->room = room;
    }
    struct entry *e = &l->e[l->n++];
    snprintf(e->name, sizeof(e->name), "%s", name);
    e->ino = fnode_ino(key);
    e->dir = key->kind != F_DISK && key->kind != F_PART;
    return 0;
}

static int add_volume(void *arg, const struct vd_volume_info *info)
{
    struct fkey key = {.kind = F_VOLUME, .volume = info->uuid};
    return listing_add(arg, info->name, &key);
}

struct add_snapshots {
    struct listing *l;
    const struct fnode *node;
};

static int add_snapshot(void *arg, const struct vd_snapshot_info *info)
{
    struct add_snapshots *a = arg;
    struct fkey key = {.kind = F_SNAPSHOT, .volume = a->node->key.volume, .snapshot = info->uuid};
    return listing_add(a->l, info->name, &key);
}

static int add_child(struct listing *l, const struct fnode *n, const char *name, enum fkind kind)
{
    struct fkey key = n->key;
    key.kind = kind;
    return listing_add(l, name, &key);
}

static int add_parts(struct vd_fuse_server *s, struct listing *l, const struct fnode *node)
{
    struct fpart *parts;
    unsigned n;
    int r = fpart_list(s, node, &parts, &n);
    if (r < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < n; i++) {
        struct fkey key = node->key;
        char name[32];
        key.kind = F_PART;
        key.part = parts[i].number;
        snprintf(name, sizeof(name), "%u.raw", parts[i].number);
        r = listing_add(l, name, &key);
    }
    free(parts);
    return r;
}

/* VD_YIELDS */
static int list(struct vd_fuse_server *s, const struct fnode *n, struct listing *l)
{
    struct add_snapshots snapshots = {l, n};
    int r;
    switch (n->key.kind) {
    case F_ROOT:
        return vd_store_volumes(s->store, add_volume, l);
    case F_VOLUME:
    case F_SNAPSHOT:
        r = add_child(l, n, "disk.raw", F_DISK);
        if (r == 0)
            r = add_child(l, n, "partitions", F_PARTITIONS);
        if (r == 0 && n->key.kind == F_VOLUME)
            r = add_child(l, n, "snapshots", F_SNAPSHOTS);
        return r;
    case F_SNAPSHOTS:
        return vd_store_snapshots(s->store, n->volume, add_snapshot, &snapshots);
    case F_PARTITIONS:
        return add_parts(s, l, n);
    default:
        return -ENOTDIR;
    }
}

void fdir_open(struct fjob *j)
{
    struct finfo info;
    struct listing *l = calloc(1, sizeof(*l));
    int r = l ? finfo_get(j->server, j->node, &info) : -ENOMEM;
    if (r == 0)
        r = list(j->server, j->node, l);
    if (r != 0) {
        if (l)
            free(l->e);
        free(l);
        fjob_done(j, r);
        return;
    }
    vd_list_push(&j->server->listings, &l->link);
    struct fuse_file_info fi = {.fh = (uintptr_t)l};
    if (fuse_reply_open(j->req, &fi) < 0)
        fdir_release((uintptr_t)l);
    fjob_free(j);
}

void fdir_release(uint64_t handle)
{
    struct listing *l = (struct listing *)(uintptr_t)handle;
    vd_list_remove(&l->link);
    free(l->e);
    free(l);
}

void fdirs_free(struct vd_fuse_server *s)
{
    for (struct vd_list *l; (l = vd_list_pop(&s->listings));)
        fdir_release((uintptr_t)vd_container_of(l, struct listing, link));
}

void fdir_read(fuse_req_t req, uint64_t handle, size_t size, off_t off)
{
    const struct listing *l = (const struct listing *)(uintptr_t)handle;
    size_t done = 0, room = VD_MIN(size, VD_KIB(64));
    char *buf = malloc(room);
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    for (size_t i = (size_t)off; i < l->n + 2; i++) {
        struct stat st = {.st_mode = S_IFDIR};
        const char *name = i == 0 ? "." : "..";
        if (i >= 2) {
            const struct entry *e = &l->e[i - 2];
            name = e->name;
            st.st_ino = e->ino;
            st.st_mode = e->dir ? S_IFDIR : S_IFREG;
        }
        size_t len = fuse_add_direntry(req, buf + done, room - done, name, &st, (off_t)i + 1);
        if (len > room - done)
            break;
        done += len;
    }
    fuse_reply_buf(req, buf, done);
    free(buf);
}

/* ---- names ---- */

struct find_snapshot {
    const char *name;
    struct vd_uuid id;
    bool found;
};

static int match_snapshot(void *arg, const struct vd_snapshot_info *info)
{
    struct find_snapshot *f = arg;
    if (strcmp(info->name, f->name) != 0)
        return 0;
    f->id = info->uuid;
    f->found = true;
    return 1;
}

static int find_snapshot(struct vd_fuse_server *s, const char *volume, const char *name,
                         struct vd_uuid *ret)
{
    struct find_snapshot f = {.name = name};
    int r = vd_store_snapshots(s->store, volume, match_snapshot, &f);
    if (r < 0 || !f.found)
        return r < 0 ? r : -ENOENT;
    *ret = f.id;
    return 0;
}

/* "N.raw" and nothing else: 0 = no such name. */
static unsigned part_number(const char *name)
{
    char again[32];
    unsigned n;
    if (sscanf(name, "%4u", &n) != 1)
        return 0;
    snprintf(again, sizeof(again), "%u.raw", n);
    return strcmp(again, name) == 0 ? n : 0;
}

static int find_part(struct vd_fuse_server *s, const struct fnode *node, const char *name,
                     struct fpart *ret)
{
    struct fpart *parts;
    unsigned number = part_number(name), n;
    int r = number > 0 ? fpart_list(s, node, &parts, &n) : -ENOENT;
    if (r < 0)
        return r;
    r = -ENOENT;
    for (unsigned i = 0; i < n; i++) {
        if (parts[i].number != number)
            continue;
        *ret = parts[i];
        r = 0;
    }
    free(parts);
    return r;
}

static int child_kind(enum fkind parent, const char *name, enum fkind *ret)
{
    if (strcmp(name, "disk.raw") == 0)
        *ret = F_DISK;
    else if (strcmp(name, "partitions") == 0)
        *ret = F_PARTITIONS;
    else if (parent == F_VOLUME && strcmp(name, "snapshots") == 0)
        *ret = F_SNAPSHOTS;
    else
        return -ENOENT;
    return 0;
}

/* The node of a name, with a hold. VD_YIELDS */
static int find(struct vd_fuse_server *s, const struct fnode *dir, const char *name,
                struct fnode **ret)
{
    struct fkey key = dir->key;
    struct fpart part = {0};
    struct vd_volume_info volume = {0};
    const char *volume_name = dir->volume, *snapshot_name = dir->snapshot;
    int r;
    switch (dir->key.kind) {
    case F_ROOT:
        key.kind = F_VOLUME;
        r = vd_name_valid(name) ? vd_store_volume(s->store, name, &volume, NULL) : -ENOENT;
        key.volume = volume.uuid;
        volume_name = name;
        break;
    case F_VOLUME:
    case F_SNAPSHOT:
        r = child_kind(dir->key.kind, name, &key.kind);
        break;
    case F_SNAPSHOTS:
        key.kind = F_SNAPSHOT;
        r = find_snapshot(s, dir->volume, name, &key.snapshot);
        snapshot_name = name;
        break;
    case F_PARTITIONS:
        key.kind = F_PART;
        r = find_part(s, dir, name, &part);
        key.part = part.number;
        break;
    default:
        r = -ENOTDIR;
        break;
    }
    if (r < 0)
        return r;
    struct fnode *n = fnode_get(s, &key, volume_name, snapshot_name);
    if (!n)
        return -ENOMEM;
    n->start = part.start;
    n->len = part.len;
    *ret = n;
    return 0;
}

/* Answers with the node of the job's name. VD_YIELDS */
static void reply_entry(struct fjob *j)
{
    struct vd_fuse_server *s = j->server;
    struct fnode *n;
    struct finfo info;
    int r = find(s, j->node, j->name, &n);
    if (r < 0) {
        fjob_done(j, r);
        return;
    }
    r = finfo_get(s, n, &info);
    if (r < 0) {
        fnode_unref(n);
        fjob_done(j, r);
        return;
    }
    struct fuse_entry_param e = {.ino = fnode_id(n)};
    finfo_stat(s, n, &info, &e.attr);
    n->lookups++;
    if (fuse_reply_entry(j->req, &e) < 0)
        fnode_forget(s, e.ino, 1);
    fnode_unref(n);
    fjob_free(j);
}

void fdir_lookup(struct fjob *j)
{
    struct finfo info;
    /* The directory itself may be gone by now. */
    int r = finfo_get(j->server, j->node, &info);
    if (r < 0)
        fjob_done(j, r);
    else
        reply_entry(j);
}

/* May snapshots be taken and deleted in this directory? */
static int snapshots_check(struct fjob *j)
{
    struct finfo info;
    if (j->node->key.kind != F_SNAPSHOTS)
        return -EPERM;
    if (j->server->flags & VD_FUSE_READ_ONLY)
        return -EROFS;
    return finfo_get(j->server, j->node, &info);
}

void fdir_mkdir(struct fjob *j)
{
    struct vd_target t = {.volume = j->node->volume, .snapshot = j->name};
    int r = snapshots_check(j);
    if (r == 0 && !vd_name_valid(j->name))
        r = -EINVAL;
    if (r == 0)
        r = vd_store_snapshot_create(j->server->store, &t, 1, NULL);
    if (r < 0)
        fjob_done(j, r);
    else
        reply_entry(j);
}

void fdir_rmdir(struct fjob *j)
{
    struct vd_target t = {.volume = j->node->volume, .snapshot = j->name};
    int r = snapshots_check(j);
    if (r == 0 && !vd_name_valid(j->name))
        r = -ENOENT;
    if (r == 0)
        r = vd_store_snapshot_delete(j->server->store, &t, 1, NULL);
    fjob_done(j, r);
}
