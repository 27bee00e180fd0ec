/* SPDX-License-Identifier: MIT */
/*
 * An export of an NBD server as a disk: a server's anywhere, or that of a child process that reads
 * a foreign format. It lives on the loop of the fiber that makes it.
 *
 * Error ids: remote-refused remote-read-only remote-unsupported connect-failed no-memory.
 */
#ifndef VD_FOREIGN_REMOTE_H
#define VD_FOREIGN_REMOTE_H

#include "core/block/disk.h"

#define VD_REMOTE_LINKS 4 /* connections, where the server allows several */

struct vd_remote_options {
    const int *fds;      /* connected sockets to one server, taken over in any case; */
    int n_fds;           /* none: connects to `address`, and again if the server allows it */
    const char *address; /* "unix:PATH" or "tcp:HOST:PORT" */
    const char *export;  /* "" = the server's default */
    bool read_only;
};

/* Allocates it; nothing but connect, abort, info and unref may be called before it is connected.
 * Takes copies. */
int vd_remote_new(const struct vd_remote_options *opt, struct vd_disk **ret, struct vd_error *err);
/* Shakes hands with the server: now the size is known. A size that is no multiple of 512 is read
 * as if padded with zeroes, and for writing cut off. VD_YIELDS */
int vd_remote_connect(struct vd_disk *d, struct vd_error *err);
/* Makes every present and future call fail soon: for a server that is silent. */
void vd_remote_abort(struct vd_disk *d);

/* nbd://HOST[:PORT][/EXPORT] and nbd+unix:///[EXPORT]?socket=PATH. */
bool vd_remote_is_uri(const char *text);
struct vd_remote_uri {
    char *address; /* as above, with an absolute path */
    char *export;
};
/* -EINVAL "bad-uri", -EOPNOTSUPP for the schemes with TLS. Free with vd_remote_uri_done. */
int vd_remote_uri_parse(const char *text, struct vd_remote_uri *ret, struct vd_error *err);
void vd_remote_uri_done(struct vd_remote_uri *u); /* takes a zeroed one */

#endif
