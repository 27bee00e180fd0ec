/* SPDX-License-Identifier: MIT */
/*
 * Sizes and names as people type them; aligned memory. Text comes from users: it is verified, with
 * a message. Never yields.
 */
#include "core/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The power of 1024 that `p` names, 0 for none; -1 if it is not a unit. */
static int unit_parse(const char *p)
{
    static const char letters[] = "KMGTPE";
    int power = 0;
    if (*p) {
        char c = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
        const char *at = strchr(letters, c);
        if (at) {
            power = (int)(at - letters) + 1;
            p++;
            if (*p == 'i') {
                if (p[1] != 'B')
                    return -1;
                p++;
            }
        }
        if (*p == 'B')
            p++;
    }
    return *p ? -1 : power;
}

int vd_size_parse(const char *text, uint64_t *ret, struct vd_error *err)
{
    const char *p = text;
    unsigned __int128 num = 0, den = 1;
    const unsigned __int128 limit = (unsigned __int128)1 << 63;
    bool digits = false, fraction = false, big = false;

    for (; is_digit(*p); p++, digits = true) {
        num = num * 10 + (unsigned)(*p - '0');
        if (num > limit)
            big = true, num = limit;
    }
    if (digits && *p == '.') {
        for (p++; is_digit(*p); p++, fraction = true) {
            if (den >= 1000000000)
                continue; /* below a byte even at E would take more; nobody types that */
            num = num * 10 + (unsigned)(*p - '0');
            den *= 10;
        }
        if (!fraction)
            digits = false;
    }
    while (digits && *p == ' ')
        p++;
    int power = digits ? unit_parse(p) : -1;
    if (power < 0 || (fraction && power == 0))
        return vd_fail(err, -EINVAL, "bad-size",
                       "'%s' is not a size: give bytes, or a number with K, M, G, T, P or E", text);
    unsigned __int128 bytes = (num << (10 * power)) / den;
    if (big || bytes > limit)
        return vd_fail(err, -ERANGE, "bad-size", "the size '%s' is too large", text);
    *ret = (uint64_t)bytes;
    return 0;
}

char *vd_size_format(uint64_t bytes, char *buf, size_t len)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned u = 0;
    while (u + 1 < VD_ARRAY_SIZE(units) && bytes >> (10 * (u + 1)))
        u++;
    uint64_t unit = UINT64_C(1) << (10 * u);
    /* Tenths, rounded to nearest; in two parts, since bytes * 10 may not fit. */
    uint64_t tenths = bytes / unit * 10 + (bytes % unit / 2 * 10 + unit / 4) / VD_MAX(unit / 2, 1u);
    if (u == 0)
        tenths = bytes * 10;
    if (tenths == 10240 && u + 1 < VD_ARRAY_SIZE(units)) {
        tenths = 10;
        u++;
    }
    if (tenths % 10 == 0)
        (void)snprintf(buf, len, "%" PRIu64 " %s", tenths / 10, units[u]);
    else
        (void)snprintf(buf, len, "%" PRIu64 ".%u %s", tenths / 10, (unsigned)(tenths % 10),
                       units[u]);
    return buf;
}

bool vd_name_valid(const char *name)
{
    size_t n = 0;
    for (; name[n]; n++) {
        char c = name[n];
        bool word = is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!word && (n == 0 || !strchr("._-", c)))
            return false;
        if (n >= VD_NAME_MAX)
            return false;
    }
    return n > 0;
}

static void *alloc_units(size_t len, size_t unit)
{
    size_t rounded = VD_ROUND_UP(VD_MAX(len, (size_t)1), unit);
    return rounded < len ? NULL : aligned_alloc(unit, rounded);
}

void *vd_alloc_aligned(size_t len)
{
    return alloc_units(len, VD_BLOCK);
}

void *vd_alloc_large(size_t len)
{
    void *p = alloc_units(len, VD_MIB(2));
    if (p)
        (void)madvise(p, len, MADV_HUGEPAGE); /* where the host has none, it goes without */
    return p;
}
