/* SPDX-License-Identifier: MIT */
/*
 * Control operations on snapshots: create, delete, rename, hold, clone, roll back.
 *
 * Invariants: a snapshot is (branch, current epoch) remembered and the epoch bumped, all in one
 * operation, so that it holds exactly the writes logged before it. Deleting drops the name only;
 * the merges see that nothing needs the epoch any more. What a clone or a roll back starts from
 * stays retained because a branch starts there, named or not.
 *
 * As control.c: the control mutex is held, the catalogue changes in apply, everything suspends.
 */
#include "snapshot/store_priv.h"

#include <stdio.h>
#include <stdlib.h>

static struct snap_store *store_of(struct vd_store *st)
{
    return vd_container_of(st, struct snap_store, store);
}

static uint64_t now_s(struct snap_store *s)
{
    return vd_loop_wall_s(pool_loop(s->pool));
}

/* A record for a snapshot of the live volume, as it is now. */
static struct snapshot_rec snapshot_now(struct snap_store *s, const struct volume *v,
                                        const char *name, uint32_t flags)
{
    struct snapshot_rec rec = {
        .volume = v->id,
        .branch = v->branch->id,
        .epoch = pool_epoch(s->pool),
        .size = v->rec.size,
        .created_s = now_s(s),
        .flags = flags,
    };
    vd_uuid_new(&rec.uuid, vd_loop_rng(pool_loop(s->pool)));
    memcpy(rec.name, name, strlen(name) + 1);
    return rec;
}

static bool named_before(const struct vd_target *t, int i)
{
    /* Few targets: every pair is looked at. */
    for (int j = 0; j < i; j++)
        if (!strcmp(t[i].volume, t[j].volume) && !strcmp(t[i].snapshot, t[j].snapshot))
            return true;
    return false;
}

static int create_check(struct snap_store *s, const struct vd_target *t, int i,
                        struct vd_error *err)
{
    struct volume *v = find_volume(s, t[i].volume, err);
    if (!v)
        return -ENOENT;
    if (catalog_snapshot(&s->cat, v, t[i].snapshot) || named_before(t, i))
        return vd_fail(err, -EEXIST, "snapshot-exists", "there is already a snapshot \"%s@%s\"",
                       t[i].volume, t[i].snapshot);
    return 0;
}

