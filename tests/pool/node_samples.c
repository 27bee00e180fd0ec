/* SPDX-License-Identifier: MIT */
/* Nodes made by the tree's own encoder, small enough for a fuzzer to get about in. */
#include "tests/pool/node_samples.h"

#include "format/format.h"
#include "pool/tree_build_priv.h"

#include <stdlib.h>

static void add(struct builder *b, uint64_t i)
{
    static uint8_t val[24];
    struct tree_entry e = {.key = {{1 + i / 4, i, i * 3, 0}}, .val = val, .len = (uint16_t)i};
    struct node_ptr ptr = {.copy = {{1, (uint32_t)i * 8}, {2, (uint32_t)i * 8}}, .csum = i};
    struct vd_run *run = &e.run;

    run->lba = 1000 + i * 7;
    run->blocks = i % 3 ? 1 : 3;
    run->born = 10 + i % 4;
    run->died = b->tree == TREE_HEAD ? VD_EPOCH_MAX : 20 + i;
    run->type = i % 5 ? VD_RUN_DATA : VD_RUN_ZERO;
    run->addr = (struct vd_addr){9, (uint32_t)i * 64};
    if (b->tree == TREE_HEAD && i == 19)
        run->blocks = UINT64_C(1) << 40;
    if (b->tree == TREE_HEAD)
        e.key = (struct tree_key){{1, run->lba, 0, 0}};
    run->blocks = run->type == VD_RUN_DATA || b->tree == TREE_HISTORY
                      ? VD_MIN(run->blocks, VD_CELL_BLOCKS - run->lba % VD_CELL_BLOCKS)
                      : run->blocks;
    if (b->tree == TREE_HISTORY)
        e.key = (struct tree_key){{1, run->lba / VD_CELL_BLOCKS, run->lba, run->died}};
    int r = b->level ? builder_add_child(b, &e.key, &ptr, false) : builder_add_entry(b, &e);
    if (r < 0)
        abort();
}

void sample_node(unsigned which, struct od_node *ret)
{
    struct builder b = {.tree = which / 2, .level = which % 2};

    for (uint64_t i = 0; i < 20; i++)
        add(&b, i);
    builder_encode(&b, b.n, ret);
    builder_free(&b);
    ret->pool = vd_le64(SAMPLE_NODE_POOL);
    ret->incarnation = vd_le64(1);
    ret->counter = vd_le64(2);
    ret->csum = vd_le64(od_csum(ret, offsetof(struct od_node, csum)));
    if (node_verify(ret, SAMPLE_NODE_POOL, b.tree, b.level) < 0)
        abort();
}
