/* SPDX-License-Identifier: MIT */
/*
 * TLS on streams: moves the bytes between a session (core/codec/tls.h), which does no I/O, and the
 * socket, with the same calls that plain streams use. So it waits, is cancelled and ends as they
 * do.
 *
 * Invariants:
 *  1. Only the writing fiber sends; what a reader has to say (the answer to a key update) goes out
 *     before the next thing written, as the protocol wants it, or with the end.
 *  2. Small pieces are gathered to full records: a reply's header does not travel alone.
 *  3. A handshake's computing happens on an offload thread, and nobody else touches the session
 *     meanwhile: a crowd of newcomers does not hold up those who are in.
 *
 * Everything here yields but stream_tls_end.
 */
#include "core/codec/tls.h"
#include "core/io/stream_priv.h"

#include <stdlib.h>
#include <sys/socket.h>

/* What is computed before others get a turn. */
#define TURN_LEN VD_KIB(512)

struct stream_tls {
    struct vd_tls_session *session;
    size_t turn;                  /* bytes read since others had one */
    uint8_t plain[VD_TLS_RECORD]; /* being gathered */
};

/* Sends all there is to send. VD_YIELDS */
static int drain(struct vd_stream *s, struct vd_tls_session *t)
{
    for (;;) {
        size_t len;
        const void *p = vd_tls_output(t, &len);
        if (len == 0)
            return 0;
        int r = stream_raw_write(s, p, len);
        if (r < 0)
            return r;
        vd_tls_sent(t, len);
    }
}

/* More input; 1, or 0 at the end. VD_YIELDS */
static int receive(struct vd_stream *s, struct vd_tls_session *t)
{
    size_t room;
    void *p = vd_tls_input(t, &room);
    if (room == 0)
        return -EPROTO; /* it wants more than any record is long */
    ssize_t n = stream_raw_read(s, p, room);
    if (n <= 0)
        return (int)n;
    vd_tls_received(t, (size_t)n);
    return 1;
}

/* ---- the handshake ---- */

struct step {
    struct vd_tls_session *session;
    struct vd_error *err;
};

static int step_run(void *arg)
{
    struct step *step = arg;
    return vd_tls_handshake(step->session, step->err);
}

static int handshake(struct vd_stream *s, struct vd_tls_session *t, struct vd_error *err)
{
    struct step step = {.session = t, .err = err};
    for (;;) {
        int r = vd_offload(step_run, &step);
        int sent = drain(s, t);
        if (r != -EAGAIN && (r < 0 || sent == 0))
            return r;
        r = sent < 0 ? sent : receive(s, t);
        if (r == 0)
            r = -ECONNRESET;
        if (r < 0)
            return vd_fail(err, r, "tls-failed", "the client has gone");
    }
}

int vd_stream_tls_accept(struct vd_stream *s, struct vd_tls *tls, struct vd_error *err)
{
    assert(!s->tls && !s->reading && !s->writing);
    struct stream_tls *st = malloc(sizeof(*st));
    int r = st ? vd_tls_session_new(tls, &st->session) : -ENOMEM;
    if (r < 0) {
        free(st);
        return vd_fail(err, r, "no-memory", "not enough memory for TLS");
    }
    st->turn = 0;
    r = handshake(s, st->session, err);
    if (r < 0) {
        vd_tls_session_free(st->session);
        free(st);
        return r;
    }
    s->tls = st;
    return 0;
}

const char *vd_stream_tls_peer(const struct vd_stream *s)
{
    return s->tls ? vd_tls_peer(s->tls->session) : "";
}

/* ---- plain text ---- */

ssize_t stream_tls_read(struct vd_stream *s, void *buf, size_t len)
{
    struct stream_tls *st = s->tls;
    for (;;) {
        if (s->cancelled)
            return -ECANCELED;
        ssize_t n = vd_tls_read(st->session, buf, len);
        if (n != -EAGAIN) {
            st->turn += n > 0 ? (size_t)n : 0;
            if (st->turn >= TURN_LEN) {
                st->turn = 0;
                vd_fiber_yield();
            }
            return n;
        }
        int r = receive(s, st->session);
        if (r < 0)
            return r;
        /* Many hang up without the good-bye; between records that is one. */
        if (r == 0)
            return vd_tls_amid_record(st->session) ? -ECONNRESET : 0;
    }
}

/* One record into the output, which is sent when it is full. VD_YIELDS */
static int put(struct vd_stream *s, const void *p, size_t len)
{
    struct vd_tls_session *t = s->tls->session;
    for (;;) {
        int r = vd_tls_write(t, p, len);
        if (r != -EAGAIN)
            return r;
        r = drain(s, t);
        if (r < 0)
            return r;
    }
}

/* Sends what can be sent in whole records without copying; returns how much, or an error. VD_YIELDS
 */
static ssize_t put_whole(struct vd_stream *s, const uint8_t *p, size_t len)
{
    size_t done = 0;
    while (len - done >= VD_TLS_RECORD) {
        int r = put(s, p + done, VD_TLS_RECORD);
        if (r < 0)
            return r;
        done += VD_TLS_RECORD;
        if (done % TURN_LEN == 0)
            vd_fiber_yield();
    }
    return (ssize_t)done;
}

int stream_tls_writev(struct vd_stream *s, const struct iovec *iov, int n)
{
    struct stream_tls *st = s->tls;
    size_t have = 0;
    int r = 0;
    for (int i = 0; i < n && r == 0; i++) {
        const uint8_t *p = iov[i].iov_base, *end = p + iov[i].iov_len;
        while (p < end && r == 0) {
            if (have == 0) {
                ssize_t whole = put_whole(s, p, (size_t)(end - p));
                r = whole < 0 ? (int)whole : 0;
                p += whole > 0 ? whole : 0;
            }
            size_t part = r < 0 ? 0 : VD_MIN((size_t)(end - p), VD_TLS_RECORD - have);
            if (part > 0)
                memcpy(st->plain + have, p, part);
            have += part;
            p += part;
            if (have == VD_TLS_RECORD) {
                r = put(s, st->plain, have);
                have = 0;
            }
        }
    }
    if (r == 0 && have > 0)
        r = put(s, st->plain, have);
    if (r == 0)
        r = drain(s, st->session);
    return r < 0 ? r : s->cancelled ? -ECANCELED : 0;
}

void stream_tls_end(struct vd_stream *s)
{
    struct vd_tls_session *t = s->tls->session;
    size_t len;
    if (!s->cancelled) {
        vd_tls_end(t);
        const void *p = vd_tls_output(t, &len);
        if (len > 0)
            (void)send(s->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    vd_tls_session_free(t);
    free(s->tls);
    s->tls = NULL;
}
