/* SPDX-License-Identifier: MIT */
/*
 * The way from the clear to TLS, where the client is somebody in between: what may be said before,
 * what must not come along, and how long it may take. And a client of our own that goes the whole
 * way, to see how TLS streams end. Server and clients run on one loop, over socket pairs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/codec/tls.h"
#include "nbd/nbd_priv.h"
#include "tests/nbd/fake_store.h"

#include <fcntl.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_HEX "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"

struct setup {
    struct fake_store fs;
    struct fake_volume *vol;
    struct vd_tls *tls;
    struct vd_nbd_server *server;
};

static char scratch[] = "/tmp/vdisk-test-tls-XXXXXX";

static void keys_write(char *path, size_t len, const char *text)
{
    snprintf(path, len, "%s/keys.psk", scratch);
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void setup_init(struct setup *t)
{
    char path[128];
    struct vd_tls_files files = {.psk_file = path};
    keys_write(path, sizeof(path), "alice:" KEY_HEX "\n");
    assert_int_equal(vd_tls_load(&files, &t->tls, NULL), 0);
    fake_store_init(&t->fs);
    t->vol = fake_volume_add(&t->fs, "vol", VD_MIB(16));
    assert_non_null(t->vol);
    assert_int_equal(
        vd_nbd_start(vd_loop_current(), &t->fs.store, NULL, 0, t->tls, &t->server, NULL), 0);
}

static void setup_done(struct setup *t)
{
    vd_nbd_stop(t->server);
    vd_tls_free(t->tls);
    assert_int_equal(t->vol->opens, 0);
    fake_store_done(&t->fs);
}

/* A client that has been greeted and has answered. */
static struct vd_stream *attach(struct vd_nbd_server *server)
{
    struct vd_stream *s;
    uint8_t buf[18];
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(vd_stream_new(fds[0], &s), 0);
    assert_int_equal(vd_nbd_attach(server, fds[1]), 0);
    assert_int_equal(vd_stream_read(s, buf, sizeof(buf)), 0);
    vd_put_be32(buf, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    assert_int_equal(vd_stream_write(s, buf, 4), 0);
    return s;
}

static size_t put_option(uint8_t *to, uint32_t option, const void *data, size_t len)
{
    vd_put_be64(to, NBD_MAGIC_OPTION);
    vd_put_be32(to + 8, option);
    vd_put_be32(to + 12, (uint32_t)len);
    memcpy(to + NBD_OPTION_LEN, data, len);
    return NBD_OPTION_LEN + len;
}

static void option_send(struct vd_stream *s, uint32_t option, const void *data, size_t len)
{
    uint8_t buf[256];
    assert_int_equal(vd_stream_write(s, buf, put_option(buf, option, data, len)), 0);
}

/* The type of the next reply, whose text is thrown away. */
static uint32_t reply_get(struct vd_stream *s, uint32_t option)
{
    uint8_t buf[512];
    assert_int_equal(vd_stream_read(s, buf, NBD_OPTION_REPLY_LEN), 0);
    assert_int_equal(vd_get_be32(buf + 8), option);
    uint32_t type = vd_get_be32(buf + 12), len = vd_get_be32(buf + 16);
    assert_true(len <= sizeof(buf));
    if (len > 0)
        assert_int_equal(vd_stream_read(s, buf, len), 0);
    return type;
}

/* The other end hangs up, and says nothing more. */
static void expect_end(struct vd_stream *s)
{
    uint8_t byte;
    ssize_t n = vd_stream_read_some(s, &byte, 1);
    assert_true(n == 0 || n == -ECONNRESET);
    vd_stream_close(s);
}

static void on_loop(int (*fn)(void *arg))
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, fn, NULL), 0);
}

/* ---- in the clear ---- */

