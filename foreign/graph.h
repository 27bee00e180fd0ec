/* SPDX-License-Identifier: MIT */
/*
 * The files that a foreign image consists of: itself, its backing files, external data, extents.
 * They are found and opened here, by our own reading of the headers, and a child process is given
 * the open descriptors and told what each is; so it never opens a name that an image contains.
 *
 * Names are followed only inside the directory that the image lies in, unless the image is
 * trusted; and never through a protocol ("nbd:", "json:", ...).
 *
 * Error ids: image-outside image-protocol image-loop image-damaged image-unsupported image-format
 * not-found.
 */
#ifndef VD_FOREIGN_GRAPH_H
#define VD_FOREIGN_GRAPH_H

#include "foreign/format.h"

#define VD_GRAPH_FILES 200 /* a chain longer than that, or a disk in more pieces, is refused */
/* The child has them under the numbers from this one on. */
#define VD_GRAPH_FIRST_FD 4

struct vd_graph_file {
    int fd;
    char *path;    /* its real path */
    bool is_block; /* else a regular file, or one in memory */
};
struct vd_graph_node {
    enum vd_format format;
    int file, data; /* of files; data: qcow2's external data file, -1 = none */
    int backing;    /* of nodes, -1 = none */
};
struct vd_graph {
    struct vd_graph_file files[VD_GRAPH_FILES];
    int n_files;
    struct vd_graph_node nodes[VD_GRAPH_FILES]; /* the image itself is the first */
    int n_nodes;
    char *dir; /* of the image */
    bool trust;
};

/* Blocking: to be offloaded. */
int vd_graph_open(const char *path, enum vd_format format, bool trust, struct vd_graph **ret,
                  struct vd_error *err);
void vd_graph_free(struct vd_graph *g); /* takes NULL */

#endif
