/* SPDX-License-Identifier: MIT */
/* What becomes a node: items gathered for one level of a new tree, and cutting nodes from them. */
#ifndef VD_POOL_TREE_BUILD_PRIV_H
#define VD_POOL_TREE_BUILD_PRIV_H

#include "pool/tree_priv.h"

/* An entry of a leaf, or the key and pointer of a child. */
struct item {
    struct tree_key key;
    uint64_t blocks, born, died; /* map leaf */
    struct vd_addr addr;
    uint8_t type;
    bool kept;         /* child: a node of the old tree, as it was */
    uint16_t len;      /* bytes of data: checksums, value, or struct node_ptr */
    uint32_t data;     /* where in the builder's */
    uint32_t body_len; /* bytes in a node, epochs not counted */
};
struct builder {
    enum tree_id tree;
    unsigned level;
    struct item *item;
    size_t n, room;
    uint8_t *data;
    size_t data_used, data_room;
    size_t body_len; /* sum of the items' */
};

/* These add an item at the end. -ENOMEM, and nothing was added. */
int builder_add_entry(struct builder *b, const struct tree_entry *e);
int builder_add_child(struct builder *b, const struct tree_key *key, const struct node_ptr *ptr,
                      bool kept);
/* Entry or child i of a node of this level; children are `kept`. */
int builder_add_from(struct builder *b, const struct od_node *n, unsigned i);
/* Item i of another builder of the same tree and level. */
int builder_append(struct builder *b, const struct builder *from, size_t i);
void item_child(const struct builder *b, size_t i, struct tree_key *key, struct node_ptr *ptr);
/* How many items from `from` on make a node of at most `limit` bytes without epochs: at least 1. */
size_t builder_fit(const struct builder *b, size_t from, size_t limit);
/* How many nodes, filled to the brim, the first n items need; *ret_len: the bytes used in them. */
size_t builder_nodes(const struct builder *b, size_t n, size_t *ret_len);
/* How many items from `from` on could share a node for their keys (branch, distance). */
size_t builder_alike(const struct builder *b, size_t from);
/* May a node hold both keys? */
bool keys_alike(enum tree_id t, unsigned level, const struct tree_key *first,
                const struct tree_key *key);
/* Makes a node of the first n items, which fit; all but what names pool, root and checksum. */
void builder_encode(const struct builder *b, size_t n, struct od_node *node);
/* Removes the first n, or the last one. */
void builder_drop(struct builder *b, size_t n);
void builder_pop(struct builder *b);
void builder_free(struct builder *b);

#endif
