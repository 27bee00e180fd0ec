/* SPDX-License-Identifier: MIT */
/*
 * The smallest client a pool can have: branches are flat maps without snapshots, the newest version
 * of a block wins, the catalogue is dropped. For tests of the pool by itself.
 */
#ifndef TESTS_POOL_MINI_CLIENT_H
#define TESTS_POOL_MINI_CLIENT_H

#include "pool/pool.h"

struct mini {
    struct vd_pool *pool;
    unsigned applied; /* EPOCH and CATALOG entries */
    int fail_merge;   /* -errno to return from the next merge */
};
extern const struct pool_client_ops mini_ops;

int mini_open(struct mini *m, struct vd_dev *dev, unsigned flags, struct vd_error *err);
int mini_write(struct mini *m, uint64_t branch, uint64_t lba, uint64_t blocks, const void *buf,
               unsigned flags);
int mini_zero(struct mini *m, uint64_t branch, uint64_t lba, uint64_t blocks);
/* One block. */
int mini_read(struct mini *m, uint64_t branch, uint64_t lba, void *buf);

#endif
