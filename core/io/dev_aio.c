/* SPDX-License-Identifier: MIT */
/*
 * io_submit, and waiting for what it began. One of the fibers that wait watches the event
 * descriptor for all of them.
 *
 * Invariant: control blocks and the batch stay where they are until its last completion.
 */
#include "core/io/dev_aio.h"

#include "core/io/loop_priv.h"

#include <linux/aio_abi.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define AIO_EVENTS 1024 /* under way at once */
#define AIO_REAP 32

static bool aio_open(struct dev_aio *aio)
{
    if (aio->ctx || aio->refused)
        return aio->ctx != 0;
    vd_waitq_init(&aio->reaped);
    aio_context_t ctx = 0;
    aio->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    aio->refused = aio->event_fd < 0 || syscall(SYS_io_setup, AIO_EVENTS, &ctx) < 0;
    if (aio->refused && aio->event_fd >= 0)
        close(aio->event_fd);
    aio->ctx = ctx;
    return !aio->refused;
}

void dev_aio_begin(struct dev_aio *aio, int fd, struct vd_io_batch *batch)
{
    struct iocb *cb = NULL, *list[VD_IO_BATCH_MAX];
    if (aio_open(aio))
        cb = calloc((size_t)batch->n, sizeof(*cb));
    if (!cb)
        return;
    for (int i = 0; i < batch->n; i++) {
        const struct vd_io *io = &batch->ios[i];
        cb[i] = (struct iocb){.aio_data = (uintptr_t)batch,
                              .aio_lio_opcode = IOCB_CMD_PWRITEV,
                              .aio_fildes = (uint32_t)fd,
                              .aio_buf = (uintptr_t)io->iov,
                              .aio_nbytes = (uint64_t)io->iovcnt,
                              .aio_offset = (int64_t)io->off,
                              .aio_flags = IOCB_FLAG_RESFD,
                              .aio_rw_flags = io->flags & VD_IO_DSYNC ? RWF_DSYNC : 0,
                              .aio_resfd = (uint32_t)aio->event_fd};
        list[i] = &cb[i];
    }
    long r;
    do
        r = syscall(SYS_io_submit, (aio_context_t)aio->ctx, (long)batch->n, list);
    while (r < 0 && errno == EINTR);
    batch->begun = batch->pending = r > 0 ? (int)r : 0;
    if (!batch->begun) { /* the queue is full, perhaps */
        free(cb);
        return;
    }
    batch->priv = cb;
    vd_loop_current()->answered_lately = true;
}

static void aio_reap(struct dev_aio *aio)
{
    struct io_event events[AIO_REAP];
    struct timespec now = {0};
    uint64_t count;
    long n;
    ssize_t got = read(aio->event_fd, &count, sizeof(count));
    (void)got; /* it may have been read before: what counts is what has completed */
    do {
        n = syscall(SYS_io_getevents, (aio_context_t)aio->ctx, 0L, (long)AIO_REAP, events, &now);
        for (long i = 0; i < n; i++) {
            struct vd_io_batch *batch = (void *)(uintptr_t)events[i].data;
            const struct iocb *cb = (void *)(uintptr_t)events[i].obj;
            batch->ios[cb - (const struct iocb *)batch->priv].res = (int)events[i].res;
            batch->pending--;
        }
        vd_loop_current()->stats.io += n > 0 ? (uint64_t)n : 0;
    } while (n == AIO_REAP || (n < 0 && errno == EINTR));
}

void dev_aio_end(struct dev_aio *aio, struct vd_io_batch *batch)
{
    while (batch->pending) {
        if (aio->watching) {
            vd_wait(&aio->reaped);
            continue;
        }
        struct loop_op op = {.kind = OP_POLL, .fd = aio->event_fd, .flags = POLLIN};
        aio->watching = true;
        (void)loop_op_run(vd_loop_current(), &op);
        aio_reap(aio);
        aio->watching = false;
        vd_wake_all(&aio->reaped);
    }
    free(batch->priv);
    batch->priv = NULL;
}

void dev_aio_close(struct dev_aio *aio)
{
    if (!aio->ctx)
        return;
    (void)syscall(SYS_io_destroy, (aio_context_t)aio->ctx);
    if (vd_loop_current())
        loop_fd_forget(vd_loop_current(), aio->event_fd);
    close(aio->event_fd);
}
