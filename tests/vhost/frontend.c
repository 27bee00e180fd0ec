/* SPDX-License-Identifier: MIT */
/* See frontend.h. What goes wrong here is a broken test or server: it aborts. */
#include "tests/vhost/frontend.h"

#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define must(cond) ((cond) ? (void)0 : must_failed(__LINE__))

static void must_failed(int line)
{
    fprintf(stderr, "frontend.c:%d: %s\n", line, strerror(errno));
    abort();
}

void front_init(struct front *f, int fd, size_t mem_len)
{
    memset(f, 0, sizeof(*f));
    f->fd = fd;
    f->mem_len = mem_len;
    f->backend = -1;
    f->mem_fd = memfd_create("front", MFD_CLOEXEC);
    must(f->mem_fd >= 0 && ftruncate(f->mem_fd, (off_t)mem_len) == 0);
    f->mem = mmap(NULL, mem_len, PROT_READ | PROT_WRITE, MAP_SHARED, f->mem_fd, 0);
    must(f->mem != MAP_FAILED);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(f->ring); i++)
        f->ring[i].kick = f->ring[i].call = -1;
}

void front_done(struct front *f)
{
    close(f->fd);
    close(f->mem_fd);
    munmap(f->mem, f->mem_len);
    if (f->backend >= 0)
        close(f->backend);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(f->ring); i++) {
        if (f->ring[i].kick >= 0)
            close(f->ring[i].kick);
        if (f->ring[i].call >= 0)
            close(f->ring[i].call);
    }
}

void *front_alloc(struct front *f, size_t len)
{
    void *p = f->mem + f->taken;
    f->taken += VD_ROUND_UP(len, 4096);
    must(f->taken <= f->mem_len);
    return p;
}

void front_send(struct front *f, uint32_t request, uint32_t flags, const void *p, size_t len,
                int fd)
{
    struct vhost_header h = {request, flags, (uint32_t)len};
    struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)p, len}};
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    if (fd >= 0) {
        msg.msg_control = control.buf;
        msg.msg_controllen = sizeof(control.buf);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    (void)!sendmsg(f->fd, &msg, MSG_NOSIGNAL); /* a server that has hung up is seen when reading */
}

int front_recv(struct front *f, struct vhost_header *h, void *p, size_t room, int *fd)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {h, sizeof(*h)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.buf,
                         .msg_controllen = sizeof(control.buf)};
    if (recvmsg(f->fd, &msg, MSG_WAITALL | MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*h))
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && fd)
        memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    must(h->size <= room);
    if (h->size > 0 && recv(f->fd, p, h->size, MSG_WAITALL) != (ssize_t)h->size)
        return -1;
    return (int)h->size;
}

uint64_t front_ask(struct front *f, uint32_t request, const void *p, size_t len)
{
    struct vhost_header h;
    union vhost_payload answer;
    front_send(f, request, VHOST_FLAG_VERSION, p, len, -1);
    must(front_recv(f, &h, &answer, sizeof(answer), NULL) >= 8 && h.request == request);
    return answer.u64;
}

void front_tell(struct front *f, uint32_t request, uint64_t value, int fd)
{
    front_send(f, request, VHOST_FLAG_VERSION, &value, sizeof(value), fd);
}

void front_negotiate(struct front *f, uint64_t without)
{
    int pair[2];
    f->features = front_ask(f, VHOST_GET_FEATURES, NULL, 0) & ~without;
    f->protocol = front_ask(f, VHOST_GET_PROTOCOL_FEATURES, NULL, 0);
    f->protocol &= 0xffff & ~(UINT64_C(1) << 14);
    front_tell(f, VHOST_SET_PROTOCOL_FEATURES, f->protocol, -1);
    if (f->protocol >> VHOST_PROTOCOL_BACKEND_REQ & 1) {
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        front_send(f, VHOST_SET_BACKEND_REQ_FD, VHOST_FLAG_VERSION, NULL, 0, pair[1]);
        close(pair[1]);
        f->backend = pair[0];
    }
    front_send(f, VHOST_SET_OWNER, VHOST_FLAG_VERSION, NULL, 0, -1);
    front_tell(f, VHOST_SET_FEATURES, f->features & ~(UINT64_C(1) << VHOST_F_LOG_ALL_BIT), -1);
}

void front_share(struct front *f)
{
    struct vhost_mem_table t = {.n = 1};
    t.region[0] = (struct vhost_mem_region){FRONT_GUEST, f->mem_len, (uintptr_t)f->mem, 0};
    front_send(f, VHOST_SET_MEM_TABLE, VHOST_FLAG_VERSION, &t, 8 + sizeof(t.region[0]), f->mem_fd);
}

