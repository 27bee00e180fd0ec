/* SPDX-License-Identifier: MIT */
/*
 * What a client cannot see from outside: limits while requests wait on the disk, what flags reach
 * it, the listing of clients, and how stopping and dropping end things. Server and clients run on
 * one loop, over socket pairs, above disks that wait when they are told to.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "nbd/nbd_priv.h"
#include "tests/nbd/fake_store.h"

#include <sys/socket.h>
#include <unistd.h>

struct setup {
    struct fake_store fs;
    struct fake_volume *vol, *other;
    struct vd_nbd_server *server;
};

static void setup_init(struct setup *t)
{
    fake_store_init(&t->fs);
    t->vol = fake_volume_add(&t->fs, "vol", VD_MIB(64));
    t->other = fake_volume_add(&t->fs, "other", VD_MIB(1));
    assert_non_null(t->vol);
    assert_non_null(t->other);
    assert_int_equal(vd_nbd_start(vd_loop_current(), &t->fs.store, NULL, 0, NULL, &t->server, NULL),
                     0);
    assert_string_equal(vd_nbd_address(t->server), "");
}

static void setup_done(struct setup *t)
{
    vd_nbd_stop(t->server);
    assert_int_equal(t->vol->opens, 0);
    fake_store_done(&t->fs);
}

/* A connected socket whose other end the server has. */
static struct vd_stream *attach(struct vd_nbd_server *server)
{
    struct vd_stream *s;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(vd_stream_new(fds[0], &s), 0);
    assert_int_equal(vd_nbd_attach(server, fds[1]), 0);
    return s;
}

