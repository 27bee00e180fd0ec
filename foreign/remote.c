/* SPDX-License-Identifier: MIT */
/*
 * The remote disk: libnbd's asynchronous calls driven by the loop. Each connection has a fiber, its
 * pump, that waits for the socket and lets libnbd's state machine go on; whoever has a request
 * hands it to libnbd and waits until the completion callback wakes it.
 *
 * Invariants
 *  1. Nothing here blocks: libnbd is called only when its socket is ready, or to start a command,
 *     and names are looked up by vd_connect.
 *  2. libnbd calls back for every command, at the latest when the connection has died; buffers and
 *     waiters stay until then.
 *  3. A pump waits for what libnbd wants now: whoever starts a command kicks it if that changes.
 *
 * Everything yields but new, abort and info.
 */
#include "foreign/remote_priv.h"

#include "core/base/log.h"
#include "core/base/text.h"
#include "core/io/stream.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_MAX ((uint32_t)VD_MIB(32))
#define ZERO_MAX VD_GIB(1) /* in one command */

/* --- links --- */

static void link_failed(struct link *l)
{
    const char *text = nbd_get_error();
    if (!*l->why)
        snprintf(l->why, sizeof(l->why), "%s", text ? text : "the connection failed");
    for (char *p = l->why; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
}

static bool link_over(struct link *l)
{
    return nbd_aio_is_dead(l->nbd) > 0 || nbd_aio_is_closed(l->nbd) > 0;
}

/* Lets libnbd do what the socket allows. */
static void link_turn(struct link *l, int events)
{
    unsigned dir = nbd_aio_get_direction(l->nbd);
    int r = 0;
    if ((dir & LIBNBD_AIO_DIRECTION_READ) && (events & (POLLIN | POLLHUP | POLLERR)))
        r = nbd_aio_notify_read(l->nbd);
    else if ((dir & LIBNBD_AIO_DIRECTION_WRITE) && (events & (POLLOUT | POLLHUP | POLLERR)))
        r = nbd_aio_notify_write(l->nbd);
    if (r < 0)
        link_failed(l);
}

static int link_events(struct link *l)
{
    unsigned dir = nbd_aio_get_direction(l->nbd);
    return (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
           (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

static void pump(void *arg)
{
    struct link *l = arg;
    struct remote *r = l->remote;
    bool ready = false;
    while (!link_over(l)) {
        l->polling = link_events(l);
        int events = vd_poll_wait(&l->poll, l->polling);
        l->polling = 0;
        if (events < 0)
            (void)shutdown(l->poll.fd, SHUT_RDWR); /* libnbd finds the end by itself */
        link_turn(l, events < 0 ? POLLHUP : events);
        if (!ready && nbd_aio_is_ready(l->nbd) > 0) {
            ready = true;
            vd_wake_all(&r->changed);
        }
    }
    vd_poll_done(&l->poll);
    l->ended = true;
    vd_wake_all(&r->changed);
    vd_group_done(&r->pumps);
}

/* What the pump waits for may have become too little. */
static void link_nudge(struct link *l)
{
    if (l->polling && (link_events(l) & ~l->polling))
        vd_poll_kick(&l->poll);
}

struct link *remote_link(struct remote *r)
{
    struct link *best = NULL;
    for (int i = 0; i < r->n_links; i++) {
        struct link *l = &r->links[i];
        if (!l->ended && !r->aborted && (!best || l->in_flight < best->in_flight))
            best = l;
    }
    return best;
}

static int command_done(void *arg, int *error)
{
    struct remote_wait *w = arg;
    w->error = *error;
    w->done = true;
    vd_wake_all(&w->q);
    return 1; /* and libnbd forgets it */
}

nbd_completion_callback remote_done(struct remote_wait *w, struct link *l)
{
    *w = (struct remote_wait){.link = l};
    vd_waitq_init(&w->q);
    l->in_flight++;
    return (nbd_completion_callback){.callback = command_done, .user_data = w};
}

int remote_wait(struct remote_wait *w, int64_t cookie)
{
    if (cookie < 0) {
        w->link->in_flight--;
        link_failed(w->link);
        return -EIO;
    }
    link_nudge(w->link);
    while (!w->done)
        vd_wait(&w->q);
    w->link->in_flight--;
    if (!w->error)
        return 0;
    vd_log(VD_LOG_INFO, "a request to the NBD server failed: %s%s%s", strerror(w->error),
           *w->link->why ? "; " : "", w->link->why);
    /* A server may say anything; callers know a few. */
    return w->error == ENOSPC || w->error == EROFS || w->error == ENOMEM ? -w->error : -EIO;
}

/* --- requests --- */

static int read_piece(struct remote *r, uint64_t off, char *buf, size_t len)
{
    struct remote_wait w;
    struct link *l = remote_link(r);
    if (!l)
        return -EIO;
    /* The server's own end may lie within the last sector. */
    size_t real = off >= r->size ? 0 : (size_t)VD_MIN(len, r->size - off);
    memset(buf + real, 0, len - real);
    if (real == 0)
        return 0;
    nbd_completion_callback cb = remote_done(&w, l);
    return remote_wait(&w, nbd_aio_pread(l->nbd, buf, real, off, cb, 0));
}

static int write_piece(struct remote *r, uint64_t off, const char *buf, size_t len, unsigned flags)
{
    struct remote_wait w;
    struct link *l = remote_link(r);
    uint32_t fua = (flags & VD_DISK_FUA) && r->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
    if (!l)
        return -EIO;
    nbd_completion_callback cb = remote_done(&w, l);
    return remote_wait(&w, nbd_aio_pwrite(l->nbd, buf, len, off, cb, fua));
}

static int remote_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    struct remote *r = remote_of(d);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        rc = iov[i].iov_len ? read_piece(r, off, iov[i].iov_base, iov[i].iov_len) : 0;
        off += iov[i].iov_len;
    }
    return rc;
}

static void changed(struct remote *r)
{
    r->generation++;
    r->n_ext = 0;
}

static int remote_flush(struct vd_disk *d)
{
    struct remote *r = remote_of(d);
    struct remote_wait w;
    struct link *l = remote_link(r);
    if (!l)
        return -EIO;
    if (!r->can_flush || r->read_only)
        return 0;
    nbd_completion_callback cb = remote_done(&w, l);
    return remote_wait(&w, nbd_aio_flush(l->nbd, cb, 0));
}

/* What FUA could not be said to the server is made good. */
static int settle(struct remote *r, int rc, unsigned flags)
{
    return rc == 0 && (flags & VD_DISK_FUA) && !r->can_fua ? remote_flush(&r->disk) : rc;
}

static int remote_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n,
                         size_t len, unsigned flags)
{
    struct remote *r = remote_of(d);
    int rc = 0;
    changed(r);
    for (int i = 0; i < n && rc == 0; i++) {
        rc = iov[i].iov_len ? write_piece(r, off, iov[i].iov_base, iov[i].iov_len, flags) : 0;
        off += iov[i].iov_len;
    }
    changed(r);
    return settle(r, rc, flags);
}

static int zero_by_writing(struct remote *r, uint64_t off, uint64_t len, unsigned flags)
{
    size_t buf_len = (size_t)VD_MIN(len, VD_MIB(1));
    char *buf = calloc(1, buf_len);
    int rc = buf ? 0 : -ENOMEM;
    while (rc == 0 && len > 0) {
        size_t part = (size_t)VD_MIN(len, buf_len);
        rc = write_piece(r, off, buf, part, flags);
        off += part;
        len -= part;
    }
    free(buf);
    return rc;
}

static int zero_piece(struct remote *r, uint64_t off, uint64_t len, unsigned flags, bool trim)
{
    struct remote_wait w;
    struct link *l = remote_link(r);
    uint32_t f = (flags & VD_DISK_FUA) && r->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
    if (!l)
        return -EIO;
    nbd_completion_callback cb = remote_done(&w, l);
    if (trim)
        return remote_wait(&w, nbd_aio_trim(l->nbd, len, off, cb, f));
    if (flags & VD_DISK_NO_UNMAP)
        f |= LIBNBD_CMD_FLAG_NO_HOLE;
    return remote_wait(&w, nbd_aio_zero(l->nbd, len, off, cb, f));
}

static int zero_or_trim(struct remote *r, uint64_t off, uint64_t len, unsigned flags, bool trim)
{
    int rc = 0;
    changed(r);
    while (rc == 0 && len > 0) {
        uint64_t part = VD_MIN(len, ZERO_MAX);
        if (trim && !r->can_trim)
            break;
        rc = trim || r->can_zero ? zero_piece(r, off, part, flags, trim)
                                 : zero_by_writing(r, off, part, flags);
        off += part;
        len -= part;
    }
    changed(r);
    return settle(r, rc, flags);
}

static int remote_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    return zero_or_trim(remote_of(d), off, len, flags, false);
}

