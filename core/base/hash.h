/* SPDX-License-Identifier: MIT */
/* xxh3-64 with seed 0: the checksum of blocks, headers and nodes. Not for anything secret. */
#ifndef VD_BASE_HASH_H
#define VD_BASE_HASH_H

#include "core/base/base.h"

uint64_t vd_xxh3(const void *buf, size_t len);
/* The same with the 8 bytes at `hole` taken as zero, where the checksum itself lies. */
uint64_t vd_xxh3_around(const void *buf, size_t len, size_t hole);
/* The checksum of VD_BLOCK zero bytes. */
uint64_t vd_xxh3_zero_block(void);
/* True if all `len` bytes are zero. Fast for buffers that are not. */
bool vd_is_zero(const void *buf, size_t len);

#endif
