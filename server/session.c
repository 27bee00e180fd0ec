/* SPDX-License-Identifier: MIT */
/*
 * The owner's end of the control socket. Each connection has a fiber that reads and, once there is
 * a request, a second one that runs it; so a client can cancel or hang up while its request runs.
 *
 * 1. Only root and the owner's own user are heard.
 * 2. One request per connection; exactly one final frame.
 * 3. An owner that is closing answers "retry" to requests that it has not begun.
 */
#include "server/session_priv.h"

#include "core/base/log.h"
#include "server/wire.h"

#include <stdlib.h>
#include <unistd.h>

#define SESSIONS_MAX 64
#define ACCEPT_PAUSE_NS UINT64_C(100000000)
#define GRACE_NS UINT64_C(5000000000)

struct session {
    struct vd_list link;
    struct vd_owner *owner;
    struct vd_stream *stream;
    struct vd_fmutex writing; /* events come from job fibers too */
    struct vd_group running;
    char *command;
    json_t *request;
    struct vd_call call;
    bool started; /* the request has been given to a fiber */
    bool told;    /* that it should try elsewhere */
};

static int session_send(struct session *s, json_t *frame)
{
    vd_fmutex_lock(&s->writing);
    int r = vd_wire_send(s->stream, frame, NULL, 0);
    vd_fmutex_unlock(&s->writing);
    return r;
}

static int session_emit(void *arg, json_t *event)
{
    return session_send(arg, json_pack("{s:o}", "event", event));
}

static int session_error(struct session *s, const struct vd_error *err)
{
    return session_send(s, json_pack("{s:o}", "error", vd_wire_error(err)));
}

static int session_hello(struct session *s)
{
    struct vd_owner *o = s->owner;
    char uuid[VD_UUID_TEXT];
    vd_uuid_format(&o->uuid, uuid);
    return session_send(s,
                        json_pack("{s:{s:i, s:i, s:s, s:o, s:s, s:s, s:b, s:b}}", "hello",
                                  "protocol", VD_WIRE_PROTOCOL, "pid", (int)getpid(), "name",
                                  o->name, "path", vd_wire_text(o->full_path), "pool", o->pool_name,
                                  "uuid", uuid, "read_only", o->read_only, "serving", o->serving));
}

/* Whether this owner takes the command from another process at all. */
static bool takes(const struct vd_owner *o, const char *command, json_t *args)
{
    int flags = vd_command_flags(command);
    if (o->closing)
        return false;
    if (flags > 0 && (flags & VD_COMMAND_OWNER))
        return true;
    if (o->read_only && flags > 0 && (flags & VD_COMMAND_WRITES))
        return false;
    if (o->serving || flags < 0 || !(flags & VD_COMMAND_JOB))
        return true;
    return o->takes_jobs && !json_is_true(json_object_get(args, "detach"));
}

static void request_fiber(void *arg)
{
    struct session *s = arg;
    struct vd_error err = {0};
    json_t *result = NULL;
    int r = vd_call_run(&s->call, s->command, &result, &err);
    if (r < 0 && strcmp(err.id, "owner-closing") == 0) /* it was not begun */
        session_send(s, json_pack("{s:b}", "retry", 1));
    else if (r < 0)
        session_error(s, &err);
    else
        session_send(s, json_pack("{s:o}", "result", result));
    /* The reader has nothing more to wait for. */
    vd_stream_shutdown(s->stream);
    vd_group_done(&s->running);
}

/* Takes the request apart and starts it. A return below zero ends the session. */
static int session_request(struct session *s)
{
    struct vd_error err = {0};
    int r = vd_wire_recv(s->stream, VD_WIRE_REQUEST_MAX, &s->request, s->call.fds, &s->call.nfds);
    if (r == -EPROTO) {
        vd_fail(&err, r, "protocol", "the request is not understood");
        session_error(s, &err);
    }
    if (r < 0)
        return r;
    const char *command = json_string_value(json_object_get(s->request, "command"));
    json_t *args = json_object_get(s->request, "args");
    if (!command || !json_is_object(args)) {
        r = vd_fail(&err, -EPROTO, "protocol", "the request is not understood");
        session_error(s, &err);
        return r;
    }
    if (!takes(s->owner, command, args)) {
        bool for_ever = s->owner->read_only && s->owner->serving && !s->owner->closing;
        session_send(s, json_pack("{s:b, s:b}", "retry", 1, "read_only", for_ever));
        return -EAGAIN;
    }
    s->command = strdup(command);
    s->call.args = args;
    if (!s->command)
        return -ENOMEM;
    vd_group_add(&s->running);
    s->started = true;
    r = vd_fiber_spawn(s->owner->loop, "request", request_fiber, s);
    if (r < 0) {
        s->started = false;
        vd_group_done(&s->running);
    }
    return r;
}

