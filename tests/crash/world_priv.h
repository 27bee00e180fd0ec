/* SPDX-License-Identifier: MIT */
/* The one thing that world.c and its judge share beneath the store: the pool. */
#ifndef CRASH_WORLD_PRIV_H
#define CRASH_WORLD_PRIV_H

#include "pool/pool.h"
#include "tests/crash/world.h"

struct vd_pool *world_pool(struct world *w);

#endif
