/* SPDX-License-Identifier: MIT */
/*
 * Little-endian integers as they lie on disk and on the wire. They are byte structs, so an
 * on-disk field used as a number, or a forgotten swap, does not compile; and they have alignment 1,
 * so on-disk structs need no packing. Big-endian helpers serve NBD.
 */
#ifndef VD_BASE_BYTES_H
#define VD_BASE_BYTES_H

#include "core/base/base.h"

#include <endian.h>

typedef struct {
    uint8_t b[2];
} le16_t;
typedef struct {
    uint8_t b[4];
} le32_t;
typedef struct {
    uint8_t b[8];
} le64_t;

static inline uint16_t vd_get16(le16_t v)
{
    uint16_t n;
    memcpy(&n, v.b, sizeof(n));
    return le16toh(n);
}

static inline uint32_t vd_get32(le32_t v)
{
    uint32_t n;
    memcpy(&n, v.b, sizeof(n));
    return le32toh(n);
}

static inline uint64_t vd_get64(le64_t v)
{
    uint64_t n;
    memcpy(&n, v.b, sizeof(n));
    return le64toh(n);
}

static inline le16_t vd_le16(uint16_t n)
{
    le16_t v;
    n = htole16(n);
    memcpy(v.b, &n, sizeof(n));
    return v;
}

static inline le32_t vd_le32(uint32_t n)
{
    le32_t v;
    n = htole32(n);
    memcpy(v.b, &n, sizeof(n));
    return v;
}

static inline le64_t vd_le64(uint64_t n)
{
    le64_t v;
    n = htole64(n);
    memcpy(v.b, &n, sizeof(n));
    return v;
}

static inline uint16_t vd_get_be16(const void *p)
{
    uint16_t n;
    memcpy(&n, p, sizeof(n));
    return be16toh(n);
}

static inline uint32_t vd_get_be32(const void *p)
{
    uint32_t n;
    memcpy(&n, p, sizeof(n));
    return be32toh(n);
}

static inline uint64_t vd_get_be64(const void *p)
{
    uint64_t n;
    memcpy(&n, p, sizeof(n));
    return be64toh(n);
}

static inline void vd_put_be16(void *p, uint16_t n)
{
    n = htobe16(n);
    memcpy(p, &n, sizeof(n));
}

static inline void vd_put_be32(void *p, uint32_t n)
{
    n = htobe32(n);
    memcpy(p, &n, sizeof(n));
}

static inline void vd_put_be64(void *p, uint64_t n)
{
    n = htobe64(n);
    memcpy(p, &n, sizeof(n));
}

#endif
