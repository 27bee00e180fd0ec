/* SPDX-License-Identifier: MIT */
/*
 * Which files a qcow2 image refers to: header and header extensions, versions 2 and 3, as
 * docs/interop/qcow2.rst of QEMU describes them. Nothing else of the image is looked at: the child
 * that reads it judges the rest. Blocking.
 */
#include "core/base/bytes.h"
#include "foreign/graph_priv.h"

#include <stdlib.h>

#define NAME_MAX_LEN 1023u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_DATA_FILE 0x44415441u
#define INCOMPATIBLE_DATA_FILE 4u

struct header { /* version 2 ends before `incompatible` */
    uint8_t magic[4], version[4];
    uint8_t backing_off[8], backing_len[4];
    uint8_t cluster_bits[4];
    uint8_t size[8];
    uint8_t crypt[4], l1_size[4];
    uint8_t l1_off[8], refcount_off[8];
    uint8_t refcount_clusters[4], n_snapshots[4];
    uint8_t snapshots_off[8];
    uint8_t incompatible[8], compatible[8], autoclear[8];
    uint8_t refcount_order[4], header_len[4];
};
_Static_assert(sizeof(struct header) == 104, "as specified");

static uint64_t be(const uint8_t *b, int n)
{
    uint64_t v = 0;
    while (n-- > 0)
        v = v << 8 | *b++;
    return v;
}

struct names {
    char *backing, *backing_format, *data;
};

static void names_done(struct names *n)
{
    free(n->backing);
    free(n->backing_format);
    free(n->data);
}

/* A string of the image that ends where its length says; NULs within it are none of ours. */
static int read_name(struct vd_graph *g, int file, uint64_t off, uint64_t len, char **ret,
                     struct vd_error *err)
{
    if (len > NAME_MAX_LEN || *ret)
        return graph_damaged(g, file, "its header has a name that cannot be one", err);
    char *text = calloc(1, len + 1);
    if (!text)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    *ret = text;
    int r = graph_read(g, file, off, text, len, err);
    if (r == 0 && strlen(text) != len)
        r = graph_damaged(g, file, "its header has a name that cannot be one", err);
    return r;
}

static int read_extensions(struct vd_graph *g, int file, uint64_t at, uint64_t end,
                           struct names *names, struct vd_error *err)
{
    int r = 0;
    while (r == 0 && at + 8 <= end) {
        uint8_t head[8];
        r = graph_read(g, file, at, head, sizeof(head), err);
        uint32_t type = (uint32_t)be(head, 4), len = (uint32_t)be(head + 4, 4);
        if (r < 0 || type == 0)
            break;
        at += sizeof(head);
        if (len > end - at)
            return graph_damaged(g, file, "a header extension is longer than the header", err);
        if (type == EXT_BACKING_FORMAT)
            r = read_name(g, file, at, len, &names->backing_format, err);
        else if (type == EXT_DATA_FILE)
            r = read_name(g, file, at, len, &names->data, err);
        at += VD_ROUND_UP((uint64_t)len, 8);
    }
    return r;
}

static int read_names(struct vd_graph *g, int file, struct names *names, struct vd_error *err)
{
    struct header h;
    int r = graph_read(g, file, 0, &h, 72, err);
    if (r < 0)
        return r;
    uint64_t version = be(h.version, 4), bits = be(h.cluster_bits, 4), len = 72, incompatible = 0;
    uint64_t backing_off = be(h.backing_off, 8), backing_len = be(h.backing_len, 4);
    if (version != 2 && version != 3)
        return graph_unsupported(g, file, "it is of a qcow version other than 2 and 3", err);
    if (bits < 9 || bits > 21)
        return graph_damaged(g, file, "its cluster size cannot be one", err);
    if (be(h.crypt, 4))
        return graph_unsupported(g, file, "it is encrypted: decrypt it with qemu-img convert", err);
    if (version == 3) {
        r = graph_read(g, file, 0, &h, sizeof(h), err);
        if (r < 0)
            return r;
        len = be(h.header_len, 4);
        incompatible = be(h.incompatible, 8);
    }
    uint64_t end = UINT64_C(1) << bits;
    if (len < 72 || len > end || backing_off > end || backing_len > end - backing_off)
        return graph_damaged(g, file, "its header is longer than a cluster", err);
    r = read_extensions(g, file, VD_ROUND_UP(len, 8), backing_off ? backing_off : end, names, err);
    if (r == 0 && backing_off && backing_len)
        r = read_name(g, file, backing_off, backing_len, &names->backing, err);
    if (r == 0 && !(incompatible & INCOMPATIBLE_DATA_FILE)) {
        free(names->data);
        names->data = NULL;
    } else if (r == 0 && !names->data) {
        r = graph_damaged(g, file, "the name of its data file is missing", err);
    }
    return r;
}

/* What a backing file is: as the image says. One that does not say is a raw file only if it looks
 * like nothing else, for a guest can write what looks like an image into a raw disk. */
static int backing_format(struct vd_graph *g, int file, int backing, const char *text,
                          enum vd_format *ret, struct vd_error *err)
{
    enum vd_format looks;
    if (text && (!strcmp(text, "file") || !strcmp(text, "host_device")))
        text = "raw";
    if (text && vd_format_find(text, ret))
        return 0;
    if (text)
        return graph_unsupported(g, file, "its backing file has a format that vdisk cannot read",
                                 err);
    looks = vd_format_look(g->files[backing].fd);
    if (looks != VD_FORMAT_RAW && !g->trust)
        return vd_fail(err, -EINVAL, "format-needed",
                       "%.120s does not say what its backing file %.120s is, which looks like %s: "
                       "if you trust the image, say --trust-source",
                       g->files[file].path, g->files[backing].path, vd_format_name(looks));
    *ret = looks;
    return 0;
}

int graph_qcow2(struct vd_graph *g, int node, struct vd_error *err)
{
    struct names names = {0};
    int file = g->nodes[node].file;
    int r = read_names(g, file, &names, err);
    if (r == 0 && names.data) {
        r = graph_follow(g, file, names.data, err);
        g->nodes[node].data = r;
    }
    enum vd_format format;
    int backing = -1;
    if (r >= 0 && names.backing) {
        backing = r = graph_follow(g, file, names.backing, err);
        if (r >= 0)
            r = backing_format(g, file, backing, names.backing_format, &format, err);
    }
    names_done(&names);
    if (r >= 0 && backing >= 0) {
        r = graph_node(g, backing, format, err);
        g->nodes[node].backing = r;
    }
    return r < 0 ? r : 0;
}
