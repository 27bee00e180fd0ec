/* SPDX-License-Identifier: MIT */
/*
 * Import and export of raw content, as jobs. The client has opened the file or pipe.
 *
 * 1. A volume that is being filled is called NAME.import-ID; it gets its name when it is complete
 *    and durable, so a half-made volume never looks like a whole one.
 * 2. An import from a file goes in steps; the cursor in the volume's property is written after the
 *    step is durable, so it never promises what is not there.
 * 3. A live volume that guests may write is exported from a snapshot made for that.
 *
 * Yields.
 */
#include "copy/copy.h"
#include "core/base/text.h"
#include "server/request_priv.h"
#include "server/window_priv.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP VD_GIB(1)

struct transfer {
    struct vd_job *job;
    int fd; /* -1 once it has been given away */
    bool stream;
    struct vd_stream *pipe; /* while it is open */
    bool overwrite;
    bool resumed;
    struct request_target target;
    char temp[VD_NAME_MAX + 1]; /* import: the volume while it is filled */
    char source[700];           /* import: what the client calls it, "" for a pipe */
    unsigned id;                /* import: of the job that began it */
    uint64_t base;              /* bytes done by earlier steps */
    uint64_t total, cursor;
};

static void transfer_free(void *arg)
{
    struct transfer *t = arg;
    if (t->fd >= 0)
        close(t->fd);
    free(t);
}

static void transfer_progress(void *arg, const struct vd_copy_stats *now)
{
    struct transfer *t = arg;
    t->job->done = t->base + now->done;
}

/* A pipe may be silent for ever. */
static void transfer_unblock(void *arg)
{
    struct transfer *t = arg;
    if (t->pipe)
        vd_stream_shutdown(t->pipe);
}

static int pipe_open(struct transfer *t)
{
    int r = vd_stream_new(t->fd, &t->pipe);
    if (r < 0)
        t->pipe = NULL;
    else
        t->job->unblock = transfer_unblock;
    t->fd = r < 0 ? t->fd : -1;
    return r;
}

static void pipe_close(struct transfer *t)
{
    struct vd_stream *s = t->pipe;
    t->job->unblock = NULL;
    t->pipe = NULL;
    vd_stream_close(s);
}

static int cancelled(struct vd_job *job, struct vd_error *err)
{
    return vd_fail(err, -ECANCELED, "cancelled", "%s was %s", job->kind,
                   job->hold_over ? "interrupted" : "cancelled");
}

/* Whether `fd` is read and written by offset (a file or block device) or as a stream. */
static int fd_kind(int fd, bool *ret_stream, struct vd_error *err)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return request_bad(err, "descriptor");
    if (S_ISDIR(st.st_mode))
        return vd_fail(err, -EISDIR, "is-directory", "that is a directory");
    *ret_stream = !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode);
    return 0;
}

static struct transfer *transfer_new(struct vd_call *call, struct vd_error *err)
{
    struct transfer *t = calloc(1, sizeof(*t));
    if (!t) {
        vd_fail(err, -ENOMEM, "no-memory", "out of memory");
        return NULL;
    }
    t->fd = request_take_fd(call, 0);
    t->overwrite = request_flag(call, "overwrite");
    const char *source = request_str(call, "source");
    if (source && strlen(source) < sizeof(t->source))
        memcpy(t->source, source, strlen(source) + 1);
    if (fd_kind(t->fd, &t->stream, err) == 0)
        return t;
    transfer_free(t);
    return NULL;
}

/* --- import --- */