static int remote_discard(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    return zero_or_trim(remote_of(d), off, len, flags, true);
}

static void remote_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    struct remote *r = remote_of(d);
    *ret = (struct vd_disk_info){
        .size = r->padded,
        .block_min = VD_SECTOR,
        .block_pref = VD_BLOCK,
        .request_max = r->request_max,
        .read_only = r->read_only,
    };
}

/* --- coming and going --- */

static void remote_close(struct vd_disk *d)
{
    struct remote *r = remote_of(d);
    for (int i = 0; i < r->n_links; i++) {
        struct link *l = &r->links[i];
        if (l->ended)
            continue;
        /* A word of goodbye if it can be said at once; no waiting for the server's. */
        if (!r->aborted && nbd_aio_is_ready(l->nbd) > 0)
            (void)nbd_aio_disconnect(l->nbd, 0);
        (void)shutdown(l->poll.fd, SHUT_RDWR);
        vd_poll_kick(&l->poll);
    }
    vd_group_wait(&r->pumps);
    for (int i = 0; i < r->n_links; i++)
        nbd_close(r->links[i].nbd);
    for (int i = 0; i < r->n_fds; i++)
        if (r->fds[i] >= 0)
            close(r->fds[i]);
    free(r->ext);
    free(r->address);
    free(r->export);
    free(r);
}

