/* SPDX-License-Identifier: MIT */
/*
 * Gates: one struct vd_store for each door, over the one of the pool.
 *
 * Invariants:
 *  1. Two handles that may write one volume and came through different gates exist only where that
 *     is allowed. Looking and entering the new one do not yield in between.
 *  2. A volume has one meter, known by the volume's UUID, from its first opening until the volume
 * is deleted; snapshots count for their volume.
 *
 * Called by doors and requests on the store's loop; yields as the store below does.
 */
#include "core/block/gate.h"

#include <stdlib.h>

struct vd_gates {
    struct vd_store *below;
    void (*changed)(void *arg);
    void *arg;
    bool shared, lifted;
    struct vd_list meters;
};

struct vd_gate {
    struct vd_store store;
    struct vd_gates *all;
    char *name; /* NULL = the owner's */
};

static struct vd_gate *gate_of(struct vd_store *s)
{
    return vd_container_of(s, struct vd_gate, store);
}

static struct vd_store *below(struct vd_store *s)
{
    return gate_of(s)->all->below;
}

static struct vd_meter *meter_of(struct vd_list *link)
{
    return vd_container_of(link, struct vd_meter, link);
}

static struct vd_meter_use *use_of(struct vd_list *link)
{
    return vd_container_of(link, struct vd_meter_use, link);
}

/* ---- meters ---- */

static struct vd_meter *meter_find(const struct vd_gates *g, const struct vd_uuid *volume)
{
    vd_list_each (it, &g->meters)
        if (vd_uuid_equal(&meter_of(it)->volume, volume))
            return meter_of(it);
    return NULL;
}

static int limits_add(void *arg, const char *prop, const char *value)
{
    (void)vd_limits_property(arg, prop, value, NULL);
    return 0;
}

/* Brings the limits of a volume that somebody has opened up to date. VD_YIELDS */
static int limits_load(struct vd_gates *g, const char *volume)
{
    struct vd_limits limits = {.burst_ns = VD_LIMIT_BURST_NS};
    struct vd_volume_info info;
    int r = vd_store_volume(g->below, volume, &info, NULL);
    if (r == 0)
        r = vd_store_props(g->below, volume, limits_add, &limits, NULL);
    struct vd_meter *m = r == 0 ? meter_find(g, &info.uuid) : NULL;
    if (m)
        vd_limit_set(&m->limit, &limits);
    return r;
}

/* *ret_new: its limits are not loaded yet. */
static struct vd_meter *meter_get(struct vd_gates *g, const struct vd_uuid *volume, bool *ret_new)
{
    struct vd_meter *m = meter_find(g, volume);
    *ret_new = !m;
    if (m || !(m = vd_meter_new(volume)))
        return m;
    if (g->lifted)
        vd_limit_lift(&m->limit);
    vd_list_push(&g->meters, &m->link);
    return m;
}

/* ---- opening ---- */

/* Another gate through which the volume may be written; NULL = none. */
static const struct vd_gate *other_writer(const struct vd_meter *m, const struct vd_gate *gate)
{
    vd_list_each (it, &m->uses)
        if (use_of(it)->writable && use_of(it)->door != gate)
            return use_of(it)->door;
    return NULL;
}

static int meter_disk(struct vd_gate *gate, struct vd_target t, const struct vd_uuid *volume,
                      struct vd_disk *d, bool writable, struct vd_error *err)
{
    struct vd_gates *g = gate->all;
    bool fresh;
    struct vd_meter *m = meter_get(g, volume, &fresh);
    const struct vd_gate *other = m && writable && !g->shared ? other_writer(m, gate) : NULL;
    if (other)
        return vd_fail(err, -EBUSY, "volume-in-use",
                       "volume \"%s\" is being written through the door %s: close that, open this "
                       "read-only, or serve the pool with --shared",
                       t.volume, other->name);
    d->use = m ? vd_meter_use_new(m, gate, writable) : NULL;
    if (!d->use)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    return fresh ? limits_load(g, t.volume) : 0;
}

