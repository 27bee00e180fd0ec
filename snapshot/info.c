/* SPDX-License-Identifier: MIT */
/*
 * What volumes and snapshots are and what they cost: lists for people and doors. Bytes come from
 * USAGE and so are those of the last checkpoint. Suspends to load nodes; lists go by ids, so what
 * comes or goes meanwhile does no harm.
 */
#include "snapshot/store_priv.h"

#include <stdlib.h>

static struct snap_store *store_of(struct vd_store *st)
{
    return vd_container_of(st, struct snap_store, store);
}

/* Sums USAGE of a branch over what `epoch` needs (EPOCH_LIVE: the live end); *own: what only it
 * needs. VD_YIELDS */
static int usage_sum(struct snap_store *s, uint64_t branch, uint64_t epoch, uint64_t *sum,
                     uint64_t *own)
{
    uint64_t at = epoch >= EPOCH_LIVE ? VD_EPOCH_MAX : epoch;
    struct tree_cursor *c = malloc(sizeof(*c));
    struct tree_entry *e = malloc(sizeof(*e));
    int r = c && e ? 0 : -ENOMEM;
    unsigned n = 0;

    *sum = *own = 0;
    if (r == 0)
        tree_cursor_init(c, pool_forest(s->pool), TREE_USAGE, &(struct tree_key){{branch}});
    while (r == 0 && (r = tree_cursor_next(c, e)) == 0 && e->key.w[0] == branch) {
        le64_t od;
        if (e->len != sizeof(od)) {
            r = -EUCLEAN;
            break;
        }
        memcpy(&od, e->val, sizeof(od));
        if (e->key.w[1] <= at && at <= e->key.w[2])
            *sum += vd_get64(od);
        if (e->key.w[1] == at && at == e->key.w[2])
            *own += vd_get64(od);
        if (++n % 256 == 0)
            vd_fiber_yield();
    }
    free(c);
    free(e);
    return r == -ENOENT ? 0 : r;
}

/* Has a snapshot been taken that USAGE does not know of yet? Then nothing is only the live end's.
 */
static bool epoch_unknown(const struct branch *b)
{
    for (unsigned i = 0; i < b->nret; i++)
        if (!b->ret[i].recorded && b->ret[i].epoch > b->origin)
            return true;
    return false;
}

static int volume_fill(struct snap_store *s, uint64_t id, struct vd_volume_info *ret)
{
    const struct volume *v = catalog_volume_id(&s->cat, id);
    if (!v)
        return -ENOENT;
    *ret = (struct vd_volume_info){
        .uuid = v->rec.uuid,
        .size = v->rec.size,
        .created_s = v->rec.created_s,
        .read_only = v->rec.flags & CATALOG_VOLUME_READ_ONLY,
        .snapshots = v->nsnapshots,
        .opens = v->opens,
        .opens_rw = v->opens_rw,
    };
    memcpy(ret->name, v->rec.name, sizeof(ret->name));
    memcpy(ret->origin_volume, v->rec.origin_volume, sizeof(ret->origin_volume));
    memcpy(ret->origin_snapshot, v->rec.origin_snapshot, sizeof(ret->origin_snapshot));
    for (const struct branch *b = v->branch->parent; b; b = b->parent)
        ret->depth++;
    uint64_t branch = v->branch->id, epoch = EPOCH_LIVE;
    bool unknown = epoch_unknown(v->branch);
    while (branch) {
        uint64_t sum, own;
        int r = usage_sum(s, branch, epoch, &sum, &own);
        if (r < 0)
            return r;
        ret->referenced += sum;
        if (epoch == EPOCH_LIVE && !unknown)
            ret->exclusive = own;
        const struct branch *b = catalog_branch(&s->cat, branch);
        branch = b && b->parent ? b->parent->id : 0;
        epoch = b ? VD_MIN(epoch, b->origin) : 0;
    }
    /* A block that a clone has overwritten counts in its parent too: that much at most. */
    ret->referenced = VD_MIN(ret->referenced, VD_ROUND_UP(ret->size, (uint64_t)VD_BLOCK));
    return 0;
}

static uint64_t *volume_ids(struct snap_store *s, unsigned *n)
{
    uint64_t *ids = malloc((s->cat.nvolumes + 1) * sizeof(*ids));
    *n = 0;
    if (ids)
        vd_list_each (it, &s->cat.volumes)
            ids[(*n)++] = vd_container_of(it, struct volume, all)->id;
    return ids;
}

