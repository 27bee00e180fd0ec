/* SPDX-License-Identifier: MIT */
/* A stream's inside: stream.c moves bytes, stream_tls.c puts TLS around them. */
#ifndef VD_IO_STREAM_PRIV_H
#define VD_IO_STREAM_PRIV_H

#include "core/io/stream.h"

struct loop_op;
struct stream_tls;

struct vd_stream {
    int fd;
    bool is_socket, cancelled;
    struct loop_op *reading, *writing;
    struct stream_tls *tls; /* NULL: in the clear */
};

/* stream.c: past TLS. At least one byte, 0 at the end. VD_YIELDS */
ssize_t stream_raw_read(struct vd_stream *s, void *buf, size_t len);
/* All of it. VD_YIELDS */
int stream_raw_write(struct vd_stream *s, const void *buf, size_t len);

/* stream_tls.c. Same meaning as the public calls. VD_YIELDS */
ssize_t stream_tls_read(struct vd_stream *s, void *buf, size_t len);
int stream_tls_writev(struct vd_stream *s, const struct iovec *iov, int n);
/* Says good-bye if that needs no waiting, and frees. */
void stream_tls_end(struct vd_stream *s);

#endif
