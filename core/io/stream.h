/* SPDX-License-Identifier: MIT */
/*
 * Byte streams on the loop: unix and TCP sockets, pipes. Calls suspend the calling fiber. One fiber
 * may read while another writes. Errors are -errno; a peer that has gone is -ECONNRESET or, on a
 * clean end before the first byte, -ENODATA.
 */
#ifndef VD_IO_STREAM_H
#define VD_IO_STREAM_H

#include "core/base/error.h"
#include "core/io/fiber.h"

#include <sys/types.h>
#include <sys/uio.h>

struct vd_stream;
struct vd_listener;
struct vd_tls; /* core/codec/tls.h */

/* Takes over `fd` and its O_NONBLOCK flag; on failure it stays the caller's. The program must
 * ignore SIGPIPE if it writes to pipes. */
int vd_stream_new(int fd, struct vd_stream **ret);
/* Takes NULL. Closes the descriptor; with TLS, tells the peer that this is the end. */
void vd_stream_close(struct vd_stream *s);
/* Makes every present and future call on it fail with -ECANCELED; close is still to be called. */
void vd_stream_shutdown(struct vd_stream *s);
/* Exactly `len` bytes. VD_YIELDS */
int vd_stream_read(struct vd_stream *s, void *buf, size_t len);
/* Between 1 and `len` bytes; 0 at the end. VD_YIELDS */
ssize_t vd_stream_read_some(struct vd_stream *s, void *buf, size_t len);
/* All of it. VD_YIELDS */
int vd_stream_write(struct vd_stream *s, const void *buf, size_t len);
int vd_stream_writev(struct vd_stream *s, const struct iovec *iov, int n); /* VD_YIELDS */
/* One message with up to `nfds` descriptors (unix sockets without TLS only). Received ones are
 * close-on-exec and the caller's. VD_YIELDS */
int vd_stream_send_fds(struct vd_stream *s, const void *buf, size_t len, const int *fds, int nfds);
ssize_t vd_stream_recv_fds(struct vd_stream *s, void *buf, size_t len, int *fds, int *nfds);
/* Does the server's part of a TLS handshake; from then on all that is read and written goes through
 * TLS. Nothing must be read or written meanwhile. On failure *err says why, and the stream is good
 * for nothing but to be closed; -ECANCELED after shutdown. `tls` must outlive the stream. VD_YIELDS
 */
int vd_stream_tls_accept(struct vd_stream *s, struct vd_tls *tls, struct vd_error *err);
/* Who the peer has proved to be, "" for nobody and without TLS. */
const char *vd_stream_tls_peer(const struct vd_stream *s);
int vd_stream_fd(const struct vd_stream *s);
/* uid, gid and pid at the other end of a unix socket. */
int vd_stream_peer(const struct vd_stream *s, uid_t *uid, gid_t *gid, pid_t *pid);

/* "unix:PATH" (socket file 0600, stale ones replaced, live ones are -EADDRINUSE), "tcp:HOST:PORT",
 * or "fd:N", a listening socket that this process was given; it is taken over. VD_YIELDS */
int vd_listen(const char *address, struct vd_listener **ret, struct vd_error *err);
int vd_accept(struct vd_listener *l,
              struct vd_stream **ret); /* VD_YIELDS, -ECANCELED after close */
/* Fails a pending accept; removes the socket file. */
void vd_listener_close(struct vd_listener *l);
/* The address bound, with the real port. */
const char *vd_listener_address(const struct vd_listener *l);
/* Whether processes on other machines may be able to connect. */
bool vd_listener_remote(const struct vd_listener *l);
int vd_connect(const char *address, struct vd_stream **ret, struct vd_error *err); /* VD_YIELDS */

#endif