int op_volumes(struct vd_store *st, vd_volume_fn *fn, void *arg)
{
    struct snap_store *s = store_of(st);
    struct vd_volume_info info;
    unsigned n;
    uint64_t *ids = volume_ids(s, &n);
    int r = ids ? 0 : -ENOMEM;

    for (unsigned i = 0; r == 0 && i < n; i++) {
        r = volume_fill(s, ids[i], &info);
        if (r == 0)
            r = fn(arg, &info);
        else if (r == -ENOENT)
            r = 0;
    }
    free(ids);
    return r;
}

int op_volume(struct vd_store *st, const char *name, struct vd_volume_info *ret,
              struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    const struct volume *v = find_volume(s, name, err);
    if (!v)
        return -ENOENT;
    int r = volume_fill(s, v->id, ret);
    return r < 0 ? vd_fail(err, r, "pool-failed", "the usage of \"%s\" cannot be read: %s", name,
                           strerror(-r))
                 : 0;
}

static void snapshot_fill(const struct snapshot *sn, struct vd_snapshot_info *ret)
{
    *ret = (struct vd_snapshot_info){
        .uuid = sn->rec.uuid,
        .size = sn->rec.size,
        .epoch = sn->rec.epoch,
        .created_s = sn->rec.created_s,
        .clones = branch_clones(sn->branch, sn->rec.epoch),
        .holds = sn->nholds,
        .automatic = sn->rec.flags & CATALOG_SNAPSHOT_AUTOMATIC,
    };
    memcpy(ret->name, sn->rec.name, sizeof(ret->name));
    memcpy(ret->volume, sn->volume->rec.name, sizeof(ret->volume));
}

/* The USAGE entry (epoch, epoch). */
static int usage_one(struct snap_store *s, uint64_t branch, uint64_t epoch, uint64_t *ret)
{
    struct tree_key key = {{branch, epoch, epoch}};
    struct tree_cursor *c = malloc(sizeof(*c));
    struct tree_entry *e = malloc(sizeof(*e));
    int r = c && e ? 0 : -ENOMEM;

    *ret = 0;
    if (r == 0) {
        tree_cursor_init(c, pool_forest(s->pool), TREE_USAGE, &key);
        r = tree_cursor_next(c, e);
    }
    if (r == 0 && tree_key_cmp(&e->key, &key) == 0 && e->len == sizeof(le64_t)) {
        le64_t od;
        memcpy(&od, e->val, sizeof(od));
        *ret = vd_get64(od);
    }
    free(c);
    free(e);
    return r == -ENOENT ? 0 : r;
}

static int snapshots_of(struct snap_store *s, uint64_t volume, vd_snapshot_fn *fn, void *arg)
{
    const struct volume *v = catalog_volume_id(&s->cat, volume);
    if (!v)
        return 0;
    unsigned n = 0, room = v->nsnapshots + 1;
    char(*names)[VD_NAME_MAX + 1] = malloc(room * sizeof(*names));
    int r = names ? 0 : -ENOMEM;

    if (names)
        vd_list_each (it, &v->snapshots)
            memcpy(names[n++], vd_container_of(it, struct snapshot, in_volume)->rec.name,
                   sizeof(*names));
    for (unsigned i = 0; r == 0 && i < n; i++) {
        v = catalog_volume_id(&s->cat, volume);
        const struct snapshot *sn = v ? catalog_snapshot(&s->cat, v, names[i]) : NULL;
        struct vd_snapshot_info info;
        if (!sn)
            continue;
        snapshot_fill(sn, &info);
        bool alone = branch_retained(sn->branch, sn->rec.epoch)->names == 1 && !info.clones;
        if (alone)
            r = usage_one(s, sn->branch->id, sn->rec.epoch, &info.exclusive);
        if (r == 0)
            r = fn(arg, &info);
    }
    free(names);
    return r;
}

int op_snapshots(struct vd_store *st, const char *volume, vd_snapshot_fn *fn, void *arg)
{
    struct snap_store *s = store_of(st);
    unsigned n;

    if (volume) {
        const struct volume *v = catalog_volume(&s->cat, volume);
        return v ? snapshots_of(s, v->id, fn, arg) : -ENOENT;
    }
    uint64_t *ids = volume_ids(s, &n);
    int r = ids ? 0 : -ENOMEM;
    for (unsigned i = 0; r == 0 && i < n; i++)
        r = snapshots_of(s, ids[i], fn, arg);
    free(ids);
    return r;
}
