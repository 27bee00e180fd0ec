/* SPDX-License-Identifier: MIT */
/* One forest on one store of nodes, whose HEAD is written in single blocks of branch 1. */
#ifndef VD_TESTS_POOL_TREE_RIG_H
#define VD_TESTS_POOL_TREE_RIG_H

#include "format/format.h"
#include "pool/tree.h"
#include "tests/pool/model.h"
#include "tests/pool/node_store.h"

extern struct node_store store;
extern struct forest *f;
extern struct vd_rng rng;

uint64_t below(uint64_t n);
void start(void);
void stop(void);
/* The same trees, nothing cached. */
void forget_cache(void);
/* The entry of a block born with `born`; good until the next call. */
const struct tree_entry *one_block(uint64_t lba, uint64_t born);
/* A merge that writes single blocks, ascending; *ret is the new root, not yet set. */
int merge_blocks(const uint64_t *lba, size_t n, uint64_t born, struct tree_root *ret);
/* Up to n random blocks out of `space`, ascending, each once; returns how many. */
size_t random_blocks(uint64_t *lba, size_t n, uint64_t space);
/* Writes such blocks, and sets the root. */
void merge_random(size_t n, uint64_t space, uint64_t born);
/* 1 if the block is there, 0 if not. */
int find_one(uint64_t lba, struct vd_run *ret);

#endif
