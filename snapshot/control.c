/* SPDX-License-Identifier: MIT */
/*
 * Control operations on volumes: create, delete, rename, resize.
 *
 * Each looks at the catalogue and commits one transaction with the control mutex held; the
 * catalogue changes when the pool applies it. On return it is durable. Opening takes the mutex too:
 * so nothing is opened while its deletion waits for the log. All suspend.
 */
#include "snapshot/store_priv.h"

static struct snap_store *store_of(struct vd_store *st)
{
    return vd_container_of(st, struct snap_store, store);
}

struct volume *find_volume(struct snap_store *s, const char *name, struct vd_error *err)
{
    struct volume *v = catalog_volume(&s->cat, name);
    if (!v)
        vd_fail(err, -ENOENT, "volume-not-found", "there is no volume \"%s\"", name);
    return v;
}

struct snapshot *find_snapshot(struct snap_store *s, struct vd_target t, struct vd_error *err)
{
    struct volume *v = find_volume(s, t.volume, err);
    struct snapshot *sn = v ? catalog_snapshot(&s->cat, v, t.snapshot) : NULL;
    if (v && !sn)
        vd_fail(err, -ENOENT, "snapshot-not-found", "volume \"%s\" has no snapshot \"%s\"",
                t.volume, t.snapshot);
    return sn;
}

int find_view(struct snap_store *s, struct vd_target t, struct view_ref *ret, struct vd_error *err)
{
    if (t.snapshot) {
        struct snapshot *sn = find_snapshot(s, t, err);
        if (!sn)
            return -ENOENT;
        *ret = (struct view_ref){sn->volume, sn};
        return 0;
    }
    struct volume *v = find_volume(s, t.volume, err);
    *ret = (struct view_ref){.volume = v};
    return v ? 0 : -ENOENT;
}

int writable(struct snap_store *s, struct vd_error *err)
{
    if (!pool_read_only(s->pool))
        return 0;
    const char *why = pool_failure(s->pool);
    if (why[0])
        return vd_fail(err, -EROFS, "pool-failed", "the pool is read-only: %s", why);
    return vd_fail(err, -EROFS, "read-only", "the pool is open read-only");
}

static int name_free(struct snap_store *s, const char *name, struct vd_error *err)
{
    if (!catalog_volume(&s->cat, name))
        return 0;
    return vd_fail(err, -EEXIST, "volume-exists", "there is already a volume \"%s\"", name);
}

