/* SPDX-License-Identifier: MIT */
/*
 * Whether an image ends before its data does. QEMU reads what lies beyond the end of a file as
 * zeroes, so a download that was cut short would be taken for a disk with holes. The tables that
 * say where data lies are walked, which is little to read; what is wrong with them otherwise is
 * left to the program that reads the image.
 *
 * 1. Tables do not overlap in a sound image, so no more is read of them than the file has.
 *
 * Blocking.
 */
#include "core/base/bytes.h"
#include "foreign/graph_priv.h"

#include <stdlib.h>
#include <unistd.h>

#define TABLE_MAX VD_MIB(64)

struct walk {
    struct vd_graph *g;
    int file;
    uint64_t end;  /* of the file */
    uint64_t left; /* of what may be read */
    struct vd_error *err;
};

static uint64_t be(const uint8_t *b, int n)
{
    uint64_t v = 0;
    while (n-- > 0)
        v = v << 8 | *b++;
    return v;
}

static uint64_t le(const uint8_t *b, int n)
{
    uint64_t v = 0;
    while (n-- > 0)
        v = v << 8 | b[n];
    return v;
}

static int cut(struct walk *w)
{
    return graph_damaged(w->g, w->file, "it ends before its data does: it was cut short", w->err);
}

/* Data of `len` bytes at `off`. */
static int need(struct walk *w, uint64_t off, uint64_t len)
{
    return off > w->end || len > w->end - off ? cut(w) : 0;
}

/* A table, to be freed. */
static int table(struct walk *w, uint64_t off, uint64_t len, uint8_t **ret)
{
    int r = need(w, off, len);
    if (r < 0)
        return r;
    if (len > TABLE_MAX || len > w->left)
        return graph_damaged(w->g, w->file, "its tables overlap", w->err);
    w->left -= len;
    uint8_t *buf = malloc(len + 1);
    if (!buf)
        return vd_fail(w->err, -ENOMEM, "no-memory", "out of memory");
    r = graph_read(w->g, w->file, off, buf, len, w->err);
    if (r < 0)
        free(buf);
    else
        *ret = buf;
    return r;
}

/* --- qcow2 --- */

#define QCOW2_OFFSET UINT64_C(0x00fffffffffffe00)
#define QCOW2_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_EXTENDED_L2 16u

struct qcow2 {
    uint64_t size, bits;
    bool extended, external;
};

static int qcow2_entry(struct walk *w, const struct qcow2 *q, const uint8_t *at, uint64_t guest)
{
    uint64_t e = be(at, 8), cluster = UINT64_C(1) << q->bits;
    if (e & QCOW2_COMPRESSED)
        return need(w, e & ((UINT64_C(1) << (70 - q->bits)) - 1), 1);
    uint64_t off = e & QCOW2_OFFSET;
    if (!off || q->external || guest >= q->size)
        return 0;
    if (q->extended) /* the low half of the bitmap: which parts have data */
        return be(at + 12, 4) ? need(w, off, 1) : 0;
    return e & 1 ? 0 : need(w, off, VD_MIN(cluster, q->size - guest));
}

static int whole_qcow2(struct walk *w, bool external)
{
    uint8_t h[104] = {0}, *l1 = NULL, *l2;
    int r = graph_read(w->g, w->file, 0, h, 72, w->err);
    if (r == 0 && be(h + 4, 4) == 3)
        r = graph_read(w->g, w->file, 0, h, sizeof(h), w->err);
    struct qcow2 q = {.size = be(h + 24, 8),
                      .bits = be(h + 20, 4),
                      .extended = be(h + 72, 8) & QCOW2_EXTENDED_L2,
                      .external = external};
    uint64_t cluster = UINT64_C(1) << q.bits, width = q.extended ? 16 : 8, n = be(h + 36, 4);
    if (r == 0)
        r = table(w, be(h + 40, 8), n * 8, &l1);
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        uint64_t off = be(l1 + i * 8, 8) & QCOW2_OFFSET;
        if (!off)
            continue;
        r = table(w, off, cluster, &l2);
        if (r < 0)
            break;
        uint64_t per = cluster / width;
        for (uint64_t k = 0; r == 0 && k < per; k++)
            r = qcow2_entry(w, &q, l2 + k * width, (i * per + k) << q.bits);
        free(l2);
    }
    free(l1);
    return r;
}

