/* SPDX-License-Identifier: MIT */
/*
 * Credentials: what is in the files a server is given, checked before anybody connects.
 *
 * Invariants:
 *  1. A file with a secret is used only when nobody but its owner, who is this user or root, can
 *     read or write it; that is asked of the open file, not of its name.
 *  2. Secrets lie in memory of their own that is left out of core dumps and wiped when it is given
 *     back: keys of clients in a `struct secret`, the private key in OpenSSL's secure heap.
 *  3. No message quotes a line of a secret file.
 *
 * Called by whoever opens a door; blocks for as long as small files take, never yields.
 */
#include "core/codec/tls_priv.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX VD_MIB(1)
#define HEAP_LEN VD_KIB(256) /* for private keys; a power of two */
#define HEAP_MIN 16

/* TLS 1.2: each gives forward secrecy. Who offers those with a key has a key. */
static const char ciphers[] = "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:"
                              "DHE-PSK-AES128-GCM-SHA256:ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL";
/* TLS 1.3. A key goes with SHA-256 only, and OpenSSL would drop it for a cipher with another. */
static const char suites[] = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:"
                             "TLS_CHACHA20_POLY1305_SHA256";
static const char key_suites[] = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";

/* ---- memory ---- */

static void *wiping_malloc(size_t len, const char *file, int line)
{
    return malloc(len);
}

static void wiping_free(void *p, const char *file, int line)
{
    if (p)
        OPENSSL_cleanse(p, malloc_usable_size(p));
    free(p);
}

static void *wiping_realloc(void *p, size_t len, const char *file, int line)
{
    if (len == 0) {
        wiping_free(p, file, line);
        return NULL;
    }
    void *copy = malloc(len);
    if (!copy || !p)
        return copy;
    memcpy(copy, p, VD_MIN(len, malloc_usable_size(p)));
    wiping_free(p, file, line);
    return copy;
}

void vd_tls_wipe_freed(void)
{
    (void)CRYPTO_set_mem_functions(wiping_malloc, wiping_realloc, wiping_free);
}

/* ---- secret files ---- */

static void secret_free(struct secret *s)
{
    if (!s->p)
        return;
    OPENSSL_cleanse(s->p, s->room);
    munmap(s->p, s->room);
    *s = (struct secret){0};
}

static int secret_alloc(size_t len, struct secret *ret)
{
    size_t room = VD_ROUND_UP(len + 1, VD_BLOCK);
    void *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    (void)madvise(p, room, MADV_DONTDUMP);
    (void)mlock(p, room); /* beyond the limit it may be swapped, as anything may */
    *ret = (struct secret){.p = p, .len = len, .room = room};
    return 0;
}

static int open_error(const char *path, int code, struct vd_error *err)
{
    if (code == -ENOENT || code == -ENOTDIR)
        return vd_fail(err, -ENOENT, "tls-file-missing", "%s does not exist: check the path", path);
    if (code == -EACCES)
        return vd_fail(err, code, "tls-file-denied",
                       "this user (uid %u) cannot read %s: it must be open to the user who serves",
                       (unsigned)geteuid(), path);
    return vd_fail(err, code, "tls-file-denied", "cannot read %s: %s", path, strerror(-code));
}

static int owner_check(const char *path, const struct stat *st, struct vd_error *err)
{
    if (!S_ISREG(st->st_mode) || (uint64_t)st->st_size > FILE_MAX)
        return vd_fail(err, -EINVAL, "tls-file-invalid",
                       "%s is not a regular file of at most 1 MiB: check the path", path);
    if (st->st_uid != geteuid() && st->st_uid != 0)
        return vd_fail(err, -EPERM, "tls-key-exposed",
                       "%s holds secrets but belongs to another user (uid %u): chown it to the "
                       "user who serves",
                       path, (unsigned)st->st_uid);
    if (st->st_mode & 077)
        return vd_fail(err, -EPERM, "tls-key-exposed",
                       "%s holds secrets but others than its owner may open it (mode %04o): "
                       "chmod 600 %s",
                       path, (unsigned)st->st_mode & 07777, path);
    return 0;
}

