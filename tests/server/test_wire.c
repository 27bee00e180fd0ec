/* SPDX-License-Identifier: MIT */
/* Frames of the control socket: what goes in comes out, and nothing else is believed. */
#include "core/base/bytes.h"
#include "server/wire.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct pair {
    struct vd_stream *a, *b;
    int raw; /* the descriptor under a */
};

static void pair_open(struct pair *p)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    p->raw = fds[0];
    assert_int_equal(vd_stream_new(fds[0], &p->a), 0);
    assert_int_equal(vd_stream_new(fds[1], &p->b), 0);
}

static void pair_close(struct pair *p)
{
    vd_stream_close(p->a);
    vd_stream_close(p->b);
}

static int round_trip(void *arg)
{
    struct pair p;
    json_t *frame;
    int fds[VD_WIRE_FDS], n, null = open("/dev/null", O_RDONLY);
    pair_open(&p);
    assert_int_equal(vd_wire_send(p.a, json_pack("{s:i}", "one", 1), NULL, 0), 0);
    assert_int_equal(vd_wire_send(p.a, json_pack("{s:i}", "two", 2), (int[]){null, null}, 2), 0);
    assert_int_equal(vd_wire_recv(p.b, 1000, &frame, fds, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(json_integer_value(json_object_get(frame, "one")), 1);
    json_decref(frame);
    assert_int_equal(vd_wire_recv(p.b, 1000, &frame, fds, &n), 0);
    assert_int_equal(n, 2);
    assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
    close(fds[0]);
    close(fds[1]);
    json_decref(frame);
    /* Descriptors that are not wanted are closed: the next one opened has the same number. */
    int before = dup(null);
    close(before);
    assert_int_equal(vd_wire_send(p.a, json_object(), &null, 1), 0);
    assert_int_equal(vd_wire_recv(p.b, 1000, &frame, NULL, NULL), 0);
    json_decref(frame);
    int after = dup(null);
    close(after);
    assert_int_equal(before, after);
    vd_stream_close(p.a);
    assert_int_equal(vd_wire_recv(p.b, 1000, &frame, NULL, NULL), -ENODATA);
    vd_stream_close(p.b);
    close(null);
    return 0;
}

static void refused(const char *magic, uint32_t len, const char *text, int want)
{
    struct pair p;
    json_t *frame;
    uint8_t header[8];
    pair_open(&p);
    memcpy(header, magic, 4);
    vd_put_be32(header + 4, len);
    assert_int_equal(write(p.raw, header, 8), 8);
    assert_int_equal(write(p.raw, text, strlen(text)), strlen(text));
    vd_stream_close(p.a);
    assert_int_equal(vd_wire_recv(p.b, 1000, &frame, NULL, NULL), want);
    vd_stream_close(p.b);
}

static int nonsense(void *arg)
{
    char deep[200] = "{\"a\":";
    size_t n = strlen(deep);
    memset(deep + n, '[', VD_WIRE_DEPTH_MAX);
    memset(deep + n + VD_WIRE_DEPTH_MAX, ']', VD_WIRE_DEPTH_MAX);
    strcat(deep, "}");
    refused("XXXX", 2, "{}", -EPROTO);
    refused("VDC1", 1001, "{}", -EPROTO);
    refused("VDC1", UINT32_MAX, "{}", -EPROTO);
    refused("VDC1", 2, "[]", -EPROTO);
    refused("VDC1", 1, "{", -EPROTO);
    refused("VDC1", 0, "", -EPROTO);
    refused("VDC1", 13, "{\"a\":1,\"a\":2}", -EPROTO);
    refused("VDC1", 8, "{\"a\":\xff\xff}", -EPROTO);
    refused("VDC1", (uint32_t)strlen(deep), deep, -EPROTO);
    /* Cut off: not a frame, and not the orderly end of a stream either. */
    struct pair p;
    json_t *frame;
    pair_open(&p);
    assert_int_equal(write(p.raw, "VDC1\0\0\0\5{", 9), 9);
    vd_stream_close(p.a);
    int r = vd_wire_recv(p.b, 1000, &frame, NULL, NULL);
    assert_true(r < 0 && r != -ENODATA);
    vd_stream_close(p.b);
    return 0;
}

static int refuses_large(void *arg)
{
    struct pair p;
    char *text = malloc(VD_WIRE_REPLY_MAX + 10);
    pair_open(&p);
    memset(text, 'x', VD_WIRE_REPLY_MAX);
    text[VD_WIRE_REPLY_MAX] = 0;
    assert_int_equal(vd_wire_send(p.a, json_pack("{s:s}", "a", text), NULL, 0), -EMSGSIZE);
    free(text);
    pair_close(&p);
    return 0;
}

static void test_round_trip(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, round_trip, NULL), 0);
}

static void test_nonsense(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, nonsense, NULL), 0);
}

static void test_large(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, refuses_large, NULL), 0);
}

static void test_text(void **state)
{
    static const struct {
        const char *in, *out;
    } texts[] = {
        {"plain", "plain"},
        {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
        {"a\xff"
         "b",
         "a?b"},
        {"cut\xe2\x82", "cut??"},
        {"\xc0\xaf", "??"},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(texts); i++) {
        json_t *v = vd_wire_text(texts[i].in);
        assert_string_equal(json_string_value(v), texts[i].out);
        json_decref(v);
    }
}

static void test_error(void **state)
{
    struct vd_error err, got = {0};
    vd_fail(&err, -EBUSY, "volume-busy", "it is \"busy\"");
    json_t *v = vd_wire_error(&err);
    assert_int_equal(vd_wire_error_get(v, &got), -EBUSY);
    assert_string_equal(got.id, "volume-busy");
    assert_string_equal(got.message, "it is \"busy\"");
    /* An error that says "no error" is not one. */
    json_object_set_new(v, "errno", json_integer(0));
    assert_int_equal(vd_wire_error_get(v, &got), -EPROTO);
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_large),      cmocka_unit_test(test_text),
        cmocka_unit_test(test_error),
    };
    return cmocka_run_group_tests_name("control frames", tests, NULL, NULL);
}
