/* SPDX-License-Identifier: MIT */
/*
 * TLS sessions: OpenSSL between two buffers of our own.
 *
 *   socket -> in -> SSL_read -> plain text      plain text -> SSL_write -> out -> socket
 *
 * Invariants:
 *  1. Memory of a session is fixed when it is made. What a peer can make us say without being asked
 *     (answers to key updates, alerts) finds room in `out` or ends the session.
 *  2. What is in `out` stays in place until it is sent: it is being sent from there while a reader
 *     adds to it.
 *  3. After a failure nothing is asked of OpenSSL but to free the session.
 *
 * Called by core/io, by one reader and one writer in turns on one thread; the handshake, when there
 * is only one caller, also on another thread. Never yields.
 */
#include "core/codec/tls_priv.h"

#include <openssl/err.h>
#include <openssl/x509.h>

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

#define IN_LEN VD_KIB(64)
/* Four records and what they are wrapped in, and something for a peer's questions. */
#define RECORD_MAX (VD_TLS_RECORD + 256)
#define OUT_LEN (4 * RECORD_MAX + VD_KIB(16))

struct vd_tls_session {
    SSL *ssl;
    bool failed;
    char peer[TLS_NAME_MAX + 1];
    size_t in_pos, in_end, out_pos, out_end;
    uint8_t in[IN_LEN], out[OUT_LEN];
};

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static int bio_read(BIO *bio, char *buf, size_t len, size_t *done)
{
    struct vd_tls_session *t = BIO_get_data(bio);
    size_t n = VD_MIN(len, t->in_end - t->in_pos);
    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(buf, t->in + t->in_pos, n);
    t->in_pos += n;
    *done = n;
    return 1;
}

static int bio_write(BIO *bio, const char *buf, size_t len, size_t *done)
{
    struct vd_tls_session *t = BIO_get_data(bio);
    if (len > OUT_LEN - t->out_end)
        return 0; /* without a retry flag: a failure */
    memcpy(t->out + t->out_end, buf, len);
    t->out_end += len;
    *done = len;
    return 1;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    return cmd == BIO_CTRL_FLUSH;
}

static void method_make(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "vdisk");
    if (m && BIO_meth_set_read_ex(m, bio_read) && BIO_meth_set_write_ex(m, bio_write) &&
        BIO_meth_set_ctrl(m, bio_ctrl))
        method = m;
    else
        BIO_meth_free(m);
}

