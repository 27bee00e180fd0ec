/* SPDX-License-Identifier: MIT */
/*
 * A store over a pool: making, attaching, detaching; the table of operations; what the pool tells
 * its client.
 *
 * Invariants: the catalogue in memory is what the CATALOG tree says plus what the log says, applied
 * by the same function; every logged key is also kept, as bytes, for the next merge.
 */
#include "core/base/text.h"
#include "snapshot/store_priv.h"

#include <stdlib.h>

static struct snap_store *store_of(struct vd_store *st)
{
    return vd_container_of(st, struct snap_store, store);
}

/* ---- the pool's client ---- */

static int client_load(void *c)
{
    struct snap_store *s = c;
    struct tree_cursor *cur = malloc(sizeof(*cur));
    struct tree_entry e;
    int r = cur ? 0 : -ENOMEM;

    if (cur)
        tree_cursor_init(cur, pool_forest(s->pool), TREE_CATALOG, &(struct tree_key){{0}});
    while (r == 0) {
        r = tree_cursor_next(cur, &e);
        if (r == 0 && (!e.val || e.key.w[3]))
            r = -EUCLEAN;
        if (r == 0)
            r = catalog_apply(&s->cat, e.key.w, e.val, e.len);
    }
    free(cur);
    return r == -ENOENT ? catalog_verify(&s->cat) : r;
}

static int client_apply(void *c, const struct vd_entry *e)
{
    struct snap_store *s = c;

    if (e->type != VD_ENTRY_CATALOG)
        return 0;
    s->backlog_known = false;
    int r = map3_put_bytes(&s->dirty, e->key, e->value, e->value_len);
    return r < 0 ? r : catalog_apply(&s->cat, e->key, e->value, e->value_len);
}

static bool client_backlog(void *c)
{
    return merge_backlog(c);
}

static const struct pool_client_ops client_ops = {
    .load = client_load,
    .apply = client_apply,
    .freeze = merge_freeze,
    .merge = merge_run,
    .publish = merge_publish,
    .owner = owner_find,
    .backlog = client_backlog,
};

/* ---- the store ---- */

