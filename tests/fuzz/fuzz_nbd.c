/* SPDX-License-Identifier: MIT */
/*
 * The NBD door: one connection, fed the input and then the end of it. The first byte chooses where
 * it begins: 0 = at the client's flags; 1 = after a handshake with structured replies and contexts;
 * 2 = after one with neither. Whatever comes, the server must end the connection, leave nothing
 * open, and have sent nothing but well-formed messages.
 */
#include "nbd/nbd.h"
#include "nbd/proto_priv.h"
#include "tests/fuzz/fuzz.h"
#include "tests/nbd/fake_store.h"

#include "core/io/loop.h"
#include "core/io/stream.h"

#include <sys/socket.h>
#include <unistd.h>

/* What must be well-formed: from here on, messages of a connection with structured replies. */
struct check {
    bool structured;
    uint8_t *got;
    size_t len, cap;
};

struct input {
    const uint8_t *data;
    size_t size;
};

static size_t put_option(uint8_t *to, uint32_t option, const void *data, size_t len)
{
    vd_put_be64(to, NBD_MAGIC_OPTION);
    vd_put_be32(to + 8, option);
    vd_put_be32(to + 12, (uint32_t)len);
    memcpy(to + 16, data, len);
    return 16 + len;
}

/* The bytes of a client up to the chosen beginning; returns their number. */
static size_t put_prefix(uint8_t *to, unsigned mode)
{
    static const uint8_t meta[] = "\0\0\0\3vol\0\0\0\1\0\0\0\17base:allocation";
    static const uint8_t go[] = "\0\0\0\3vol\0";
    size_t n = 4;
    vd_put_be32(to, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    if (mode == 1) {
        n += put_option(to + n, NBD_OPT_STRUCTURED_REPLY, "", 0);
        n += put_option(to + n, NBD_OPT_SET_META_CONTEXT, meta, sizeof(meta) - 1);
    }
    return n + put_option(to + n, NBD_OPT_GO, go, 9);
}

/* Reads up to the end. VD_YIELDS */
static void read_all(struct vd_stream *s, struct check *c)
{
    for (;;) {
        if (c->cap - c->len < VD_KIB(64)) {
            c->cap = c->cap * 2 + VD_KIB(64);
            c->got = realloc(c->got, c->cap);
            fuzz_check(c->got);
        }
        ssize_t r = vd_stream_read_some(s, c->got + c->len, c->cap - c->len);
        if (r <= 0)
            return;
        c->len += (size_t)r;
    }
}

/* After the greeting and the handshake's replies: only messages, the last one perhaps cut short. */
static void check_messages(const struct check *c)
{
    const uint8_t *p = c->got, *end = c->got + c->len;
    fuzz_check(c->len >= 18 && vd_get_be64(p) == NBD_MAGIC_INIT);
    p += 18;
    while (end - p >= NBD_OPTION_REPLY_LEN && vd_get_be64(p) == NBD_MAGIC_OPTION_REPLY) {
        uint32_t len = vd_get_be32(p + 16);
        fuzz_check(len <= (size_t)(end - p) - NBD_OPTION_REPLY_LEN);
        p += NBD_OPTION_REPLY_LEN + len;
    }
    while (c->structured && end - p >= NBD_CHUNK_LEN) {
        size_t len;
        if (vd_get_be32(p) == NBD_MAGIC_SIMPLE_REPLY) {
            len = NBD_SIMPLE_REPLY_LEN;
        } else {
            fuzz_check(vd_get_be32(p) == NBD_MAGIC_CHUNK);
            fuzz_check(vd_get_be16(p + 4) <= NBD_CHUNK_DONE);
            len = NBD_CHUNK_LEN + (size_t)vd_get_be32(p + 16);
            fuzz_check(len <= VD_MIB(32) + NBD_CHUNK_LEN + 8);
        }
        if (len > (size_t)(end - p))
            break;
        p += len;
    }
}

static void run(void *arg)
{
    struct input *in = arg;
    static struct fake_store fs;
    struct vd_nbd_server *server;
    struct vd_stream *client;
    struct check check = {0};
    uint8_t prefix[256];
    int fds[2];
    unsigned mode = in->data[0] % 3;

    fake_store_init(&fs);
    struct fake_volume *v = fake_volume_add(&fs, "vol", VD_MIB(9));
    fuzz_check(v && fake_snapshot_add(&fs, fake_volume_add(&fs, "b", 4096), "s"));
    fuzz_check(vd_nbd_start(vd_loop_current(), &fs.store, NULL, 0, NULL, &server, NULL) == 0);
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    fuzz_check(vd_stream_new(fds[0], &client) == 0);
    size_t n = mode > 0 ? put_prefix(prefix, mode) : 0;
    fuzz_check(write(fds[0], prefix, n) == (ssize_t)n);
    /* Short enough for the socket to take it whole. */
    size_t rest = VD_MIN(in->size - 1, VD_KIB(64));
    fuzz_check(write(fds[0], in->data + 1, rest) == (ssize_t)rest);
    shutdown(fds[0], SHUT_WR);
    fuzz_check(vd_nbd_attach(server, fds[1]) == 0);
    read_all(client, &check);
    check.structured = mode == 1;
    check_messages(&check);
    free(check.got);
    vd_stream_close(client);
    vd_nbd_stop(server);
    fuzz_check(v->opens == 0);
    fake_store_done(&fs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* One loop for all inputs: making fibers' stacks would take most of the time. */
    static struct vd_loop *loop;
    struct input in = {.data = data, .size = size};
    if (!loop)
        fuzz_check(vd_loop_new(VD_LOOP_EPOLL, 1, &loop) == 0);
    if (size > 0) {
        fuzz_check(vd_fiber_spawn(loop, "fuzz", run, &in) == 0);
        fuzz_check(vd_loop_run(loop) == 0);
    }
    return 0;
}
