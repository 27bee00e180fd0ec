/* SPDX-License-Identifier: MIT */
/*
 * The server: mounts, receives, stops.
 *
 * Invariants:
 *  1. The receiving fiber waits for nothing but requests, and for room when too much is under way;
 *     room comes from workers, which need no request to be received first.
 *  2. Whatever may make the kernel ask us something (paths, unmounting, dropping its pages) happens
 *     on other threads (thread.c), while we receive.
 *
 * Stopping, in order: what the kernel has to write back is taken; the mount goes, lazily where
 * files are open; pages that are stale are settled; nothing more is received; what is under way is
 * finished and answered; everything is flushed; the connection is cut.
 */
#include "core/base/log.h"
#include "core/base/text.h"
#include "fuse/fuse_priv.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

/* A write's data then begin on a page. */
#define RECEIVE_OFF (VD_BLOCK - sizeof(struct fuse_in_header) - sizeof(struct fuse_write_in))
/* Requests taken before others have their turn. */
#define RECEIVE_BURST 64

/* ---- receiving ---- */

static bool has_room(const struct vd_fuse_server *s)
{
    return s->in_flight < FUSE_IN_FLIGHT_MAX && s->held < FUSE_HELD_MAX;
}

/* One request, if there is one: 1 = handled, 0 = none, or -errno at the end of the session. */
static int receive_one(struct vd_fuse_server *s)
{
    if (!s->received)
        s->received = fbuf_get(s, FUSE_LARGE_LEN);
    if (!s->received)
        return s->in_flight > 0 ? -ENOBUFS : -ENOMEM;
    struct fuse_buf buf = {.mem = (uint8_t *)s->received + RECEIVE_OFF};
    int n = fuse_session_receive_buf(s->session, &buf);
    if (fuse_session_exited(s->session) || n == 0)
        return -ENODEV;
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    if (n < 0)
        return n;
    fuse_session_process_buf(s->session, &buf);
    return fuse_session_exited(s->session) ? -ENODEV : 1;
}

/* Until the session ends or the server closes. VD_YIELDS */
static int receive(struct vd_fuse_server *s)
{
    unsigned burst = 0;
    while (!s->closing || s->n_stale > 0) {
        if (!has_room(s)) {
            vd_wait(&s->room_q);
            continue;
        }
        int r = receive_one(s);
        if (r == -ENOBUFS) {
            vd_wait(&s->room_q);
        } else if (r == -ENOMEM) {
            vd_fiber_sleep(10000000);
        } else if (r < 0) {
            return r;
        } else if (r == 0) {
            burst = 0;
            r = vd_poll_wait(&s->poll, POLLIN);
            if (r < 0)
                return r;
        } else if (++burst % RECEIVE_BURST == 0) {
            vd_fiber_yield();
        }
    }
    return 0;
}

static void receive_main(void *arg)
{
    struct vd_fuse_server *s = arg;
    int r = receive(s);
    if (r < 0 && r != -ENODEV)
        vd_log(VD_LOG_ERROR, "fuse: receiving for %s: %s", s->mountpoint, strerror(-r));
    void (*fn)(void *) = NULL;
    void *fn_arg = NULL;
    s->ended = true;
    if (!s->stopping) {
        while (s->in_flight > 0)
            vd_wait(&s->room_q);
        fhandles_free(s);
        r = vd_store_flush(s->store);
        if (r < 0)
            vd_log(VD_LOG_ERROR, "fuse: flushing after %s was unmounted: %s", s->mountpoint,
                   strerror(-r));
        fn = s->end_fn;
        fn_arg = s->end_arg;
    }
    vd_group_done(&s->fibers);
    /* From here on the server may be freed. */
    if (fn)
        fn(fn_arg);
}

/* ---- starting ---- */

struct start_call {
    struct vd_fuse_server *server;
    const char *mountpoint;
    struct vd_error *err;
};

static int mount_threaded(void *arg)
{
    struct start_call *c = arg;
    struct vd_fuse_server *s = c->server;
    int r = fmount_check(c->mountpoint, &s->mountpoint, c->err);
    if (r == 0)
        r = fsession_new(s, c->err);
    if (r == 0)
        r = fmount_mount(s->session, s->mountpoint, c->err);
    s->mounted = r == 0;
    return r;
}

static int unmount_threaded(void *arg)
{
    fmount_unmount(arg);
    return 0;
}

/* The permissions that the server's umask denies; to nobody but the owner without allow_other. */
static mode_t permissions_denied(unsigned flags)
{
    char line[80];
    unsigned mask = 077;
    if (!(flags & VD_FUSE_ALLOW_OTHER))
        return 077;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Umask: %o", &mask) == 1)
            break;
    if (f)
        fclose(f);
    return mask & 0777;
}