static void tell_state(struct front *f, uint32_t request, unsigned index, unsigned num)
{
    struct vhost_state s = {index, num};
    front_send(f, request, VHOST_FLAG_VERSION, &s, sizeof(s), -1);
}

void front_start(struct front *f, unsigned index, unsigned num, uint16_t base, uint32_t flags)
{
    struct front_ring *r = &f->ring[index];
    if (!r->desc) {
        r->index = index;
        r->num = num;
        r->desc = front_alloc(f, num * sizeof(struct vring_desc));
        r->avail = front_alloc(f, 6 + num * 2);
        r->used = front_alloc(f, 6 + num * sizeof(struct vring_used_elem));
        r->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        must(r->kick >= 0 && r->call >= 0);
    }
    struct vhost_addr addr = {.index = index,
                              .flags = flags,
                              .desc = (uintptr_t)r->desc,
                              .avail = (uintptr_t)r->avail,
                              .used = (uintptr_t)r->used,
                              .log = front_guest(f, r->used)};
    front_tell(f, VHOST_SET_VRING_CALL, index, r->call);
    tell_state(f, VHOST_SET_VRING_NUM, index, num);
    tell_state(f, VHOST_SET_VRING_BASE, index, base);
    front_send(f, VHOST_SET_VRING_ADDR, VHOST_FLAG_VERSION, &addr, sizeof(addr), -1);
    front_tell(f, VHOST_SET_VRING_KICK, index, r->kick);
    tell_state(f, VHOST_SET_VRING_ENABLE, index, 1);
}

uint16_t front_stop(struct front *f, unsigned index)
{
    struct vhost_state s = {index, 0};
    tell_state(f, VHOST_SET_VRING_ENABLE, index, 0);
    return (uint16_t)(front_ask(f, VHOST_GET_VRING_BASE, &s, sizeof(s)) >> 32);
}

void front_push(struct front_ring *r, uint16_t head)
{
    r->avail->ring[r->avail_idx % r->num] = head;
    __atomic_store_n(&r->avail->idx, ++r->avail_idx, __ATOMIC_RELEASE);
}

void front_kick(struct front *f, struct front_ring *r)
{
    uint64_t one = 1;
    uint16_t before = r->kicked;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    r->kicked = r->avail_idx;
    bool wanted = !(__atomic_load_n(&r->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY);
    if (f->features >> VIRTIO_RING_F_EVENT_IDX & 1) {
        uint16_t *event = (uint16_t *)(void *)&r->used->ring[r->num];
        wanted = vring_need_event(__atomic_load_n(event, __ATOMIC_RELAXED), r->avail_idx, before);
    }
    if (!wanted)
        return;
    must(write(r->kick, &one, sizeof(one)) == sizeof(one));
    r->kicks++;
}

int front_pop(struct front_ring *r, uint32_t *len)
{
    if (__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) == r->used_idx)
        return -1;
    const struct vring_used_elem *e = &r->used->ring[r->used_idx++ % r->num];
    if (len)
        *len = e->len;
    return (int)e->id;
}

void front_wait(struct front *f, struct front_ring *r)
{
    uint64_t count;
    r->avail->ring[r->num] = r->used_idx; /* call us for the next */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) != r->used_idx)
        return;
    struct pollfd p = {.fd = r->call, .events = POLLIN};
    must(poll(&p, 1, -1) >= 0 || errno == EINTR);
    (void)!read(r->call, &count, sizeof(count));
}

void front_request(struct front *f, struct front_ring *r, unsigned slot, uint8_t *at, uint32_t type,
                   uint64_t sector, void *data, uint32_t len)
{
    struct virtio_blk_outhdr hdr = {.type = type, .sector = sector};
    struct vring_desc *d = &r->desc[3 * slot];
    bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    memcpy(at, &hdr, sizeof(hdr));
    at[16] = 0xff;
    d[0] = (struct vring_desc){front_guest(f, at), sizeof(hdr), VRING_DESC_F_NEXT,
                               (uint16_t)(3 * slot + (len > 0 ? 1 : 2))};
    if (len > 0)
        d[1] = (struct vring_desc){front_guest(f, data), len,
                                   (uint16_t)(VRING_DESC_F_NEXT | (in ? VRING_DESC_F_WRITE : 0)),
                                   (uint16_t)(3 * slot + 2)};
    d[2] = (struct vring_desc){front_guest(f, at + 16), 1, VRING_DESC_F_WRITE, 0};
}
