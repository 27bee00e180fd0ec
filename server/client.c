/* SPDX-License-Identifier: MIT */
/*
 * The client side of the control socket.
 *
 * 1. A command is run once: it is tried again only when the owner said that it did not begin it, or
 *    went away before its hello.
 *
 * Runs on the loop of the calling program; yields.
 */
#include "server/client.h"

#include "core/io/stream.h"
#include "server/access.h"
#include "server/owner.h"
#include "server/runtime.h"
#include "server/wire.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WAIT_NS UINT64_C(6000000000) /* for an owner that starts or ends */
#define WAIT_FOREIGN_NS                                                      \
    UINT64_C(1000000000) /* for what is not one of us, as far as can be seen \
                          */
#define PAUSE_NS UINT64_C(20000000)

struct vd_client {
    struct vd_client_options opt;
    bool cancelled;
    struct vd_call *local;    /* running here */
    struct vd_owner *owner;   /* or, a detached job, here */
    struct vd_stream *remote; /* or there */
};

struct vd_client *vd_client_new(const struct vd_client_options *opt)
{
    struct vd_client *c = calloc(1, sizeof(*c));
    if (c)
        c->opt = *opt;
    return c;
}

void vd_client_free(struct vd_client *c)
{
    free(c);
}

void vd_client_cancel(struct vd_client *c)
{
    c->cancelled = true;
    if (c->local)
        vd_call_cancel(c->local);
    if (c->owner)
        vd_jobs_interrupt(c->owner);
    if (c->remote)
        (void)vd_wire_send(c->remote, json_pack("{s:b}", "cancel", 1), NULL, 0);
}

/* --- in this process --- */

static int local_event(void *arg, json_t *event)
{
    struct vd_client *c = arg;
    if (c->opt.event)
        c->opt.event(c->opt.arg, event);
    json_decref(event);
    return 0;
}

/* The job runs and does not need its client any more. */
static void tell_detached(struct vd_client *c, json_t *result)
{
    json_t *event = json_pack("{s:s}", "event", "detached");
    json_object_update(event, result);
    (void)local_event(c, event);
}

static int local_call(struct vd_client *c, struct vd_owner *o, const char *command, json_t *args,
                      const int *fds, int nfds, json_t **ret, struct vd_error *err)
{
    struct vd_call call = {.owner = o, .args = args, .emit = local_event, .arg = c};
    for (int i = 0; i < nfds; i++) {
        call.fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (call.fds[i] < 0) {
            while (i-- > 0)
                close(call.fds[i]);
            return vd_fail(err, -EMFILE, "no-descriptors", "too many open files");
        }
        call.nfds++;
    }
    int flags = vd_command_flags(command);
    bool writes = flags > 0 && (flags & VD_COMMAND_WRITES);
    o->takes_jobs = flags > 0 && (flags & VD_COMMAND_JOB);
    c->local = &call;
    int r = vd_call_run(&call, command, ret, err);
    c->local = NULL;
    if (r == 0 && json_is_true(json_object_get(args, "detach"))) {
        tell_detached(c, *ret);
        c->owner = o;
        vd_group_wait(&o->job_group);
        c->owner = NULL;
    }
    /* What is left undone here is done by the next owner: that is no failure of the command. */
    if (r == 0 && writes && !c->opt.no_wait)
        (void)vd_store_settle(o->store, &c->cancelled);
    return r;
}

static int run_local(struct vd_client *c, struct vd_owner *o, const char *command, json_t *args,
                     const int *fds, int nfds, json_t **ret, struct vd_error *err)
{
    json_t *result = NULL;
    struct vd_error why = {0};
    int r = local_call(c, o, command, args, fds, nfds, &result, err);
    int r2 = vd_owner_close(o, false, &why);
    if (r == 0 && r2 < 0) {
        r = r2;
        if (err)
            *err = why;
    }
    if (r < 0)
        json_decref(result);
    else
        *ret = result;
    return r;
}

/* --- by another --- */

/* Connects to an owner's socket and takes its hello. -EAGAIN when nobody (yet, or any more) is
 * there. */
