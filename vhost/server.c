/* SPDX-License-Identifier: MIT */
/*
 * The server: a socket for each volume, who comes in through it, and the end.
 *
 * Stopping, in order: no new connections; every connection's input is closed, so its reader takes
 * no more messages; the rings stop, what is under way is finished and handed back; the connections
 * go. A client that does not take its answers is given ten seconds.
 *
 * Called on the store's loop. Start, refresh and stop suspend, the rest does not.
 */
#include "core/base/log.h"
#include "core/base/text.h"
#include "vhost/vhost_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct vhost_conn *conn_of(struct vd_list *l)
{
    return vd_container_of(l, struct vhost_conn, link);
}

static struct vhost_export *export_of(struct vd_list *l)
{
    return vd_container_of(l, struct vhost_export, link);
}

/* ---- exports ---- */

static void accept_main(void *arg)
{
    struct vhost_export *e = arg;
    struct vd_vhost_server *s = e->server;
    for (;;) {
        struct vd_stream *stream = NULL;
        int r = vd_accept(e->listener, &stream);
        if (r == -ECANCELED || e->closed) {
            vd_stream_close(stream);
            break;
        }
        if (r < 0) {
            /* Out of descriptors, most likely: somebody has to go first. */
            vd_log(VD_LOG_WARNING, "vhost: accepting a client of %s: %s", e->name, strerror(-r));
            vd_fiber_sleep(100000000);
            if (e->closed)
                break;
            continue;
        }
        if (s->n_conns >= VHOST_CLIENTS_MAX) {
            vd_log(VD_LOG_WARNING, "vhost: more than %u clients: one is turned away",
                   VHOST_CLIENTS_MAX);
            vd_stream_close(stream);
            continue;
        }
        conn_start(s, (struct vd_target){.volume = e->name}, stream);
    }
    vd_group_done(&s->fibers);
    free(e);
}

/* The accepting fiber frees it. */
static void export_close(struct vhost_export *e)
{
    e->closed = true;
    vd_list_remove(&e->link);
    vd_listener_close(e->listener);
}

/* VD_YIELDS */
static int export_open(struct vd_vhost_server *s, const char *name, struct vd_error *err)
{
    struct vhost_export *e = calloc(1, sizeof(*e));
    char *address VD_CLEANUP(vd_cleanup_free) = NULL;
    if (!e || asprintf(&address, "unix:%s/%s.sock", s->dir, name) < 0) {
        free(e);
        address = NULL;
        return vd_fail(err, -ENOMEM, "no-memory", "not enough memory for a vhost-user socket");
    }
    e->server = s;
    e->seen = true;
    snprintf(e->name, sizeof(e->name), "%s", name);
    int r = vd_listen(address, &e->listener, err);
    if (r < 0) {
        free(e);
        return r;
    }
    vd_group_add(&s->fibers);
    r = vd_fiber_spawn(s->loop, "vhost-accept", accept_main, e);
    if (r < 0) {
        vd_group_done(&s->fibers);
        vd_listener_close(e->listener);
        free(e);
        return vd_fail(err, r, "no-memory", "not enough memory for a vhost-user socket");
    }
    vd_list_push(&s->exports, &e->link);
    return 0;
}

struct names {
    char (*name)[VD_NAME_MAX + 1];
    size_t n, room;
};

static int name_add(void *arg, const struct vd_volume_info *info)
{
    struct names *names = arg;
    if (names->n == names->room) {
        size_t room = names->room * 2 + 16;
        void *p = realloc(names->name, room * sizeof(*names->name));
        if (!p)
            return -ENOMEM;
        names->name = p;
        names->room = room;
    }
    memcpy(names->name[names->n++], info->name, sizeof(info->name));
    return 0;
}

/* VD_YIELDS */
static int exports_match(struct vd_vhost_server *s, const struct names *names, struct vd_error *err)
{
    vd_list_each (l, &s->exports)
        export_of(l)->seen = false;
    int r = 0;
    for (size_t i = 0; i < names->n && r == 0; i++) {
        struct vhost_export *found = NULL;
        vd_list_each (l, &s->exports)
            if (strcmp(export_of(l)->name, names->name[i]) == 0)
                found = export_of(l);
        if (found)
            found->seen = true;
        else if (!s->stopping)
            r = export_open(s, names->name[i], err);
    }
    vd_list_each_safe (l, &s->exports) {
        if (r == 0 && !export_of(l)->seen)
            export_close(export_of(l));
    }
    return r;
}

int vd_vhost_refresh(struct vd_vhost_server *s, struct vd_error *err)
{
    struct names names = {0};
    vd_fmutex_lock(&s->refreshing);
    int r = vd_store_volumes(s->store, name_add, &names);
    r = r < 0 ? vd_fail_at(err, r, "listing the volumes") : exports_match(s, &names, err);
    vd_fmutex_unlock(&s->refreshing);
    free(names.name);
    return r;
}

