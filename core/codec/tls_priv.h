/* SPDX-License-Identifier: MIT */
/* What the two halves of TLS share: credentials (tls_files.c) and sessions (tls.c). */
#ifndef VD_CODEC_TLS_PRIV_H
#define VD_CODEC_TLS_PRIV_H

#include "core/codec/tls.h"

#include <openssl/ssl.h>

#define TLS_NAME_MAX 127u /* of a key; longer certificate names are cut */
/* Longer keys than a master secret make no sense, shorter ones can be guessed. */
#define TLS_KEY_MIN 16u
#define TLS_KEY_MAX 256u

/* A file's bytes in memory that no core dump holds and, where the limits allow, no swap. */
struct secret {
    uint8_t *p;
    size_t len, room;
};

struct tls_key {
    const char *name;
    const uint8_t *key;
    size_t len;
};

struct vd_tls {
    SSL_CTX *ctx;
    bool has_cert, has_authority;
    struct secret psk; /* what `keys` points into */
    struct tls_key *keys;
    size_t n_keys;
};

/* tls.c: remembers who the peer of a session says it is; the handshake proves it. */
void tls_session_named(SSL *ssl, const char *name);

#endif