static int gate_open(struct vd_store *s, struct vd_target t, bool read_only, struct vd_disk **ret,
                     struct vd_error *err)
{
    struct vd_gate *gate = gate_of(s);
    struct vd_volume_info volume;
    struct vd_disk_info info;
    struct vd_disk *d;
    if (!gate->name)
        return vd_store_open(below(s), t, read_only, ret, err);
    int r = vd_store_volume(below(s), t.volume, &volume, err);
    if (r == 0)
        r = vd_store_open(below(s), t, read_only, &d, err);
    if (r < 0)
        return r;
    vd_disk_info(d, &info);
    if (!t.snapshot)
        volume.uuid = info.uuid; /* what was opened, if another took the name meanwhile */
    r = meter_disk(gate, t, &volume.uuid, d, !info.read_only, err);
    if (r < 0) {
        vd_disk_unref(d);
        return r;
    }
    *ret = d;
    return 0;
}

/* ---- passing on ---- */

static int changed(struct vd_store *s, int r)
{
    struct vd_gates *g = gate_of(s)->all;
    if (r == 0 && g->changed)
        g->changed(g->arg);
    return r;
}

static int gate_info(struct vd_store *s, struct vd_store_info *ret)
{
    return vd_store_info(below(s), ret);
}

static int gate_volumes(struct vd_store *s, vd_volume_fn *fn, void *arg)
{
    return vd_store_volumes(below(s), fn, arg);
}

static int gate_volume(struct vd_store *s, const char *name, struct vd_volume_info *ret,
                       struct vd_error *err)
{
    return vd_store_volume(below(s), name, ret, err);
}

static int gate_snapshots(struct vd_store *s, const char *volume, vd_snapshot_fn *fn, void *arg)
{
    return vd_store_snapshots(below(s), volume, fn, arg);
}

static int gate_volume_create(struct vd_store *s, const char *name, uint64_t size,
                              struct vd_error *err)
{
    return changed(s, vd_store_volume_create(below(s), name, size, err));
}

static int gate_volume_delete(struct vd_store *s, const char *name, bool recursive,
                              struct vd_error *err)
{
    struct vd_volume_info info;
    int r = vd_store_volume(below(s), name, &info, err);
    if (r == 0)
        r = vd_store_volume_delete(below(s), name, recursive, err);
    struct vd_meter *m = r == 0 ? meter_find(gate_of(s)->all, &info.uuid) : NULL;
    if (m && vd_list_empty(&m->uses))
        vd_meter_free(m);
    return changed(s, r);
}

static int gate_volume_rename(struct vd_store *s, const char *name, const char *to,
                              struct vd_error *err)
{
    return changed(s, vd_store_volume_rename(below(s), name, to, err));
}

static int gate_volume_resize(struct vd_store *s, const char *name, uint64_t size, bool shrink,
                              struct vd_error *err)
{
    return vd_store_volume_resize(below(s), name, size, shrink, err);
}

static int gate_prop_set(struct vd_store *s, const char *volume, const char *prop,
                         const char *value, struct vd_error *err)
{
    int r = vd_store_prop_set(below(s), volume, prop, value, err);
    if (r == 0 && vd_limits_property(NULL, prop, NULL, NULL) == 0)
        (void)limits_load(gate_of(s)->all, volume);
    return r;
}

static int gate_props(struct vd_store *s, const char *volume, vd_prop_fn *fn, void *arg,
                      struct vd_error *err)
{
    return vd_store_props(below(s), volume, fn, arg, err);
}

static int gate_snapshot_create(struct vd_store *s, const struct vd_target *t, int n,
                                struct vd_error *err)
{
    return vd_store_snapshot_create(below(s), t, n, err);
}

static int gate_snapshot_delete(struct vd_store *s, const struct vd_target *t, int n,
                                struct vd_error *err)
{
    return vd_store_snapshot_delete(below(s), t, n, err);
}

static int gate_snapshot_rename(struct vd_store *s, struct vd_target t, const char *to,
                                struct vd_error *err)
{
    return vd_store_snapshot_rename(below(s), t, to, err);
}

static int gate_snapshot_hold(struct vd_store *s, struct vd_target t, const char *tag, bool release,
                              struct vd_error *err)
{
    return vd_store_snapshot_hold(below(s), t, tag, release, err);
}

static int gate_rollback(struct vd_store *s, struct vd_target t, bool discard, bool force,
                         char *ret_kept, struct vd_error *err)
{
    return vd_store_rollback(below(s), t, discard, force, ret_kept, err);
}

