/* SPDX-License-Identifier: MIT */
/*
 * The control socket: the input as what a peer sends, then the end of it; and as one frame's text.
 * What is taken for a frame is an object of bounded depth that can be sent and comes out the same.
 */
#include "core/base/bytes.h"
#include "core/io/loop.h"
#include "server/wire.h"
#include "tests/fuzz/fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

#define SENT_MAX VD_KIB(64) /* what a socket holds without a reader */

struct input {
    const uint8_t *data;
    size_t size;
};

struct pair {
    struct vd_stream *a, *b;
    int raw; /* under a */
};

static void pair_open(struct pair *p)
{
    int fds[2];
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    p->raw = fds[0];
    fuzz_check(vd_stream_new(fds[0], &p->a) == 0 && vd_stream_new(fds[1], &p->b) == 0);
}

static unsigned depth_of(const json_t *v)
{
    unsigned deepest = 0;
    const char *key;
    size_t i;
    json_t *child, *parent = (json_t *)(uintptr_t)v;
    json_object_foreach (parent, key, child)
        deepest = VD_MAX(deepest, depth_of(child));
    json_array_foreach (parent, i, child)
        deepest = VD_MAX(deepest, depth_of(child));
    return deepest + (json_is_object(v) || json_is_array(v));
}

/* Takes the frame. VD_YIELDS */
static void check_frame(json_t *frame)
{
    struct vd_error err = {0};
    struct pair p;
    json_t *again;
    fuzz_check(json_is_object(frame) && depth_of(frame) <= VD_WIRE_DEPTH_MAX);
    int code = vd_wire_error_get(frame, &err);
    fuzz_check(code < 0 && err.code == code);
    json_t *told = vd_wire_error(&err);
    fuzz_check(told != NULL);
    json_decref(told);
    pair_open(&p);
    json_incref(frame);
    if (vd_wire_send(p.a, frame, NULL, 0) == 0) {
        fuzz_check(vd_wire_recv(p.b, VD_WIRE_REQUEST_MAX, &again, NULL, NULL) == 0);
        fuzz_check(json_equal(frame, again));
        json_decref(again);
    }
    vd_stream_close(p.a);
    vd_stream_close(p.b);
    json_decref(frame);
}

static void check_text(const struct input *in)
{
    char *text = strndup((const char *)in->data, in->size);
    fuzz_check(text != NULL);
    json_t *v = vd_wire_text(text);
    fuzz_check(json_is_string(v) && strlen(json_string_value(v)) == strlen(text));
    json_decref(v);
    free(text);
}

static void run(void *arg)
{
    const struct input *in = arg;
    struct pair p;
    json_t *frame = vd_wire_parse((const char *)in->data, in->size);
    if (frame)
        check_frame(frame);
    check_text(in);
    pair_open(&p);
    fuzz_check(write(p.raw, in->data, in->size) == (ssize_t)in->size);
    vd_stream_close(p.a);
    while (vd_wire_recv(p.b, SENT_MAX, &frame, NULL, NULL) == 0)
        check_frame(frame);
    vd_stream_close(p.b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* One loop for all inputs: making fibers' stacks would take most of the time. */
    static struct vd_loop *loop;
    struct input in = {.data = data, .size = VD_MIN(size, (size_t)SENT_MAX)};
    if (!loop)
        fuzz_check(vd_loop_new(VD_LOOP_EPOLL, 1, &loop) == 0);
    fuzz_check(vd_fiber_spawn(loop, "fuzz", run, &in) == 0);
    fuzz_check(vd_loop_run(loop) == 0);
    return 0;
}
