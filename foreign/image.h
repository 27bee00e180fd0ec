/* SPDX-License-Identifier: MIT */
/*
 * An image in a foreign format, held open by a child process (qemu-storage-daemon) that serves its
 * content over NBD to sockets made beforehand: nothing has to be waited for, there is no address
 * that anybody else could connect to, and nothing is left in the file system.
 *
 * New images are made in a file that has no name yet, so that whatever ends this process leaves
 * nothing behind; it gets its name when the image is complete and durable.
 *
 * Error ids: image-* of graph.h, child-failed, no-program, image-too-large, exists-overwrite.
 */
#ifndef VD_FOREIGN_IMAGE_H
#define VD_FOREIGN_IMAGE_H

#include "core/block/disk.h"
#include "foreign/format.h"
#include "foreign/remote.h"

struct vd_image;

#define VD_IMAGE_EXPORT "disk" /* what the child calls it */

/* Opens `path` for reading. `trust`: the names in it are followed anywhere. VD_YIELDS */
int vd_image_open(const char *path, enum vd_format format, bool trust, struct vd_image **ret,
                  struct vd_error *err);

struct vd_image_target {
    const char *path;
    enum vd_format format;
    const char *subformat; /* NULL = the usual one */
    bool compress;         /* qcow2 only */
    bool overwrite;        /* what is there may be replaced, once the new one is complete */
};
/* Whether it can only be written from its beginning to its end, by vd_image_fill. */
bool vd_image_is_sequential(const struct vd_image_target *t);
/* Begins a new image of `size` bytes; it reads as zeroes. Sequential ones only get their file; the
 * others can be written through sockets. VD_YIELDS */
int vd_image_create(const struct vd_image_target *t, uint64_t size, struct vd_image **ret,
                    struct vd_error *err);
/* Fills a sequential image from `fd`, a socket to an NBD server that has the export `name`; it is
 * taken over. Runs until all is written. VD_YIELDS */
typedef void vd_image_progress_fn(void *arg, double part);
int vd_image_fill(struct vd_image *img, int fd, const char *name, vd_image_progress_fn *progress,
                  void *arg, struct vd_error *err);
/* The new image is complete: ends the child in order, makes the file durable, gives it its name.
 * VD_YIELDS */
int vd_image_commit(struct vd_image *img, struct vd_error *err);

uint64_t vd_image_size(const struct vd_image *img);
/* The connections, to be given to vd_remote_new; the caller's from now on. 0 when they are gone. */
int vd_image_sockets(struct vd_image *img, int fds[VD_REMOTE_LINKS]);
/* For a sequential image that has been filled: opens it for reading, so that there are sockets
 * again. VD_YIELDS */
int vd_image_reopen(struct vd_image *img, struct vd_error *err);
/* If the child has ended, puts its reason into *err, in place of what it caused. VD_YIELDS */
void vd_image_explain(struct vd_image *img, struct vd_error *err);
/* Ends the child's work now; whoever waits for it gets an error. */
void vd_image_abort(struct vd_image *img);
/* Ends the child, forgets what is not committed. Takes NULL. VD_YIELDS */
void vd_image_free(struct vd_image *img);

#endif
