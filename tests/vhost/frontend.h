/* SPDX-License-Identifier: MIT */
/*
 * The client's side of vhost-user-blk, for tests and for measuring: one shared memory that holds
 * split rings and buffers, and the messages of QEMU. Plain blocking calls, no loop: it also drives
 * servers of others.
 *
 * Guest addresses are offsets into the memory plus FRONT_GUEST, client addresses are pointers.
 */
#ifndef VD_TESTS_VHOST_FRONTEND_H
#define VD_TESTS_VHOST_FRONTEND_H

#include "vhost/proto_priv.h"

#define FRONT_GUEST UINT64_C(0x100000000)
#define FRONT_RING_MAX 256u

struct front_ring {
    unsigned index, num;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t avail_idx, kicked, used_idx;
    int kick, call;
    uint64_t kicks; /* written */
};

struct front {
    int fd;
    int mem_fd;
    uint8_t *mem;
    size_t mem_len, taken;
    uint64_t features, protocol;
    int backend; /* our end of the server's own channel */
    struct front_ring ring[64];
};

/* Memory is made; the socket is the caller's to have connected. Aborts when there is no memory. */
void front_init(struct front *f, int fd, size_t mem_len);
void front_done(struct front *f);
/* Memory that the server sees, aligned to 4096. */
void *front_alloc(struct front *f, size_t len);
static inline uint64_t front_guest(const struct front *f, const void *p)
{
    return FRONT_GUEST + (uint64_t)((const uint8_t *)p - f->mem);
}

/* Sends one message as it is. */
void front_send(struct front *f, uint32_t request, uint32_t flags, const void *p, size_t len, int fd);
/* Reads one answer; its length, or -1 at the end of the connection. */
int front_recv(struct front *f, struct vhost_header *h, void *p, size_t room, int *fd);
/* A question answered by a number; aborts if it is not answered. */
uint64_t front_ask(struct front *f, uint32_t request, const void *p, size_t len);
void front_tell(struct front *f, uint32_t request, uint64_t value, int fd);

/* Features as QEMU does it: all that is offered but those in `without`. */
void front_negotiate(struct front *f, uint64_t without);
void front_share(struct front *f);
/* Makes a ring's memory, the first time, and starts it; `base` is where it goes on. */
void front_start(struct front *f, unsigned index, unsigned num, uint16_t base, uint32_t flags);
/* Stops it; returns where it stood. */
uint16_t front_stop(struct front *f, unsigned index);

/* Puts a chain that begins at descriptor `head` into the available ring; front_kick tells. */
void front_push(struct front_ring *r, uint16_t head);
void front_kick(struct front *f, struct front_ring *r);
/* The next one that is done, or -1. */
int front_pop(struct front_ring *r, uint32_t *len);
/* Sleeps until something is done. */
void front_wait(struct front *f, struct front_ring *r);

/* A request of three descriptors from 3 * slot on: header and status in `at` (32 bytes). */
void front_request(struct front *f, struct front_ring *r, unsigned slot, uint8_t *at, uint32_t type,
                   uint64_t sector, void *data, uint32_t len);

#endif