/* --- vmdk --- */

#define VMDK_COMPRESSED (1u << 16)

static int vmdk_table(struct walk *w, const uint8_t *gt, uint64_t n, uint64_t grain)
{
    int r = 0;
    for (uint64_t k = 0; r == 0 && k < n; k++) {
        uint64_t sector = le(gt + k * 4, 4);
        r = sector > 1 ? need(w, sector * 512, grain) : 0;
    }
    return r;
}

static int whole_vmdk(struct walk *w)
{
    uint8_t h[512], *gd = NULL, *gt;
    int r = graph_read(w->g, w->file, 0, h, 4, w->err);
    if (r < 0 || memcmp(h, "KDMV", 4) != 0)
        return r; /* a descriptor, or of an old kind */
    r = graph_read(w->g, w->file, 0, h, sizeof(h), w->err);
    if (r < 0)
        return r;
    if (le(h + 56, 8) == UINT64_MAX) { /* the directory's place is in a footer */
        if (w->end < 2048)
            return cut(w);
        r = graph_read(w->g, w->file, w->end - 1024, h, sizeof(h), w->err);
        if (r == 0 && memcmp(h, "KDMV", 4) != 0)
            return cut(w);
    }
    uint64_t capacity = le(h + 12, 8), grain = le(h + 20, 8), per = le(h + 44, 4);
    if (r < 0)
        return r;
    if (grain < 1 || grain > 1 << 16 || per < 1 || per > 1 << 16 || capacity > UINT64_MAX / 1024)
        return graph_damaged(w->g, w->file, "its header makes no sense", w->err);
    uint64_t n = VD_DIV_UP(capacity, grain * per), gd_sector = le(h + 56, 8);
    if (gd_sector > UINT64_MAX / 1024 || n > TABLE_MAX / 4)
        return graph_damaged(w->g, w->file, "its header makes no sense", w->err);
    r = table(w, gd_sector * 512, n * 4, &gd);
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        uint64_t sector = le(gd + i * 4, 4);
        if (sector < 2)
            continue;
        r = table(w, sector * 512, per * 4, &gt);
        if (r == 0) {
            r = vmdk_table(w, gt, per, le(h + 8, 4) & VMDK_COMPRESSED ? 1 : grain * 512);
            free(gt);
        }
    }
    free(gd);
    return r;
}

/* --- vdi --- */

static int whole_vdi(struct walk *w)
{
    uint8_t h[512], *map = NULL;
    int r = graph_read(w->g, w->file, 0, h, sizeof(h), w->err);
    if (r < 0)
        return r;
    uint64_t data = le(h + 344, 4), size = le(h + 368, 8), block = le(h + 376, 4);
    uint64_t n = le(h + 384, 4);
    r = table(w, le(h + 340, 4), n * 4, &map);
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        uint64_t e = le(map + i * 4, 4), guest = i * block;
        if (e < 0xfffffffe && guest < size)
            r = need(w, data + e * block, VD_MIN(block, size - guest));
    }
    free(map);
    return r;
}

/* --- vhdx --- */

