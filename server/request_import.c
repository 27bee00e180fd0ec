/* SPDX-License-Identifier: MIT */
/*
 * Imports, as jobs: from a file or pipe that the client has opened, from an NBD server, or from a
 * foreign image that the client has open (transfer_priv.h).
 *
 * 1. A volume that is being filled is called NAME.import-ID; it gets its name when it is complete
 *    and durable, so a half-made volume never looks like a whole one.
 * 2. An import that is not from a pipe goes in steps; the cursor in the volume's property is
 *    written after the step is durable, so it never promises what is not there.
 *
 * Yields.
 */
#include "core/base/text.h"
#include "server/transfer_priv.h"
#include "server/window_priv.h"

#include <stdio.h>
#include <unistd.h>

#define STEP VD_GIB(1)

static int import_mark(struct transfer *t, struct vd_error *err)
{
    if (t->stream)
        return 0;
    json_t *v =
        json_pack("{s:i, s:s, s:s, s:I, s:I, s:b, s:b}", "id", (int)t->id, "name", t->target.volume,
                  "source", t->source, "cursor", (json_int_t)t->cursor, "total",
                  (json_int_t)t->total, "overwrite", t->overwrite, "verify", t->verify);
    if (v && *t->format)
        json_object_set_new(v, "format", json_string(t->format));
    if (v && t->trust)
        json_object_set_new(v, "trust", json_true());
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    if (!text)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = vd_store_prop_set(t->job->owner->store, t->temp, IMPORT_PROPERTY, text, err);
    free(text);
    return r;
}

/* Whether the final name is, or can be made, free. */
static int import_check_name(struct vd_owner *o, struct transfer *t, struct vd_error *err)
{
    struct vd_volume_info info;
    struct vd_error why = {0};
    int r = vd_store_volume(o->store, t->target.volume, &info, &why);
    if (r == -ENOENT)
        return 0;
    if (r < 0) {
        if (err)
            *err = why;
        return r;
    }
    if (!t->overwrite)
        return vd_fail(err, -EEXIST, "volume-exists", "the volume %s exists already",
                       t->target.volume);
    if (info.snapshots)
        return vd_fail(err, -ENOTEMPTY, "volume-has-snapshots",
                       "the volume %s has %u snapshots, which --overwrite does not delete: delete "
                       "them first",
                       t->target.volume, info.snapshots);
    if (info.opens)
        return vd_fail(err, -EBUSY, "volume-busy", "the volume %s is in use", t->target.volume);
    return 0;
}

/* What is there is made durable, and then recorded. */
static int import_save(struct transfer *t, struct vd_disk *dst, struct vd_error *err)
{
    int r = vd_disk_flush(dst);
    if (r < 0)
        return vd_fail(err, r, "copy-flush", "cannot flush the volume: %s", strerror(-r));
    return t->cursor < t->total ? import_mark(t, err) : 0;
}

/* Data costs time, so it is recorded when there is a step's worth of it; going over holes again
 * costs none. */
static int import_steps(struct transfer *t, struct vd_disk *src, struct vd_disk *dst,
                        struct vd_error *err)
{
    /* A resumed one does not know how far beyond its cursor something was written. */
    struct vd_copy_options opt = {.flags =
                                      VD_COPY_NO_FLUSH | (t->resumed ? 0 : VD_COPY_TARGET_ZERO),
                                  .progress = transfer_progress,
                                  .arg = t,
                                  .cancel = &t->job->cancel};
    uint64_t fresh = 0; /* bytes of data since the last time */
    while (t->cursor < t->total) {
        struct vd_copy_stats stats = {0};
        uint64_t len = VD_MIN(STEP, t->total - t->cursor);
        struct vd_disk *from = window_new(src, t->cursor, len);
        struct vd_disk *to = window_new(dst, t->cursor, len);
        t->base = t->cursor;
        int r = from && to ? vd_copy_disk(from, to, &opt, &stats, err)
                           : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
        vd_disk_unref(from);
        vd_disk_unref(to);
        if (r < 0) {
            if (t->job->hold_over && fresh)
                (void)import_save(t, dst, NULL);
            return r;
        }
        t->cursor += len;
        t->job->done = t->cursor;
        fresh += stats.data;
        if (fresh >= STEP / 2 || t->cursor == t->total) {
            r = import_save(t, dst, err);
            if (r < 0)
                return r;
            fresh = 0;
        }
    }
    return 0;
}