static struct vd_stream *client_open(struct vd_nbd_server *server, const char *export)
{
    struct vd_stream *s = attach(server);
    uint8_t buf[64];
    assert_int_equal(vd_stream_read(s, buf, 18), 0);
    vd_put_be32(buf, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    vd_put_be64(buf + 4, NBD_MAGIC_OPTION);
    vd_put_be32(buf + 12, NBD_OPT_EXPORT_NAME);
    vd_put_be32(buf + 16, (uint32_t)strlen(export));
    memcpy(buf + 20, export, strlen(export));
    assert_int_equal(vd_stream_write(s, buf, 20 + strlen(export)), 0);
    assert_int_equal(vd_stream_read(s, buf, 10), 0);
    return s;
}

static void put_request(uint8_t *buf, unsigned cmd, unsigned flags, uint64_t cookie, uint64_t off,
                        uint32_t len)
{
    vd_put_be32(buf, NBD_MAGIC_REQUEST);
    vd_put_be16(buf + 4, (uint16_t)flags);
    vd_put_be16(buf + 6, (uint16_t)cmd);
    vd_put_be64(buf + 8, cookie);
    vd_put_be64(buf + 16, off);
    vd_put_be32(buf + 24, len);
}

static void ask(struct vd_stream *s, unsigned cmd, unsigned flags, uint64_t cookie, uint64_t off,
                uint32_t len)
{
    static const uint8_t zeroes[4096];
    uint8_t buf[NBD_REQUEST_LEN];
    put_request(buf, cmd, flags, cookie, off, len);
    assert_int_equal(vd_stream_write(s, buf, sizeof(buf)), 0);
    if (cmd == NBD_CMD_WRITE) {
        assert_true(len <= sizeof(zeroes));
        assert_int_equal(vd_stream_write(s, zeroes, len), 0);
    }
}

/* One simple reply with `len` bytes of data behind it if it is no error. */
static uint32_t answer(struct vd_stream *s, uint64_t *cookie, size_t len)
{
    static uint8_t data[VD_MIB(4)];
    uint8_t buf[NBD_SIMPLE_REPLY_LEN];
    assert_int_equal(vd_stream_read(s, buf, sizeof(buf)), 0);
    assert_int_equal(vd_get_be32(buf), NBD_MAGIC_SIMPLE_REPLY);
    uint32_t error = vd_get_be32(buf + 4);
    *cookie = vd_get_be64(buf + 8);
    if (error == 0 && len > 0)
        assert_int_equal(vd_stream_read(s, data, len), 0);
    return error;
}

static uint32_t call(struct vd_stream *s, unsigned cmd, unsigned flags, uint64_t off, uint32_t len)
{
    uint64_t cookie;
    ask(s, cmd, flags, 77, off, len);
    uint32_t error = answer(s, &cookie, cmd == NBD_CMD_READ ? len : 0);
    assert_int_equal(cookie, 77);
    return error;
}

/* The other end hangs up. */
static void expect_end(struct vd_stream *s)
{
    uint8_t c;
    assert_true(vd_stream_read_some(s, &c, 1) <= 0);
    vd_stream_close(s);
}

struct listing {
    unsigned n, in_flight;
    uint64_t requests;
    char text[400];
};

static int list_client(void *arg, const struct vd_door_client *c)
{
    struct listing *l = arg;
    size_t len = strlen(l->text);
    l->n++;
    l->in_flight += c->in_flight;
    l->requests += c->requests;
    snprintf(l->text + len, sizeof(l->text) - len, "[%s|%s|%s]", c->peer, c->export,
             c->read_only ? "ro" : "rw");
    return 0;
}

static struct listing list(struct vd_nbd_server *server)
{
    struct listing l = {0};
    assert_int_equal(vd_nbd_clients(server, list_client, &l), 0);
    return l;
}

/* Lets everybody run until the store has `n` requests waiting. */
static void wait_waiting(struct setup *t, unsigned n)
{
    while (t->fs.waiting < n)
        vd_fiber_yield();
}

static int flags_run(void *arg)
{
    static struct setup t;
    setup_init(&t);
    struct vd_stream *s = client_open(t.server, "vol");
    assert_int_equal(call(s, NBD_CMD_WRITE, 0, 0, 4096), 0);
    assert_int_equal(t.vol->fua_writes, 0);
    assert_int_equal(call(s, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 4096), 0);
    assert_int_equal(t.vol->fua_writes, 1);
    assert_int_equal(call(s, NBD_CMD_WRITE_ZEROES, 0, 0, 4096), 0);
    assert_int_equal(t.vol->kept_zeroes, 0);
    assert_int_equal(call(s, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 0, 4096), 0);
    assert_int_equal(t.vol->kept_zeroes, 1);
    assert_int_equal(t.vol->fua_others, 0);
    assert_int_equal(call(s, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, 0, 4096), 0);
    assert_int_equal(call(s, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, 4096), 0);
    assert_int_equal(t.vol->fua_others, 2);
    assert_int_equal(t.vol->flushes, 0);
    assert_int_equal(call(s, NBD_CMD_FLUSH, 0, 0, 0), 0);
    assert_int_equal(t.vol->flushes, 1);
    /* A flush that fails must never sound like success. */
    t.fs.fail_flush = -EIO;
    assert_int_equal(call(s, NBD_CMD_FLUSH, 0, 0, 0), NBD_EIO);
    /* The store's own errors, as the protocol puts them. */
    static const struct {
        int r;
        uint32_t error;
    } errors[] = {{-EIO, NBD_EIO},       {-EBADMSG, NBD_EIO},   {-EUCLEAN, NBD_EIO},
                  {-ENODEV, NBD_EIO},    {-ENOSPC, NBD_ENOSPC}, {-EROFS, NBD_EPERM},
                  {-ENOMEM, NBD_ENOMEM}, {-EINVAL, NBD_EINVAL}, {-ECANCELED, NBD_ESHUTDOWN}};
    t.fs.fail_len = VD_MIB(64);
    for (size_t i = 0; i < VD_ARRAY_SIZE(errors); i++) {
        t.fs.fail = errors[i].r;
        assert_int_equal(call(s, NBD_CMD_WRITE, 0, 0, 512), errors[i].error);
        assert_int_equal(call(s, NBD_CMD_READ, 0, 0, 512), errors[i].error);
    }
    vd_stream_close(s);
    setup_done(&t);
    return 0;
}

static void flags_and_errors_pass_through(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, flags_run, NULL), 0);
}

