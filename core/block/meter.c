/* SPDX-License-Identifier: MIT */
/*
 * Meters of volumes. Two looks at the clock per request, a third only where it had to wait for a
 * limit. Called by disk.c on the disk's loop; vd_meter_begin yields, where there is a limit.
 */
#include "core/block/meter.h"

#include <stdlib.h>

const char *const vd_meter_kind_names[VD_METER_KINDS] = {"read", "write", "zero", "discard",
                                                         "flush"};

struct vd_meter *vd_meter_new(const struct vd_uuid *volume)
{
    struct vd_meter *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->volume = *volume;
    vd_limit_init(&m->limit);
    vd_list_init(&m->link);
    vd_list_init(&m->uses);
    return m;
}

void vd_meter_free(struct vd_meter *m)
{
    if (!m)
        return;
    assert(vd_list_empty(&m->uses));
    vd_list_remove(&m->link);
    free(m);
}

struct vd_meter_use *vd_meter_use_new(struct vd_meter *m, const void *door, bool writable)
{
    struct vd_meter_use *u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    u->meter = m;
    u->door = door;
    u->writable = writable;
    vd_limit_user_init(&u->limit);
    vd_list_push(&m->uses, &u->link);
    return u;
}

void vd_meter_use_free(struct vd_meter_use *u)
{
    if (!u)
        return;
    vd_list_remove(&u->link);
    free(u);
}

uint64_t vd_meter_begin(struct vd_meter_use *u, enum vd_meter_kind kind, uint64_t len)
{
    struct vd_loop *loop = vd_loop_current();
    struct vd_meter *m = u->meter;
    uint64_t began = vd_loop_now_ns(loop);
    m->in_flight++;
    if (m->limit.on && kind != VD_METER_FLUSH) {
        /* Zeroing and discarding move no data: they count as requests only. */
        bool data = kind == VD_METER_READ || kind == VD_METER_WRITE;
        vd_limit_take(&m->limit, &u->limit, data ? len : 0);
        m->held_ns += vd_loop_now_ns(loop) - began;
    }
    return began;
}

void vd_meter_end(struct vd_meter_use *u, enum vd_meter_kind kind, uint64_t len, uint64_t began_ns,
                  int r)
{
    struct vd_meter_counts *c = &u->meter->kinds[kind];
    u->meter->in_flight--;
    c->requests++;
    if (r < 0)
        c->errors++;
    else
        c->bytes += len;
    vd_histogram_add(&c->latency, vd_loop_now_ns(vd_loop_current()) - began_ns);
}
