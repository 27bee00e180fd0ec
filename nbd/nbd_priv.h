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
/* Of a context, in one answer. */
#define NBD_EXTENTS_MAX 512
/* Snapshots that a client compares with at a time. */
#define NBD_SINCE_MAX 16u

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
    struct vd_tls *tls; /* NULL = everything in the clear; else nothing but the way to TLS is */
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

/* What block status tells, for the export of that name. */
struct nbd_contexts {
    bool allocation;
    unsigned n_since;
    struct vd_uuid since[NBD_SINCE_MAX]; /* snapshots */
    char export[NBD_EXPORT_MAX];
};

struct nbd_conn {
    struct vd_list link;
    struct vd_nbd_server *server;
    struct vd_stream *stream;
    char peer[224];
    uint64_t connected_s;
    /* What the handshake settled. */
    enum nbd_stage stage;
    bool secure; /* TLS is on */
    bool no_zeroes, structured;
    struct nbd_contexts contexts;
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

/* option.c: what options share. */
/* Unread data of one option. */
struct nbd_cursor {
    const uint8_t *p;
    size_t left;
};
bool nbd_get_bytes(struct nbd_cursor *cur, size_t n, const uint8_t **ret);
bool nbd_get_u16(struct nbd_cursor *cur, uint16_t *ret);
bool nbd_get_u32(struct nbd_cursor *cur, uint32_t *ret);
/* A string: its length in 32 bits, then its bytes. */
bool nbd_get_string(struct nbd_cursor *cur, const uint8_t **ret, size_t *len);
#define NBD_NO_SENSE "the option's data make no sense"
/* The head of a reply, NBD_OPTION_REPLY_LEN bytes. */
void nbd_put_reply(uint8_t *to, uint32_t option, uint32_t type, size_t len);
/* Replies gathered, to go out with one call. `p` is to be freed. */
struct nbd_replies {
    uint8_t *p;
    size_t len, room;
};
/* One more, of a number and a name. 0 or -ENOMEM. */
int nbd_replies_add(struct nbd_replies *rs, uint32_t option, uint32_t type, uint32_t word,
                    const char *name);
int nbd_reply(struct nbd_conn *c, uint32_t option, uint32_t type, const void *data,
              size_t len); /* VD_YIELDS */
int nbd_reply_error(struct nbd_conn *c, uint32_t option, uint32_t type,
                    const char *message); /* VD_YIELDS */
/* What an export that cannot be opened is answered with. VD_YIELDS */
int nbd_reply_open_error(struct nbd_conn *c, uint32_t option, int r, const struct vd_error *err);
/* 0 if a name from the client may be looked up; otherwise it has been answered: 1, or an error.
 * VD_YIELDS */
int nbd_name_check(struct nbd_conn *c, uint32_t option, const uint8_t *name, size_t len);

/* context.c: LIST and SET of metadata contexts. VD_YIELDS */
int nbd_option_contexts(struct nbd_conn *c, uint32_t option, struct nbd_cursor cur);
void nbd_contexts_forget(struct nbd_conn *c);
/* An export was opened: contexts were chosen for one, and do not go along to another. */
void nbd_contexts_settle(struct nbd_conn *c, const char *full);

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

/* status.c: block status. */
/* The buffer that an answer needs. */
size_t nbd_status_room(const struct nbd_conn *c);
/* Puts all of the answer into the buffer: data_len bytes. VD_YIELDS */
int nbd_status_run(struct nbd_req *req);

/* worker.c. Neither suspends. */
int nbd_workers_start(struct vd_nbd_server *s);
void nbd_work_push(struct vd_nbd_server *s, struct nbd_req *req);
/* Lets idle workers end; the caller waits for the group. */
void nbd_workers_stop(struct vd_nbd_server *s);

/* reply.c */
/* A chunk's head, NBD_CHUNK_LEN bytes; `len` is what follows it. */
void nbd_put_chunk(uint8_t *to, enum nbd_chunk type, bool done, uint64_t cookie, uint32_t len);
/* The request has err, why, hole set and its data in buf (data_len): answers it. */
void nbd_request_finish(struct nbd_req *req);
void nbd_sender_main(void *conn);

#endif