static int list_run(void *arg)
{
    static struct setup t;
    char peer[40];
    setup_init(&t);
    assert_int_equal(list(t.server).n, 0);
    struct vd_stream *a = client_open(t.server, "vol"), *b = client_open(t.server, "other");
    struct vd_stream *c = attach(t.server);
    static struct listing l;
    l = list(t.server);
    assert_int_equal(l.n, 3);
    snprintf(peer, sizeof(peer), "[pid %d, uid %d|", (int)getpid(), (int)getuid());
    assert_non_null(strstr(l.text, peer));
    assert_non_null(strstr(l.text, "|vol|rw]"));
    assert_non_null(strstr(l.text, "|other|rw]"));
    assert_non_null(strstr(l.text, "||rw]"));
    t.fs.paused = true;
    for (unsigned i = 0; i < 3; i++)
        ask(a, NBD_CMD_READ, 0, i, 0, 4096);
    wait_waiting(&t, 3);
    l = list(t.server);
    assert_int_equal(l.in_flight, 3);
    assert_int_equal(l.requests, 3);
    fake_resume(&t.fs);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t cookie;
        assert_int_equal(answer(a, &cookie, 4096), 0);
    }
    /* Dropping by name leaves the others alone. */
    assert_int_equal(vd_nbd_drop(t.server, "other"), 1);
    expect_end(b);
    assert_int_equal(call(a, NBD_CMD_READ, 0, 0, 4096), 0);
    assert_int_equal(vd_nbd_drop(t.server, NULL), 2);
    expect_end(a);
    uint8_t greeting[18];
    assert_int_equal(vd_stream_read(c, greeting, sizeof(greeting)), 0);
    expect_end(c);
    setup_done(&t);
    return 0;
}

static void clients_are_listed_and_dropped(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, list_run, NULL), 0);
}

static int drop_run(void *arg)
{
    static struct setup t;
    setup_init(&t);
    struct vd_stream *s = client_open(t.server, "vol");
    t.fs.paused = true;
    for (unsigned i = 0; i < 50; i++)
        ask(s, i % 2 ? NBD_CMD_READ : NBD_CMD_WRITE, 0, i, 0, 4096);
    wait_waiting(&t, 50);
    assert_int_equal(vd_nbd_drop(t.server, "vol"), 1);
    expect_end(s);
    /* The connection cannot go before its requests. */
    assert_int_equal(list(t.server).in_flight, 50);
    fake_resume(&t.fs);
    while (list(t.server).n > 0)
        vd_fiber_yield();
    assert_int_equal(t.vol->opens, 0);
    setup_done(&t);
    return 0;
}

static void a_dropped_client_goes_when_its_requests_have(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, drop_run, NULL), 0);
}

struct stopper {
    struct vd_nbd_server *server;
    struct vd_group group;
};

static void stop_main(void *arg)
{
    struct stopper *st = arg;
    vd_nbd_stop(st->server);
    vd_group_done(&st->group);
}

static void stop_begin(struct stopper *st, struct vd_nbd_server *server)
{
    st->server = server;
    vd_group_init(&st->group);
    vd_group_add(&st->group);
    assert_int_equal(vd_fiber_spawn(vd_loop_current(), "stop", stop_main, st), 0);
}

