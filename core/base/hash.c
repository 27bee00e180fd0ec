/* SPDX-License-Identifier: MIT */
/*
 * The checksum of blocks, headers and nodes, and the test for zeroes. Called for every block that
 * is read or written: where the library can choose the widest instructions that the processor has,
 * it does (half the time), elsewhere the checksum is inlined from its header. Neither yields.
 */
#include "core/base/hash.h"

#include <stdatomic.h>

#define XXH_STATIC_LINKING_ONLY /* for a hash state on the stack */
#ifdef VD_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

uint64_t vd_xxh3(const void *buf, size_t len)
{
    return XXH3_64bits(buf, len);
}

uint64_t vd_xxh3_around(const void *buf, size_t len, size_t hole)
{
    static const uint8_t zeroes[sizeof(uint64_t)];
    const uint8_t *p = buf;
    size_t after = hole + sizeof(zeroes);
    if (memcmp(p + hole, zeroes, sizeof(zeroes)) == 0)
        return vd_xxh3(buf, len); /* it is about to be filled in: in one go it takes half as long */
    XXH3_state_t st;
    XXH3_64bits_reset(&st);
    XXH3_64bits_update(&st, p, hole);
    XXH3_64bits_update(&st, zeroes, sizeof(zeroes));
    XXH3_64bits_update(&st, p + after, len - after);
    return XXH3_64bits_digest(&st);
}

uint64_t vd_xxh3_zero_block(void)
{
    static const uint8_t zero[VD_BLOCK];
    static _Atomic uint64_t cached; /* two threads may both compute it, to the same value */
    uint64_t h = atomic_load_explicit(&cached, memory_order_relaxed);
    if (!h) {
        h = vd_xxh3(zero, sizeof(zero));
        atomic_store_explicit(&cached, h, memory_order_relaxed);
    }
    return h;
}

bool vd_is_zero(const void *buf, size_t len)
{
    const uint8_t *p = buf;
    size_t head = VD_MIN(len, (size_t)16);
    for (size_t i = 0; i < head; i++)
        if (p[i])
            return false;
    /* The first 16 bytes are zero, so the rest is if each byte equals the one 16 before it; memcmp
     * is the fastest loop the machine has and stops at the first difference. */
    return len == head || memcmp(p, p + head, len - head) == 0;
}