static int hello(const char *socket, struct vd_stream **ret, json_t **ret_hello,
                 struct vd_error *err)
{
    char *address;
    struct vd_stream *s;
    json_t *frame;
    if (asprintf(&address, "unix:%s", socket) < 0)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = vd_connect(address, &s, NULL);
    free(address);
    if (r == -EACCES || r == -EPERM)
        return vd_access_explain(socket, true, r, err);
    if (r < 0)
        return -EAGAIN;
    r = vd_wire_recv(s, VD_WIRE_REQUEST_MAX, &frame, NULL, NULL);
    if (r < 0) {
        vd_stream_close(s);
        return r == -EPROTO ? vd_fail(err, r, "protocol", "%s is no vdisk control socket", socket)
                            : -EAGAIN;
    }
    json_t *h = json_object_get(frame, "hello");
    json_t *error = json_object_get(frame, "error");
    if (error)
        r = vd_wire_error_get(error, err);
    else if (json_is_true(json_object_get(frame, "retry")))
        r = -EAGAIN;
    else if (json_integer_value(json_object_get(h, "protocol")) != VD_WIRE_PROTOCOL)
        r = vd_fail(err, -EPROTO, "protocol",
                    "the owner speaks another version of the control protocol: use the vdisk that "
                    "it was started from");
    if (r < 0) {
        json_decref(frame);
        vd_stream_close(s);
        return r;
    }
    *ret_hello = json_incref(h);
    *ret = s;
    json_decref(frame);
    return 0;
}

/* Where the owner's socket may be: i counts the places. NULL when there is no other. */
static char *socket_place(const struct stat *st, int i)
{
    char *dir = NULL, *path = NULL;
    dev_t dev = S_ISBLK(st->st_mode) ? st->st_rdev : st->st_dev;
    ino_t ino = S_ISBLK(st->st_mode) ? 0 : st->st_ino;
    if (i == 0)
        (void)vd_runtime_dir(false, &dir, NULL);
    else if (geteuid() == 0 && st->st_uid != 0)
        dir = vd_runtime_dir_of(st->st_uid, i - 1);
    if (dir)
        path = vd_runtime_path(dir, dev, ino, ".sock");
    free(dir);
    return path;
}

static int find_owner(const char *path, struct vd_stream **ret, json_t **ret_hello,
                      struct vd_error *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return vd_access_explain(path, false, -errno, err);
    char *socket;
    int r = -EAGAIN;
    for (int i = 0; r == -EAGAIN && (socket = socket_place(&st, i)); i++) {
        r = hello(socket, ret, ret_hello, err);
        free(socket);
    }
    return r;
}

/* Reads frames until the final one. */
static int remote_answer(struct vd_client *c, struct vd_stream *s, json_t **ret,
                         struct vd_error *err)
{
    for (;;) {
        json_t *frame, *v;
        int r = vd_wire_recv(s, VD_WIRE_REPLY_MAX, &frame, NULL, NULL);
        if (r < 0)
            return vd_fail(err, r == -EPROTO ? r : -ECONNRESET, "owner-gone",
                           "the owner of the pool ended before it answered (%s): look at the pool "
                           "before you try again",
                           strerror(-r));
        if ((v = json_object_get(frame, "event"))) {
            if (c->opt.event)
                c->opt.event(c->opt.arg, v);
            json_decref(frame);
            continue;
        }
        if ((v = json_object_get(frame, "result")))
            *ret = json_incref(v);
        else if ((v = json_object_get(frame, "error")))
            r = vd_wire_error_get(v, err);
        else if (json_is_true(json_object_get(frame, "retry")))
            r = json_is_true(json_object_get(frame, "read_only"))
                    ? vd_fail(err, -EROFS, "served-read-only", "the pool is served read-only")
                    : -EAGAIN;
        else
            r = vd_fail(err, -EPROTO, "protocol", "the owner's answer is not understood");
        json_decref(frame);
        return r;
    }
}

/* -EAGAIN: it has not been run. */
static int run_remote(struct vd_client *c, struct vd_stream *s, const char *command, json_t *args,
                      const int *fds, int nfds, json_t **ret, struct vd_error *err)
{
    int r = vd_wire_send(s, json_pack("{s:s, s:O}", "command", command, "args", args), fds, nfds);
    if (r < 0)
        return -EAGAIN; /* closing: a request is whole or not heard at all */
    c->remote = s;
    if (c->cancelled)
        (void)vd_wire_send(s, json_pack("{s:b}", "cancel", 1), NULL, 0);
    r = remote_answer(c, s, ret, err);
    c->remote = NULL;
    if (r == 0 && json_is_true(json_object_get(args, "detach")))
        tell_detached(c, *ret);
    return r;
}

/* --- who --- */

static void describe_hello(json_t *h, char *buf, size_t len)
{
    const char *name = json_string_value(json_object_get(h, "name"));
    snprintf(buf, len, "process %d (%.60s)", (int)json_integer_value(json_object_get(h, "pid")),
             name ? name : "vdisk");
}

int vd_client_owner(const char *path, char *buf, size_t len, bool *ret_serving)
{
    struct vd_stream *s;
    json_t *h;
    int r = find_owner(path, &s, &h, NULL);
    if (r < 0)
        return r;
    describe_hello(h, buf, len);
    *ret_serving = json_is_true(json_object_get(h, "serving"));
    json_decref(h);
    vd_stream_close(s);
    return 0;
}