static int stop_run(void *arg)
{
    static struct setup t;
    struct stopper st;
    uint64_t cookie;
    setup_init(&t);
    struct vd_stream *s = client_open(t.server, "vol");
    t.fs.paused = true;
    for (unsigned i = 0; i < 10; i++)
        ask(s, NBD_CMD_WRITE, 0, i, i * 4096, 4096);
    wait_waiting(&t, 10);
    stop_begin(&st, t.server);
    for (unsigned i = 0; i < 100; i++)
        vd_fiber_yield();
    assert_int_equal(st.group.pending, 1);
    fake_resume(&t.fs);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(answer(s, &cookie, 0), 0);
    expect_end(s);
    vd_group_wait(&st.group);
    assert_int_equal(t.vol->opens, 0);
    assert_int_equal(t.vol->writes, 10);
    fake_store_done(&t.fs);
    return 0;
}

static void stop_waits_for_the_disk_and_answers(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, stop_run, NULL), 0);
}

static int deaf_run(void *arg)
{
    static struct setup t;
    setup_init(&t);
    t.server->stop_ns = 1000000;
    struct vd_stream *s = client_open(t.server, "vol");
    for (unsigned i = 0; i < 16; i++)
        ask(s, NBD_CMD_READ, 0, i, 0, (uint32_t)VD_MIB(4));
    while (t.vol->reads == 0)
        vd_fiber_yield();
    setup_done(&t);
    vd_stream_close(s);
    return 0;
}

static void stop_does_not_wait_for_the_deaf(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, deaf_run, NULL), 0);
}

static int silent_run(void *arg)
{
    static struct setup t;
    setup_init(&t);
    t.server->handshake_ns = 1000000;
    struct vd_stream *s = attach(t.server);
    uint8_t buf[18];
    assert_int_equal(vd_stream_read(s, buf, sizeof(buf)), 0);
    assert_int_equal(vd_stream_write(s, buf, 2), 0);
    expect_end(s);
    while (list(t.server).n > 0)
        vd_fiber_yield();
    setup_done(&t);
    return 0;
}

static void a_client_that_never_chooses_is_dropped(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, silent_run, NULL), 0);
}

static int many_run(void *arg)
{
    enum { N = 600 };
    static struct setup t;
    bool seen[N] = {0};
    setup_init(&t);
    struct vd_stream *s = client_open(t.server, "vol");
    struct vd_stream *quiet = client_open(t.server, "other");
    t.fs.paused = true;
    /* At once: each message of its own takes room in the socket, and nobody reads them all yet. */
    static uint8_t buf[N * NBD_REQUEST_LEN];
    for (unsigned i = 0; i < N; i++)
        put_request(buf + i * NBD_REQUEST_LEN, NBD_CMD_WRITE_ZEROES, 0, i, 0, 4096);
    assert_int_equal(vd_stream_write(s, buf, sizeof(buf)), 0);
    wait_waiting(&t, NBD_IN_FLIGHT_MAX);
    for (unsigned i = 0; i < 1000; i++)
        vd_fiber_yield();
    assert_int_equal(list(t.server).in_flight, NBD_IN_FLIGHT_MAX);
    assert_true(t.server->n_workers <= NBD_WORKERS_MAX);
    /* The other client's turn comes too, though every worker is taken for the moment. */
    ask(quiet, NBD_CMD_READ, 0, 1, 0, 4096);
    fake_resume(&t.fs);
    for (unsigned i = 0; i < N; i++) {
        uint64_t cookie;
        assert_int_equal(answer(s, &cookie, 0), 0);
        assert_true(cookie < N && !seen[cookie]);
        seen[cookie] = true;
    }
    uint64_t cookie;
    assert_int_equal(answer(quiet, &cookie, 4096), 0);
    vd_stream_close(s);
    vd_stream_close(quiet);
    setup_done(&t);
    return 0;
}

static void requests_in_flight_are_limited(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, many_run, NULL), 0);
}

static size_t held(struct vd_nbd_server *server)
{
    size_t sum = 0;
    vd_list_each (l, &server->conns)
        sum += vd_container_of(l, struct nbd_conn, link)->held;
    return sum;
}

