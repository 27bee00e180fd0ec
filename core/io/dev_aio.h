/* SPDX-License-Identifier: MIT */
/*
 * Writes handed over to the kernel by io_submit (Linux AIO, io_submit(2)): when that returns, they
 * are with the block layer, which carries them out even if this process is killed. io_uring does
 * not promise that: what would block it passes on to a thread of the process.
 *
 * Only for files on which io_submit does not merely queue or copy: see dev_file.c.
 */
#ifndef VD_IO_DEV_AIO_H
#define VD_IO_DEV_AIO_H

#include "core/io/dev.h"

/* Of one descriptor. All zero is a valid start. */
struct dev_aio {
    unsigned long ctx; /* aio_context_t; 0 = not made yet */
    int event_fd;
    bool refused;  /* the host gives no context */
    bool watching; /* a fiber waits for event_fd for all */
    struct vd_waitq reaped;
};

/* Hands over as many of the batch as the kernel takes, from the first on; *batch says how many.
 * Does not suspend, but may block for as long as the device takes to accept them. */
void dev_aio_begin(struct dev_aio *aio, int fd, struct vd_io_batch *batch);
/* Waits until all that were handed over are complete; results in batch->ios[].res, bytes or
 * -errno. VD_YIELDS */
void dev_aio_end(struct dev_aio *aio, struct vd_io_batch *batch);
void dev_aio_close(struct dev_aio *aio);

#endif
