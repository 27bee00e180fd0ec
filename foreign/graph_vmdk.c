/* SPDX-License-Identifier: MIT */
/*
 * Which files a VMDK consists of. It is a sparse file with a descriptor inside, or a descriptor, a
 * text file, that names the files with the data. A reader opens whatever a descriptor names; so
 * it is given a descriptor of ours, in memory, that names descriptors that we have opened.
 *
 * 1. Of the image's own text only numbers and words that are checked get into ours.
 *
 * Blocking.
 */
#include "core/base/bytes.h"
#include "foreign/graph_priv.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECTOR 512u
#define TEXT_MAX (64u << 10)

struct sparse_header {
    uint8_t magic[4];
    le32_t version, flags;
    le64_t capacity, grain, descriptor_off, descriptor_len;
};

/* NULL behind the last line. */
static const char *line_after(const char *at)
{
    const char *end = strchr(at, '\n');
    return end ? end + 1 : NULL;
}

/* The text after `key` (which ends in '=') in a descriptor, without quotes; false when absent. */
static bool text_value(const char *text, const char *key, char *ret, size_t len)
{
    for (const char *at = text; at && *at; at = line_after(at)) {
        if (strncasecmp(at, key, strlen(key)) != 0)
            continue;
        at += strlen(key);
        at += *at == '"';
        size_t n = strcspn(at, "\"\r\n");
        if (n >= len)
            return false;
        memcpy(ret, at, n);
        ret[n] = 0;
        return true;
    }
    return false;
}

/* What a delta calls the disk below it; NULL when it is none, or out of memory. */
static char *parent_name(const char *text)
{
    char name[1024], cid[16] = "";
    if (!text_value(text, "parentFileNameHint=", name, sizeof(name)) || !*name)
        return NULL;
    (void)text_value(text, "parentCID=", cid, sizeof(cid));
    return strcasecmp(cid, "ffffffff") == 0 ? NULL : strdup(name);
}

static int follow_parent(struct vd_graph *g, int node, const char *text, struct vd_error *err)
{
    char *name = parent_name(text);
    if (!name)
        return 0;
    int r = graph_follow(g, g->nodes[node].file, name, err);
    free(name);
    if (r >= 0)
        r = graph_node(g, r, VD_FORMAT_VMDK, err);
    g->nodes[node].backing = r;
    return r < 0 ? r : 0;
}

/* *ret is the text inside a sparse file, "" when there is none. */
static int sparse_text(struct vd_graph *g, int file, char **ret, struct vd_error *err)
{
    struct sparse_header h;
    int r = graph_read(g, file, 0, &h, sizeof(h), err);
    if (r < 0)
        return r;
    uint64_t off = 0, len = 0;
    if (memcmp(h.magic, "KDMV", 4) == 0) {
        off = vd_get64(h.descriptor_off);
        len = vd_get64(h.descriptor_len);
        /* Such a file would be read as a descriptor that names others. */
        if (vd_get64(h.capacity) == 0)
            return graph_unsupported(g, file, "it is a VMDK without data of its own", err);
    } else if (memcmp(h.magic, "COWD", 4) != 0) {
        return graph_damaged(g, file, "it is no VMDK extent", err);
    }
    len = off ? VD_MIN(len, TEXT_MAX / SECTOR) * SECTOR : 0;
    if (off > VD_VOLUME_MAX / SECTOR)
        return graph_damaged(g, file, "its descriptor lies nowhere", err);
    char *text = calloc(1, len + 1);
    if (!text)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    r = len ? graph_read(g, file, off * SECTOR, text, len, err) : 0;
    if (r < 0)
        free(text);
    else
        *ret = text;
    return r;
}

static int read_descriptor(struct vd_graph *g, int file, char **ret, struct vd_error *err)
{
    off_t end = lseek(g->files[file].fd, 0, SEEK_END);
    if (end < 0 || end > (off_t)TEXT_MAX)
        return graph_damaged(g, file, "its descriptor is too long", err);
    char *text = calloc(1, (size_t)end + 1);
    if (!text)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = graph_read(g, file, 0, text, (size_t)end, err);
    if (r < 0)
        free(text);
    else
        *ret = text;
    return r;
}

static int check_sparse(struct vd_graph *g, int file, struct vd_error *err)
{
    char *text;
    int r = sparse_text(g, file, &text, err);
    if (r < 0)
        return r;
    free(text);
    return graph_whole(g, file, VD_FORMAT_VMDK, false, err);
}

static int check_flat(struct vd_graph *g, int file, uint64_t sectors, struct vd_error *err)
{
    off_t end = lseek(g->files[file].fd, 0, SEEK_END);
    if (end < 0 || (uint64_t)end / SECTOR < sectors)
        return graph_damaged(g, file, "it is shorter than its descriptor says", err);
    return 0;
}

