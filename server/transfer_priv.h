/* SPDX-License-Identifier: MIT */
/*
 * What imports and exports share: one transfer, as a job. Its other end is a descriptor that the
 * client has opened, or an NBD server (the client's address, or sockets that come through the
 * control socket of a client that has a foreign image open).
 *
 * The control socket carries frames of wire.h between job and client:
 *   import   client -> job   {"remote": {"export"}} with the sockets
 *            and it is closed when the job has ended
 *   export   job -> client   {"source": {"export", "size"}}
 *            client -> job   {"remote": {"export", "zero": true}} with the sockets: copy into that;
 *                            or {"feed": true} with one: serve the source there, read-only; then
 *                            {"part": 0.5} any number of times and {"written": true}, with sockets
 *                            if it is to be verified
 *            job -> client   {"copied": true}
 *            client -> job   {"done": true}: the image is complete
 *   at any time   client -> job   {"error": {...}}
 */
#ifndef VD_SERVER_TRANSFER_PRIV_H
#define VD_SERVER_TRANSFER_PRIV_H

#include "copy/copy.h"
#include "server/request_priv.h"

struct transfer {
    struct vd_job *job;
    int fd; /* -1 once it has been given away, or when there is none */
    bool stream;
    struct vd_stream *pipe;    /* while it is open */
    struct vd_stream *control; /* to a client that has a foreign image open; or NULL */
    json_t *where;             /* the NBD server at the other end; NULL = there is none */
    struct vd_disk *remote;    /* the connection to it, while there is one */
    bool remote_zero;          /* it reads as zeroes now */
    bool overwrite, verify;
    bool resumed;
    struct request_target target;
    char temp[VD_NAME_MAX + 1]; /* import: the volume while it is filled */
    char source[700];           /* import: what the client calls it, "" for a pipe */
    char format[16];            /* import: for a later client that resumes it; "" = raw */
    bool trust;                 /* the same */
    unsigned id;                /* import: of the job that began it */
    uint64_t base;              /* bytes done by earlier steps */
    uint64_t total, cursor;
};

/* From the arguments and descriptors of a call; NULL with *err set. */
struct transfer *transfer_new(struct vd_call *call, struct vd_error *err);
void transfer_free(void *transfer); /* VD_YIELDS */
/* To be called when its job begins: from now on it can be cancelled. */
void transfer_begin(struct transfer *t, struct vd_job *job);
void transfer_progress(void *transfer, const struct vd_copy_stats *now);
int transfer_cancelled(struct vd_job *job, struct vd_error *err);
/* Makes t->pipe of t->fd, and ends it. */
int transfer_pipe_open(struct transfer *t);
void transfer_pipe_close(struct transfer *t);

/* The next frame of the control socket, an object of the caller's; an error frame is an error.
 * VD_YIELDS */
int transfer_recv(struct transfer *t, json_t **ret, int *fds, int *nfds, struct vd_error *err);
/* Connects to the server that `remote` ({"address"?, "export", "zero"?}) describes, through the
 * sockets if it has no address; they are taken over. t->remote is what comes of it. VD_YIELDS */
int transfer_connect(struct transfer *t, json_t *remote, const int *fds, int nfds, bool read_only,
                     struct vd_error *err);
void transfer_disconnect(struct transfer *t); /* VD_YIELDS */

#endif