int vd_tls_session_new(struct vd_tls *tls, struct vd_tls_session **ret)
{
    (void)pthread_once(&method_once, method_make);
    struct vd_tls_session *t = malloc(sizeof(*t));
    if (!t || !method) {
        free(t);
        return -ENOMEM;
    }
    memset(t, 0, offsetof(struct vd_tls_session, in));
    BIO *bio = BIO_new(method);
    t->ssl = SSL_new(tls->ctx);
    if (!bio || !t->ssl) {
        BIO_free(bio);
        vd_tls_session_free(t);
        return -ENOMEM;
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    SSL_set_app_data(t->ssl, t);
    SSL_set_accept_state(t->ssl);
    *ret = t;
    return 0;
}

void vd_tls_session_free(struct vd_tls_session *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    free(t);
}

void *vd_tls_input(struct vd_tls_session *t, size_t *room)
{
    if (t->in_pos > 0) {
        memmove(t->in, t->in + t->in_pos, t->in_end - t->in_pos);
        t->in_end -= t->in_pos;
        t->in_pos = 0;
    }
    *room = IN_LEN - t->in_end;
    return t->in + t->in_end;
}

void vd_tls_received(struct vd_tls_session *t, size_t n)
{
    assert(n <= IN_LEN - t->in_end);
    t->in_end += n;
}

const void *vd_tls_output(const struct vd_tls_session *t, size_t *len)
{
    *len = t->out_end - t->out_pos;
    return t->out + t->out_pos;
}

void vd_tls_sent(struct vd_tls_session *t, size_t n)
{
    assert(n <= t->out_end - t->out_pos);
    t->out_pos += n;
    if (t->out_pos == t->out_end)
        t->out_pos = t->out_end = 0;
}

/* ---- the handshake ---- */

static void peer_set(struct vd_tls_session *t, const void *text, size_t len)
{
    const uint8_t *p = text;
    len = VD_MIN(len, sizeof(t->peer) - 1);
    for (size_t i = 0; i < len; i++)
        t->peer[i] = p[i] < ' ' || p[i] >= 0x7f ? '?' : (char)p[i];
    t->peer[len] = 0;
}

void tls_session_named(SSL *ssl, const char *name)
{
    peer_set(SSL_get_app_data(ssl), name, strlen(name));
}

/* A key that was named may not be the one that counted. */
static bool key_used(SSL *ssl)
{
    if (SSL_version(ssl) >= TLS1_3_VERSION)
        return SSL_session_reused(ssl); /* there are no sessions to resume, so it was a key */
    return SSL_CIPHER_get_auth_nid(SSL_get_current_cipher(ssl)) == NID_auth_psk;
}

/* The name of the key, or the common name of the certificate, if the peer has shown one. */
static void peer_settle(struct vd_tls_session *t)
{
    X509 *cert = SSL_get1_peer_certificate(t->ssl);
    if (!cert) {
        if (!key_used(t->ssl))
            t->peer[0] = 0;
        return;
    }
    X509_NAME *name = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    ASN1_STRING *text = at < 0 ? NULL : X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
    if (text)
        peer_set(t, ASN1_STRING_get0_data(text), (size_t)ASN1_STRING_length(text));
    X509_free(cert);
}

int vd_tls_handshake(struct vd_tls_session *t, struct vd_error *err)
{
    if (t->failed)
        return vd_fail(err, -ECONNRESET, "tls-failed", "it has failed before");
    ERR_clear_error();
    int r = SSL_do_handshake(t->ssl);
    if (r == 1) {
        peer_settle(t);
        return 0;
    }
    if (SSL_get_error(t->ssl, r) == SSL_ERROR_WANT_READ)
        return -EAGAIN;
    t->failed = true;
    long verified = SSL_get_verify_result(t->ssl);
    const char *why = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    if (verified != X509_V_OK)
        why = X509_verify_cert_error_string(verified);
    return vd_fail(err, -EPROTO, "tls-failed", "%s", why ? why : "the handshake failed");
}

/* ---- plain text ---- */

ssize_t vd_tls_read(struct vd_tls_session *t, void *buf, size_t len)
{
    if (t->failed)
        return -EPROTO;
    ERR_clear_error();
    int r = SSL_read(t->ssl, buf, (int)VD_MIN(len, (size_t)INT_MAX));
    if (r > 0)
        return r;
    switch (SSL_get_error(t->ssl, r)) {
    case SSL_ERROR_WANT_READ:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        t->failed = true;
        ERR_clear_error();
        return -EPROTO;
    }
}

int vd_tls_write(struct vd_tls_session *t, const void *buf, size_t len)
{
    assert(len > 0 && len <= VD_TLS_RECORD);
    if (t->failed)
        return -ECONNRESET;
    /* Some is kept back for what a reader may have to say. */
    if (OUT_LEN - t->out_end < RECORD_MAX + VD_KIB(8))
        return -EAGAIN;
    ERR_clear_error();
    if (SSL_write(t->ssl, buf, (int)len) == (int)len)
        return 0;
    t->failed = true;
    ERR_clear_error();
    return -ECONNRESET;
}

bool vd_tls_amid_record(const struct vd_tls_session *t)
{
    return t->in_pos < t->in_end || SSL_has_pending(t->ssl);
}

void vd_tls_end(struct vd_tls_session *t)
{
    if (t->failed)
        return;
    (void)SSL_shutdown(t->ssl);
    ERR_clear_error();
}

const char *vd_tls_peer(const struct vd_tls_session *t)
{
    return t->peer;
}
