/* SPDX-License-Identifier: MIT */
/*
 * TLS for servers, behind a small table of calls: credentials from files, and a session that turns
 * bytes into bytes. No I/O but reading the files, no waiting: core/io puts sessions on streams. TLS
 * 1.2 and 1.3, forward secrecy always, no renegotiation, no resumption.
 */
#ifndef VD_CODEC_TLS_H
#define VD_CODEC_TLS_H

#include "core/base/error.h"

#include <sys/types.h>

/* For main(), before anything else uses OpenSSL: whatever it frees is wiped first. Reading a private
 * key leaves copies of it behind otherwise. */
void vd_tls_wipe_freed(void);

/* ---- credentials ---- */

struct vd_tls;

struct vd_tls_files {
    /* A directory with server-cert.pem (and what leads from it to the authority), server-key.pem
     * and, if there is one, ca-cert.pem: then clients must show a certificate that it signed, and
     * that ca-crl.pem, if there is one, does not revoke. NULL = none. */
    const char *cert_dir;
    /* A file of NAME:HEX lines: clients that know one of these keys. NULL = none. */
    const char *psk_file;
};

/* At least one of the two. Files with keys must be closed to everybody but their owner. Ids:
 * tls-file-missing tls-file-denied tls-key-exposed tls-file-invalid tls-expired. Blocks, shortly.
 */
int vd_tls_load(const struct vd_tls_files *files, struct vd_tls **ret, struct vd_error *err);
/* Whether every client has to prove who it is: false with a certificate but no ca-cert.pem. */
bool vd_tls_knows_clients(const struct vd_tls *tls);
/* Its sessions must be gone. Takes NULL. */
void vd_tls_free(struct vd_tls *tls);

/* ---- sessions ---- */

struct vd_tls_session;

/* The longest piece of plain text that one write takes: what fits a record. */
#define VD_TLS_RECORD VD_KIB(16)

int vd_tls_session_new(struct vd_tls *tls, struct vd_tls_session **ret);
void vd_tls_session_free(struct vd_tls_session *t); /* takes NULL */

/* Where to put bytes from the peer, at least one when a call below said -EAGAIN, and how many have
 * been put there. */
void *vd_tls_input(struct vd_tls_session *t, size_t *room);
void vd_tls_received(struct vd_tls_session *t, size_t n);
/* Bytes for the peer; they stay where they are until said to be sent. */
const void *vd_tls_output(const struct vd_tls_session *t, size_t *len);
void vd_tls_sent(struct vd_tls_session *t, size_t n);

/* Goes on with the handshake: 0 = done, -EAGAIN = needs input. Otherwise it has failed, and the
 * reason is in *err; there may be output to send even so. Takes milliseconds of computing. */
int vd_tls_handshake(struct vd_tls_session *t, struct vd_error *err);
/* Up to `len` bytes of plain text; 0 = the peer has said that it ends; -EAGAIN = needs input;
 * -EPROTO = it is not TLS any more. */
ssize_t vd_tls_read(struct vd_tls_session *t, void *buf, size_t len);
/* Makes output of at most VD_TLS_RECORD bytes. -EAGAIN when there is no room until output has been
 * sent, -ECONNRESET after a failure. */
int vd_tls_write(struct vd_tls_session *t, const void *buf, size_t len);
/* Whether a part of a record has come: an end now is no clean one. */
bool vd_tls_amid_record(const struct vd_tls_session *t);
/* Adds to the output that nothing more will come. */
void vd_tls_end(struct vd_tls_session *t);
/* Who the peer has proved to be: a key's name or a certificate's common name, in printable ASCII;
 * "" for nobody. */
const char *vd_tls_peer(const struct vd_tls_session *t);

#endif
