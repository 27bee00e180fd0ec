/* SPDX-License-Identifier: MIT */
/* What reading and making foreign images share. */
#ifndef VD_FOREIGN_IMAGE_PRIV_H
#define VD_FOREIGN_IMAGE_PRIV_H

#include "foreign/child.h"
#include "foreign/graph.h"
#include "foreign/image.h"

struct vd_image {
    struct vd_graph *graph; /* of one that is read */
    struct vd_child *child;
    uint64_t size;
    int fds[VD_REMOTE_LINKS];
    int n_fds;
    /* Of one that is made. */
    struct vd_image_target target; /* its strings are ours */
    int fd;                        /* -1 = none is made */
    char *temp;                    /* a name for the time being, where files need one */
    bool is_block, aborted;
};

/* The Debian packages that have what we run. */
#define DAEMON "qemu-storage-daemon"
#define DAEMON_PACKAGE "qemu-system-common"
#define TOOL "qemu-img"
#define TOOL_PACKAGE "qemu-utils"

struct vd_image *image_new(void); /* NULL when out of memory */
/* Starts the daemon with argv up to its --nbd-server, for which it appends the rest, and the
 * descriptors; then makes sure that it serves. VD_YIELDS */
struct image_args {
    const char **argv; /* room for IMAGE_ARGS_MORE and NULL after n */
    int n;
    const int *fds; /* become VD_GRAPH_FIRST_FD, ... */
    const char *const *names;
    int n_fds;
    bool writable;
    const char *node;
};
#define IMAGE_ARGS_MORE 4
int image_serve(struct vd_image *img, const struct image_args *a, struct vd_error *err);
/* Whether the file can be opened past the page cache, which not every file system allows. */
bool image_can_direct(int fd);
/* The paths of the files that a child of this image knows, from VD_CHILD_FD on; how many. */
int image_names(const struct vd_image *img, const char **ret, int max);

#endif
