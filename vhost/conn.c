/* SPDX-License-Identifier: MIT */
/*
 * A connection from accept to close. Its reader fiber owns it: it opens the disk, does what the
 * messages say and, whatever ended them, stops the rings, waits until nothing of the connection is
 * under way, and frees it.
 *
 *   start -> messages -> (broken) -> rings stopped -> fibers ended -> freed
 *
 * Before its first kick descriptor a client only asks: the other end of a migration connects while
 * the guest still runs elsewhere.
 */
#include "core/base/log.h"
#include "vhost/vhost_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void conn_break(struct vhost_conn *c)
{
    if (c->broken)
        return;
    c->broken = true;
    vd_stream_shutdown(c->stream);
    vd_wake_all(&c->publish_q);
    vd_wake_all(&c->drain_q);
}

int conn_refuse(struct vhost_conn *c, const char *why)
{
    if (!c->broken)
        vd_log(VD_LOG_WARNING, "vhost: %s on %s does not keep to the protocol: %s: disconnected",
               c->peer, c->export, why);
    conn_break(c);
    return -EPROTO;
}

static void disk_event(struct vd_disk_watch *w, enum vd_disk_event event)
{
    struct vhost_conn *c = vd_container_of(w, struct vhost_conn, watch);
    /* Content that was replaced is what was asked for by force. */
    if (event == VD_DISK_GONE)
        conn_break(c);
    if (event == VD_DISK_RESIZED) {
        c->config_changed = true;
        vd_wake_all(&c->publish_q);
    }
}

/* What is under way is finished, and handed back if there is still somebody. VD_YIELDS */
static void conn_end(struct vhost_conn *c)
{
    struct vd_vhost_server *s = c->server;
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++)
        if (c->queues[i])
            queue_stop(c->queues[i]);
    c->ending = true;
    workers_stop(c);
    vd_wake_all(&c->publish_q);
    while (c->publisher || c->n_workers > 0)
        vd_wait(&c->drain_q);
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++)
        queue_free(c->queues[i]);
    for (struct vd_list *l; (l = vd_list_pop(&c->free_reqs));)
        free(vd_container_of(l, struct vhost_req, link));
    memory_log_free(c);
    inflight_free(c);
    memory_regions_free(c);
    free(c->regions);
    if (c->backend_fd >= 0)
        close(c->backend_fd);
    if (c->disk) {
        vd_disk_unwatch(&c->watch);
        vd_disk_unref(c->disk);
    }
    vd_stream_close(c->stream);
    vd_list_remove(&c->link);
    s->n_conns--;
    vd_wake_all(&s->conns_q);
    free(c);
}

/* VD_YIELDS */
static int disk_open(struct vhost_conn *c)
{
    char volume[VHOST_EXPORT_MAX];
    struct vd_error err = {0};
    struct vd_disk_info info;
    snprintf(volume, sizeof(volume), "%s", c->export);
    char *at = strchr(volume, '@');
    if (at)
        *at = 0;
    struct vd_target t = {.volume = volume, .snapshot = at ? at + 1 : NULL};
    int r =
        vd_store_open(c->server->store, t, c->server->flags & VD_VHOST_READ_ONLY, &c->disk, &err);
    if (r < 0) {
        vd_log(VD_LOG_WARNING, "vhost: %s cannot have %s: %s", c->peer, c->export, err.message);
        return r;
    }
    vd_disk_info(c->disk, &info);
    c->read_only = info.read_only;
    c->watch.fn = disk_event;
    vd_disk_watch(c->disk, &c->watch);
    vd_log(VD_LOG_INFO, "vhost: %s opened %s", c->peer, c->export);
    return 0;
}

static void conn_main(void *arg)
{
    struct vhost_conn *c = arg;
    int r = c->publisher ? disk_open(c) : -ENOMEM;
    while (r == 0 && !c->broken && !c->server->stopping)
        r = message_read(c);
    /* At a clean end, and when the server stops, what is under way is handed back. */
    if (r < 0 && r != -ENODATA && !c->server->stopping)
        conn_break(c);
    conn_end(c);
}

int conn_start(struct vd_vhost_server *s, struct vd_target target, struct vd_stream *stream)
{
    struct vhost_conn *c = calloc(1, sizeof(*c));
    uid_t uid;
    gid_t gid;
    pid_t pid;
    if (!c) {
        vd_stream_close(stream);
        return -ENOMEM;
    }
    c->server = s;
    c->stream = stream;
    c->connected_s = vd_loop_wall_s(s->loop);
    c->wce = true;
    c->backend_fd = -1;
    snprintf(c->export, sizeof(c->export), "%s%s%s", target.volume, target.snapshot ? "@" : "",
             target.snapshot ? target.snapshot : "");
    snprintf(c->peer, sizeof(c->peer), "unknown peer");
    if (vd_stream_peer(stream, &uid, &gid, &pid) == 0)
        snprintf(c->peer, sizeof(c->peer), "pid %ld, uid %ld", (long)pid, (long)uid);
    vd_list_init(&c->work);
    vd_list_init(&c->idle);
    vd_list_init(&c->free_reqs);
    vd_list_init(&c->dirty);
    vd_list_init(&c->watch.link);
    vd_waitq_init(&c->publish_q);
    vd_waitq_init(&c->drain_q);
    vd_list_push(&s->conns, &c->link);
    s->n_conns++;
    c->publisher = vd_fiber_spawn(s->loop, "vhost-publish", publisher_main, c) == 0;
    int r = vd_fiber_spawn(s->loop, "vhost-reader", conn_main, c);
    if (r < 0)
        conn_end(c);
    return r;
}