static const uint8_t vhdx_bat[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                     0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
static const uint8_t vhdx_metadata[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                          0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
static const uint8_t vhdx_parameters[16] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                            0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};

/* The entry of `guid` among those of 32 bytes from `at` on; NULL when it is none of the first n. */
static const uint8_t *vhdx_find(const uint8_t *at, uint64_t n, uint64_t max, const uint8_t *guid)
{
    for (n = VD_MIN(n, max); n > 0; n--, at += 32)
        if (memcmp(at, guid, 16) == 0)
            return at;
    return NULL;
}

/* Bytes of a block, by the table of metadata at `off`. */
static int vhdx_block(struct walk *w, uint64_t off, uint64_t *ret)
{
    uint8_t *t, b[4];
    int r = table(w, off, VD_KIB(64), &t);
    if (r < 0)
        return r;
    const uint8_t *e = vhdx_find(t + 32, le(t + 10, 2), 2046, vhdx_parameters);
    uint64_t at = e ? off + le(e + 16, 4) : 0;
    free(t);
    r = e ? graph_read(w->g, w->file, at, b, sizeof(b), w->err)
          : graph_damaged(w->g, w->file, "it does not say how large its blocks are", w->err);
    *ret = le(b, 4);
    return r;
}

static int whole_vhdx(struct walk *w)
{
    uint8_t *t, *bat = NULL;
    uint64_t block = 0, len = 0;
    int r = table(w, VD_KIB(192), VD_KIB(64), &t);
    if (r < 0)
        return r;
    uint64_t n = le(t + 8, 4);
    const uint8_t *b = vhdx_find(t + 16, n, 2047, vhdx_bat);
    const uint8_t *m = vhdx_find(t + 16, n, 2047, vhdx_metadata);
    if (!b || !m)
        r = graph_damaged(w->g, w->file, "its region table makes no sense", w->err);
    if (r == 0)
        r = vhdx_block(w, le(m + 16, 8), &block);
    if (r == 0) {
        len = le(b + 24, 4);
        r = table(w, le(b + 16, 8), len, &bat);
    }
    free(t);
    for (uint64_t i = 0; r == 0 && i + 8 <= len; i += 8) {
        uint64_t e = le(bat + i, 8), state = e & 7;
        r = state >= 6 ? need(w, e & ~(VD_MIB(1) - 1), block) : 0;
    }
    free(bat);
    return r;
}

/* --- vpc --- */

static int whole_vpc(struct walk *w)
{
    uint8_t f[512], h[512], *bat = NULL;
    int r = graph_read(w->g, w->file, 0, f, sizeof(f), w->err);
    if (r < 0 || memcmp(f, "conectix", 8) != 0 || be(f + 60, 4) != 3)
        return r; /* a fixed one ends with the footer by which it was known */
    r = graph_read(w->g, w->file, be(f + 16, 8), h, sizeof(h), w->err);
    uint64_t n = be(h + 28, 4), block = be(h + 32, 4);
    uint64_t bitmap = VD_ROUND_UP(block / 4096, 512);
    if (r == 0)
        r = table(w, be(h + 16, 8), n * 4, &bat);
    for (uint64_t i = 0; r == 0 && i < n; i++) {
        uint64_t sector = be(bat + i * 4, 4);
        r = sector == 0xffffffff ? 0 : need(w, sector * 512, bitmap + block);
    }
    free(bat);
    return r;
}

int graph_whole(struct vd_graph *g, int file, enum vd_format format, bool external,
                struct vd_error *err)
{
    off_t end = lseek(g->files[file].fd, 0, SEEK_END);
    if (end < 0)
        return vd_fail(err, -errno, "copy-read", "cannot tell the size of %.200s: %s",
                       g->files[file].path, strerror(errno));
    struct walk w = {.g = g, .file = file, .end = (uint64_t)end, .left = (uint64_t)end, .err = err};
    switch (format) {
    case VD_FORMAT_QCOW2:
        return whole_qcow2(&w, external);
    case VD_FORMAT_VMDK:
        return whole_vmdk(&w);
    case VD_FORMAT_VDI:
        return whole_vdi(&w);
    case VD_FORMAT_VHDX:
        return whole_vhdx(&w);
    case VD_FORMAT_VPC:
        return whole_vpc(&w);
    default:
        return 0;
    }
}
