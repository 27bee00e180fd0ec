/* SPDX-License-Identifier: MIT */
/*
 * Messages of vhost-user: one connection, fed the input and then the end of it. The input is a list
 * of messages: one byte that says which descriptor comes along (none, memory, an eventfd, a socket)
 * and whether the header is put right, then header and payload. Whatever comes, the server must end
 * the connection and leave nothing open.
 */
#include "core/io/loop.h"
#include "tests/fuzz/fuzz.h"
#include "tests/nbd/fake_store.h"
#include "tests/vhost/frontend.h"
#include "vhost/vhost.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct input {
    const uint8_t *data;
    size_t size;
};

/* Sends all messages of the input; the socket takes them without a reader. */
static void feed(struct front *f, struct input *in)
{
    int fds[4] = {-1, f->mem_fd, eventfd(0, EFD_CLOEXEC), socket(AF_UNIX, SOCK_STREAM, 0)};
    for (unsigned n = 0; n < 64 && in->size > sizeof(struct vhost_header); n++) {
        struct vhost_header h;
        uint8_t how = in->data[0];
        memcpy(&h, in->data + 1, sizeof(h));
        in->data += 1 + sizeof(h);
        in->size -= VD_MIN(in->size, 1 + sizeof(h));
        if (how & 4) {
            h.request %= 40;
            h.flags = VHOST_FLAG_VERSION | (h.flags & VHOST_FLAG_NEED_REPLY);
        }
        size_t len = VD_MIN(VD_MIN((size_t)h.size, in->size), (size_t)300);
        front_send(f, h.request, h.flags, in->data, len, fds[how & 3]);
        in->data += len;
        in->size -= len;
    }
    close(fds[2]);
    close(fds[3]);
}

static int count(void *arg, const struct vd_door_client *c)
{
    return 1;
}

static void run(void *arg)
{
    static struct fake_store fs;
    static struct front f;
    struct vd_vhost_server *server;
    char dir[64];
    int fds[2];
    snprintf(dir, sizeof(dir), "/tmp/fuzz_vhost.%d", (int)getpid());
    fake_store_init(&fs);
    struct fake_volume *v = fake_volume_add(&fs, "vol", VD_MIB(1));
    fuzz_check(v && vd_vhost_start(vd_loop_current(), &fs.store, dir, 0, &server, NULL) == 0);
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    front_init(&f, fds[0], VD_MIB(1));
    feed(&f, arg);
    shutdown(fds[0], SHUT_WR);
    fuzz_check(vd_vhost_attach(server, (struct vd_target){.volume = "vol"}, fds[1]) == 0);
    while (vd_vhost_clients(server, count, NULL) > 0)
        vd_fiber_yield();
    fuzz_check(v->opens == 0);
    front_done(&f);
    vd_vhost_stop(server);
    fake_store_done(&fs);
    rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* One loop for all inputs: making fibers' stacks would take most of the time. */
    static struct vd_loop *loop;
    struct input in = {.data = data, .size = size};
    if (!loop)
        fuzz_check(vd_loop_new(VD_LOOP_EPOLL, 1, &loop) == 0);
    fuzz_check(vd_fiber_spawn(loop, "fuzz", run, &in) == 0);
    fuzz_check(vd_loop_run(loop) == 0);
    return 0;
}
