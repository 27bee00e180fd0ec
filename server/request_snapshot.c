/* SPDX-License-Identifier: MIT */
/*
 * Requests about snapshots. Several targets of one request are one atomic operation of the store.
 * Yields.
 */
#include "server/request_priv.h"

#define TARGETS_MAX 1024u

struct target_list {
    struct request_target *own; /* the names */
    struct vd_target *targets;  /* what the store takes */
    int n;
};

static void targets_free(struct target_list *l)
{
    free(l->own);
    free(l->targets);
}

/* {"targets": [{"volume"?, "snapshot"}...]} */
static int targets_get(struct vd_call *call, struct target_list *ret, struct vd_error *err)
{
    json_t *list = json_object_get(call->args, "targets");
    size_t n = json_array_size(list);
    if (n == 0 || n > TARGETS_MAX)
        return request_bad(err, "targets");
    ret->own = calloc(n, sizeof(*ret->own));
    ret->targets = calloc(n, sizeof(*ret->targets));
    if (!ret->own || !ret->targets)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    for (size_t i = 0; i < n; i++) {
        int r = request_target(call, json_array_get(list, i), TARGET_SNAPSHOT, &ret->own[i], err);
        if (r < 0)
            return r;
        ret->targets[i] = ret->own[i].t;
        for (size_t j = 0; j < i; j++)
            if (strcmp(ret->own[i].volume, ret->own[j].volume) == 0 &&
                strcmp(ret->own[i].snapshot, ret->own[j].snapshot) == 0)
                return vd_fail(err, -EINVAL, "target-twice", "%s@%s is named twice",
                               ret->own[i].volume, ret->own[i].snapshot);
    }
    ret->n = (int)n;
    return 0;
}

struct finder {
    const struct target_list *targets;
    json_t *list;
};

static int add_if_named(void *arg, const struct vd_snapshot_info *info)
{
    struct finder *f = arg;
    for (int i = 0; i < f->targets->n; i++)
        if (strcmp(info->volume, f->targets->targets[i].volume) == 0 &&
            strcmp(info->name, f->targets->targets[i].snapshot) == 0)
            return json_array_append_new(f->list, snapshot_json(info)) < 0 ? -ENOMEM : 0;
    return 0;
}

int request_snapshot_create(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct target_list l = {0};
    int r = targets_get(call, &l, err);
    if (r == 0)
        r = vd_store_snapshot_create(call->owner->store, l.targets, l.n, err);
    if (r == 0) {
        struct finder f = {&l, json_array()};
        r = vd_store_snapshots(call->owner->store, l.n == 1 ? l.own[0].volume : NULL, add_if_named,
                               &f);
        *ret = json_pack("{s:o}", "snapshots", f.list);
    }
    targets_free(&l);
    return r;
}

int request_snapshot_delete(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct target_list l = {0};
    int r = targets_get(call, &l, err);
    if (r == 0)
        r = vd_store_snapshot_delete(call->owner->store, l.targets, l.n, err);
    if (r == 0) {
        json_t *list = json_array();
        for (int i = 0; i < l.n; i++)
            json_array_append_new(list, json_pack("{s:s, s:s}", "volume", l.own[i].volume, "name",
                                                  l.own[i].snapshot));
        *ret = json_pack("{s:o}", "deleted", list);
    }
    targets_free(&l);
    return r;
}

/* {"volume"?, "snapshot", "to"} */
int request_snapshot_rename(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    const char *to;
    struct request_target t;
    int r = request_need_str(call, "to", &to, err);
    if (r == 0)
        r = request_own_target(call, TARGET_SNAPSHOT, &t, err);
    if (r == 0)
        r = vd_store_snapshot_rename(call->owner->store, t.t, to, err);
    if (r == 0)
        *ret = json_pack("{s:s, s:s}", "volume", t.volume, "name", to);
    return r;
}

/* {"volume"?, "snapshot", "tag", "release"} */
int request_snapshot_hold(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    const char *tag;
    struct request_target t;
    int r = request_need_str(call, "tag", &tag, err);
    if (r == 0)
        r = request_own_target(call, TARGET_SNAPSHOT, &t, err);
    if (r == 0)
        r = vd_store_snapshot_hold(call->owner->store, t.t, tag, request_flag(call, "release"),
                                   err);
    if (r == 0)
        *ret = json_pack("{s:s, s:s, s:s}", "volume", t.volume, "name", t.snapshot, "tag", tag);
    return r;
}
