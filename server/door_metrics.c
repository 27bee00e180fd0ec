/* SPDX-License-Identifier: MIT */
/*
 * The metrics door: a small HTTP/1.1 server that answers GET /metrics and nothing else.
 *
 * 1. A client cannot hold anything up: its request has to come, and its answer to be taken, within
 *    ten seconds; there are at most CLIENTS_MAX at once; and one request is answered per
 * connection.
 *
 * Called by door.c; starting and stopping yield.
 */
#include "core/base/log.h"
#include "core/io/stream.h"
#include "server/door_priv.h"
#include "server/stats_priv.h"

#include <stdio.h>
#include <stdlib.h>

#define CLIENTS_MAX 16
#define REQUEST_MAX 8192
#define DEADLINE_NS UINT64_C(10000000000)
#define LOOK_NS UINT64_C(1000000000)

struct metrics {
    struct vd_owner *owner;
    struct vd_listener *listener;
    struct vd_list clients;
    unsigned n;
    struct vd_group fibers;
    struct vd_waitq changed; /* wakes the fiber that looks after deadlines */
    bool stopping;
};

struct client {
    struct vd_list link;
    struct metrics *server;
    struct vd_stream *stream;
    uint64_t deadline_ns;
    bool cut;
};

/* Up to the empty line; what follows it is not looked at. VD_YIELDS */
static int request_read(struct client *c, char *buf, size_t len)
{
    size_t used = 0;
    while (used < len - 1) {
        ssize_t n = vd_stream_read_some(c->stream, buf + used, len - 1 - used);
        if (n <= 0)
            return n < 0 ? (int)n : -ECONNRESET;
        if (memchr(buf + used, 0, (size_t)n))
            return -EPROTO;
        used += (size_t)n;
        buf[used] = 0;
        if (strstr(buf, "\r\n\r\n") || strstr(buf, "\n\n"))
            return 0;
    }
    return -E2BIG;
}

static int respond(struct client *c, const char *status, const char *more, const char *body,
                   bool head)
{
    char top[256];
    int n = snprintf(top, sizeof(top),
                     "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                     "Content-Length: %zu\r\n%sConnection: close\r\n\r\n",
                     status, strlen(body), more);
    int r = vd_stream_write(c->stream, top, (size_t)n);
    return r < 0 || head ? r : vd_stream_write(c->stream, body, strlen(body));
}

static int respond_metrics(struct client *c, bool head)
{
    struct stats s;
    char *text = stats_gather(c->server->owner, &s) == 0 ? stats_exposition(&s) : NULL;
    stats_done(&s);
    int r = text ? respond(c, "200 OK", "", text, head)
                 : respond(c, "503 Service Unavailable", "", "the pool does not answer\n", head);
    free(text);
    return r;
}

static int serve(struct client *c, char *buf)
{
    int r = request_read(c, buf, REQUEST_MAX);
    if (r == -E2BIG)
        return respond(c, "431 Request Header Fields Too Large", "", "too long\n", false);
    if (r < 0 && r != -EPROTO)
        return r;
    buf[strcspn(buf, "\r\n")] = 0;
    char *save = NULL, *method = strtok_r(buf, " ", &save), *path = strtok_r(NULL, " ", &save),
         *version = strtok_r(NULL, " ", &save);
    if (r < 0 || !version || strncmp(version, "HTTP/1.", 7) != 0 || strtok_r(NULL, " ", &save))
        return respond(c, "400 Bad Request", "", "this is not HTTP/1.1\n", false);
    bool head = strcmp(method, "HEAD") == 0;
    if (!head && strcmp(method, "GET") != 0)
        return respond(c, "405 Method Not Allowed", "Allow: GET, HEAD\r\n", "only GET\n", false);
    path[strcspn(path, "?")] = 0;
    if (strcmp(path, "/metrics") != 0)
        return respond(c, "404 Not Found", "", "there is only /metrics\n", head);
    return respond_metrics(c, head);
}

static void client_fiber(void *arg)
{
    struct client *c = arg;
    struct metrics *m = c->server;
    char *buf = malloc(REQUEST_MAX);
    if (buf)
        (void)serve(c, buf);
    free(buf);
    vd_list_remove(&c->link);
    vd_stream_close(c->stream);
    free(c);
    m->n--;
    vd_group_done(&m->fibers);
}