static int gate_clone(struct vd_store *s, struct vd_target t, const char *name,
                      struct vd_error *err)
{
    return changed(s, vd_store_clone(below(s), t, name, err));
}

static int gate_diff(struct vd_store *s, struct vd_target from, struct vd_target to, uint64_t off,
                     uint64_t len, vd_diff_fn *fn, void *arg, struct vd_error *err)
{
    return vd_store_diff_part(below(s), from, to, off, len, fn, arg, err);
}

static int gate_flush(struct vd_store *s)
{
    return vd_store_flush(below(s));
}

static int gate_settle(struct vd_store *s, const bool *cancel)
{
    return vd_store_settle(below(s), cancel);
}

static uint64_t gate_backlog(struct vd_store *s)
{
    return vd_store_backlog(below(s));
}

static void gate_trim(struct vd_store *s)
{
    vd_store_trim(below(s));
}

static const struct vd_store_ops gate_ops = {
    .info = gate_info,
    .volumes = gate_volumes,
    .volume = gate_volume,
    .snapshots = gate_snapshots,
    .open = gate_open,
    .volume_create = gate_volume_create,
    .volume_delete = gate_volume_delete,
    .volume_rename = gate_volume_rename,
    .volume_resize = gate_volume_resize,
    .prop_set = gate_prop_set,
    .props = gate_props,
    .snapshot_create = gate_snapshot_create,
    .snapshot_delete = gate_snapshot_delete,
    .snapshot_rename = gate_snapshot_rename,
    .snapshot_hold = gate_snapshot_hold,
    .rollback = gate_rollback,
    .clone = gate_clone,
    .diff = gate_diff,
    .flush = gate_flush,
    .settle = gate_settle,
    .backlog = gate_backlog,
    .trim = gate_trim,
};

/* ---- life ---- */

int vd_gates_new(struct vd_store *store, void (*fn)(void *arg), void *arg, struct vd_gates **ret)
{
    struct vd_gates *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    g->below = store;
    g->changed = fn;
    g->arg = arg;
    vd_list_init(&g->meters);
    *ret = g;
    return 0;
}

void vd_gates_free(struct vd_gates *g)
{
    if (!g)
        return;
    while (!vd_list_empty(&g->meters))
        vd_meter_free(meter_of(g->meters.next));
    free(g);
}

void vd_gates_share(struct vd_gates *g, bool shared)
{
    g->shared = shared;
}

bool vd_gates_shared(const struct vd_gates *g)
{
    return g->shared;
}

void vd_gates_lift(struct vd_gates *g)
{
    g->lifted = true;
    vd_list_each (it, &g->meters)
        vd_limit_lift(&meter_of(it)->limit);
}

const struct vd_meter *vd_gates_meter(const struct vd_gates *g, const struct vd_uuid *volume)
{
    return meter_find(g, volume);
}

uint64_t vd_gates_requests(const struct vd_gates *g)
{
    uint64_t n = 0;
    vd_list_each (it, &g->meters)
        for (int k = 0; k < VD_METER_KINDS; k++)
            n += meter_of(it)->kinds[k].requests;
    return n;
}

int vd_gate_new(struct vd_gates *g, const char *name, struct vd_gate **ret)
{
    struct vd_gate *gate = calloc(1, sizeof(*gate));
    if (!gate)
        return -ENOMEM;
    gate->store.ops = &gate_ops;
    gate->all = g;
    int r = name ? vd_gate_rename(gate, name) : 0;
    if (r < 0) {
        free(gate);
        return r;
    }
    *ret = gate;
    return 0;
}

void vd_gate_free(struct vd_gate *gate)
{
    if (!gate)
        return;
    free(gate->name);
    free(gate);
}

struct vd_store *vd_gate_store(struct vd_gate *gate)
{
    return &gate->store;
}

int vd_gate_rename(struct vd_gate *gate, const char *name)
{
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    free(gate->name);
    gate->name = copy;
    return 0;
}

void vd_gate_release(struct vd_gate *gate)
{
    vd_list_each (it, &gate->all->meters)
        vd_list_each (u, &meter_of(it)->uses)
            if (use_of(u)->door == gate)
                vd_limit_release(&meter_of(it)->limit, &use_of(u)->limit);
}
