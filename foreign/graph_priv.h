/* SPDX-License-Identifier: MIT */
/* Between the walk over an image's files and the readers of the single formats. */
#ifndef VD_FOREIGN_GRAPH_PRIV_H
#define VD_FOREIGN_GRAPH_PRIV_H

#include "foreign/graph.h"

/* Opens what the file `from` calls `name`; its index, or -errno. */
int graph_follow(struct vd_graph *g, int from, const char *name, struct vd_error *err);
/* Adds a descriptor, taken over in any case; its index, or -errno. */
int graph_add(struct vd_graph *g, int fd, char *path, struct vd_error *err);
/* Makes the node of a file, and those below it; its index, or -errno. */
int graph_node(struct vd_graph *g, int file, enum vd_format format, struct vd_error *err);
/* Exactly len bytes at off, or "image-damaged". */
int graph_read(struct vd_graph *g, int file, uint64_t off, void *buf, size_t len,
               struct vd_error *err);
int graph_damaged(struct vd_graph *g, int file, const char *what, struct vd_error *err);
int graph_unsupported(struct vd_graph *g, int file, const char *what, struct vd_error *err);

/* One reader for each format that can name other files: completes nodes[node]. */
int graph_qcow2(struct vd_graph *g, int node, struct vd_error *err);
int graph_vmdk(struct vd_graph *g, int node, struct vd_error *err);

/* "image-damaged" when the file ends before its data does. `external`: the data is elsewhere. */
int graph_whole(struct vd_graph *g, int file, enum vd_format format, bool external,
                struct vd_error *err);

#endif