static struct vd_fuse_server *server_new(struct vd_loop *loop, struct vd_store *store,
                                         unsigned flags)
{
    struct vd_fuse_server *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->loop = loop;
    s->store = store;
    s->flags = flags;
    s->uid = geteuid();
    s->gid = getegid();
    s->mask = permissions_denied(flags);
    s->start_s = vd_loop_wall_s(loop);
    fnodes_init(s);
    vd_list_init(&s->disks);
    vd_list_init(&s->handles);
    vd_list_init(&s->listings);
    vd_list_init(&s->work);
    vd_list_init(&s->idle);
    vd_list_init(&s->free_jobs);
    vd_list_init(&s->stale);
    vd_waitq_init(&s->room_q);
    vd_waitq_init(&s->stale_q);
    vd_group_init(&s->fibers);
    return s;
}

static int fibers_start(struct vd_fuse_server *s)
{
    int r = fworkers_start(s);
    if (r == 0)
        r = fstale_start(s);
    if (r < 0)
        return r;
    vd_group_add(&s->fibers);
    r = vd_fiber_spawn(s->loop, "fuse-receive", receive_main, s);
    if (r < 0)
        vd_group_done(&s->fibers);
    return r;
}

/* Gives the device back, which ends what a lazy unmount has left. In its place libfuse finds a
 * descriptor that polls like a mount that is gone: it would try, and complain, else. */
static void connection_cut(struct vd_fuse_server *s)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return;
    close(ends[0]);
    dup3(ends[1], fuse_session_fd(s->session), O_CLOEXEC);
    close(ends[1]);
}

/* What a dead or never living receiver has left. VD_YIELDS */
static void server_free(struct vd_fuse_server *s)
{
    s->closing = true;
    vd_wake_all(&s->stale_q);
    while (s->in_flight > 0)
        vd_wait(&s->room_q);
    fworkers_stop(s);
    vd_group_wait(&s->fibers);
    if (s->mounted)
        vd_poll_done(&s->poll);
    if (s->session) {
        if (s->ended || s->stopping)
            connection_cut(s);
        if (s->mounted)
            fuse_session_unmount(s->session);
        fuse_session_destroy(s->session);
    }
    fhandles_free(s);
    fdirs_free(s);
    fnodes_free(s);
    fjobs_free(s);
    free(s->mountpoint);
    free(s);
}

int vd_fuse_start(struct vd_loop *loop, struct vd_store *store, const char *mountpoint,
                  unsigned flags, struct vd_fuse_server **ret, struct vd_error *err)
{
    if (flags & ~(unsigned)(VD_FUSE_READ_ONLY | VD_FUSE_ALLOW_OTHER))
        return vd_fail(err, -EINVAL, "flags-invalid", "unknown flags for a mount");
    struct vd_fuse_server *s = server_new(loop, store, flags);
    if (!s)
        return vd_fail(err, -ENOMEM, "no-memory", "not enough memory for a mount");
    struct start_call call = {s, mountpoint, err};
    int r = fthread_run(mount_threaded, &call);
    if (r == 0) {
        vd_poll_init(&s->poll, fuse_session_fd(s->session));
        r = fsession_tune(s);
        if (r == 0)
            r = fibers_start(s);
        if (r < 0)
            vd_fail(err, r, "no-memory", "not enough memory for a mount");
    }
    if (r < 0) {
        server_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void vd_fuse_stop(struct vd_fuse_server *s)
{
    if (!s)
        return;
    s->stopping = true;
    if (!s->ended)
        fthread_run(unmount_threaded, s->mountpoint);
    fstale_stop(s);
    vd_poll_kick(&s->poll);
    vd_wake_all(&s->room_q);
    int r = vd_store_flush(s->store);
    if (r < 0)
        vd_log(VD_LOG_ERROR, "fuse: flushing before %s ends: %s", s->mountpoint, strerror(-r));
    server_free(s);
}

const char *vd_fuse_mountpoint(const struct vd_fuse_server *s)
{
    return s->mountpoint;
}

bool vd_fuse_ended(const struct vd_fuse_server *s)
{
    return s->ended;
}

void vd_fuse_on_end(struct vd_fuse_server *s, void (*fn)(void *arg), void *arg)
{
    s->end_fn = fn;
    s->end_arg = arg;
}

int vd_fuse_clients(const struct vd_fuse_server *s, vd_door_client_fn *fn, void *arg)
{
    vd_list_each (l, &s->disks) {
        const struct fdisk *d = vd_container_of(l, struct fdisk, link);
        struct vd_door_client client = {
            .peer = d->peer,
            .export = d->export,
            .read_only = !d->writable,
            .connected_s = d->connected_s,
            .requests = d->requests,
            .read_bytes = d->read_bytes,
            .write_bytes = d->write_bytes,
            .in_flight = d->users,
        };
        int r = fn(arg, &client);
        if (r != 0)
            return r;
    }
    return 0;
}
