/* SPDX-License-Identifier: MIT */
/* RFC 9562 UUIDs, version 4, and their text. Never yields. */
#include "core/base/uuid.h"

void vd_uuid_new(struct vd_uuid *ret, struct vd_rng *rng)
{
    vd_rng_fill(rng, ret->b, sizeof(ret->b));
    ret->b[6] = (uint8_t)((ret->b[6] & 0x0f) | 0x40);
    ret->b[8] = (uint8_t)((ret->b[8] & 0x3f) | 0x80);
}

/* Hyphens stand before these bytes. */
static bool hyphen_before(int i)
{
    return i == 4 || i == 6 || i == 8 || i == 10;
}

void vd_uuid_format(const struct vd_uuid *u, char text[VD_UUID_TEXT])
{
    static const char hex[] = "0123456789abcdef";
    char *p = text;
    for (int i = 0; i < 16; i++) {
        if (hyphen_before(i))
            *p++ = '-';
        *p++ = hex[u->b[i] >> 4];
        *p++ = hex[u->b[i] & 15];
    }
    *p = 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool vd_uuid_parse(const char *text, struct vd_uuid *ret)
{
    struct vd_uuid u;
    const char *p = text;
    for (int i = 0; i < 16; i++) {
        if (hyphen_before(i) && *p++ != '-')
            return false;
        int hi = hex_value(p[0]);
        int lo = hi < 0 ? -1 : hex_value(p[1]);
        if (lo < 0)
            return false;
        u.b[i] = (uint8_t)(hi << 4 | lo);
        p += 2;
    }
    if (*p)
        return false;
    *ret = u;
    return true;
}

bool vd_uuid_equal(const struct vd_uuid *a, const struct vd_uuid *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

bool vd_uuid_is_nil(const struct vd_uuid *u)
{
    static const struct vd_uuid nil;
    return vd_uuid_equal(u, &nil);
}