/* ---- life ---- */

static int dir_make(const char *dir, struct vd_error *err)
{
    struct stat st;
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return vd_fail(err, -errno, "directory-failed", "%s cannot be made: %s", dir,
                       strerror(errno));
    if (stat(dir, &st) < 0)
        return vd_fail(err, -errno, "directory-failed", "%s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return vd_fail(err, -ENOTDIR, "directory-failed", "%s is not a directory", dir);
    return 0;
}

static struct vd_vhost_server *server_new(struct vd_loop *loop, struct vd_store *store,
                                          const char *dir, unsigned flags)
{
    struct vd_vhost_server *s = calloc(1, sizeof(*s));
    if (!s || !(s->dir = strdup(dir))) {
        free(s);
        return NULL;
    }
    s->loop = loop;
    s->store = store;
    s->flags = flags;
    s->stop_ns = VHOST_STOP_NS;
    vd_list_init(&s->exports);
    vd_list_init(&s->conns);
    vd_fmutex_init(&s->refreshing);
    vd_waitq_init(&s->conns_q);
    vd_group_init(&s->fibers);
    return s;
}

int vd_vhost_start(struct vd_loop *loop, struct vd_store *store, const char *dir, unsigned flags,
                   struct vd_vhost_server **ret, struct vd_error *err)
{
    if (flags & ~(unsigned)VD_VHOST_READ_ONLY)
        return vd_fail(err, -EINVAL, "flags-invalid", "unknown flags for a vhost-user server");
    struct vd_vhost_server *s = server_new(loop, store, dir, flags);
    if (!s)
        return vd_fail(err, -ENOMEM, "no-memory", "not enough memory for a vhost-user server");
    int r = dir_make(dir, err);
    if (r == 0)
        r = vd_vhost_refresh(s, err);
    if (r < 0) {
        vd_vhost_stop(s);
        return r;
    }
    *ret = s;
    return 0;
}

int vd_vhost_attach(struct vd_vhost_server *s, struct vd_target target, int fd)
{
    struct vd_stream *stream;
    int r = s->stopping || s->n_conns >= VHOST_CLIENTS_MAX ? -EBUSY : 0;
    if (r == 0 &&
        (!vd_name_valid(target.volume) || (target.snapshot && !vd_name_valid(target.snapshot))))
        r = -EINVAL;
    if (r == 0)
        r = vd_stream_new(fd, &stream);
    if (r < 0) {
        close(fd);
        return r;
    }
    return conn_start(s, target, stream);
}

void vd_vhost_stop(struct vd_vhost_server *s)
{
    if (!s)
        return;
    s->stopping = true;
    vd_fmutex_lock(&s->refreshing);
    vd_list_each_safe (l, &s->exports)
        export_close(export_of(l));
    vd_fmutex_unlock(&s->refreshing);
    vd_list_each (l, &s->conns)
        shutdown(vd_stream_fd(conn_of(l)->stream), SHUT_RD);
    uint64_t end = vd_loop_now_ns(s->loop) + s->stop_ns;
    while (s->n_conns > 0) {
        uint64_t now = vd_loop_now_ns(s->loop);
        if (now < end) {
            vd_wait_for(&s->conns_q, end - now);
            continue;
        }
        vd_list_each (l, &s->conns)
            conn_break(conn_of(l));
        vd_wait(&s->conns_q);
    }
    vd_group_wait(&s->fibers);
    free(s->dir);
    free(s);
}

const char *vd_vhost_dir(const struct vd_vhost_server *s)
{
    return s->dir;
}

int vd_vhost_clients(const struct vd_vhost_server *s, vd_door_client_fn *fn, void *arg)
{
    vd_list_each (l, &s->conns) {
        const struct vhost_conn *c = conn_of(l);
        struct vd_door_client client = {
            .peer = c->peer,
            .export = c->export,
            .read_only = c->read_only,
            .connected_s = c->connected_s,
            .requests = c->requests,
            .read_bytes = c->read_bytes,
            .write_bytes = c->write_bytes,
            .in_flight = c->in_flight,
        };
        int r = fn(arg, &client);
        if (r != 0)
            return r;
    }
    return 0;
}

unsigned vd_vhost_drop(struct vd_vhost_server *s, const char *volume)
{
    unsigned n = 0;
    vd_list_each (l, &s->conns) {
        struct vhost_conn *c = conn_of(l);
        size_t len = strcspn(c->export, "@");
        if (c->broken ||
            (volume && (strlen(volume) != len || strncmp(c->export, volume, len) != 0)))
            continue;
        conn_break(c);
        n++;
    }
    return n;
}