static int import_stream(struct transfer *t, struct vd_disk *dst, struct vd_error *err)
{
    int r = transfer_pipe_open(t);
    if (r < 0)
        return vd_fail(err, r, "copy-read", "cannot read the source: %s", strerror(-r));
    struct vd_copy_options opt = {.flags = VD_COPY_TARGET_ZERO | VD_COPY_GROW,
                                  .progress = transfer_progress,
                                  .arg = t,
                                  .cancel = &t->job->cancel};
    struct vd_copy_stats stats = {0};
    r = vd_copy_from_stream(t->pipe, dst, &opt, &stats, err);
    transfer_pipe_close(t);
    t->total = stats.done;
    if (r == 0 && stats.done == 0)
        r = vd_fail(err, -EINVAL, "source-empty", "the source is empty");
    return r;
}

/* The source, which belongs to the caller. */
static int source_open(struct transfer *t, struct vd_disk **ret, struct vd_error *err)
{
    if (t->remote) {
        vd_disk_ref(t->remote);
        *ret = t->remote;
        return 0;
    }
    int r = vd_disk_raw(t->fd, true, ret, err);
    t->fd = -1;
    return r;
}

static int import_copy(struct transfer *t, struct vd_disk *src, struct vd_disk *dst,
                       struct vd_error *err)
{
    struct vd_copy_options opt = {
        .progress = transfer_progress, .arg = t, .cancel = &t->job->cancel};
    int r = import_steps(t, src, dst, err);
    if (r < 0 || !t->verify)
        return r;
    t->base = t->total;
    return vd_copy_verify(src, dst, &opt, NULL, NULL, err);
}

/* Fills the volume t->temp, which exists. */
static int import_fill(struct transfer *t, struct vd_error *err)
{
    struct vd_owner *o = t->job->owner;
    struct vd_disk *src = NULL, *dst = NULL;
    struct vd_target temp = {.volume = t->temp};
    int r = vd_store_open(o->store, temp, false, &dst, err);
    if (r < 0)
        return r;
    if (t->stream) {
        r = import_stream(t, dst, err);
    } else {
        r = source_open(t, &src, err);
        if (r == 0) {
            r = import_copy(t, src, dst, err);
            vd_disk_unref(src);
        }
    }
    vd_disk_unref(dst);
    return r;
}

/* The complete volume takes its place. Each step can be repeated after a crash. */
static int import_finish(struct transfer *t, struct vd_error *err)
{
    struct vd_owner *o = t->job->owner;
    int r = 0;
    if (strcmp(t->temp, t->target.volume) != 0) {
        r = import_check_name(o, t, err);
        if (r == 0 && t->overwrite) {
            struct vd_volume_info info;
            if (vd_store_volume(o->store, t->target.volume, &info, NULL) == 0)
                r = vd_store_volume_delete(o->store, t->target.volume, false, err);
        }
        if (r == 0)
            r = vd_store_volume_rename(o->store, t->temp, t->target.volume, err);
    }
    if (r == 0 && !t->stream)
        r = vd_store_prop_set(o->store, t->target.volume, IMPORT_PROPERTY, NULL, err);
    return r;
}

static int import_begin(struct transfer *t, struct vd_error *err)
{
    struct vd_owner *o = t->job->owner;
    int r = import_check_name(o, t, err);
    if (r < 0)
        return r;
    t->id = t->job->id;
    snprintf(t->temp, sizeof(t->temp), "%.100s.import-%u", t->target.volume, t->id);
    r = vd_store_volume_create(o->store, t->temp, t->stream ? VD_MIB(1) : t->total, err);
    if (r < 0)
        *t->temp = 0; /* nothing of ours to remove */
    return r < 0 ? r : import_mark(t, err);
}

