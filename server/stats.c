/* SPDX-License-Identifier: MIT */
/*
 * Gathering what an owner does, and the request that tells a client. Counts are since the owner
 * began, or the volume was first opened: whoever wants rates asks twice. Yields in the store.
 */
#include "server/stats_priv.h"

#include "server/request_priv.h"

#include <stdlib.h>
#include <unistd.h>

static int add_volume(void *arg, const struct vd_volume_info *info)
{
    struct stats *s = arg;
    if (s->n == s->room) {
        size_t room = s->room ? 2 * s->room : 8;
        struct stats_volume *v = realloc(s->volumes, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        s->volumes = v;
        s->room = room;
    }
    struct stats_volume *v = &s->volumes[s->n++];
    *v = (struct stats_volume){
        .uuid = info->uuid, .size = info->size, .referenced = info->referenced};
    memcpy(v->name, info->name, sizeof(v->name));
    return 0;
}

int stats_gather(struct vd_owner *o, struct stats *ret)
{
    *ret = (struct stats){.owner = o};
    int r = vd_store_volumes(o->store, add_volume, ret);
    if (r == 0)
        r = vd_store_info(o->store, &ret->pool);
    for (size_t i = 0; i < ret->n; i++)
        ret->volumes[i].meter = vd_gates_meter(o->gates, &ret->volumes[i].uuid);
    return r;
}

void stats_done(struct stats *s)
{
    free(s->volumes);
    s->volumes = NULL;
}

/* ---- as JSON ---- */

/* {"requests", "bytes", "errors", "sum_ns", "latency": [[bucket, count], ...]}: buckets are those
 * of core/block/histogram.h, and only those with something in them. */
static json_t *counts_json(const struct vd_meter_counts *c)
{
    json_t *buckets = json_array();
    for (unsigned i = 0; i < VD_HISTOGRAM_BUCKETS; i++)
        if (c->latency.n[i])
            json_array_append_new(buckets,
                                  json_pack("[i, I]", (int)i, (json_int_t)c->latency.n[i]));
    return json_pack("{s:I, s:I, s:I, s:I, s:o}", "requests", (json_int_t)c->requests, "bytes",
                     (json_int_t)c->bytes, "errors", (json_int_t)c->errors, "sum_ns",
                     (json_int_t)c->latency.sum_ns, "latency", buckets);
}

static json_t *volume_stats_json(const struct stats_volume *v)
{
    json_t *o = json_pack("{s:s, s:I}", "name", v->name, "size", (json_int_t)v->size);
    if (!v->meter)
        return o;
    for (int k = 0; k < VD_METER_KINDS; k++)
        json_object_set_new(o, vd_meter_kind_names[k], counts_json(&v->meter->kinds[k]));
    json_object_set_new(o, "in_flight", json_integer((json_int_t)v->meter->in_flight));
    json_object_set_new(o, "held_ns", json_integer((json_int_t)v->meter->held_ns));
    const struct vd_limits *limits = &v->meter->limit.limits;
    json_object_set_new(o, "limit_iops", json_integer((json_int_t)limits->iops));
    json_object_set_new(o, "limit_bandwidth", json_integer((json_int_t)limits->bandwidth));
    return o;
}

/* {}: only of an owner that stays. Counts grow; "time_ns" is the clock that goes with them. */
int request_stats(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct vd_owner *o = call->owner;
    struct stats s;
    if (!o->serving)
        return vd_fail(err, -ENOENT, "not-served",
                       "%s is not being served: there is nothing to see", o->path);
    int r = stats_gather(o, &s);
    if (r < 0) {
        stats_done(&s);
        return r;
    }
    json_t *volumes = json_array();
    for (size_t i = 0; i < s.n; i++)
        json_array_append_new(volumes, volume_stats_json(&s.volumes[i]));
    const struct vd_store_info *p = &s.pool;
    *ret = json_pack(
        "{s:I, s:o, s:s, s:i, s:i, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I, "
        "s:I, s:I, s:s}, s:o}",
        "time_ns", (json_int_t)vd_loop_now_ns(o->loop), "path", vd_wire_text(o->full_path), "name",
        o->pool_name, "pid", (int)getpid(), "clients", (int)vd_doors_count(o), "pool", "capacity",
        (json_int_t)p->capacity, "allocated", (json_int_t)p->allocated, "log",
        (json_int_t)p->log_bytes, "backlog", (json_int_t)vd_store_backlog(o->store), "segments",
        (json_int_t)p->segments, "segments_free", (json_int_t)p->segments_free, "segments_cleaned",
        (json_int_t)p->segments_cleaned, "checkpoints", (json_int_t)p->checkpoints, "cleaning",
        p->cleaning, "written", (json_int_t)p->written, "device_written",
        (json_int_t)p->device_written, "cache_bytes", (json_int_t)p->cache_bytes, "cache_hits",
        (json_int_t)p->cache_hits, "cache_misses", (json_int_t)p->cache_misses, "failed", p->failed,
        "volumes", volumes);
    stats_done(&s);
    return 0;
}