static int clear_run(void *arg)
{
    static const uint32_t options[] = {NBD_OPT_LIST,
                                       NBD_OPT_INFO,
                                       NBD_OPT_GO,
                                       NBD_OPT_STRUCTURED_REPLY,
                                       NBD_OPT_LIST_META_CONTEXT,
                                       99};
    static const uint8_t go[] = "\0\0\0\3vol\0";
    static struct setup t;
    setup_init(&t);
    struct vd_stream *s = attach(t.server);
    for (size_t i = 0; i < VD_ARRAY_SIZE(options); i++) {
        option_send(s, options[i], go, 9);
        assert_int_equal(reply_get(s, options[i]), NBD_REP_ERR_TLS_REQD);
        option_send(s, options[i], NULL, 0);
        assert_int_equal(reply_get(s, options[i]), NBD_REP_ERR_TLS_REQD);
    }
    option_send(s, NBD_OPT_STARTTLS, "x", 1);
    assert_int_equal(reply_get(s, NBD_OPT_STARTTLS), NBD_REP_ERR_INVALID);
    option_send(s, NBD_OPT_ABORT, NULL, 0);
    assert_int_equal(reply_get(s, NBD_OPT_ABORT), NBD_REP_ACK);
    expect_end(s);
    /* There is no way to refuse this one but to hang up. */
    s = attach(t.server);
    option_send(s, NBD_OPT_EXPORT_NAME, "vol", 3);
    expect_end(s);
    setup_done(&t);
    return 0;
}

static void nothing_is_told_in_the_clear(void **state)
{
    on_loop(clear_run);
}

static int injection_run(void *arg)
{
    static struct setup t;
    uint8_t buf[256];
    setup_init(&t);
    /* Somebody in between adds an option that the server would take for one said under TLS. */
    for (int whole = 0; whole < 2; whole++) {
        struct vd_stream *s = attach(t.server);
        size_t n = put_option(buf, NBD_OPT_STARTTLS, NULL, 0);
        n += put_option(buf + n, NBD_OPT_LIST, NULL, 0);
        assert_int_equal(vd_stream_write(s, buf, whole ? n : NBD_OPTION_LEN + 1), 0);
        expect_end(s);
    }
    setup_done(&t);
    return 0;
}

static void what_came_in_the_clear_stays_outside(void **state)
{
    on_loop(injection_run);
}

static unsigned clients(struct vd_nbd_server *server);

static int stall_run(void *arg)
{
    static struct setup t;
    uint8_t byte = 0x16; /* a handshake record begins so */
    setup_init(&t);
    t.server->handshake_ns = 20000000;
    for (int bytes = 0; bytes < 2; bytes++) {
        struct vd_stream *s = attach(t.server);
        option_send(s, NBD_OPT_STARTTLS, NULL, 0);
        assert_int_equal(reply_get(s, NBD_OPT_STARTTLS), NBD_REP_ACK);
        assert_int_equal(vd_stream_write(s, &byte, (size_t)bytes), 0);
        expect_end(s);
    }
    while (clients(t.server) > 0)
        vd_fiber_yield();
    setup_done(&t);
    return 0;
}

static void who_stalls_in_the_handshake_is_dropped(void **state)
{
    on_loop(stall_run);
}

/* ---- under TLS ---- */

static int count(void *arg, const struct vd_door_client *client)
{
    ++*(unsigned *)arg;
    return 0;
}

static unsigned clients(struct vd_nbd_server *server)
{
    unsigned n = 0;
    (void)vd_nbd_clients(server, count, &n);
    return n;
}

/* A TLS client on a stream, as simple as can be: memory on both sides, one fiber. */
struct client {
    struct vd_stream *stream;
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in, *out;
};

static unsigned key_give(SSL *ssl, const char *hint, char *name, unsigned name_len,
                         unsigned char *key, unsigned key_len)
{
    long len;
    unsigned char *bytes = OPENSSL_hexstr2buf(KEY_HEX, &len);
    snprintf(name, name_len, "alice");
    memcpy(key, bytes, (size_t)len);
    OPENSSL_free(bytes);
    return (unsigned)len;
}

static void client_send(struct client *k)
{
    uint8_t buf[1024];
    for (int n; (n = BIO_read(k->out, buf, sizeof(buf))) > 0;)
        assert_int_equal(vd_stream_write(k->stream, buf, (size_t)n), 0);
}