/* From now on it goes by the number of the job that continues it. */
static int import_continue(struct transfer *t, struct vd_error *err)
{
    t->id = t->job->id;
    return import_mark(t, err);
}

static int size_changed(struct vd_error *err)
{
    return vd_fail(err, -EINVAL, "source-changed",
                   "the source is no longer of the size it had: cancel the job and import again");
}

/* Connects to a source that is a server's; now its size is known. */
static int import_connect(struct transfer *t, struct vd_error *err)
{
    int fds[VD_WIRE_FDS], nfds = 0, r = 0;
    struct vd_disk_info info;
    if (t->control) {
        json_t *frame;
        r = transfer_recv(t, &frame, fds, &nfds, err);
        if (r < 0)
            return r;
        t->where = json_incref(json_object_get(frame, "remote"));
        json_decref(frame);
    }
    r = transfer_connect(t, t->where, fds, nfds, true, err);
    if (r < 0)
        return r;
    vd_disk_info(t->remote, &info);
    if (info.size == 0)
        return vd_fail(err, -EINVAL, "source-empty", "the source is empty");
    if (t->resumed && t->total != info.size)
        return size_changed(err);
    t->total = info.size;
    return 0;
}

static int import_job(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err)
{
    struct transfer *t = arg;
    struct vd_owner *o = job->owner;
    int r = 0;
    transfer_begin(t, job);
    if (t->control || t->where)
        r = import_connect(t, err);
    if (r < 0) /* an interrupted one stays as it is */
        return job->cancel ? transfer_cancelled(job, err) : r;
    job->total = t->stream ? 0 : t->verify ? 2 * t->total : t->total;
    job->done = t->cursor;
    r = t->resumed ? import_continue(t, err) : import_begin(t, err);
    if (r < 0 && !*t->temp)
        return r;
    if (r == 0)
        r = import_fill(t, err);
    if (r == 0)
        r = import_finish(t, err);
    if (r == 0) {
        job->done = job->total = t->verify ? 2 * t->total : t->total;
        *ret = json_pack("{s:s, s:I}", "volume", t->target.volume, "bytes", (json_int_t)t->total);
        return 0;
    }
    if (job->cancel)
        r = transfer_cancelled(job, err);
    /* What is interrupted can go on later; what failed or is not wanted leaves nothing behind. */
    if (r != -ECANCELED || !job->hold_over || t->stream)
        (void)vd_store_volume_delete(o->store, t->temp, true, NULL);
    return r;
}

/* Whether the source is a file or device of the client's. */
static bool source_is_file(const struct transfer *t)
{
    return !t->stream && !t->control && !t->where;
}

/* Bytes of such a source, padded to a sector as the volume will be. */
static int source_size(struct transfer *t, struct vd_error *err)
{
    off_t end = lseek(t->fd, 0, SEEK_END);
    if (end < 0)
        return vd_fail(err, -errno, "copy-read", "cannot tell the source's size: %s",
                       strerror(errno));
    if (end == 0)
        return vd_fail(err, -EINVAL, "source-empty", "the source is empty");
    t->total = VD_ROUND_UP((uint64_t)end, VD_SECTOR);
    return 0;
}

static int left_name(void *arg, const struct vd_volume_info *info)
{
    return json_array_append_new(arg, json_string(info->name)) < 0 ? -ENOMEM : 0;
}

static int left_prop(void *arg, const char *prop, const char *value)
{
    json_t **mark = arg;
    if (strcmp(prop, IMPORT_PROPERTY) == 0 && !*mark)
        *mark = vd_wire_parse(value, strlen(value));
    return 0;
}

typedef int left_fn(void *arg, const char *volume, json_t *mark);