static int read_whole(int fd, struct secret *s)
{
    size_t done = 0;
    while (done < s->len) {
        ssize_t n = read(fd, s->p + done, s->len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO; /* it became shorter */
        done += (size_t)n;
    }
    return 0;
}

static int secret_read(const char *path, struct secret *ret, struct vd_error *err)
{
    struct stat st;
    struct secret s = {0};
    /* Not to wait for a pipe's other end. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int r =
        fd < 0 || fstat(fd, &st) < 0 ? open_error(path, -errno, err) : owner_check(path, &st, err);
    if (r == 0) {
        r = secret_alloc((size_t)st.st_size, &s);
        if (r == 0)
            r = read_whole(fd, &s);
        if (r < 0)
            open_error(path, r, err);
    }
    if (fd >= 0)
        close(fd);
    if (r < 0)
        secret_free(&s);
    else
        *ret = s;
    return r;
}

/* ---- keys of clients ---- */

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Turns a line, without its end, into a key, where it lies. Why it cannot be, or NULL. */
static const char *key_parse(uint8_t *line, uint8_t *end, struct tls_key *ret)
{
    uint8_t *colon = memchr(line, ':', (size_t)(end - line)), *out = colon;
    if (!colon || colon == line)
        return "it is not NAME:HEX";
    for (uint8_t *p = line; p < colon; p++)
        if (*p <= ' ' || *p >= 0x7f || *line == '#')
            return "a name is printable ASCII and does not begin with \"#\"";
    if ((size_t)(colon - line) > TLS_NAME_MAX)
        return "a name has at most 127 characters";
    size_t digits = (size_t)(end - colon - 1);
    if (digits % 2 != 0 || digits < 2 * TLS_KEY_MIN || digits > 2 * TLS_KEY_MAX)
        return "a key has between 32 and 512 hexadecimal digits, an even number of them";
    for (uint8_t *p = colon + 1; p < end; p += 2) {
        int high = hex_digit(p[0]), low = hex_digit(p[1]);
        if (high < 0 || low < 0)
            return "the key is not hexadecimal";
        *++out = (uint8_t)(high << 4 | low); /* never beyond what has been read */
    }
    *colon = 0;
    *ret = (struct tls_key){(const char *)line, colon + 1, digits / 2};
    return NULL;
}

static int key_add(struct vd_tls *tls, const struct tls_key *key)
{
    struct tls_key *keys = realloc(tls->keys, (tls->n_keys + 1) * sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    tls->keys = keys;
    keys[tls->n_keys++] = *key;
    return 0;
}

static const struct tls_key *key_find(const struct vd_tls *tls, const char *name)
{
    for (size_t i = 0; i < tls->n_keys; i++)
        if (strcmp(tls->keys[i].name, name) == 0)
            return &tls->keys[i];
    return NULL;
}

static int keys_load(struct vd_tls *tls, const char *path, struct vd_error *err)
{
    int r = secret_read(path, &tls->psk, err);
    if (r < 0)
        return r;
    unsigned number = 1;
    uint8_t *end = tls->psk.p + tls->psk.len;
    for (uint8_t *line = tls->psk.p; line < end; number++) {
        uint8_t *stop = memchr(line, '\n', (size_t)(end - line)), *next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        if (stop > line && stop[-1] == '\r')
            stop--;
        if (stop > line) {
            struct tls_key key;
            const char *why = key_parse(line, stop, &key);
            if (!why && key_find(tls, key.name))
                why = "the name was there before";
            if (why)
                return vd_fail(err, -EINVAL, "tls-file-invalid", "%s, line %u: %s", path, number,
                               why);
            if (key_add(tls, &key) < 0)
                return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
        }
        line = next;
    }
    if (tls->n_keys == 0)
        return vd_fail(err, -EINVAL, "tls-file-invalid",
                       "%s has no key in it: a line is NAME:HEX, as psktool writes them", path);
    return 0;
}

static unsigned key_wanted(SSL *ssl, const char *name, unsigned char *key, unsigned room)
{
    const struct vd_tls *tls = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    const struct tls_key *k = key_find(tls, name);
    if (!k || k->len > room)
        return 0;
    memcpy(key, k->key, k->len);
    tls_session_named(ssl, k->name);
    return (unsigned)k->len;
}

/* ---- certificates ---- */

static const char *openssl_reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_error());
    return text ? text : "it is not what it should be";
}

static int file_invalid(const char *path, const char *what, struct vd_error *err)
{
    return vd_fail(err, -EINVAL, "tls-file-invalid", "%s is no %s in PEM: %s", path, what,
                   openssl_reason());
}

/* 0 = it can be read. */
static int file_check(const char *path, struct vd_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return open_error(path, -errno, err);
    close(fd);
    return 0;
}

static int no_password(char *buf, int size, int rwflag, void *arg)
{
    *(bool *)arg = true;
    return -1;
}

static int key_load(struct vd_tls *tls, const char *path, struct vd_error *err)
{
    struct secret s = {0};
    bool asked = false;
    int r = secret_read(path, &s, err);
    if (r < 0)
        return r;
    /* The heap is the process's; without it the key lies in ordinary memory. */
    if (!CRYPTO_secure_malloc_initialized())
        (void)CRYPTO_secure_malloc_init(HEAP_LEN, HEAP_MIN);
    BIO *bio = BIO_new_mem_buf(s.p, (int)s.len);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, &asked) : NULL;
    if (asked)
        r = vd_fail(err, -EINVAL, "tls-file-invalid",
                    "%s needs a password, and nobody is there to type it: store the key without",
                    path);
    else if (!key)
        r = file_invalid(path, "private key", err);
    else if (SSL_CTX_use_PrivateKey(tls->ctx, key) != 1)
        r = vd_fail(err, -EINVAL, "tls-file-invalid",
                    "%s is not the key of the certificate beside it: %s", path, openssl_reason());
    EVP_PKEY_free(key);
    BIO_free(bio);
    secret_free(&s);
    return r;
}

