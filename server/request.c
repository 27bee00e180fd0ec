/* SPDX-License-Identifier: MIT */
/*
 * The table of commands and the access to their arguments. Every request, from this process or from
 * the socket, comes through vd_call_run. Yields as its handlers do.
 */
#include "server/request_priv.h"

#include "core/base/text.h"

#include <stdio.h>
#include <unistd.h>

static const struct command {
    const char *name;
    unsigned flags;
    request_fn *fn;
} commands[] = {
    {"describe", VD_COMMAND_OWNER, request_describe},
    {"volume-create", VD_COMMAND_WRITES, request_volume_create},
    {"volume-delete", VD_COMMAND_WRITES, request_volume_delete},
    {"volume-rename", VD_COMMAND_WRITES, request_volume_rename},
    {"volume-resize", VD_COMMAND_WRITES, request_volume_resize},
    {"volume-set", VD_COMMAND_WRITES, request_volume_set},
    {"volume-get", 0, request_volume_get},
    {"snapshot-create", VD_COMMAND_WRITES, request_snapshot_create},
    {"snapshot-delete", VD_COMMAND_WRITES, request_snapshot_delete},
    {"snapshot-rename", VD_COMMAND_WRITES, request_snapshot_rename},
    {"snapshot-hold", VD_COMMAND_WRITES, request_snapshot_hold},
    {"rollback", VD_COMMAND_WRITES, request_rollback},
    {"clone", VD_COMMAND_WRITES, request_clone},
    {"diff", VD_COMMAND_JOB, request_diff},
    {"check", VD_COMMAND_JOB, request_check},
    {"import", VD_COMMAND_WRITES | VD_COMMAND_JOB, request_import},
    {"export", VD_COMMAND_JOB, request_export},
    {"stats", VD_COMMAND_OWNER, request_stats},
    {"door-list", VD_COMMAND_OWNER, request_door_list},
    {"door-add", VD_COMMAND_OWNER, request_door_add},
    {"door-remove", VD_COMMAND_OWNER, request_door_remove},
    {"job-list", VD_COMMAND_OWNER, request_job_list},
    {"job-wait", VD_COMMAND_OWNER, request_job_wait},
    {"job-cancel", VD_COMMAND_WRITES | VD_COMMAND_OWNER, request_job_cancel},
    {"job-resume", VD_COMMAND_WRITES | VD_COMMAND_JOB, request_job_resume},
};

static const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < VD_ARRAY_SIZE(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

int vd_command_flags(const char *command)
{
    const struct command *c = command_find(command);
    return c ? (int)c->flags : -ENOENT;
}

int vd_call_run(struct vd_call *call, const char *command, json_t **ret, struct vd_error *err)
{
    const struct command *c = command_find(command);
    json_t *result = NULL;
    int r;
    if (!c)
        r = vd_fail(err, -EOPNOTSUPP, "command-unknown",
                    "the owner of the pool does not know the command \"%.60s\": it may be an older "
                    "vdisk",
                    command);
    else if (call->owner->read_only && (c->flags & VD_COMMAND_WRITES) &&
             !(c->flags & VD_COMMAND_OWNER))
        r = vd_fail(err, -EROFS, "read-only", "the pool is open read-only");
    else
        r = c->fn(call, &result, err);
    for (int i = 0; i < call->nfds; i++) {
        int fd = request_take_fd(call, i);
        if (fd >= 0)
            close(fd);
    }
    if (r < 0) {
        json_decref(result);
        if (err && err->code == 0)
            vd_fail(err, r, "failed", "%s: %s", command, strerror(-r));
        return r;
    }
    if (!result)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    if (c->flags & VD_COMMAND_WRITES)
        settle_kick(call->owner);
    *ret = result;
    return 0;
}

void vd_call_cancel(struct vd_call *call)
{
    call->cancelled = true;
    if (call->wake)
        vd_wake_all(call->wake);
}

int request_take_fd(struct vd_call *call, int i)
{
    if (i >= call->nfds)
        return -1;
    int fd = call->fds[i];
    call->fds[i] = -1;
    return fd;
}

int request_bad(struct vd_error *err, const char *what)
{
    return vd_fail(err, -EINVAL, "bad-request", "the request's \"%s\" is missing or wrong", what);
}

const char *request_str(struct vd_call *call, const char *key)
{
    return json_string_value(json_object_get(call->args, key));
}

int request_need_str(struct vd_call *call, const char *key, const char **ret, struct vd_error *err)
{
    const char *s = request_str(call, key);
    if (!s)
        return request_bad(err, key);
    *ret = s;
    return 0;
}

int request_need_u64(struct vd_call *call, const char *key, uint64_t *ret, struct vd_error *err)
{
    json_t *v = json_object_get(call->args, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return request_bad(err, key);
    *ret = (uint64_t)json_integer_value(v);
    return 0;
}

bool request_flag(struct vd_call *call, const char *key)
{
    return json_is_true(json_object_get(call->args, key));
}

struct only {
    char name[VD_NAME_MAX + 1];
    unsigned n;
};

static int only_volume(void *arg, const struct vd_volume_info *info)
{
    struct only *o = arg;
    if (o->n++ == 0)
        memcpy(o->name, info->name, sizeof(o->name));
    return 0;
}

static int copy_name(const char *what, const char *name, char *to, struct vd_error *err)
{
    if (!vd_name_valid(name))
        return vd_fail(err, -EINVAL, "name-invalid", "\"%.127s\" is no %s name", name, what);
    memcpy(to, name, strlen(name) + 1);
    return 0;
}

int request_target(struct vd_call *call, json_t *obj, enum target_need need,
                   struct request_target *ret, struct vd_error *err)
{
    const char *volume = json_string_value(json_object_get(obj, "volume"));
    const char *snapshot = json_string_value(json_object_get(obj, "snapshot"));
    int r = 0;
    memset(ret, 0, sizeof(*ret));
    if (snapshot && need == TARGET_VOLUME)
        return vd_fail(err, -EINVAL, "target-invalid",
                       "\"@%.127s\" names a snapshot where a volume is wanted: leave it out",
                       snapshot);
    if (!snapshot && need == TARGET_SNAPSHOT)
        return vd_fail(err, -EINVAL, "target-invalid",
                       "a snapshot is wanted: add @SNAPSHOT to the target");
    if (volume) {
        r = copy_name("volume", volume, ret->volume, err);
    } else {
        struct only only = {.n = 0};
        r = vd_store_volumes(call->owner->store, only_volume, &only);
        if (r < 0)
            return vd_fail(err, r, "pool-failed", "cannot list the volumes: %s", strerror(-r));
        if (only.n == 0)
            return vd_fail(err, -ENOENT, "volume-not-found", "the pool has no volume");
        if (only.n > 1)
            return vd_fail(err, -EINVAL, "volume-ambiguous",
                           "the pool has %u volumes: say which one, as POOL:VOLUME", only.n);
        memcpy(ret->volume, only.name, sizeof(ret->volume));
    }
    if (r == 0 && snapshot)
        r = copy_name("snapshot", snapshot, ret->snapshot, err);
    if (r < 0)
        return r;
    ret->t.volume = ret->volume;
    ret->t.snapshot = snapshot ? ret->snapshot : NULL;
    return 0;
}

int request_own_target(struct vd_call *call, enum target_need need, struct request_target *ret,
                       struct vd_error *err)
{
    return request_target(call, call->args, need, ret, err);
}

const char *request_target_text(const struct request_target *t, char *buf, size_t len)
{
    snprintf(buf, len, "%s%s%s", t->volume, t->t.snapshot ? "@" : "", t->snapshot);
    return buf;
}