/* Calls fn for each volume with the mark of an import; non-zero stops. */
static int left_each(struct vd_owner *o, left_fn *fn, void *arg)
{
    json_t *names = json_array(), *name;
    size_t i;
    int r = vd_store_volumes(o->store, left_name, names);
    if (r == 0)
        json_array_foreach (names, i, name) {
            json_t *mark = NULL;
            r = vd_store_props(o->store, json_string_value(name), left_prop, &mark, NULL);
            if (r == -ENOENT)
                r = 0; /* deleted meanwhile */
            if (r == 0 && mark)
                r = fn(arg, json_string_value(name), mark);
            json_decref(mark);
            if (r != 0)
                break;
        }
    json_decref(names);
    return r;
}

struct left_list {
    struct vd_owner *owner;
    json_t *list;
    unsigned highest;
};

static unsigned mark_id(json_t *mark)
{
    json_int_t id = json_integer_value(json_object_get(mark, "id"));
    return id > 0 && id < INT32_MAX ? (unsigned)id : 0;
}

static int left_add(void *arg, const char *volume, json_t *mark)
{
    struct left_list *l = arg;
    unsigned id = mark_id(mark);
    l->highest = VD_MAX(l->highest, id);
    if (!l->list || !id || vd_job_find(l->owner, id))
        return 0;
    json_t *target = json_object_get(mark, "name");
    json_t *one =
        json_pack("{s:i, s:s, s:O, s:s, s:O, s:O, s:O}", "id", (int)id, "kind", "import", "target",
                  target, "state", "interrupted", "done", json_object_get(mark, "cursor"), "total",
                  json_object_get(mark, "total"), "source", json_object_get(mark, "source"));
    if (one && json_is_string(json_object_get(mark, "format")))
        json_object_set(one, "format", json_object_get(mark, "format"));
    if (one && json_is_true(json_object_get(mark, "trust")))
        json_object_set_new(one, "trust", json_true());
    json_array_append_new(l->list, one); /* a mark that is not ours in shape is left out */
    return 0;
}

int imports_left(struct vd_owner *o, json_t *list)
{
    struct left_list l = {.owner = o, .list = list};
    return left_each(o, left_add, &l);
}

/* Numbers of unfinished imports are not given out again. */
static int skip_numbers(struct vd_owner *o, struct vd_error *err)
{
    struct left_list l = {.owner = o};
    int r = left_each(o, left_add, &l);
    if (r < 0)
        return vd_fail(err, r, "pool-failed", "cannot list the volumes: %s", strerror(-r));
    o->next_job = VD_MAX(o->next_job, l.highest + 1);
    return 0;
}

struct left_find {
    unsigned id;
    char *volume;
    json_t *mark;
};

static int left_match(void *arg, const char *volume, json_t *mark)
{
    struct left_find *f = arg;
    if (mark_id(mark) != f->id)
        return 0;
    snprintf(f->volume, VD_NAME_MAX + 1, "%s", volume);
    f->mark = json_incref(mark);
    return 1;
}

int import_left_find(struct vd_owner *o, unsigned id, char volume[VD_NAME_MAX + 1], json_t **ret,
                     struct vd_error *err)
{
    struct left_find f = {.id = id, .volume = volume};
    int r = left_each(o, left_match, &f);
    if (r < 0)
        return vd_fail(err, r, "pool-failed", "cannot list the volumes: %s", strerror(-r));
    if (r == 0)
        return vd_fail(err, -ENOENT, "job-not-found", "there is no job %u", id);
    *ret = f.mark;
    return 0;
}

/* {"volume", "source"?, "overwrite", "verify", "detach"} and the descriptor; or "remote":
 * {"address", "export"}; or "foreign": true, "format", "trust" and a control socket */