/* 1, or 0 at the end. */
static int client_receive(struct client *k)
{
    uint8_t buf[1024];
    client_send(k);
    ssize_t n = vd_stream_read_some(k->stream, buf, sizeof(buf));
    if (n <= 0)
        return 0;
    assert_int_equal(BIO_write(k->in, buf, (int)n), n);
    return 1;
}

static void client_open(struct client *k, struct vd_nbd_server *server, int version)
{
    k->stream = attach(server);
    option_send(k->stream, NBD_OPT_STARTTLS, NULL, 0);
    assert_int_equal(reply_get(k->stream, NBD_OPT_STARTTLS), NBD_REP_ACK);
    k->ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_psk_client_callback(k->ctx, key_give);
    SSL_CTX_set_min_proto_version(k->ctx, version);
    SSL_CTX_set_max_proto_version(k->ctx, version);
    k->ssl = SSL_new(k->ctx);
    k->in = BIO_new(BIO_s_mem());
    k->out = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(k->in, -1);
    SSL_set_bio(k->ssl, k->in, k->out);
    SSL_set_connect_state(k->ssl);
    for (int r; (r = SSL_do_handshake(k->ssl)) != 1;) {
        assert_int_equal(SSL_get_error(k->ssl, r), SSL_ERROR_WANT_READ);
        assert_int_equal(client_receive(k), 1);
    }
    client_send(k);
}

static void client_close(struct client *k)
{
    SSL_free(k->ssl);
    SSL_CTX_free(k->ctx);
    vd_stream_close(k->stream);
}

static void client_write(struct client *k, const void *p, size_t len)
{
    assert_int_equal(SSL_write(k->ssl, p, (int)len), len);
    client_send(k);
}

/* Exactly that many bytes, or false at the end. */
static bool client_read(struct client *k, void *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        int r = SSL_read(k->ssl, (char *)buf + done, (int)(len - done));
        if (r > 0)
            done += (size_t)r;
        else if (SSL_get_error(k->ssl, r) != SSL_ERROR_WANT_READ || !client_receive(k))
            return false;
    }
    return true;
}

/* The type of the reply. */
static uint32_t client_option(struct client *k, uint32_t option, const void *data, size_t len)
{
    uint8_t buf[512];
    client_write(k, buf, put_option(buf, option, data, len));
    assert_true(client_read(k, buf, NBD_OPTION_REPLY_LEN));
    uint32_t type = vd_get_be32(buf + 12), rest = vd_get_be32(buf + 16);
    assert_true(rest <= sizeof(buf));
    assert_true(client_read(k, buf, rest));
    return type;
}

static void client_choose(struct client *k)
{
    uint8_t buf[64];
    client_write(k, buf, put_option(buf, NBD_OPT_EXPORT_NAME, "vol", 3));
    assert_true(client_read(k, buf, 10));
}

static void put_request(uint8_t *buf, unsigned cmd, uint64_t off, uint32_t len)
{
    memset(buf, 0, NBD_REQUEST_LEN);
    vd_put_be32(buf, NBD_MAGIC_REQUEST);
    vd_put_be16(buf + 6, (uint16_t)cmd);
    vd_put_be64(buf + 16, off);
    vd_put_be32(buf + 24, len);
}

static int remember(void *arg, const struct vd_door_client *client)
{
    snprintf(arg, 64, "%s", strchr(client->peer, '(') ? strchr(client->peer, '(') : "");
    return 0;
}