static int import_mark(struct transfer *t, struct vd_error *err)
{
    if (t->stream)
        return 0;
    json_t *v = json_pack("{s:i, s:s, s:s, s:I, s:I, s:b}", "id", (int)t->id, "name",
                          t->target.volume, "source", t->source, "cursor", (json_int_t)t->cursor,
                          "total", (json_int_t)t->total, "overwrite", t->overwrite);
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

static int import_steps(struct transfer *t, struct vd_disk *src, struct vd_disk *dst,
                        struct vd_error *err)
{
    struct vd_copy_options opt = {.flags = t->resumed ? 0 : VD_COPY_TARGET_ZERO,
                                  .progress = transfer_progress,
                                  .arg = t,
                                  .cancel = &t->job->cancel};
    while (t->cursor < t->total) {
        uint64_t len = VD_MIN(STEP, t->total - t->cursor);
        struct vd_disk *from = window_new(src, t->cursor, len);
        struct vd_disk *to = window_new(dst, t->cursor, len);
        t->base = t->cursor;
        int r = from && to ? vd_copy_disk(from, to, &opt, NULL, err)
                           : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
        vd_disk_unref(from);
        vd_disk_unref(to);
        if (r < 0)
            return r;
        t->cursor += len;
        t->job->done = t->cursor;
        opt.flags = VD_COPY_TARGET_ZERO; /* beyond a resumed step nothing has been written */
        if (t->cursor < t->total) {
            r = import_mark(t, err);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int import_stream(struct transfer *t, struct vd_disk *dst, struct vd_error *err)
{
    int r = pipe_open(t);
    if (r < 0)
        return vd_fail(err, r, "copy-read", "cannot read the source: %s", strerror(-r));
    struct vd_copy_options opt = {.flags = VD_COPY_TARGET_ZERO | VD_COPY_GROW,
                                  .progress = transfer_progress,
                                  .arg = t,
                                  .cancel = &t->job->cancel};
    struct vd_copy_stats stats = {0};
    r = vd_copy_from_stream(t->pipe, dst, &opt, &stats, err);
    pipe_close(t);
    t->total = stats.done;
    if (r == 0 && stats.done == 0)
        r = vd_fail(err, -EINVAL, "source-empty", "the source is empty");
    return r;
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
        r = vd_disk_raw(t->fd, true, &src, err);
        t->fd = -1;
        if (r == 0) {
            r = import_steps(t, src, dst, err);
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

static int import_job(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err)
{
    struct transfer *t = arg;
    struct vd_owner *o = job->owner;
    t->job = job;
    job->total = t->stream ? 0 : t->total;
    job->done = t->cursor;
    int r = t->resumed ? import_continue(t, err) : import_begin(t, err);
    if (r < 0 && !*t->temp)
        return r;
    if (r == 0)
        r = import_fill(t, err);
    if (r == 0)
        r = import_finish(t, err);
    if (r == 0) {
        job->done = job->total = t->total;
        *ret = json_pack("{s:s, s:I}", "volume", t->target.volume, "bytes", (json_int_t)t->total);
        return 0;
    }
    if (job->cancel)
        r = cancelled(job, err);
    /* What is interrupted can go on later; what failed or is not wanted leaves nothing behind. */
    if (r != -ECANCELED || !job->hold_over || t->stream)
        (void)vd_store_volume_delete(o->store, t->temp, true, NULL);
    return r;
}

/* Bytes of the source, padded to a sector as the volume will be. */
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

/* {"volume", "source"?, "overwrite", "detach"} and the descriptor */
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
    if (r == 0 && !t->stream)
        r = source_size(t, err);
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
    int r = source_size(t, err);
    if (r < 0)
        return r;
    if (t->total != (uint64_t)total)
        return vd_fail(err, -EINVAL, "source-changed",
                       "the source is no longer of the size it had: cancel the job and import "
                       "again");
    snprintf(t->target.volume, sizeof(t->target.volume), "%s", name);
    snprintf(t->source, sizeof(t->source), "%s", source ? source : "");
    t->target.t.volume = t->target.volume;
    t->overwrite = json_is_true(json_object_get(mark, "overwrite"));
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

/* {"id", "detach"} and the descriptor of the source */
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

/* --- export --- */

static int export_to_stream(struct transfer *t, struct vd_disk *src,
                            const struct vd_copy_options *opt, struct vd_error *err)
{
    int r = pipe_open(t);
    if (r < 0)
        return vd_fail(err, r, "copy-write", "cannot write to the pipe: %s", strerror(-r));
    r = vd_copy_to_stream(src, t->pipe, opt, NULL, err);
    pipe_close(t);
    return r;
}

static int export_to_file(struct transfer *t, struct vd_disk *src, struct vd_copy_options *opt,
                          struct vd_error *err)
{
    struct stat st;
    struct vd_disk *dst;
    struct vd_disk_info info;
    if (fstat(t->fd, &st) < 0)
        return vd_fail(err, -errno, "copy-write", "cannot look at the target: %s", strerror(errno));
    if (S_ISREG(st.st_mode)) {
        if (ftruncate(t->fd, 0) < 0 || ftruncate(t->fd, (off_t)t->total) < 0)
            return vd_fail(err, -errno, "copy-write", "cannot set the file's size: %s",
                           strerror(errno));
        opt->flags |= VD_COPY_TARGET_ZERO;
    }
    int r = vd_disk_raw(t->fd, false, &dst, err);
    t->fd = -1;
    if (r < 0)
        return r;
    vd_disk_info(dst, &info);
    if (info.size < t->total)
        r = vd_fail(err, -ENOSPC, "target-too-small",
                    "the target has %" PRIu64 " bytes, %" PRIu64 " are needed", info.size,
                    t->total);
    else
        r = vd_copy_disk(src, dst, opt, NULL, err);
    vd_disk_unref(dst);
    return r;
}

static int export_run(struct transfer *t, struct vd_target from, struct vd_error *err)
{
    struct vd_disk *src;
    struct vd_disk_info info;
    struct vd_copy_options opt = {
        .progress = transfer_progress, .arg = t, .cancel = &t->job->cancel};
    int r = vd_store_open(t->job->owner->store, from, true, &src, err);
    if (r < 0)
        return r;
    vd_disk_info(src, &info);
    t->total = t->job->total = info.size;
    r = t->stream ? export_to_stream(t, src, &opt, err) : export_to_file(t, src, &opt, err);
    vd_disk_unref(src);
    return r;
}

static int export_job(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err)
{
    struct transfer *t = arg;
    struct vd_owner *o = job->owner;
    struct vd_target from = t->target.t;
    t->job = job;
    /* Read-only owners have no writers; everybody else may get one at any moment. */
    bool snapshot = !from.snapshot && !o->read_only;
    int r = 0;
    if (snapshot) {
        snprintf(t->temp, sizeof(t->temp), "export-%u-%" PRIx64, job->id, vd_loop_wall_s(o->loop));
        from.snapshot = t->temp;
        r = vd_store_snapshot_create(o->store, &from, 1, err);
        if (r < 0)
            return r;
    }
    r = export_run(t, from, err);
    if (snapshot)
        (void)vd_store_snapshot_delete(o->store, &from, 1, NULL);
    if (r < 0 && job->cancel)
        return cancelled(job, err);
    if (r == 0)
        *ret = json_pack("{s:s, s:I}", "volume", t->target.volume, "bytes", (json_int_t)t->total);
    return r;
}

/* {"volume"?, "snapshot"?, "detach"} and the descriptor */
int request_export(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    char text[TARGET_TEXT];
    struct transfer *t = transfer_new(call, err);
    if (!t)
        return err ? err->code : -EINVAL;
    int r = request_own_target(call, TARGET_EITHER, &t->target, err);
    if (r < 0) {
        transfer_free(t);
        return r;
    }
    return vd_job_call(call, "export", request_target_text(&t->target, text, sizeof(text)),
                       export_job, t, transfer_free, ret, err);
}