int request_import(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct vd_owner *o = call->owner;
    struct transfer *t = transfer_new(call, err);
    if (!t)
        return err ? err->code : -EINVAL;
    const char *volume;
    int r = request_need_str(call, "volume", &volume, err);
    if (r == 0)
        r = request_own_target(call, TARGET_VOLUME, &t->target, err);
    if (r == 0 && source_is_file(t))
        r = source_size(t, err);
    if (r == 0 && t->stream && t->verify)
        r = vd_fail(err, -EINVAL, "usage",
                    "what comes from a pipe cannot be verified: it can be read only once");
    if (r == 0)
        r = skip_numbers(o, err);
    if (r < 0) {
        transfer_free(t);
        return r;
    }
    return vd_job_call(call, "import", t->target.volume, import_job, t, transfer_free, ret, err);
}

/* Takes over what the earlier job recorded. */
static int resume_from(struct transfer *t, unsigned id, json_t *mark, struct vd_error *err)
{
    const char *name = json_string_value(json_object_get(mark, "name"));
    const char *source = json_string_value(json_object_get(mark, "source"));
    json_int_t total = json_integer_value(json_object_get(mark, "total"));
    json_int_t cursor = json_integer_value(json_object_get(mark, "cursor"));
    if (!name || !vd_name_valid(name) || cursor < 0 || cursor > total || cursor % VD_SECTOR ||
        t->stream)
        return vd_fail(err, -EUCLEAN, "job-damaged",
                       "what job %u has recorded is damaged: cancel it", id);
    if (source_is_file(t)) {
        int r = source_size(t, err);
        if (r < 0)
            return r;
        if (t->total != (uint64_t)total)
            return size_changed(err);
    }
    t->total = (uint64_t)total;
    snprintf(t->target.volume, sizeof(t->target.volume), "%s", name);
    snprintf(t->source, sizeof(t->source), "%s", source ? source : "");
    t->target.t.volume = t->target.volume;
    t->overwrite = json_is_true(json_object_get(mark, "overwrite"));
    t->verify = json_is_true(json_object_get(mark, "verify"));
    t->trust = json_is_true(json_object_get(mark, "trust"));
    const char *format = json_string_value(json_object_get(mark, "format"));
    snprintf(t->format, sizeof(t->format), "%s", format ? format : "");
    t->cursor = (uint64_t)cursor;
    t->resumed = true;
    return 0;
}

static bool import_runs(struct vd_owner *o, const char *temp)
{
    vd_list_each (it, &o->jobs) {
        struct vd_job *job = vd_container_of(it, struct vd_job, link);
        if (job->state == VD_JOB_RUNNING && job->fn == import_job &&
            strcmp(((struct transfer *)job->arg)->temp, temp) == 0)
            return true;
    }
    return false;
}

/* {"id", "detach"} and the source, as for an import */
int request_job_resume(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct vd_owner *o = call->owner;
    uint64_t id;
    json_t *mark = NULL;
    int r = request_need_u64(call, "id", &id, err);
    if (r == 0 && id > INT32_MAX)
        r = request_bad(err, "id");
    if (r < 0)
        return r;
    struct vd_job *job = vd_job_find(o, (unsigned)id);
    if (job && job->state != VD_JOB_INTERRUPTED)
        return vd_fail(err, -ESRCH, "job-not-interrupted",
                       "job %u is %s: only an interrupted one can be resumed", (unsigned)id,
                       vd_job_state_name(job->state));
    struct transfer *t = transfer_new(call, err);
    if (!t)
        return err ? err->code : -EINVAL;
    r = import_left_find(o, (unsigned)id, t->temp, &mark, err);
    if (r == 0)
        r = resume_from(t, (unsigned)id, mark, err);
    json_decref(mark);
    if (r == 0)
        r = skip_numbers(o, err);
    if (r == 0 && import_runs(o, t->temp))
        r = vd_fail(err, -EBUSY, "job-running", "job %u has been resumed already", (unsigned)id);
    if (r < 0) {
        transfer_free(t);
        return r;
    }
    return vd_job_call(call, "import", t->target.volume, import_job, t, transfer_free, ret, err);
}
