/* SPDX-License-Identifier: MIT */
/* Devices for trees under test: nodes in memory, with calls that fail and copies that rot. */
#ifndef VD_TESTS_POOL_NODE_STORE_H
#define VD_TESTS_POOL_NODE_STORE_H

#include "pool/tree.h"

#define STORE_POOL UINT64_C(0x1122334455667788)

struct stored_node {
    uint8_t *copy[2];
    bool live; /* written and not released */
};
struct node_store {
    struct stored_node *node;
    size_t count, room, live;
    size_t *dead, dead_count, dead_room; /* released since the last store_reclaim */
    size_t reads, writes, releases, bad;
    size_t fail_read, fail_write; /* number of the call, from now, that fails; 0 = none */
    bool fail_on; /* and all reads after it */
    bool failed;
    int fail_err;
    void (*on_read)(void *arg);
    void *on_read_arg;
};
extern const struct forest_io node_store_io;

void store_done(struct node_store *s);
/* After new roots are set: what they do not name is gone, and reading it a failure of the test. */
void store_reclaim(struct node_store *s);
/* The stored node behind an address; *copy is which of its copies. */
struct stored_node *store_at(struct node_store *s, struct vd_addr at, int *copy);
/* Before a merge; and after it failed: what it wrote and released is as if it had not been. */
struct store_mark {
    size_t count;
    bool *live;
};
void store_mark(const struct node_store *s, struct store_mark *ret);
void store_restore(struct node_store *s, struct store_mark *mark);
void store_unmark(struct store_mark *mark);

#endif