static int inside_run(void *arg)
{
    static struct setup t;
    static uint8_t data[VD_MIB(1) + NBD_REQUEST_LEN], back[VD_MIB(1)];
    char who[64];
    struct client k;
    setup_init(&t);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        client_open(&k, t.server, version);
        assert_int_equal(client_option(&k, NBD_OPT_STARTTLS, NULL, 0), NBD_REP_ERR_INVALID);
        assert_int_equal(client_option(&k, NBD_OPT_LIST, NULL, 0), NBD_REP_SERVER);
        assert_true(client_read(&k, back, NBD_OPTION_REPLY_LEN));
        client_choose(&k);
        assert_int_equal(vd_nbd_clients(t.server, remember, who), 0);
        assert_string_equal(who, "(alice)");
        /* Long ones, in pieces that fit no record. */
        put_request(data, NBD_CMD_WRITE, 4096, VD_MIB(1));
        for (size_t i = 0; i < sizeof(back); i++)
            data[NBD_REQUEST_LEN + i] = (uint8_t)(i * 7 + i / 4096 + (size_t)version);
        for (size_t at = 0, part = 1; at < sizeof(data); at += part, part = part * 3 % 16001 + 1)
            client_write(&k, data + at, VD_MIN(part, sizeof(data) - at));
        assert_true(client_read(&k, back, NBD_SIMPLE_REPLY_LEN));
        assert_int_equal(vd_get_be32(back + 4), 0);
        uint8_t ask[NBD_REQUEST_LEN];
        put_request(ask, NBD_CMD_READ, 4096, VD_MIB(1));
        client_write(&k, ask, sizeof(ask));
        assert_true(client_read(&k, back, NBD_SIMPLE_REPLY_LEN));
        assert_true(client_read(&k, back, sizeof(back)));
        assert_memory_equal(back, data + NBD_REQUEST_LEN, sizeof(back));
        client_close(&k);
    }
    setup_done(&t);
    return 0;
}

static void all_goes_through_tls(void **state)
{
    on_loop(inside_run);
}

