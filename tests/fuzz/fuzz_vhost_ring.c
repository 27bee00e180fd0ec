/* SPDX-License-Identifier: MIT */
/*
 * Virtio rings: a client that keeps to the messages and shares memory that is the input. 16 KiB of
 * it begin with the descriptor table (16 entries), the available ring at 256 and the used ring at
 * 384; the rest is what descriptors may point to. The first byte chooses features. Whatever the
 * ring says, every request that was taken is answered or the client is dropped, and the server
 * lives.
 */
#include "core/io/loop.h"
#include "tests/fuzz/fuzz.h"
#include "tests/nbd/fake_store.h"
#include "tests/vhost/frontend.h"
#include "vhost/vhost.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEM_LEN 16384u

struct input {
    const uint8_t *data;
    size_t size;
};

/* Descriptor addresses that are small numbers mean the memory. */
static void memory_fill(struct front *f, const struct input *in)
{
    memcpy(f->mem, in->data + 1, VD_MIN(in->size - 1, (size_t)MEM_LEN));
    for (unsigned i = 0; i < 16; i++) {
        struct vring_desc *d = (void *)(f->mem + i * sizeof(*d));
        if (d->addr < 2 * MEM_LEN)
            d->addr += FRONT_GUEST;
    }
    struct vring_used *used = (void *)(f->mem + 384);
    used->idx = 0;
}

static void client(struct front *f, const struct input *in)
{
    int kick = eventfd(1, EFD_CLOEXEC);
    struct vhost_state num = {0, 16}, base = {0, 0}, enable = {0, 1};
    struct vhost_addr addr = {.desc = (uintptr_t)f->mem,
                              .avail = (uintptr_t)f->mem + 256,
                              .used = (uintptr_t)f->mem + 384};
    uint64_t features = UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VHOST_F_PROTOCOL_BIT;
    if (in->data[0] & 1)
        features |= UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX;
    if (in->data[0] & 2)
        features |= UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC;
    memory_fill(f, in);
    front_tell(f, VHOST_SET_FEATURES, features, -1);
    front_share(f);
    front_send(f, VHOST_SET_VRING_NUM, 1, &num, sizeof(num), -1);
    front_send(f, VHOST_SET_VRING_BASE, 1, &base, sizeof(base), -1);
    front_send(f, VHOST_SET_VRING_ADDR, 1, &addr, sizeof(addr), -1);
    front_send(f, VHOST_SET_VRING_ENABLE, 1, &enable, sizeof(enable), -1);
    front_tell(f, VHOST_SET_VRING_KICK, 0, kick);
    close(kick);
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
    fs.shuffle = true;
    struct fake_volume *v = fake_volume_add(&fs, "vol", VD_MIB(1));
    fuzz_check(v && vd_vhost_start(vd_loop_current(), &fs.store, dir, 0, &server, NULL) == 0);
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    front_init(&f, fds[0], MEM_LEN);
    client(&f, arg);
    fuzz_check(vd_vhost_attach(server, (struct vd_target){.volume = "vol"}, fds[1]) == 0);
    for (int i = 0; i < 20; i++)
        vd_fiber_yield();
    shutdown(fds[0], SHUT_WR);
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
    static struct vd_loop *loop;
    struct input in = {.data = data, .size = size};
    if (size == 0)
        return 0;
    if (!loop)
        fuzz_check(vd_loop_new(VD_LOOP_EPOLL, 1, &loop) == 0);
    fuzz_check(vd_fiber_spawn(loop, "fuzz", run, &in) == 0);
    fuzz_check(vd_loop_run(loop) == 0);
    return 0;
}