uint64_t vd_client_patience_ns(const struct vd_error *busy)
{
    bool named = strstr(busy->message, "by process") && !strstr(busy->message, "()");
    return named && !strstr(busy->message, "(vdisk") ? WAIT_FOREIGN_NS : WAIT_NS;
}

/* What one attempt needs. */
struct request {
    const char *path;
    const struct vd_uuid *uuid;
    const char *command;
    json_t *args;
    const int *fds;
    int nfds;
    char who[100]; /* the owner that did not take it, "" = not seen */
};

static int ask_owner(struct vd_client *c, struct request *q, json_t **ret, struct vd_error *err)
{
    struct vd_stream *s;
    json_t *h;
    char text[VD_UUID_TEXT];
    int r = find_owner(q->path, &s, &h, err);
    if (r < 0)
        return r;
    describe_hello(h, q->who, sizeof(q->who));
    const char *is = json_string_value(json_object_get(h, "uuid"));
    if (q->uuid)
        vd_uuid_format(q->uuid, text);
    if (q->uuid && !vd_uuid_is_nil(q->uuid) && (!is || strcmp(text, is) != 0))
        r = vd_fail(err, -ENODEV, "wrong-pool",
                    "%s holds another pool than the one registered: attach it again", q->path);
    else
        r = run_remote(c, s, q->command, q->args, q->fds, q->nfds, ret, err);
    if (r == -EROFS && err && !strcmp(err->id, "served-read-only"))
        r = vd_fail(err, -EROFS, "served-read-only", "%s is served read-only by %s", q->path,
                    q->who);
    json_decref(h);
    vd_stream_close(s);
    return r;
}

/* One attempt. -EAGAIN: the owner starts, ends, or does not take this now; q->who names it. */
static int attempt(struct vd_client *c, struct request *q, json_t **ret, struct vd_error *err)
{
    int known = vd_command_flags(q->command);
    unsigned flags = known > 0 ? (unsigned)known : 0;
    struct vd_owner_options opt = {
        .name = c->opt.name,
        .read_only = !(flags & VD_COMMAND_WRITES),
        /* What is short and only reads shares the lock with its like and is waited for. */
        .listen = flags & (VD_COMMAND_WRITES | VD_COMMAND_JOB),
    };
    struct vd_owner *o;
    int r = -EAGAIN;
    if (q->uuid)
        opt.uuid = *q->uuid;
    *q->who = 0;
    /* What only reads and may take long had better be done here, if the lock can be shared. */
    bool own_first = (flags & VD_COMMAND_JOB) && !(flags & VD_COMMAND_WRITES);
    if (!own_first)
        r = ask_owner(c, q, ret, err);
    if (r != -EAGAIN)
        return r;
    r = vd_owner_open(q->path, &opt, &o, err);
    if (r == 0)
        return run_local(c, o, q->command, q->args, q->fds, q->nfds, ret, err);
    if (r == -EBUSY && own_first)
        r = ask_owner(c, q, ret, err);
    return r == -EBUSY ? -EAGAIN : r;
}

int vd_client_call(struct vd_client *c, const char *path, const struct vd_uuid *uuid,
                   const char *command, json_t *args, const int *fds, int nfds, json_t **ret,
                   struct vd_error *err)
{
    struct vd_loop *loop = vd_loop_current();
    uint64_t start = vd_loop_now_ns(loop);
    struct request q = {path, uuid, command, args, fds, nfds, ""};
    int r = args ? -EAGAIN : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    while (r == -EAGAIN) {
        if (c->cancelled) {
            r = vd_fail(err, -ECANCELED, "cancelled", "cancelled");
            break;
        }
        r = attempt(c, &q, ret, err);
        if (r != -EAGAIN)
            break;
        /* *err may be of the lock that could not be had, and name the holder. */
        uint64_t patience = err && err->code == -EBUSY ? vd_client_patience_ns(err) : WAIT_NS;
        if (vd_loop_now_ns(loop) - start >= patience) {
            r = -EBUSY;
            if (*q.who)
                vd_fail(err, r, "in-use", "%s is in use by %s", path, q.who);
        } else {
            vd_fiber_sleep(PAUSE_NS);
        }
    }
    json_decref(args);
    return r;
}

int vd_client_owners(void (*fn)(void *arg, json_t *hello), void *arg, struct vd_error *err)
{
    char *dir;
    int r = vd_runtime_dir(false, &dir, err);
    if (r < 0)
        return r;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        char *path;
        if (n < 6 || strcmp(e->d_name + n - 5, ".sock") != 0 ||
            asprintf(&path, "%s/%s", dir, e->d_name) < 0)
            continue;
        struct vd_stream *s;
        json_t *h;
        if (hello(path, &s, &h, NULL) == 0) {
            fn(arg, h);
            json_decref(h);
            vd_stream_close(s);
        }
        free(path);
    }
    if (d)
        closedir(d);
    free(dir);
    return 0;
}