int op_snapshot_create(struct vd_store *st, const struct vd_target *t, int n, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct txn x;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    for (int i = 0; r == 0 && i < n; i++)
        r = create_check(s, t, i, err);
    if (r == 0) {
        txn_init(&x, s);
        for (int i = 0; i < n; i++) {
            const struct volume *v = catalog_volume(&s->cat, t[i].volume);
            struct snapshot_rec rec = snapshot_now(s, v, t[i].snapshot, 0);
            txn_snapshot(&x, txn_id(&x), &rec);
#ifdef VD_PLANT_SNAPSHOT_HALF
            if (i + 1 < n) {
                txn_epoch(&x);
                txn_commit(&x, 0, err);
                txn_init(&x, s);
            }
#endif
        }
        txn_epoch(&x);
        r = txn_commit(&x, 0, err);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

static int delete_check(const struct snapshot *sn, struct vd_error *err)
{
    if (sn->nholds)
        return vd_fail(err, -EBUSY, "snapshot-held", "snapshot \"%s@%s\" is held (%u tags)",
                       sn->volume->rec.name, sn->rec.name, sn->nholds);
    if (sn->opens)
        return vd_fail(err, -EBUSY, "volume-busy", "snapshot \"%s@%s\" is in use",
                       sn->volume->rec.name, sn->rec.name);
    return 0;
}

int op_snapshot_delete(struct vd_store *st, const struct vd_target *t, int n, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct txn x;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    for (int i = 0; r == 0 && i < n; i++) {
        const struct snapshot *sn = find_snapshot(s, t[i], err);
        r = sn ? delete_check(sn, err) : -ENOENT;
    }
    if (r == 0) {
        txn_init(&x, s);
        for (int i = 0; i < n; i++)
            if (!named_before(t, i))
                txn_del(&x, CATALOG_SNAPSHOT, find_snapshot(s, t[i], NULL)->id, 0);
        r = txn_commit(&x, POOL_OP_RESERVE, err);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

int op_snapshot_rename(struct vd_store *st, struct vd_target t, const char *to,
                       struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct txn x;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    struct snapshot *sn = r == 0 ? find_snapshot(s, t, err) : NULL;
    if (r == 0 && !sn)
        r = -ENOENT;
    if (r == 0 && catalog_snapshot(&s->cat, sn->volume, to))
        r = vd_fail(err, -EEXIST, "snapshot-exists", "there is already a snapshot \"%s@%s\"",
                    t.volume, to);
    if (r == 0) {
        struct snapshot_rec rec = sn->rec;
        memcpy(rec.name, to, strlen(to) + 1);
        rec.flags &= ~(uint32_t)CATALOG_SNAPSHOT_AUTOMATIC; /* somebody cares for it now */
        txn_init(&x, s);
        txn_snapshot(&x, sn->id, &rec);
        r = txn_commit(&x, 0, err);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

static const struct hold_tag *hold_find(const struct snapshot *sn, const char *tag)
{
    vd_list_each (it, &sn->holds) {
        const struct hold_tag *h = vd_container_of(it, struct hold_tag, link);
        if (strcmp(h->tag, tag) == 0)
            return h;
    }
    return NULL;
}

static int hold_commit(struct snap_store *s, struct snapshot *sn, const char *tag, bool release,
                       struct vd_error *err)
{
    const struct hold_tag *h = hold_find(sn, tag);
    struct txn x;

    if (release && !h)
        return vd_fail(err, -ENOENT, "hold-not-found", "snapshot \"%s@%s\" is not held by \"%s\"",
                       sn->volume->rec.name, sn->rec.name, tag);
    if (!release && h)
        return vd_fail(err, -EEXIST, "hold-exists", "snapshot \"%s@%s\" is already held by \"%s\"",
                       sn->volume->rec.name, sn->rec.name, tag);
    txn_init(&x, s);
    if (release)
        txn_del(&x, CATALOG_HOLD, sn->id, h->n);
    else
        txn_put(&x, CATALOG_HOLD, sn->id, sn->next_hold, tag, (uint16_t)strlen(tag));
    return txn_commit(&x, release ? POOL_OP_RESERVE : 0, err);
}

int op_snapshot_hold(struct vd_store *st, struct vd_target t, const char *tag, bool release,
                     struct vd_error *err)
{
    struct snap_store *s = store_of(st);

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    struct snapshot *sn = r == 0 ? find_snapshot(s, t, err) : NULL;
    if (r == 0)
        r = sn ? hold_commit(s, sn, tag, release, err) : -ENOENT;
    vd_fmutex_unlock(&s->control);
    return r;
}

/* ---- new branches ---- */

static uint64_t size_blocks(uint64_t size)
{
    return VD_DIV_UP(size, VD_BLOCK);
}

static void origin_names(struct volume_rec *rec, const struct volume *v, const struct snapshot *sn)
{
    memcpy(rec->origin_volume, v->rec.name, sizeof(rec->origin_volume));
    if (sn)
        memcpy(rec->origin_snapshot, sn->rec.name, sizeof(rec->origin_snapshot));
    else
        rec->origin_snapshot[0] = 0;
}

int op_clone(struct vd_store *st, struct vd_target from, const char *name, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct view_ref ref;
    struct txn x;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    if (r == 0)
        r = find_view(s, from, &ref, err);
    if (r == 0 && catalog_volume(&s->cat, name))
        r = vd_fail(err, -EEXIST, "volume-exists", "there is already a volume \"%s\"", name);
    if (r == 0) {
        struct view view = view_of(ref);
        struct volume_rec rec = {.size = view.size, .created_s = now_s(s)};
        vd_uuid_new(&rec.uuid, vd_loop_rng(pool_loop(s->pool)));
        memcpy(rec.name, name, strlen(name) + 1);
        origin_names(&rec, ref.volume, ref.snapshot);
        txn_init(&x, s);
        uint64_t epoch = ref.snapshot ? view.epoch : pool_epoch(s->pool);
        rec.branch = txn_branch(&x, view.branch->id, epoch, size_blocks(view.size));
        txn_volume(&x, txn_id(&x), &rec);
        if (!ref.snapshot)
            txn_epoch(&x);
        r = txn_commit(&x, 0, err);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

/* "before-rollback-NAME-N", cut to fit, N the first that is free. */
static void kept_name(struct snap_store *s, const struct snapshot *to, char *ret)
{
    for (unsigned n = to->volume->nsnapshots;; n++) {
        snprintf(ret, VD_NAME_MAX + 1, "before-rollback-%.90s-%u", to->rec.name, n);
        if (!catalog_snapshot(&s->cat, to->volume, ret))
            return;
    }
}

/* With I/O on the volume drained: its branch changes between two requests. */
static int rollback_commit(struct snap_store *s, struct snapshot *to, bool discard, char *ret_kept,
                           struct vd_error *err)
{
    struct volume *v = to->volume;
    struct txn x;

    txn_init(&x, s);
    struct volume_rec rec = v->rec;
    if (!discard) {
        kept_name(s, to, ret_kept);
        struct snapshot_rec kept = snapshot_now(s, v, ret_kept, CATALOG_SNAPSHOT_AUTOMATIC);
        txn_snapshot(&x, txn_id(&x), &kept);
        txn_epoch(&x);
    }
    rec.branch = txn_branch(&x, to->branch->id, to->rec.epoch, size_blocks(to->rec.size));
    rec.size = to->rec.size;
    origin_names(&rec, v, to);
    txn_volume(&x, v->id, &rec);
    return txn_commit(&x, 0, err);
}

int op_rollback(struct vd_store *st, struct vd_target t, bool discard, bool force, char *ret_kept,
                struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    char kept[VD_NAME_MAX + 1] = "";

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    struct snapshot *to = r == 0 ? find_snapshot(s, t, err) : NULL;
    if (r == 0 && !to)
        r = -ENOENT;
    struct volume *v = to ? to->volume : NULL;
    if (r == 0 && v->opens && !force)
        r = vd_fail(err, -EBUSY, "volume-busy",
                    "volume \"%s\" is in use (%u open handles): close them, or say --force",
                    v->rec.name, v->opens);
    if (r == 0 && (v->rec.flags & CATALOG_VOLUME_READ_ONLY))
        r = vd_fail(err, -EROFS, "read-only", "volume \"%s\" is read-only", v->rec.name);
    if (r == 0) {
        uint64_t size = v->rec.size;
        volume_drain(v);
        r = rollback_commit(s, to, discard, kept, err);
        volume_resume(v);
        if (r == 0 && v->rec.size != size)
            volume_notify(v, VD_DISK_RESIZED);
        if (r == 0)
            volume_notify(v, VD_DISK_REPLACED);
    }
    if (r == 0 && ret_kept)
        memcpy(ret_kept, kept, sizeof(kept));
    vd_fmutex_unlock(&s->control);
    return r;
}
