/* SPDX-License-Identifier: MIT */
/*
 * The server's inside. Per connection there are two fibers: a reader, which owns the connection,
 * does the handshake and cuts the stream into requests; and a sender, which writes whatever replies
 * are ready with one call. Between them, the server's workers run the requests.
 *
 *   reader --nbd_work_push--> workers --nbd_request_finish--> conn.done --> sender --> socket
 *
 * Limits are per connection, and nobody waits for what another connection holds: that is what
 * keeps a slow client from holding up the rest.
 */
#ifndef VD_NBD_NBD_PRIV_H
#define VD_NBD_NBD_PRIV_H

#include "core/base/list.h"
#include "core/io/fiber.h"
#include "core/io/stream.h"
#include "nbd/nbd.h"
#include "nbd/proto_priv.h"

/* What one request may carry: the size that clients assume where nothing was agreed. */
#define NBD_REQUEST_MAX VD_MIB(32)
/* A refused write's payload is skipped up to this; a longer one ends the connection. */
#define NBD_SKIP_MAX VD_MIB(64)
/* Longer reads and writes are worked on in pieces. Also the largest buffer. */
#define NBD_PIECE VD_MIB(4)
/* Requests of one connection under way, pieces included. */
#define NBD_IN_FLIGHT_MAX 256u
/* Buffers of all connections together. Each has its equal share, of which at least one piece. */
#define NBD_BUDGET VD_MIB(128)
#define NBD_CLIENTS_MAX 128u
#define NBD_WORKERS_MAX 256u
/* Free buffers that are kept. */
#define NBD_CACHE_MAX VD_MIB(32)
/* A connection's input buffer. An option and a small write must fit. */
#define NBD_IN_LEN VD_KIB(144)
#define NBD_OPTION_MAX VD_KIB(32)
#define NBD_OPTIONS_MAX 1000u
#define NBD_NAME_LEN_MAX 4096u
#define NBD_HANDSHAKE_NS (UINT64_C(30) * 1000000000)
#define NBD_STOP_NS (UINT64_C(10) * 1000000000)
/* Replies in one system call: a header and data each. */
#define NBD_SEND_IOV 256
/* What one connection moves before others get a turn. */
#define NBD_TURN_LEN VD_KIB(512)
/* A payload's rest of at least this is read straight into its buffer, not through the input. */
#define NBD_DIRECT_MIN VD_KIB(32)
/* From here on a read first asks whether there is anything but zeroes. */
#define NBD_HOLE_MIN VD_KIB(64)
#define NBD_EXTENTS_MAX 512

#define NBD_BUF_MIN VD_BLOCK
#define NBD_BUF_CLASSES 11 /* 4 KiB ... 4 MiB */

/* "VOLUME@SNAPSHOT" */
#define NBD_EXPORT_MAX (2 * VD_NAME_MAX + 2)

struct nbd_conn;

/* One request, or one piece of a long one. */
struct nbd_req {
    struct vd_list link; /* free list, work queue, or conn->done */
    struct nbd_conn *conn;
    struct nbd_req *whole; /* the request this is a piece of */
    unsigned pieces;       /* of a whole: pieces not finished, and 1 while more may come */
    uint16_t type, flags;
    uint32_t len;
    uint64_t cookie, off;
    void *buf;
    size_t buf_len;
    int err;
    const char *why; /* static text for the client, NULL = none */
    bool hole;       /* a read that found only zeroes */
    bool streamed;   /* a simple reply too long for a buffer: the sender reads it */
    uint32_t head_len, data_len;
    uint8_t head[120];
};

struct nbd_worker {
    struct vd_list link;
    struct vd_nbd_server *server;
    struct vd_fiber *fiber;
    struct nbd_req *req;
};

struct vd_nbd_server {
    /* Fixed. */
    struct vd_loop *loop;
    struct vd_store *store;
    struct vd_listener *listener;
    unsigned flags;
    uint64_t handshake_ns, stop_ns; /* how long a client may take to choose, and to let go */
    /* Connections. */
    struct vd_list conns;
    unsigned n_conns;
    bool stopping;
    struct vd_waitq conns_q; /* one has gone */
    struct vd_group fibers;  /* acceptor and workers */
    /* Work: the queue is used only while every worker there may be is busy. */
    struct vd_list work, idle;
    unsigned n_workers;
    /* Reused memory. */
    struct vd_list free_reqs;
    void *free_bufs[NBD_BUF_CLASSES];
    size_t cached;
};

