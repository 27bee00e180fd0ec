/* SPDX-License-Identifier: MIT */
/* Well-formed nodes of every kind: what fuzzing starts from. */
#ifndef VD_TESTS_POOL_NODE_SAMPLES_H
#define VD_TESTS_POOL_NODE_SAMPLES_H

#include "pool/tree.h"

#define SAMPLE_NODE_POOL 7
#define SAMPLE_NODES (TREE_COUNT * 2) /* a leaf and an interior node of each tree */
void sample_node(unsigned which, struct od_node *ret);

#endif