/* One line `RW 4096 SPARSE "disk-s001.vmdk" [0]` of a descriptor becomes one of ours. */
static int extent_line(struct vd_graph *g, int file, const char *line, FILE *out,
                       struct vd_error *err)
{
    char kind[16], name[1024];
    unsigned long long sectors, off = 0;
    int n = sscanf(line, "RW %llu %15[A-Z] \"%1023[^\"\r\n]\" %llu", &sectors, kind, name, &off);
    if (n == 2 && strcmp(kind, "ZERO") == 0) {
        fprintf(out, "RW %llu ZERO\n", sectors);
        return 0;
    }
    bool flat = n >= 2 && (!strcmp(kind, "FLAT") || !strcmp(kind, "VMFS"));
    bool sparse = n >= 2 && (!strcmp(kind, "SPARSE") || !strcmp(kind, "VMFSSPARSE"));
    if (!flat && !sparse)
        return graph_unsupported(g, file, "its descriptor has an extent of an unknown kind", err);
    if (n < 3 || off > VD_VOLUME_MAX / SECTOR || sectors > VD_VOLUME_MAX / SECTOR)
        return graph_damaged(g, file, "its descriptor has an extent that cannot be one", err);
    int i = graph_follow(g, file, name, err);
    if (i < 0)
        return i;
    int r = sparse ? check_sparse(g, i, err) : check_flat(g, i, off + sectors, err);
    if (r < 0)
        return r;
    fprintf(out, "RW %llu %s \"/proc/self/fd/%d\"", sectors, kind, VD_GRAPH_FIRST_FD + i);
    fprintf(out, !strcmp(kind, "FLAT") ? " %llu\n" : "\n", off);
    return 0;
}

/* Words that matter to a reader, in a form that cannot hold anything else. */
static int descriptor_head(struct vd_graph *g, int file, const char *text, FILE *out,
                           struct vd_error *err)
{
    static const char *const types[] = {"monolithicFlat", "twoGbMaxExtentFlat",
                                        "twoGbMaxExtentSparse", "vmfs", "vmfsSparse"};
    char type[40] = "", cid[16] = "", parent[16] = "";
    const char *known = NULL;
    (void)text_value(text, "createType=", type, sizeof(type));
    (void)text_value(text, "CID=", cid, sizeof(cid));
    (void)text_value(text, "parentCID=", parent, sizeof(parent));
    for (size_t i = 0; i < VD_ARRAY_SIZE(types); i++)
        if (strcasecmp(types[i], type) == 0)
            known = types[i];
    if (!known)
        return graph_unsupported(g, file, "its VMDK subformat is unknown", err);
    fprintf(out,
            "# Disk DescriptorFile\nversion=1\nCID=%08lx\nparentCID=%08lx\ncreateType=\"%s\"\n",
            strtoul(cid, NULL, 16) & 0xffffffff,
            *parent ? strtoul(parent, NULL, 16) & 0xffffffff : 0xffffffff, known);
    return 0;
}

/* Without empty lines: QEMU takes what follows one twice. */
static int own_descriptor(struct vd_graph *g, int node, const char *text, struct vd_error *err)
{
    int file = g->nodes[node].file;
    char *buf = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&buf, &len);
    if (!out)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = descriptor_head(g, file, text, out, err);
    for (const char *at = text; r == 0 && at && *at; at = line_after(at))
        if (strncmp(at, "RW ", 3) == 0)
            r = extent_line(g, file, at, out, err);
    /* Where the file's own lines end others have their geometry; a reader of content needs none. */
    if (fclose(out) != 0 && r == 0)
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int fd = r < 0 ? -1 : memfd_create("descriptor", MFD_CLOEXEC);
    if (r == 0 && (fd < 0 || write(fd, buf, len) != (ssize_t)len)) {
        r = vd_fail(err, -ENOMEM, "no-memory", "no memory for a descriptor");
        if (fd >= 0)
            close(fd);
    }
    free(buf);
    if (r < 0)
        return r;
    int i = graph_add(g, fd, strdup(g->files[file].path), err);
    g->nodes[node].file = i;
    return i < 0 ? i : 0;
}

int graph_vmdk(struct vd_graph *g, int node, struct vd_error *err)
{
    char *text = NULL, head[4];
    int file = g->nodes[node].file;
    int r = graph_read(g, file, 0, head, sizeof(head), err);
    if (r < 0)
        return r;
    bool sparse = memcmp(head, "KDMV", 4) == 0 || memcmp(head, "COWD", 4) == 0;
    r = sparse ? sparse_text(g, file, &text, err) : read_descriptor(g, file, &text, err);
    /* The parent is looked for beside the image, not beside our descriptor. */
    if (r == 0)
        r = follow_parent(g, node, text, err);
    if (r == 0 && !sparse)
        r = own_descriptor(g, node, text, err);
    free(text);
    return r;
}
