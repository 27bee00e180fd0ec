/* SPDX-License-Identifier: MIT */
/*
 * xoshiro256** (Blackman, Vigna 2018), seeded through splitmix64, and the kernel's entropy. The
 * sequence for a seed never changes: recorded seeds of simulated runs depend on it. Never yields.
 */
#include "core/base/rng.h"

#include <endian.h>
#include <stdlib.h>
#include <sys/random.h>

void vd_rng_seed(struct vd_rng *rng, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = seed;
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        rng->s[i] = z ^ (z >> 31);
    }
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t vd_rng_u64(struct vd_rng *rng)
{
    uint64_t *s = rng->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t vd_rng_below(struct vd_rng *rng, uint64_t bound)
{
    assert(bound > 0);
    /* Values below 2^64 mod bound would make small results likelier: draw again. */
    uint64_t skip = (0 - bound) % bound;
    uint64_t x;
    do
        x = vd_rng_u64(rng);
    while (x < skip);
    return x % bound;
}

void vd_rng_fill(struct vd_rng *rng, void *buf, size_t len)
{
    uint8_t *p = buf;
    while (len) {
        uint64_t x = htole64(vd_rng_u64(rng));
        size_t n = VD_MIN(len, sizeof(x));
        memcpy(p, &x, n);
        p += n;
        len -= n;
    }
}

uint64_t vd_entropy_u64(void)
{
    uint64_t x;
    ssize_t n;
    do
        n = getrandom(&x, sizeof(x), 0);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof(x))
        abort(); /* ids and keys made without entropy would be worse than no program */
    return x;
}
