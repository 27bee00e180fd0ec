/* SPDX-License-Identifier: MIT */
/*
 * Writes through the page cache, and sending them on (dev_cached.h). An error of the device shows
 * at the next flush, as the kernel tells every descriptor of it.
 */
#include "core/io/dev_cached.h"

#include "core/io/loop_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CACHED_SEND VD_KIB(256)
#define CACHED_MOST VD_MIB(2)            /* not sent yet: then the device is what to wait for */
#define CACHED_SLOW_NS UINT64_C(2000000) /* the host makes writers wait */
#define CACHED_REST_NS UINT64_C(30000000000)

void dev_cached_open(struct dev_cached *c, int fd)
{
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    c->fd = open(path, O_RDWR | O_CLOEXEC);
}

/* ---- sending on ---- */

/* Belongs to its fiber; the device may be closed meanwhile. */
struct cached_job {
    struct dev_cached *c; /* NULL when that has been closed: then the descriptor is the job's */
    int fd;
    struct cached_range send, drop;
};

static int job_call(void *arg)
{
    struct cached_job *j = arg;
    (void)sync_file_range(j->fd, (off_t)j->send.from, (off_t)(j->send.to - j->send.from),
                          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                              SYNC_FILE_RANGE_WAIT_AFTER);
    if (j->drop.bytes)
        (void)posix_fadvise(j->fd, (off_t)j->drop.from, (off_t)(j->drop.to - j->drop.from),
                            POSIX_FADV_DONTNEED);
    return 0;
}

static void cached_send(struct dev_cached *c);

static void job_run(void *arg)
{
    struct cached_job *j = arg;
    (void)vd_offload(job_call, j);
    struct dev_cached *c = j->c;
    if (c) {
        c->job = NULL;
        c->sent = j->send;
        cached_send(c);
    } else {
        close(j->fd);
    }
    free(j);
}

/* What was sent the time before is dropped this time: the newest pages cannot be dropped yet. */
static void cached_send(struct dev_cached *c)
{
    struct cached_job *j;
    if (c->job || c->written.bytes < CACHED_SEND || !(j = malloc(sizeof(*j))))
        return;
    *j = (struct cached_job){.c = c, .fd = c->fd, .send = c->written, .drop = c->sent};
    if (vd_fiber_spawn(vd_loop_current(), "cached-send", job_run, j) < 0) {
        free(j);
        return;
    }
    c->job = j;
    c->written = (struct cached_range){0};
}

void dev_cached_close(struct dev_cached *c)
{
    if (c->job)
        c->job->c = NULL;
    else if (c->fd >= 0)
        close(c->fd);
}

/* ---- writing ---- */

static void range_add(struct cached_range *r, uint64_t off, uint64_t len)
{
    r->from = r->bytes ? VD_MIN(r->from, off) : off;
    r->to = r->bytes ? VD_MAX(r->to, off + len) : off + len;
    r->bytes += len;
}

static bool write_one(struct dev_cached *c, const struct vd_io *io)
{
    uint64_t len = 0;
    for (int i = 0; i < io->iovcnt; i++)
        len += io->iov[i].iov_len;
    ssize_t n = pwritev(c->fd, io->iov, io->iovcnt, (off_t)io->off);
    if (n > 0)
        range_add(&c->written, io->off, (uint64_t)n);
    return n >= 0 && (uint64_t)n == len;
}

bool dev_cached_write(struct dev_cached *c, const struct vd_io *ios, int n)
{
    struct vd_loop *loop = vd_loop_current();
    if (c->fd < 0 || c->written.bytes >= CACHED_MOST) {
        cached_send(c);
        return false;
    }
    uint64_t before = loop_clock_ns(loop);
    if (before < c->rest_until_ns)
        return false;
    bool all = true;
    for (int i = 0; i < n && all; i++)
        all = write_one(c, &ios[i]);
    if (loop_clock_ns(loop) - before > CACHED_SLOW_NS)
        c->rest_until_ns = before + CACHED_REST_NS;
    cached_send(c);
    return all;
}