enum nbd_stage { NBD_HANDSHAKE, NBD_TRANSMISSION };

struct nbd_conn {
    struct vd_list link;
    struct vd_nbd_server *server;
    struct vd_stream *stream;
    char peer[96];
    uint64_t connected_s;
    /* What the handshake settled. */
    enum nbd_stage stage;
    bool no_zeroes, structured;
    bool allocation; /* base:allocation was chosen, for the export named in meta_export */
    char meta_export[NBD_EXPORT_MAX];
    char export[NBD_EXPORT_MAX];
    struct vd_disk *disk;
    struct vd_disk_watch watch;
    bool read_only;
    /* Input: bytes [pos, end) of `in` are not yet used. */
    uint8_t *in;
    size_t pos, end;
    /* Output. */
    struct vd_list done;
    struct vd_waitq send_q;
    bool sender_ended;
    struct iovec iov[NBD_SEND_IOV];
    /* What it holds. */
    unsigned in_flight;
    size_t held; /* bytes of buffers */
    struct vd_waitq room_q;
    /* The socket is no good any more: nothing is read or sent, requests are dropped. */
    bool broken;
    /* No request is left and none will come. */
    bool finished;
    uint64_t requests, read_bytes, write_bytes;
};

/* buffer.c: memory that is reused. None of these suspends but nbd_admit. */
/* Waits until the connection may hold one more request and a buffer of `len` bytes (0 = none), and
 * gives the request, zeroed. -ECANCELED when the connection or server ends, -ENOMEM. VD_YIELDS */
int nbd_admit(struct nbd_conn *c, size_t len, struct nbd_req **ret);
/* Gives back a request and its buffer. */
void nbd_release(struct nbd_req *req);
void nbd_buffers_free(struct vd_nbd_server *s);

/* conn.c: a connection's life, and its input. */
int nbd_conn_start(struct vd_nbd_server *s, struct vd_stream *stream);
/* Ends it: what is under way is dropped. Does not suspend, takes any state. */
void nbd_conn_break(struct nbd_conn *c);
/* Makes at least n (<= NBD_IN_LEN) bytes available at c->in + c->pos. -ENODATA at an end before the
 * first of them, -ECONNRESET later. VD_YIELDS */
int nbd_fill(struct nbd_conn *c, size_t n);
/* Moves the next n bytes of input to buf. VD_YIELDS */
int nbd_take(struct nbd_conn *c, void *buf, size_t n);
/* Throws the next n bytes away. VD_YIELDS */
int nbd_skip(struct nbd_conn *c, uint64_t n);

/* handshake.c. 0 when the transmission phase may begin. VD_YIELDS */
int nbd_handshake(struct nbd_conn *c);

/* export.c: names. */
/* Opens the export of that name (`len` bytes, unchecked) and gives its full name; read-only if that
 * is asked for, or the export or server is. -ENOENT and other errors with a message. VD_YIELDS */
int nbd_export_open(struct vd_nbd_server *s, const void *name, size_t len, bool read_only,
                    struct vd_disk **ret, char full[NBD_EXPORT_MAX], struct vd_error *err);
/* Calls fn for each export's full name; fn must not suspend. VD_YIELDS */
typedef int nbd_export_fn(void *arg, const char *full);
int nbd_export_list(struct vd_nbd_server *s, nbd_export_fn *fn, void *arg);
uint16_t nbd_export_flags(const struct vd_disk_info *info, bool structured);
bool nbd_utf8_valid(const void *text, size_t len);

/* request.c: reads the next request and starts it. -ENODATA at a clean end. VD_YIELDS */
int nbd_request_read(struct nbd_conn *c);
/* Runs one on its disk. VD_YIELDS */
void nbd_request_run(struct nbd_req *req);

/* worker.c. Neither suspends. */
int nbd_workers_start(struct vd_nbd_server *s);
void nbd_work_push(struct vd_nbd_server *s, struct nbd_req *req);
/* Lets idle workers end; the caller waits for the group. */
void nbd_workers_stop(struct vd_nbd_server *s);

/* reply.c */
/* The request has err, why, hole set and its data in buf (data_len): answers it. */
void nbd_request_finish(struct nbd_req *req);
void nbd_sender_main(void *conn);

#endif