static const struct vd_disk_ops remote_ops = {
    .readv = remote_readv,
    .writev = remote_writev,
    .zero = remote_zero,
    .discard = remote_discard,
    .flush = remote_flush,
    .extents = remote_extents,
    .info = remote_info,
    .close = remote_close,
};

int vd_remote_new(const struct vd_remote_options *opt, struct vd_disk **ret, struct vd_error *err)
{
    struct remote *r = calloc(1, sizeof(*r));
    bool good = r && opt->n_fds <= VD_REMOTE_LINKS;
    if (good) {
        vd_disk_init(&r->disk, &remote_ops);
        vd_group_init(&r->pumps);
        vd_waitq_init(&r->changed);
        r->want_read_only = r->read_only = opt->read_only;
        r->request_max = REQUEST_MAX;
        r->export = strdup(opt->export ? opt->export : "");
        r->address = opt->address ? strdup(opt->address) : NULL;
        good = r->export && (!opt->address || r->address);
    }
    for (int i = 0; i < opt->n_fds; i++)
        if (good)
            r->fds[r->n_fds++] = opt->fds[i];
        else
            close(opt->fds[i]);
    if (!good) {
        if (r) {
            free(r->export);
            free(r->address);
        }
        free(r);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    *ret = &r->disk;
    return 0;
}

void vd_remote_abort(struct vd_disk *d)
{
    struct remote *r = remote_of(d);
    r->aborted = true;
    for (int i = 0; i < r->n_links; i++)
        if (!r->links[i].ended)
            (void)shutdown(r->links[i].poll.fd, SHUT_RDWR);
    vd_wake_all(&r->changed);
}

/* A descriptor of our own to the server. */
static int connect_one(struct remote *r, struct vd_error *err)
{
    struct vd_stream *s;
    int rc = vd_connect(r->address, &s, err);
    if (rc < 0)
        return rc;
    int fd = fcntl(vd_stream_fd(s), F_DUPFD_CLOEXEC, 3);
    rc =
        fd < 0 ? vd_fail(err, -errno, "connect-failed", "%s: %s", r->address, strerror(errno)) : fd;
    vd_stream_close(s);
    return rc;
}

#define REMOTE_UNKNOWN "the NBD server does not serve \"%s\": %s"

/* Gives libnbd the socket and shakes hands; takes `fd` over. */
static int link_start(struct remote *r, int fd, struct vd_error *err)
{
    struct link *l = &r->links[r->n_links];
    *l = (struct link){.remote = r, .ended = true};
    int fl = fcntl(fd, F_GETFL);
    l->nbd = nbd_create();
    if (!l->nbd || fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0) {
        close(fd);
        if (l->nbd)
            nbd_close(l->nbd);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    r->n_links++;
    /* Buffers are cleared first, for a server might leave part of an answer out; not our own. */
    (void)nbd_set_pread_initialize(l->nbd, r->address != NULL);
    if (nbd_set_export_name(l->nbd, r->export) < 0 ||
        nbd_add_meta_context(l->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        nbd_aio_connect_socket(l->nbd, fd) < 0) {
        bool unknown = nbd_get_errno() == ENOENT; /* a quick server has answered already */
        link_failed(l);
        if (unknown)
            return vd_fail(err, -EIO, "remote-refused", REMOTE_UNKNOWN, r->export, l->why);
        return vd_fail(err, -EIO, "remote-refused", "the NBD server cannot be used: %s", l->why);
    }
    vd_poll_init(&l->poll, fd);
    vd_group_add(&r->pumps);
    int rc = vd_fiber_spawn(vd_loop_current(), "remote", pump, l);
    if (rc < 0) {
        vd_group_done(&r->pumps);
        return vd_fail(err, rc, "no-memory", "out of memory");
    }
    l->ended = false;
    while (!l->ended && !r->aborted && nbd_aio_is_ready(l->nbd) <= 0)
        vd_wait(&r->changed);
    if (r->aborted)
        return vd_fail(err, -ECANCELED, "cancelled", "cancelled");
    if (l->ended)
        return vd_fail(err, -EIO, "remote-refused", REMOTE_UNKNOWN, r->export,
                       *l->why ? l->why : "it hung up");
    return 0;
}

/* What the first link has learned. */
static int remote_learn(struct remote *r, struct vd_error *err)
{
    struct nbd_handle *h = r->links[0].nbd;
    int64_t size = nbd_get_size(h), max = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
    int64_t min = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
    if (size < 0 || (uint64_t)size > VD_VOLUME_MAX)
        return vd_fail(err, -EFBIG, "size-invalid", "the disk is larger than 8 EiB - 1 MiB");
    if (!r->want_read_only && nbd_is_read_only(h) != 0)
        return vd_fail(err, -EROFS, "remote-read-only", "the NBD server serves \"%s\" read-only",
                       r->export);
    if (min > (int64_t)VD_SECTOR)
        return vd_fail(err, -EOPNOTSUPP, "remote-unsupported",
                       "the NBD server takes only requests of %" PRIi64 " bytes or multiples; "
                       "vdisk needs 512",
                       min);
    if (max >= (int64_t)VD_SECTOR)
        r->request_max = (uint32_t)VD_MIN((uint64_t)max, REQUEST_MAX) & ~(VD_SECTOR - 1);
    r->size = (uint64_t)size;
    r->padded =
        r->want_read_only ? VD_ROUND_UP(r->size, VD_SECTOR) : VD_ROUND_DOWN(r->size, VD_SECTOR);
    r->can_zero = nbd_can_zero(h) > 0;
    r->can_trim = nbd_can_trim(h) > 0;
    r->can_flush = nbd_can_flush(h) > 0;
    r->can_fua = nbd_can_fua(h) > 0;
    r->can_extents = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return 0;
}

int vd_remote_connect(struct vd_disk *d, struct vd_error *err)
{
    struct remote *r = remote_of(d);
    bool several = r->address || r->n_fds > 1;
    int rc = 0;
    for (int i = 0; rc == 0 && i < (r->n_fds ? r->n_fds : VD_REMOTE_LINKS); i++) {
        if (i > 0 && (!several || nbd_can_multi_conn(r->links[0].nbd) <= 0))
            break;
        int fd = r->n_fds ? r->fds[i] : connect_one(r, err);
        if (r->n_fds)
            r->fds[i] = -1;
        rc = fd < 0 ? fd : link_start(r, fd, err);
        if (rc == 0 && i == 0)
            rc = remote_learn(r, err);
        /* A server that has enough connections is no failure. */
        if (rc < 0 && i > 0 && !r->aborted) {
            rc = 0;
            if (err)
                *err = (struct vd_error){0};
            break;
        }
    }
    return rc;
}
