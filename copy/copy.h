/* SPDX-License-Identifier: MIT */
/*
 * The disk-to-disk engine behind import, export, convert and verify: it moves the content of one
 * struct vd_disk (or byte stream) to another. It knows nothing of pools, names or file formats.
 *
 * Source and target must stay open during the call and belong to the calling fiber's loop. The
 * source must not change meanwhile (a snapshot, or nobody writing), or the result is a mixture.
 * All calls suspend. On failure or cancellation the target is left partly written; throwing it away
 * is the caller's work. Error ids: copy-read, copy-write, copy-flush, target-too-small,
 * copy-differs, copy-cancelled, no-memory.
 */
#ifndef VD_COPY_COPY_H
#define VD_COPY_COPY_H

#include "core/block/disk.h"
#include "core/io/stream.h"

/* What happened so far. done = data + zeroed + skipped. */
struct vd_copy_stats {
    uint64_t done;    /* bytes of the address range that are finished with */
    uint64_t total;   /* bytes to go through; 0 = unknown (a stream) */
    uint64_t data;    /* of done: written (verify: read from both and compared) */
    uint64_t zeroed;  /* of done: made zero without writing data */
    uint64_t skipped; /* of done: known to be zero on both sides already */
};

/* Called about once per buffer, never backwards, on the calling loop. Must not suspend. */
typedef void vd_copy_progress_fn(void *arg, const struct vd_copy_stats *now);

enum vd_copy_flags {
    /* Everything in the target reads as zeroes now (a volume or file just made): zeroes in the
     * source need not be written. */
    VD_COPY_TARGET_ZERO = 1,
    /* Do not look for zeroes within data: keeps allocated what the source has allocated. */
    VD_COPY_NO_ZERO_DETECT = 2,
    /* From a stream: the target grows as data comes (vd_disk_resize), and ends with the stream's
     * length, rounded up to a block. Without it a longer stream is "target-too-small", and what a
     * shorter one does not reach reads as zeroes. */
    VD_COPY_GROW = 4,
    /* Leave out the flush of the target at the end. */
    VD_COPY_NO_FLUSH = 8,
};

struct vd_copy_options {
    unsigned flags;
    unsigned fibers;     /* transfers in flight; 0 = 8, at most 64 */
    uint32_t buffer;     /* bytes of each; 0 = 1 MiB; rounded to 64 KiB, 64 KiB to 4 MiB */
    uint64_t size_limit; /* VD_COPY_GROW: not beyond this; 0 = VD_VOLUME_MAX */
    vd_copy_progress_fn *progress; /* may be NULL */
    void *arg;
    const bool *cancel; /* looked at before every transfer; NULL = cannot be cancelled */
};

/* Makes dst read as src, and as zeroes beyond src's end; dst must not be smaller. Durable on return
 * (unless NO_FLUSH). opt and ret may be NULL. -ECANCELED when *cancel was seen. */
int vd_copy_disk(struct vd_disk *src, struct vd_disk *dst, const struct vd_copy_options *opt,
                 struct vd_copy_stats *ret, struct vd_error *err);

/* Reads src to its end. A last sector that is not whole is filled with zeroes. Streams are for
 * pipes and sockets: a regular file given as standard input is better opened by vd_disk_raw. */
int vd_copy_from_stream(struct vd_stream *src, struct vd_disk *dst,
                        const struct vd_copy_options *opt, struct vd_copy_stats *ret,
                        struct vd_error *err);

/* Writes all bytes of src in order, zeroes included; the stream stays open. Nothing is flushed. */
int vd_copy_to_stream(struct vd_disk *src, struct vd_stream *dst, const struct vd_copy_options *opt,
                      struct vd_copy_stats *ret, struct vd_error *err);

/* Reads both and compares; what both call zero is not read. Returns 0 when equal and -EBADMSG
 * "copy-differs" when not, with the offset of the first differing byte in *ret_off (may be NULL).
 * The longer one must read as zeroes beyond the end of the shorter. */
int vd_copy_verify(struct vd_disk *a, struct vd_disk *b, const struct vd_copy_options *opt,
                   uint64_t *ret_off, struct vd_copy_stats *ret, struct vd_error *err);

#endif