static int cert_load(struct vd_tls *tls, const char *path, struct vd_error *err)
{
    int r = file_check(path, err);
    if (r < 0)
        return r;
    if (SSL_CTX_use_certificate_chain_file(tls->ctx, path) != 1)
        return file_invalid(path, "certificate", err);
    const X509 *cert = SSL_CTX_get0_certificate(tls->ctx);
    if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0)
        return vd_fail(err, -EINVAL, "tls-expired",
                       "the certificate in %s has expired, clients would refuse it: make a new one",
                       path);
    return 0;
}

static int authority_load(struct vd_tls *tls, const char *path, struct vd_error *err)
{
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(path);
    if (!names || SSL_CTX_load_verify_file(tls->ctx, path) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return file_invalid(path, "certificate", err);
    }
    SSL_CTX_set_client_CA_list(tls->ctx, names); /* theirs now */
    SSL_CTX_set_verify(tls->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    tls->has_authority = true;
    return 0;
}

static int revoked_load(struct vd_tls *tls, const char *path, struct vd_error *err)
{
    X509_STORE *store = SSL_CTX_get_cert_store(tls->ctx);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    if (!lookup || X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) < 1)
        return file_invalid(path, "list of revoked certificates", err);
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    return 0;
}

static int certs_load(struct vd_tls *tls, const char *dir, struct vd_error *err)
{
    static const struct {
        const char *name;
        int (*load)(struct vd_tls *tls, const char *path, struct vd_error *err);
        bool optional;
    } files[] = {{"server-cert.pem", cert_load, false},
                 {"server-key.pem", key_load, false},
                 {"ca-cert.pem", authority_load, true},
                 {"ca-crl.pem", revoked_load, true}};
    for (size_t i = 0; i < VD_ARRAY_SIZE(files); i++) {
        char *path;
        if (asprintf(&path, "%s/%s", dir, files[i].name) < 0)
            return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
        /* One that is there but cannot be read is no missing one: it was meant to be used. */
        bool skip = files[i].optional && access(path, F_OK) < 0 && errno == ENOENT;
        ERR_clear_error();
        int r = skip ? 0 : file_check(path, err);
        if (r == 0 && !skip)
            r = files[i].load(tls, path, err);
        free(path);
        if (r < 0)
            return r;
    }
    tls->has_cert = true;
    return 0;
}

/* ---- both ---- */

static int context_new(struct vd_tls *tls, bool with_keys)
{
    tls->ctx = SSL_CTX_new(TLS_server_method());
    if (!tls->ctx || SSL_CTX_set_min_proto_version(tls->ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(tls->ctx, ciphers) != 1 ||
        SSL_CTX_set_ciphersuites(tls->ctx, with_keys ? key_suites : suites) != 1)
        return -ENOMEM;
    SSL_CTX_set_options(tls->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                      SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
    /* Who the client is is proved on each connection. */
    static const unsigned char nobody[] = "vdisk";
    (void)SSL_CTX_set_session_id_context(tls->ctx, nobody, sizeof(nobody) - 1);
    SSL_CTX_set_session_cache_mode(tls->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(tls->ctx, 0);
    SSL_CTX_set_mode(tls->ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_dh_auto(tls->ctx, 1);
    SSL_CTX_set_app_data(tls->ctx, tls);
    return 0;
}

int vd_tls_load(const struct vd_tls_files *files, struct vd_tls **ret, struct vd_error *err)
{
    struct vd_tls *tls = calloc(1, sizeof(*tls));
    int r = tls ? context_new(tls, files->psk_file) : -ENOMEM;
    if (r < 0)
        vd_fail(err, r, "no-memory", "not enough memory for TLS");
    if (r == 0 && files->cert_dir)
        r = certs_load(tls, files->cert_dir, err);
    if (r == 0 && files->psk_file) {
        r = keys_load(tls, files->psk_file, err);
        SSL_CTX_set_psk_server_callback(tls->ctx, key_wanted);
    }
    if (r == 0 && !tls->has_cert && tls->n_keys == 0)
        r = vd_fail(err, -EINVAL, "tls-file-missing", "TLS needs certificates or keys");
    ERR_clear_error();
    if (r < 0)
        vd_tls_free(tls);
    else
        *ret = tls;
    return r;
}

bool vd_tls_knows_clients(const struct vd_tls *tls)
{
    return !tls->has_cert || tls->has_authority;
}

void vd_tls_free(struct vd_tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->ctx);
    secret_free(&tls->psk);
    free(tls->keys);
    free(tls);
}