static int session_check_peer(struct session *s)
{
    uid_t uid;
    gid_t gid;
    pid_t pid;
    struct vd_error err = {0};
    int r = vd_stream_peer(s->stream, &uid, &gid, &pid);
    if (r < 0)
        return r;
    if (uid == 0 || uid == geteuid())
        return 0;
    r = vd_fail(&err, -EPERM, "access-denied",
                "the pool is served by uid %u (pid %d), which takes commands only from itself and "
                "root",
                (unsigned)geteuid(), (int)getpid());
    session_error(s, &err);
    return r;
}

static void session_free(struct session *s)
{
    if (!s->started)
        for (int i = 0; i < s->call.nfds; i++)
            if (s->call.fds[i] >= 0)
                close(s->call.fds[i]);
    vd_list_remove(&s->link);
    vd_stream_close(s->stream);
    json_decref(s->request);
    free(s->command);
    free(s);
}

static void session_fiber(void *arg)
{
    struct session *s = arg;
    struct vd_owner *o = s->owner;
    int r = session_check_peer(s);
    if (r == 0)
        r = session_hello(s);
    if (r == 0)
        r = session_request(s);
    while (r == 0) {
        json_t *frame;
        r = vd_wire_recv(s->stream, VD_WIRE_REQUEST_MAX, &frame, NULL, NULL);
        if (r == 0) {
            if (json_is_true(json_object_get(frame, "cancel")))
                vd_call_cancel(&s->call);
            json_decref(frame);
        }
    }
    /* Hung up: what it asked for is not wanted any more. */
    if (s->started)
        vd_call_cancel(&s->call);
    vd_group_wait(&s->running);
    session_free(s);
    vd_group_done(&o->session_group);
}

static int session_new(struct vd_owner *o, struct vd_stream *stream)
{
    struct session *s = calloc(1, sizeof(*s));
    if (!s) {
        vd_stream_close(stream);
        return -ENOMEM;
    }
    s->owner = o;
    s->stream = stream;
    s->call = (struct vd_call){.owner = o, .emit = session_emit, .arg = s};
    vd_fmutex_init(&s->writing);
    vd_group_init(&s->running);
    vd_list_push(&o->sessions, &s->link);
    vd_group_add(&o->session_group);
    int r = vd_fiber_spawn(o->loop, "session", session_fiber, s);
    if (r < 0) {
        session_free(s);
        vd_group_done(&o->session_group);
    }
    return r;
}

static void accept_fiber(void *arg)
{
    struct vd_owner *o = arg;
    while (!o->closing) { /* the listener is gone once this is set */
        struct vd_stream *stream;
        int r = vd_accept(o->listener, &stream);
        if (r == -ECANCELED || o->closing) {
            if (r >= 0)
                vd_stream_close(stream);
            break;
        }
        if (r >= 0 && o->session_group.pending > SESSIONS_MAX) {
            vd_stream_close(stream); /* before the hello: the client tries again */
            continue;
        }
        if (r >= 0)
            r = session_new(o, stream);
        if (r < 0) { /* out of descriptors or memory: that may pass */
            vd_log(VD_LOG_WARNING, "control socket: %s", strerror(-r));
            vd_fiber_sleep(ACCEPT_PAUSE_NS);
        }
    }
    vd_group_done(&o->session_group);
}

int sessions_start(struct vd_owner *o, struct vd_error *err)
{
    vd_group_add(&o->session_group); /* the accepting fiber counts as one */
    int r = vd_fiber_spawn(o->loop, "accept", accept_fiber, o);
    if (r < 0) {
        vd_group_done(&o->session_group);
        return vd_fail(err, r, "no-memory", "cannot listen: %s", strerror(-r));
    }
    return 0;
}

static struct session *session_untold(struct vd_owner *o)
{
    vd_list_each (it, &o->sessions) {
        struct session *s = vd_container_of(it, struct session, link);
        if (!s->started && !s->told)
            return s;
    }
    return NULL;
}

void sessions_stop(struct vd_owner *o, bool cut)
{
    vd_list_each (it, &o->sessions) {
        struct session *s = vd_container_of(it, struct session, link);
        if (s->started && cut)
            vd_call_cancel(&s->call);
    }
    /* A client whose request is on its way must hear that it was not begun. Sending yields, so the
     * list is looked at afresh each time. */
    for (struct session *s; (s = session_untold(o));) {
        s->told = true;
        vd_group_add(&s->running);
        session_send(s, json_pack("{s:b}", "retry", 1));
        if (!s->started)
            vd_stream_shutdown(s->stream);
        vd_group_done(&s->running);
    }
    /* A client that does not take its answer cannot hold up an end that was ordered. */
    if (cut && o->session_group.pending && vd_wait_for(&o->session_group.q, GRACE_NS) == -ETIMEDOUT)
        vd_list_each (it, &o->sessions)
            vd_stream_shutdown(vd_container_of(it, struct session, link)->stream);
    vd_group_wait(&o->session_group);
}
