/* SPDX-License-Identifier: MIT */
/*
 * A pool: how bytes are kept. Devices, segments, the log, overlays, trees, checkpoints, the
 * cleaner. snapshot/ is its only user. A pool lives on one loop; nothing here is for other threads.
 */
#ifndef VD_POOL_POOL_H
#define VD_POOL_POOL_H

#include "core/io/dev.h"
#include "pool/client.h"

struct pool_format_options {
    const char *name;
    uint64_t capacity, size_hint;
    uint32_t chunk_size;
};
/* Writes labels, first root and table; durable on return. VD_YIELDS */
int pool_format(struct vd_dev *dev, const struct pool_format_options *opt, struct vd_error *err);
/* The newest valid label of a device. VD_YIELDS */
int pool_read_label(struct vd_dev *dev, struct vd_label *ret, struct vd_error *err);

enum { POOL_RDONLY = 1 };
/* Opens and replays. The device is taken over in any case. `client` gets load, then apply for each
 * replayed entry. Background fibers start (not for RDONLY). VD_YIELDS */
int pool_open(struct vd_dev *dev, unsigned flags, const struct pool_client_ops *ops, void *client,
              struct vd_pool **ret, struct vd_error *err);
/* Checkpoints if there is anything to, marks the label clean, closes. Frees it whatever happens. */
int pool_close(struct vd_pool *p, struct vd_error *err);
/* As a crash would leave it. For tests; no operation may be under way but the pool's own fibers,
 * which are ended. VD_YIELDS */
void pool_abandon(struct vd_pool *p);

/* ---- state, read without suspending ---- */
struct forest *pool_forest(struct vd_pool *p);
const struct overlay *pool_active(const struct vd_pool *p);
const struct overlay *pool_frozen(const struct vd_pool *p); /* NULL when there is none */
uint64_t pool_epoch(const struct vd_pool *p);
const struct vd_uuid *pool_uuid(const struct vd_pool *p);
bool pool_read_only(const struct vd_pool *p);      /* opened so, or failed */
const char *pool_failure(const struct vd_pool *p); /* "" or why it went read-only */
struct vd_loop *pool_loop(const struct vd_pool *p);
/* Where the block that a tree names at `a` lies now: follows relocations of both overlays. Not for
 * addresses from an overlay: the place may have been emptied and used again for them. */
struct vd_addr pool_moved(const struct vd_pool *p, struct vd_addr a);

struct pool_info {
    char name[VD_NAME_MAX + 1];
    uint64_t created_s;
    uint64_t capacity, allocated, live_blocks, metadata, log_bytes, reserved;
    uint32_t chunk_size;
    unsigned major, minor;
    uint64_t segments, free_segments;
    uint64_t checkpoints, cleaned_segments, guest_bytes, device_bytes;
    bool cleaning;
};
void pool_info(const struct vd_pool *p, struct pool_info *ret);
/* Lets go of memory that is only there to be quick. */
void pool_trim(struct vd_pool *p);

/* ---- changing ---- */

enum {
    POOL_OP_FUA = 1, /* durable when acknowledged */
    POOL_OP_RESERVE =
        2, /* trims, deletes: may use the reserve, so -ENOSPC only when that is gone */
    POOL_OP_KEEP_ZERO = 4, /* WRITE: store zero blocks as data, do not detect them */
    POOL_OP_CLEANER = 8    /* the cleaner's: waits for nothing, since it is what others wait for */
};
/* One atomic operation: either a WRITE (branch, lba, blocks, payload in iov: memory aligned to
 * VD_BLOCK in whole blocks is written from where it lies, other memory is copied), or a list of
 * entries (ZERO, EPOCH, CATALOG). The memory stays as it is until pool_commit returns. */
struct pool_op {
    unsigned flags;
    uint64_t branch, lba, blocks; /* WRITE, when count is 0 */
    const struct iovec *iov;
    int iovcnt;
    const struct vd_entry *entries;
    unsigned count;
    /* Entries only: payload of the first one, which is a RELOCATE; both copies, aligned. */
    const uint8_t *relocations;
    uint64_t seq; /* out: the record that carries its end */

    /* the pool's own, until it returns */
    struct vd_list link;
    struct vd_fiber *fiber;
    int res;
    bool done;
    uint64_t charge; /* blocks of space admitted and not yet placed */
    uint32_t refill; /* blocks of it that go to dead places */
    uint64_t pos;    /* blocks or entries already encoded */
};
/* Logs it; returns when it is acknowledged (complete on the devices, as is all before it; with FUA
 * durable) and applied: overlay, then client->apply. Operations get their order when they enter the
 * queue: two calls in a row without suspension between them, from two fibers, keep their order. 0,
 * -ENOSPC (nothing happened), -EROFS (pool is read-only or failed), -EIO. VD_YIELDS */
int pool_commit(struct vd_pool *p, struct pool_op *op);
/* Makes every operation acknowledged before the call durable. On a pool opened read-only 0; on one
 * that failed -EIO, whoever asks. VD_YIELDS */
int pool_flush(struct vd_pool *p);

/* ---- reading ---- */

struct pool_piece {
    struct vd_addr addr; /* from a tree: already through pool_moved */
    uint32_t blocks;     /* within one segment */
    const uint64_t *csum;
    void *buf; /* aligned to VD_BLOCK */
    int res;   /* out: 0, -EBADMSG, -EIO, ... */
};
/* Reads and verifies all n. Pins their segments before it first suspends, so call it right after
 * resolving (I11). Returns 0 or the first error. VD_YIELDS */
int pool_read(struct vd_pool *p, struct pool_piece *pieces, int n);

/* ---- background ---- */

/* Runs a checkpoint that includes all that is acknowledged now. VD_YIELDS */
int pool_checkpoint(struct vd_pool *p);
/* Checkpoints and cleans until backlog() says no and no cleaning pays; or *cancel. VD_YIELDS */
int pool_settle(struct vd_pool *p, const bool *cancel);

/* Between the two no checkpoint publishes anything, so trees and live counts stay as they are: for
 * check on a served pool. Writes go on until the log window is full. Pairs do not nest. hold:
 * VD_YIELDS, -EROFS on a failed pool; both do nothing on a read-only one. */
int pool_hold_checkpoints(struct vd_pool *p);
void pool_release_checkpoints(struct vd_pool *p);

/* ---- check (pool_check.c): structures below the client's meaning ---- */
typedef void pool_finding_fn(void *arg, const char *finding);
/* Labels, roots, table, node copies, log and echoes. Calls fn per finding; returns their number or
 * -errno. VD_YIELDS */
int pool_check(struct vd_pool *p, pool_finding_fn *fn, void *arg, uint64_t *ret_nodes);
/* The live count the table holds for a segment, whether trees may name data in it, and whether it
 * holds nodes (what trees name beside them is told away by the log); for comparing with a walk.
 * Returns -ENOENT beyond the last segment. */
int pool_segment_live(const struct vd_pool *p, uint32_t seg, uint32_t *ret_live, bool *ret_used,
                      bool *ret_meta);

#endif