static int op_open(struct vd_store *st, struct vd_target t, bool read_only, struct vd_disk **ret,
                   struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct view_ref ref;

    vd_fmutex_lock(&s->control);
    int r = find_view(s, t, &ref, err);
    if (r == 0) {
        r = disk_open(s, ref, read_only, ret);
        if (r < 0)
            vd_fail(err, r, "no-memory", "out of memory");
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

static int op_info(struct vd_store *st, struct vd_store_info *ret)
{
    struct snap_store *s = store_of(st);
    struct pool_info i;
    struct forest_cache cache;

    pool_info(s->pool, &i);
    forest_cache(pool_forest(s->pool), &cache);
    *ret = (struct vd_store_info){
        .uuid = *pool_uuid(s->pool),
        .created_s = i.created_s,
        .capacity = i.capacity,
        .allocated = i.allocated,
        .live = i.live_blocks * VD_BLOCK,
        .metadata = i.metadata,
        .log_bytes = i.log_bytes,
        .reserved = i.reserved,
        .volumes = s->cat.nvolumes,
        .snapshots = s->cat.nsnapshots,
        .devices = 1,
        .format_major = i.major,
        .format_minor = i.minor,
        .chunk_size = i.chunk_size,
        .read_only = pool_read_only(s->pool),
        .segments = i.segments,
        .segments_free = i.free_segments,
        .segments_cleaned = i.cleaned_segments,
        .checkpoints = i.checkpoints,
        .cleaning = i.cleaning,
        .written = i.guest_bytes,
        .device_written = i.device_bytes,
        .cache_bytes = cache.bytes,
        .cache_hits = cache.hits,
        .cache_misses = cache.misses,
    };
    memcpy(ret->name, i.name, sizeof(ret->name));
    strncpy(ret->failed, pool_failure(s->pool), sizeof(ret->failed) - 1);
    return 0;
}

static int op_flush(struct vd_store *st)
{
    return pool_flush(store_of(st)->pool);
}

static int op_settle(struct vd_store *st, const bool *cancel)
{
    struct snap_store *s = store_of(st);
    return pool_read_only(s->pool) && !pool_failure(s->pool)[0] ? 0 : pool_settle(s->pool, cancel);
}

static uint64_t op_backlog(struct vd_store *st)
{
    struct snap_store *s = store_of(st);
    if (!merge_backlog(s))
        return 0;
    return VD_MAX(s->chunks_left, 1) * VD_CHANGE_BLOCKS * VD_BLOCK;
}

static void op_trim(struct vd_store *st)
{
    pool_trim(store_of(st)->pool);
}

static const struct vd_store_ops store_ops = {
    .info = op_info,
    .volumes = op_volumes,
    .volume = op_volume,
    .snapshots = op_snapshots,
    .open = op_open,
    .volume_create = op_volume_create,
    .volume_delete = op_volume_delete,
    .volume_rename = op_volume_rename,
    .volume_resize = op_volume_resize,
    .prop_set = op_prop_set,
    .props = op_props,
    .snapshot_create = op_snapshot_create,
    .snapshot_delete = op_snapshot_delete,
    .snapshot_rename = op_snapshot_rename,
    .snapshot_hold = op_snapshot_hold,
    .rollback = op_rollback,
    .clone = op_clone,
    .diff = op_diff,
    .flush = op_flush,
    .settle = op_settle,
    .backlog = op_backlog,
    .trim = op_trim,
};

static void store_free(struct snap_store *s)
{
    merge_state_free(s->frozen);
    map3_done(&s->dirty);
    catalog_done(&s->cat);
    read_done(s);
    free(s);
}

int vd_store_attach(struct vd_dev **devs, int n, unsigned flags, struct vd_store **ret,
                    struct vd_error *err)
{
    struct snap_store *s = n == 1 ? calloc(1, sizeof(*s)) : NULL;
    if (!s) {
        for (int i = 0; i < n; i++)
            vd_dev_close(devs[i]);
        if (n != 1)
            return vd_fail(err, -EPROTONOSUPPORT, "unsupported-feature",
                           "a pool has one device in this version, not %d", n);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    s->store.ops = &store_ops;
    s->dirty.owns = true;
    catalog_init(&s->cat);
    vd_fmutex_init(&s->control);
    int r = pool_open(devs[0], flags & VD_ATTACH_RDONLY ? POOL_RDONLY : 0, &client_ops, s, &s->pool,
                      err);
    if (r < 0) {
        store_free(s);
        return r;
    }
    *ret = &s->store;
    return 0;
}

int vd_store_detach(struct vd_store *st, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    int r = pool_close(s->pool, err);
    store_free(s);
    return r;
}

void vd_store_abandon(struct vd_store *st)
{
    struct snap_store *s = store_of(st);
    pool_abandon(s->pool);
    store_free(s);
}

/* ---- without a store ---- */

int vd_pool_format(struct vd_dev *const *devs, int n, const struct vd_format_options *opt,
                   bool *ret_no_reserve, struct vd_error *err)
{
    if (n != 1)
        return vd_fail(err, -EPROTONOSUPPORT, "unsupported-feature",
                       "a pool has one device in this version, not %d", n);
    struct pool_format_options o = {
        .name = opt->name ? opt->name : "",
        .capacity = opt->capacity,
        .size_hint = opt->size_hint,
        .chunk_size = opt->chunk_size,
    };
    int r = pool_format(devs[0], &o, err);
    if (r == 0 && ret_no_reserve) {
        struct vd_dev_info info;
        vd_dev_info(devs[0], &info);
        *ret_no_reserve = !info.can_allocate;
    }
    return r;
}

int vd_pool_identify(struct vd_dev *dev, struct vd_identity *ret, struct vd_error *err)
{
    struct vd_label *l = malloc(sizeof(*l));
    int r = l ? pool_read_label(dev, l, err) : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    if (r == 0) {
        *ret = (struct vd_identity){
            .pool_uuid = l->pool_uuid,
            .dev_uuid = l->dev_uuid,
            .dev_index = l->dev_index,
            .dev_count = l->dev_count,
        };
        memcpy(ret->pool_name, l->pool_name, sizeof(ret->pool_name));
        ret->pool_name[VD_NAME_MAX] = 0;
    }
    free(l);
    return r;
}