static int client_new(struct metrics *m, struct vd_stream *stream)
{
    struct client *c = m->n < CLIENTS_MAX ? calloc(1, sizeof(*c)) : NULL;
    if (!c) {
        vd_stream_close(stream);
        return -EBUSY;
    }
    c->server = m;
    c->stream = stream;
    c->deadline_ns = vd_loop_now_ns(m->owner->loop) + DEADLINE_NS;
    vd_list_push(&m->clients, &c->link);
    m->n++;
    vd_group_add(&m->fibers);
    int r = vd_fiber_spawn(m->owner->loop, "metrics", client_fiber, c);
    if (r < 0) {
        vd_list_remove(&c->link);
        vd_stream_close(stream);
        free(c);
        m->n--;
        vd_group_done(&m->fibers);
    }
    vd_wake_all(&m->changed);
    return r;
}

static void accept_fiber(void *arg)
{
    struct metrics *m = arg;
    while (!m->stopping) {
        struct vd_stream *stream;
        int r = vd_accept(m->listener, &stream);
        if (r == -ECANCELED || m->stopping) {
            if (r == 0)
                vd_stream_close(stream);
            break;
        }
        if (r == 0)
            (void)client_new(m, stream);
        else
            vd_fiber_sleep(LOOK_NS); /* out of descriptors: that may pass */
    }
    vd_group_done(&m->fibers);
}

static void cut_clients(struct metrics *m, uint64_t until_ns)
{
    vd_list_each (it, &m->clients) {
        struct client *c = vd_container_of(it, struct client, link);
        if (c->cut || c->deadline_ns > until_ns)
            continue;
        c->cut = true;
        vd_stream_shutdown(c->stream);
    }
}

static void deadline_fiber(void *arg)
{
    struct metrics *m = arg;
    while (!m->stopping) {
        if (m->n)
            (void)vd_wait_for(&m->changed, LOOK_NS);
        else
            vd_wait(&m->changed);
        cut_clients(m, vd_loop_now_ns(m->owner->loop));
    }
    vd_group_done(&m->fibers);
}

static int fibers_start(struct metrics *m)
{
    vd_group_add(&m->fibers);
    int r = vd_fiber_spawn(m->owner->loop, "metrics deadlines", deadline_fiber, m);
    if (r < 0) {
        vd_group_done(&m->fibers);
        return r;
    }
    vd_group_add(&m->fibers);
    r = vd_fiber_spawn(m->owner->loop, "metrics accept", accept_fiber, m);
    if (r < 0)
        vd_group_done(&m->fibers);
    return r;
}

static void metrics_stop(struct vd_door *d)
{
    struct metrics *m = d->server;
    m->stopping = true;
    vd_listener_close(m->listener);
    cut_clients(m, UINT64_MAX);
    vd_wake_all(&m->changed);
    vd_group_wait(&m->fibers);
    free(m);
}

static int metrics_start(struct vd_door *d, const struct vd_door_options *opt, struct vd_error *err)
{
    struct metrics *m = calloc(1, sizeof(*m));
    if (!m)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    m->owner = d->owner;
    vd_list_init(&m->clients);
    vd_group_init(&m->fibers);
    vd_waitq_init(&m->changed);
    int r = vd_listen(opt->address, &m->listener, err);
    if (r < 0) {
        free(m);
        return r;
    }
    d->server = m;
    if (!opt->insecure && vd_listener_remote(m->listener))
        r = vd_fail(err, -EPERM, "address-remote",
                    "%s can be reached from other machines, and anybody there could read the "
                    "metrics: take 127.0.0.1, or give --insecure",
                    opt->address);
    else if ((r = fibers_start(m)) < 0)
        vd_fail(err, r, "no-memory", "out of memory");
    if (r < 0) {
        metrics_stop(d);
        d->server = NULL;
    }
    return r;
}

static const char *metrics_address(const struct vd_door *d)
{
    const struct metrics *m = d->server;
    return vd_listener_address(m->listener);
}

static char *metrics_uri(const struct vd_door *d)
{
    char *uri;
    if (strncmp(d->full, "tcp:", 4) != 0)
        return strdup(d->full);
    return asprintf(&uri, "http://%s/metrics", d->full + 4) < 0 ? NULL : uri;
}

const struct door_kind door_metrics = {
    .name = "metrics",
    .start = metrics_start,
    .stop = metrics_stop,
    .address = metrics_address,
    .uri = metrics_uri,
};