static int greedy_run(void *arg)
{
    enum { GREEDY = 6, EACH = 40 };
    static struct setup t;
    struct vd_stream *s[GREEDY];
    setup_init(&t);
    for (unsigned i = 0; i < GREEDY; i++)
        s[i] = client_open(t.server, "vol");
    struct vd_stream *modest = client_open(t.server, "other");
    t.fs.paused = true;
    for (unsigned i = 0; i < GREEDY; i++)
        for (unsigned k = 0; k < EACH; k++)
            ask(s[i], NBD_CMD_READ, 0, k, 0, (uint32_t)VD_MIB(4));
    for (unsigned i = 0; i < 1000; i++)
        vd_fiber_yield();
    /* Everything that may be held is: close to the budget, and not beyond. */
    assert_true(held(t.server) <= NBD_BUDGET);
    assert_true(held(t.server) >= NBD_BUDGET / 2);
    /* Now they get their answers and do not take them; the modest one is served all the same. */
    fake_resume(&t.fs);
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(call(modest, NBD_CMD_READ, 0, 0, 65536), 0);
    assert_true(held(t.server) <= NBD_BUDGET);
    for (unsigned i = 0; i < GREEDY; i++) {
        for (unsigned k = 0; k < EACH; k++) {
            uint64_t cookie;
            assert_int_equal(answer(s[i], &cookie, VD_MIB(4)), 0);
        }
        vd_stream_close(s[i]);
    }
    vd_stream_close(modest);
    setup_done(&t);
    return 0;
}

static void buffers_are_limited_and_shared_fairly(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, greedy_run, NULL), 0);
}

static int resize_run(void *arg)
{
    static struct setup t;
    setup_init(&t);
    struct vd_stream *s = client_open(t.server, "vol");
    assert_int_equal(fake_resize(t.vol, VD_MIB(1)), 0);
    assert_int_equal(call(s, NBD_CMD_READ, 0, VD_MIB(1), 512), NBD_EINVAL);
    assert_int_equal(call(s, NBD_CMD_WRITE, 0, VD_MIB(1), 512), NBD_ENOSPC);
    fake_notify(t.vol, VD_DISK_REPLACED);
    assert_int_equal(call(s, NBD_CMD_READ, 0, 0, 512), 0);
    fake_notify(t.vol, VD_DISK_GONE);
    expect_end(s);
    setup_done(&t);
    return 0;
}

static void changes_of_the_disk_are_noticed(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, resize_run, NULL), 0);
}

static int start_run(void *arg)
{
    static struct fake_store fs;
    struct vd_nbd_server *server;
    struct vd_error err = {0};
    fake_store_init(&fs);
    assert_true(
        vd_nbd_start(vd_loop_current(), &fs.store, "carrier-pigeon:x", 0, NULL, &server, &err) < 0);
    assert_true(err.code < 0 && err.message[0]);
    assert_int_equal(vd_nbd_start(vd_loop_current(), &fs.store, NULL, 64, NULL, &server, &err),
                     -EINVAL);
    vd_nbd_stop(NULL);
    fake_store_done(&fs);
    return 0;
}

static void a_server_that_cannot_start_leaves_nothing(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, start_run, NULL), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_and_errors_pass_through),
        cmocka_unit_test(clients_are_listed_and_dropped),
        cmocka_unit_test(a_dropped_client_goes_when_its_requests_have),
        cmocka_unit_test(stop_waits_for_the_disk_and_answers),
        cmocka_unit_test(stop_does_not_wait_for_the_deaf),
        cmocka_unit_test(a_client_that_never_chooses_is_dropped),
        cmocka_unit_test(requests_in_flight_are_limited),
        cmocka_unit_test(buffers_are_limited_and_shared_fairly),
        cmocka_unit_test(changes_of_the_disk_are_noticed),
        cmocka_unit_test(a_server_that_cannot_start_leaves_nothing),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
