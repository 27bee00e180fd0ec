/* SPDX-License-Identifier: MIT */
/*
 * What every file may lean on: integer types, small macros, bounds.
 * No I/O, no allocation, no state.
 */
#ifndef VD_BASE_BASE_H
#define VD_BASE_BASE_H

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Marks a function that may suspend the calling fiber. Whatever was decided before the call must
 * be looked at again after it (invariant I10). Expands to nothing; it is there for the reader. */
#define VD_YIELDS

#define VD_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define VD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define VD_MAX(a, b) ((a) > (b) ? (a) : (b))
#define VD_DIV_UP(n, d) (((n) + (d) - 1) / (d))
#define VD_ROUND_UP(n, to) (VD_DIV_UP(n, to) * (to))
#define VD_ROUND_DOWN(n, to) ((n) / (to) * (to))
#define vd_container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define VD_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define VD_WARN_UNUSED __attribute__((warn_unused_result))
#define VD_CLEANUP(fn) __attribute__((cleanup(fn)))
/* For `char *buf VD_CLEANUP(vd_cleanup_free) = NULL;`: freed when it goes out of scope. */
static inline void vd_cleanup_free(void *ptr_to_ptr)
{
    free(*(void **)ptr_to_ptr);
}

/* The unit of mapping and checksumming. Guest sectors are 512 bytes. */
#define VD_BLOCK_SHIFT 12
#define VD_BLOCK 4096u
#define VD_SECTOR 512u
/* A run of stored blocks never crosses a cell: 32 blocks, 128 KiB. */
#define VD_CELL_BLOCKS 32u
/* CHANGED is kept per 1 MiB. */
#define VD_CHANGE_BLOCKS 256u
/* Largest volume: 8 EiB - 1 MiB. */
#define VD_VOLUME_MAX ((UINT64_C(1) << 63) - (UINT64_C(1) << 20))
/* Names of volumes, snapshots, pools: [A-Za-z0-9][A-Za-z0-9._-]{0,126}. */
#define VD_NAME_MAX 127

/* Bits in an array of words. */
static inline bool vd_bit_get(const uint64_t *bits, uint64_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}
static inline void vd_bit_set(uint64_t *bits, uint64_t i)
{
    bits[i / 64] |= UINT64_C(1) << i % 64;
}
static inline void vd_bit_flip(uint64_t *bits, uint64_t i)
{
    bits[i / 64] ^= UINT64_C(1) << i % 64;
}

#define VD_KIB(n) ((uint64_t)(n) << 10)
#define VD_MIB(n) ((uint64_t)(n) << 20)
#define VD_GIB(n) ((uint64_t)(n) << 30)

#endif
