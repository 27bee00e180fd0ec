/* SPDX-License-Identifier: MIT */
/*
 * Requests about volumes and about the pool as a whole. Each is one operation of the store plus its
 * answer; the store verifies and makes it durable. Yields.
 */
#include "server/request_priv.h"

#include <stdio.h>

static void set_name(json_t *o, const char *key, const char *name)
{
    if (*name)
        json_object_set_new(o, key, json_string(name));
}

json_t *volume_json(const struct vd_volume_info *v)
{
    char uuid[VD_UUID_TEXT];
    vd_uuid_format(&v->uuid, uuid);
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:I, s:b, s:i, s:i, s:i, s:i, s:I, s:I}", "name", v->name,
                  "uuid", uuid, "size", (json_int_t)v->size, "created", (json_int_t)v->created_s,
                  "read_only", v->read_only, "snapshots", (int)v->snapshots, "opens", (int)v->opens,
                  "opens_writable", (int)v->opens_rw, "depth", (int)v->depth, "referenced",
                  (json_int_t)v->referenced, "exclusive", (json_int_t)v->exclusive);
    set_name(o, "origin_volume", v->origin_volume);
    set_name(o, "origin_snapshot", v->origin_snapshot);
    return o;
}

json_t *snapshot_json(const struct vd_snapshot_info *s)
{
    char uuid[VD_UUID_TEXT];
    vd_uuid_format(&s->uuid, uuid);
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:b}", "volume", s->volume,
                     "name", s->name, "uuid", uuid, "size", (json_int_t)s->size, "epoch",
                     (json_int_t)s->epoch, "created", (json_int_t)s->created_s, "exclusive",
                     (json_int_t)s->exclusive, "clones", (int)s->clones, "holds", (int)s->holds,
                     "automatic", s->automatic);
}

static json_t *pool_json(struct vd_owner *o, const struct vd_store_info *p)
{
    char uuid[VD_UUID_TEXT];
    vd_uuid_format(&p->uuid, uuid);
    json_t *v = json_pack(
        "{s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:I, s:b, "
        "s:I}",
        "name", p->name, "uuid", uuid, "path", vd_wire_text(o->full_path), "created",
        (json_int_t)p->created_s, "capacity", (json_int_t)p->capacity, "allocated",
        (json_int_t)p->allocated, "live", (json_int_t)p->live, "metadata", (json_int_t)p->metadata,
        "log", (json_int_t)p->log_bytes, "reserved", (json_int_t)p->reserved, "volumes",
        (int)p->volumes, "snapshots", (int)p->snapshots, "devices", (int)p->devices, "format_major",
        (int)p->format_major, "format_minor", (int)p->format_minor, "chunk_size",
        (json_int_t)p->chunk_size, "read_only", p->read_only, "backlog",
        (json_int_t)vd_store_backlog(o->store));
    if (*p->failed)
        json_object_set_new(v, "failed", vd_wire_text(p->failed));
    return v;
}

static int add_volume(void *arg, const struct vd_volume_info *info)
{
    return json_array_append_new(arg, volume_json(info)) < 0 ? -ENOMEM : 0;
}

struct snapshot_list {
    json_t *list;
    const char *only; /* NULL = all */
};

static int add_snapshot(void *arg, const struct vd_snapshot_info *info)
{
    struct snapshot_list *l = arg;
    if (l->only && strcmp(l->only, info->name) != 0)
        return 0;
    return json_array_append_new(l->list, snapshot_json(info)) < 0 ? -ENOMEM : 0;
}

static int add_property(void *arg, const char *prop, const char *value)
{
    return json_object_set_new(arg, prop, json_string(value)) < 0 ? -ENOMEM : 0;
}

/* {"volume"?, "snapshot"?, "resolve"?: bool}: the pool, its volumes (or the one named, with its
 * properties) and their snapshots, doors, and who owns it. With "resolve" a volume left out is the
 * only one. */
int request_describe(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct vd_owner *o = call->owner;
    struct vd_store_info info;
    bool one = request_str(call, "volume") || request_str(call, "snapshot") ||
               request_flag(call, "resolve");
    struct request_target t;
    int r = vd_store_info(o->store, &info);
    if (r < 0)
        return r;
    if (one) {
        r = request_own_target(call, TARGET_EITHER, &t, err);
        if (r < 0)
            return r;
    }
    json_t *volumes = json_array(), *snapshots = json_array(), *props = NULL;
    if (one) {
        struct vd_volume_info v;
        r = vd_store_volume(o->store, t.volume, &v, err);
        if (r == 0)
            r = add_volume(volumes, &v);
        props = json_object();
        if (r == 0)
            r = vd_store_props(o->store, t.volume, add_property, props, err);
    } else {
        r = vd_store_volumes(o->store, add_volume, volumes);
    }
    struct snapshot_list list = {snapshots, one ? t.t.snapshot : NULL};
    if (r == 0)
        r = vd_store_snapshots(o->store, one ? t.volume : NULL, add_snapshot, &list);
    if (r == 0 && one && t.t.snapshot && json_array_size(snapshots) == 0)
        r = vd_fail(err, -ENOENT, "snapshot-not-found", "%s has no snapshot %s", t.volume,
                    t.snapshot);
    if (r == 0)
        *ret = json_pack("{s:o, s:O, s:O, s:o, s:{s:s, s:b}}", "pool", pool_json(o, &info),
                         "volumes", volumes, "snapshots", snapshots, "doors", vd_doors_json(o),
                         "owner", "name", o->name, "serving", o->serving);
    if (r == 0 && props)
        json_object_set(*ret, "properties", props);
    json_decref(props);
    json_decref(volumes);
    json_decref(snapshots);
    return r;
}

