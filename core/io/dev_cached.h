/* SPDX-License-Identifier: MIT */
/*
 * Small writes through the host's page cache. Such a write is complete in a microsecond or two and
 * belongs to the host from then on, whatever becomes of this process; a flush makes it durable like
 * any other, and a direct read sees it. It waits for nothing, so it pays where a write is alone.
 *
 * The cache is passed through, not used: what was written is sent on to the device a quarter of a
 * MiB at a time, by another thread, and then dropped. Where the host makes writers wait, because
 * others have filled its memory, nothing goes this way for a while.
 */
#ifndef VD_IO_DEV_CACHED_H
#define VD_IO_DEV_CACHED_H

#include "core/io/dev.h"

/* All that was written lies in it. */
struct cached_range {
    uint64_t from, to, bytes;
};

/* Of one file. */
struct cached_job;
struct dev_cached {
    int fd;                            /* without O_DIRECT; -1: there is none */
    struct cached_job *job;            /* under way */
    struct cached_range written, sent; /* not sent yet; sent, and to be dropped */
    uint64_t rest_until_ns;
};

/* Another descriptor of the file that `fd` is, if the host gives one. May block. */
void dev_cached_open(struct dev_cached *c, int fd);
/* True when all of the writes are with the host. Does not suspend. */
bool dev_cached_write(struct dev_cached *c, const struct vd_io *ios, int n);
/* Also while something is being sent. */
void dev_cached_close(struct dev_cached *c);

#endif