int op_volume_create(struct vd_store *st, const char *name, uint64_t size, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct txn t;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    if (r == 0)
        r = name_free(s, name, err);
    if (r == 0) {
        struct volume_rec rec = {.size = size, .created_s = vd_loop_wall_s(pool_loop(s->pool))};
        vd_uuid_new(&rec.uuid, vd_loop_rng(pool_loop(s->pool)));
        memcpy(rec.name, name, strlen(name) + 1);
        txn_init(&t, s);
        rec.branch = txn_branch(&t, 0, 0, 0);
        txn_volume(&t, txn_id(&t), &rec);
        r = txn_commit(&t, 0, err);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

/* Can all snapshots of the volume go? */
static int snapshots_free(const struct volume *v, struct vd_error *err)
{
    vd_list_each (it, &v->snapshots) {
        const struct snapshot *sn = vd_container_of(it, struct snapshot, in_volume);
        if (sn->nholds)
            return vd_fail(err, -EBUSY, "snapshot-held", "snapshot \"%s@%s\" is held", v->rec.name,
                           sn->rec.name);
        if (sn->opens)
            return vd_fail(err, -EBUSY, "volume-busy", "snapshot \"%s@%s\" is in use", v->rec.name,
                           sn->rec.name);
    }
    return 0;
}

static int delete_check(struct volume *v, bool recursive, struct vd_error *err)
{
    if (v->opens)
        return vd_fail(err, -EBUSY, "volume-busy", "volume \"%s\" is in use (%u open handles)",
                       v->rec.name, v->opens);
    if (v->nsnapshots && !recursive)
        return vd_fail(err, -ENOTEMPTY, "volume-has-snapshots",
                       "volume \"%s\" has %u snapshots: delete them first, or say --recursive",
                       v->rec.name, v->nsnapshots);
    return snapshots_free(v, err);
}

int op_volume_delete(struct vd_store *st, const char *name, bool recursive, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct txn t;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    struct volume *v = r == 0 ? find_volume(s, name, err) : NULL;
    if (r == 0)
        r = v ? delete_check(v, recursive, err) : -ENOENT;
    if (r == 0) {
        txn_init(&t, s);
        vd_list_each (it, &v->snapshots)
            txn_del(&t, CATALOG_SNAPSHOT, vd_container_of(it, struct snapshot, in_volume)->id, 0);
        vd_list_each (it, &v->properties) {
            const struct property *p = vd_container_of(it, struct property, link);
            txn_del(&t, CATALOG_PROPERTY, v->id, 2 * p->n + 1);
            txn_del(&t, CATALOG_PROPERTY, v->id, 2 * p->n);
        }
        txn_del(&t, CATALOG_VOLUME, v->id, 0);
        r = txn_commit(&t, POOL_OP_RESERVE, err);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

int op_volume_rename(struct vd_store *st, const char *name, const char *to, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct txn t;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    struct volume *v = r == 0 ? find_volume(s, name, err) : NULL;
    if (r == 0)
        r = v ? name_free(s, to, err) : -ENOENT;
    if (r == 0) {
        struct volume_rec rec = v->rec;
        memcpy(rec.name, to, strlen(to) + 1);
        txn_init(&t, s);
        txn_volume(&t, v->id, &rec);
        r = txn_commit(&t, 0, err);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

static int shrink(struct snap_store *s, struct volume *v, uint64_t size, struct vd_error *err)
{
    uint64_t from = VD_DIV_UP(size, VD_BLOCK), to = VD_DIV_UP(v->rec.size, VD_BLOCK);
    struct txn t;

    volume_drain(v);
    struct volume_rec rec = v->rec;
    rec.size = size;
    txn_init(&t, s);
    txn_volume(&t, v->id, &rec);
    if (to > from)
        txn_zero(&t, v->branch->id, from, to - from);
    int r = txn_commit(&t, POOL_OP_RESERVE, err);
    volume_resume(v);
    return r;
}

static int grow(struct snap_store *s, struct volume *v, uint64_t size, struct vd_error *err)
{
    struct txn t;
    int r = 0;
#ifndef VD_PLANT_RESIZE_TAIL
    r = volume_clear_tail(s, v);
#endif
    if (r < 0)
        return vd_fail_at(err, r, "clearing what lies behind the end of \"%s\"", v->rec.name);
    struct volume_rec rec = v->rec;
    rec.size = size;
    txn_init(&t, s);
    txn_volume(&t, v->id, &rec);
    return txn_commit(&t, 0, err);
}

int volume_resize(struct snap_store *s, struct volume *v, uint64_t size, bool may_shrink,
                  struct vd_error *err)
{
    int r = writable(s, err);
    if (r < 0 || size == v->rec.size)
        return r;
    if (v->rec.flags & CATALOG_VOLUME_READ_ONLY)
        return vd_fail(err, -EROFS, "read-only", "volume \"%s\" is read-only", v->rec.name);
    if (size < v->rec.size && !may_shrink)
        return vd_fail(err, -EINVAL, "shrink-refused",
                       "volume \"%s\" has %" PRIu64 " bytes: making it smaller loses data, say "
                       "--shrink if that is meant",
                       v->rec.name, v->rec.size);
    r = size < v->rec.size ? shrink(s, v, size, err) : grow(s, v, size, err);
    if (r == 0)
        volume_notify(v, VD_DISK_RESIZED);
    return r;
}

int op_volume_resize(struct vd_store *st, const char *name, uint64_t size, bool may_shrink,
                     struct vd_error *err)
{
    struct snap_store *s = store_of(st);

    vd_fmutex_lock(&s->control);
    struct volume *v = find_volume(s, name, err);
    int r = v ? volume_resize(s, v, size, may_shrink, err) : -ENOENT;
    vd_fmutex_unlock(&s->control);
    return r;
}