/* The volume as it is now: the answer of what changes one. */
static int answer_volume(struct vd_call *call, const char *name, json_t **ret, struct vd_error *err)
{
    struct vd_volume_info info;
    int r = vd_store_volume(call->owner->store, name, &info, err);
    if (r == 0)
        *ret = json_pack("{s:o}", "volume", volume_json(&info));
    return r;
}

/* Says in a "volume is busy" error who is connected. */
static void name_clients(struct vd_call *call, const char *volume, bool can_force, int r,
                         struct vd_error *err)
{
    char clients[200];
    unsigned n = r == -EBUSY ? vd_doors_clients(call->owner, volume, clients, sizeof(clients)) : 0;
    if (n)
        vd_fail(err, r, "volume-busy", "volume \"%s\" is in use by %s: disconnect %s first%s",
                volume, clients, n == 1 ? "that client" : "those clients",
                can_force ? ", or say --force" : "");
}

/* {"volume", "size"} */
int request_volume_create(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    const char *name;
    uint64_t size;
    int r = request_need_str(call, "volume", &name, err);
    if (r == 0)
        r = request_need_u64(call, "size", &size, err);
    if (r == 0)
        r = vd_store_volume_create(call->owner->store, name, size, err);
    return r < 0 ? r : answer_volume(call, name, ret, err);
}

/* {"volume", "recursive"}. The name may not be left out: nothing is deleted by default. */
int request_volume_delete(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    const char *name;
    int r = request_need_str(call, "volume", &name, err);
    if (r < 0)
        return r;
    r = vd_store_volume_delete(call->owner->store, name, request_flag(call, "recursive"), err);
    if (r < 0) {
        name_clients(call, name, false, r, err);
        return r;
    }
    *ret = json_pack("{s:s}", "deleted", name);
    return 0;
}

/* {"volume"?, "to"} */
int request_volume_rename(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    const char *to;
    struct request_target t;
    int r = request_need_str(call, "to", &to, err);
    if (r == 0)
        r = request_own_target(call, TARGET_VOLUME, &t, err);
    if (r == 0)
        r = vd_store_volume_rename(call->owner->store, t.volume, to, err);
    return r < 0 ? r : answer_volume(call, to, ret, err);
}

/* {"volume"?, "size", "shrink"} */
int request_volume_resize(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    uint64_t size;
    struct request_target t;
    int r = request_need_u64(call, "size", &size, err);
    if (r == 0)
        r = request_own_target(call, TARGET_VOLUME, &t, err);
    if (r == 0)
        r = vd_store_volume_resize(call->owner->store, t.volume, size, request_flag(call, "shrink"),
                                   err);
    return r < 0 ? r : answer_volume(call, t.volume, ret, err);
}

static int get_properties(struct vd_call *call, const char *volume, json_t **ret,
                          struct vd_error *err)
{
    json_t *props = json_object();
    int r = vd_store_props(call->owner->store, volume, add_property, props, err);
    if (r == 0)
        *ret = json_pack("{s:s, s:O}", "volume", volume, "properties", props);
    json_decref(props);
    return r;
}

/* {"volume"?, "properties": {NAME: TEXT or null}} */
int request_volume_set(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    json_t *props = json_object_get(call->args, "properties"), *value;
    const char *name;
    struct request_target t;
    int r = request_own_target(call, TARGET_VOLUME, &t, err);
    if (r < 0)
        return r;
    if (!json_is_object(props))
        return request_bad(err, "properties");
    json_object_foreach (props, name, value) {
        if (!json_is_string(value) && !json_is_null(value))
            return request_bad(err, name);
        r = vd_store_prop_set(call->owner->store, t.volume, name, json_string_value(value), err);
        if (r < 0) {
            name_clients(call, t.volume, false, r, err);
            return r;
        }
    }
    return get_properties(call, t.volume, ret, err);
}

/* {"volume"?} */
int request_volume_get(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct request_target t;
    int r = request_own_target(call, TARGET_VOLUME, &t, err);
    return r < 0 ? r : get_properties(call, t.volume, ret, err);
}

/* {"volume"?, "snapshot", "discard", "force"} */
int request_rollback(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct request_target t;
    char kept[VD_NAME_MAX + 1] = "";
    int r = request_own_target(call, TARGET_SNAPSHOT, &t, err);
    if (r < 0)
        return r;
    r = vd_store_rollback(call->owner->store, t.t, request_flag(call, "discard"),
                          request_flag(call, "force"), kept, err);
    if (r < 0) {
        name_clients(call, t.volume, true, r, err);
        return r;
    }
    *ret = json_pack("{s:s, s:s}", "volume", t.volume, "snapshot", t.snapshot);
    set_name(*ret, "kept", kept);
    return 0;
}

/* {"volume"?, "snapshot"?, "to"} */
int request_clone(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    const char *to;
    struct request_target t;
    int r = request_need_str(call, "to", &to, err);
    if (r == 0)
        r = request_own_target(call, TARGET_EITHER, &t, err);
    if (r == 0)
        r = vd_store_clone(call->owner->store, t.t, to, err);
    return r < 0 ? r : answer_volume(call, to, ret, err);
}