static int updates_run(void *arg)
{
    static struct setup t;
    struct client k;
    uint8_t ask[NBD_REQUEST_LEN], back[512 + NBD_SIMPLE_REPLY_LEN];
    setup_init(&t);
    client_open(&k, t.server, TLS1_3_VERSION);
    client_choose(&k);
    /* New keys are agreed to in the middle of everything. */
    for (int i = 0; i < 50; i++) {
        assert_int_equal(SSL_key_update(k.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        put_request(ask, NBD_CMD_READ, 0, 512);
        client_write(&k, ask, sizeof(ask));
        assert_true(client_read(&k, back, sizeof(back)));
    }
    /* Somebody who only asks for them, and takes no answer, is dropped before he has used up what
     * room there is. */
    bool dropped = false;
    for (int i = 0; i < 100000 && !dropped; i++) {
        uint8_t buf[1024];
        assert_int_equal(SSL_key_update(k.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(k.ssl), 1);
        int n = BIO_read(k.out, buf, sizeof(buf));
        assert_true(n > 0);
        dropped = vd_stream_write(k.stream, buf, (size_t)n) < 0;
    }
    assert_true(dropped);
    client_close(&k);
    setup_done(&t);
    return 0;
}

static void key_updates_are_answered_and_bounded(void **state)
{
    on_loop(updates_run);
}

static int endings_run(void *arg)
{
    static struct setup t;
    struct client k;
    uint8_t buf[64] = {0x17, 3, 3, 0x40, 0}; /* the head of a record of 16 KiB */
    setup_init(&t);
    /* The end of the server is said, not just done. */
    client_open(&k, t.server, TLS1_3_VERSION);
    client_choose(&k);
    vd_nbd_stop(t.server);
    assert_false(client_read(&k, buf, 1));
    assert_int_equal(SSL_get_shutdown(k.ssl), SSL_RECEIVED_SHUTDOWN);
    client_close(&k);
    assert_int_equal(vd_nbd_start(vd_loop_current(), &t.fs.store, NULL, 0, t.tls, &t.server, NULL),
                     0);
    /* A request of which the end was cut off is not carried out; nor is rubbish. */
    for (int how = 0; how < 3; how++) {
        client_open(&k, t.server, TLS1_3_VERSION);
        client_choose(&k);
        uint8_t request[NBD_REQUEST_LEN + 512] = {0};
        put_request(request, NBD_CMD_WRITE, 0, 512);
        client_write(&k, request, how == 0 ? sizeof(request) - 1 : NBD_REQUEST_LEN);
        if (how == 1)
            assert_int_equal(vd_stream_write(k.stream, buf, 40), 0);
        if (how == 2) {
            memset(buf, 'x', sizeof(buf));
            assert_int_equal(vd_stream_write(k.stream, buf, sizeof(buf)), 0);
        }
        if (how < 2)
            shutdown(vd_stream_fd(k.stream), SHUT_WR);
        assert_false(client_read(&k, request, 1));
        client_close(&k);
    }
    /* Dropped while it is idle. */
    client_open(&k, t.server, TLS1_2_VERSION);
    client_choose(&k);
    while (clients(t.server) != 1)
        vd_fiber_yield();
    assert_int_equal(vd_nbd_drop(t.server, "vol"), 1);
    assert_false(client_read(&k, buf, 1));
    client_close(&k);
    assert_int_equal(t.vol->writes, 0);
    setup_done(&t);
    return 0;
}

static void tls_ends_as_plain_connections_do(void **state)
{
    on_loop(endings_run);
}

/* ---- files ---- */

static void key_files_are_checked(void **state)
{
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "no key in it"},
        {"\n\n", "no key in it"},
        {"alice\n", "line 1: it is not NAME:HEX"},
        {"alice:" KEY_HEX "\n:" KEY_HEX "\n", "line 2: it is not NAME:HEX"},
        {"al ice:" KEY_HEX, "printable ASCII"},
        {"#616c:" KEY_HEX, "does not begin"},
        {"alice:0123", "between 32 and 512"},
        {"alice:" KEY_HEX "0", "an even number"},
        {"alice:" KEY_HEX " \n", "an even number"},
        {"alice:" KEY_HEX "zz", "not hexadecimal"},
        {"a:" KEY_HEX "\na:" KEY_HEX "\n", "line 2: the name was there before"},
    };
    char path[128];
    struct vd_tls_files files = {.psk_file = path};
    struct vd_tls *tls;
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++) {
        struct vd_error err = {0};
        keys_write(path, sizeof(path), bad[i].text);
        assert_int_equal(vd_tls_load(&files, &tls, &err), -EINVAL);
        assert_string_equal(err.id, "tls-file-invalid");
        assert_non_null(strstr(err.message, bad[i].why));
        assert_null(strstr(err.message, "0011"));
    }
    /* Lines may end as they do elsewhere, and the last one need not. */
    keys_write(path, sizeof(path), "alice:" KEY_HEX "\r\n\nbob:" KEY_HEX);
    assert_int_equal(vd_tls_load(&files, &tls, NULL), 0);
    assert_true(vd_tls_knows_clients(tls));
    vd_tls_free(tls);
    static const mode_t modes[] = {0640, 0604, 0620, 0601};
    for (size_t i = 0; i < VD_ARRAY_SIZE(modes); i++) {
        struct vd_error err = {0};
        assert_int_equal(chmod(path, modes[i]), 0);
        assert_int_equal(vd_tls_load(&files, &tls, &err), -EPERM);
        assert_string_equal(err.id, "tls-key-exposed");
        assert_non_null(strstr(err.message, "chmod 600"));
    }
    (void)unlink(path);
    assert_int_equal(vd_tls_load(&files, &tls, NULL), -ENOENT);
    files.psk_file = NULL;
    assert_int_equal(vd_tls_load(&files, &tls, NULL), -EINVAL);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_told_in_the_clear),
        cmocka_unit_test(what_came_in_the_clear_stays_outside),
        cmocka_unit_test(who_stalls_in_the_handshake_is_dropped),
        cmocka_unit_test(all_goes_through_tls),
        cmocka_unit_test(key_updates_are_answered_and_bounded),
        cmocka_unit_test(tls_ends_as_plain_connections_do),
        cmocka_unit_test(key_files_are_checked),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    if (!mkdtemp(scratch))
        return 1;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    char path[128];
    snprintf(path, sizeof(path), "%s/keys.psk", scratch);
    (void)unlink(path);
    (void)rmdir(scratch);
    return r;
}
