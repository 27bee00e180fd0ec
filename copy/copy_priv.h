/* SPDX-License-Identifier: MIT */
/* The engine that the jobs of copy/ share: a few fibers that each repeat one step until the end. */
#ifndef VD_COPY_COPY_PRIV_H
#define VD_COPY_COPY_PRIV_H

#include "copy/copy.h"

#define COPY_FIBERS_DEFAULT 8u
#define COPY_FIBERS_MAX 64u
#define COPY_BUFFER_STEP VD_KIB(64)
#define COPY_BUFFER_DEFAULT VD_MIB(1)
#define COPY_BUFFER_MAX VD_MIB(4)
/* Zero ranges of a disk are done in pieces, so that progress moves and cancelling works. */
#define COPY_ZERO_MAX VD_GIB(1)
#define COPY_EXTENTS 32

/* A disk being read, with the last answer about its extents. */
struct copy_side {
    struct vd_disk *disk;
    const char *name; /* "source", for messages */
    uint64_t size;
    struct vd_extent ext[COPY_EXTENTS];
    int n;   /* answers held */
    int idx; /* the first that may still matter; offsets asked for only grow */
};

void copy_side_init(struct copy_side *s, struct vd_disk *disk, const char *name);

struct copy_run;
/* One piece of work with a buffer of the fiber's own. 1 = there may be more, 0 = the end, or
 * -errno, recorded by copy_fail. VD_YIELDS */
typedef int copy_step_fn(struct copy_run *r, uint8_t *buf);

struct copy_run {
    struct vd_copy_options opt; /* defaults filled in */
    struct vd_copy_stats stats;
    struct vd_error *err;
    int rc; /* the first failure; everything stops after it */
    copy_step_fn *step;
    uint8_t *memory;       /* the fibers' buffers, */
    size_t each;           /* so many bytes for each, */
    unsigned began;        /* and so many have theirs */
    struct vd_group group; /* the fibers */
    struct vd_fmutex plan; /* guards what follows across yields: one fiber plans at a time */
    uint64_t pos, end;     /* what is not yet given to a fiber; end grows with a stream */
    bool finished;         /* a stream has ended */
    struct vd_waitq turn;  /* fibers that wait to write to a stream in order */
    uint64_t turn_pos;
    struct copy_side a, b;
    struct vd_disk *dst;
    uint64_t dst_size;
    struct vd_stream *stream;
    uint64_t diff_off; /* verify: the first difference so far; UINT64_MAX = none */
};

void copy_run_init(struct copy_run *r, const struct vd_copy_options *opt, struct vd_error *err);
/* Runs `step` on the fibers until the end. 0 or the first failure. VD_YIELDS */
int copy_run_go(struct copy_run *r, copy_step_fn *step, unsigned buffers);
/* After the last copy_run_go: flushes dst if there is one and all went well, hands out the
 * statistics (ret may be NULL). 0 or the first failure. VD_YIELDS */
int copy_run_end(struct copy_run *r, struct vd_copy_stats *ret);

/* Records a failure unless there is one, lets everybody stop, returns rc. */
int copy_fail(struct copy_run *r, int rc, const char *id, const char *fmt, ...) VD_PRINTF(4, 5);
/* The same for an I/O error at `off` of a disk or stream: "cannot read the source at 4096: ...". */
int copy_fail_io(struct copy_run *r, int rc, const char *id, const char *what, uint64_t off);

/* Whether side `s` reads as zeroes at `off`, and for how long that answer holds (at most `len`).
 * Offsets must not decrease from call to call. Call with r->plan held. VD_YIELDS */
int copy_side_look(struct copy_run *r, struct copy_side *s, uint64_t off, uint64_t len,
                   bool *ret_zero, uint64_t *ret_len);

enum copy_kind { COPY_DATA, COPY_ZERO };
struct copy_item {
    enum copy_kind kind;
    uint64_t off, len;
};
/* Takes the next piece of [pos, end) of side a: data of at most one buffer, or zeroes of at most
 * zero_max. 1, 0 at the end, or -errno. VD_YIELDS */
int copy_take(struct copy_run *r, uint64_t zero_max, struct copy_item *ret);
/* Data ends at a multiple of the buffer's length, so that requests stay aligned. */
uint64_t copy_data_len(const struct copy_run *r, uint64_t off, uint64_t len);

/* Writes to dst; stretches of zeroes are made so without data. VD_YIELDS */
int copy_write(struct copy_run *r, uint64_t off, const uint8_t *buf, uint64_t len);
int copy_zero(struct copy_run *r, uint64_t off, uint64_t len); /* VD_YIELDS */
/* Tells the progress callback. */
void copy_report(struct copy_run *r);

#endif
