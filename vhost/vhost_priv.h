/* SPDX-License-Identifier: MIT */
/*
 * The server's inside. Per connection: a reader fiber, which owns it and does what its messages
 * say; a kicker per started ring, which waits for the guest; workers, which run requests; and a
 * publisher, which hands back what is done, all of a turn at once.
 *
 *   guest -kick-> kicker --queue_fetch--> workers --request_finish--> queue.done
 *                              ^                                          |
 *                              +--------------- publisher <---------------+ --call-> guest
 *
 * Invariants:
 *  1. Nothing in shared memory is looked at twice: it is copied, and the copy is judged.
 *  2. While a request of a connection is in flight its memory stays mapped, the descriptor it came
 *     from is marked as taken, and the connection lives.
 *  3. Nobody waits for what another connection holds.
 */
#ifndef VD_VHOST_VHOST_PRIV_H
#define VD_VHOST_VHOST_PRIV_H

#include "core/base/list.h"
#include "core/io/fiber.h"
#include "core/io/readiness.h"
#include "core/io/stream.h"
#include "vhost/proto_priv.h"
#include "vhost/vhost.h"

#include <stdatomic.h>

#define VHOST_CLIENTS_MAX 128u
#define VHOST_QUEUES_MAX 256u /* as many as the messages can name */
#define VHOST_RING_MAX 1024u
/* Descriptors of one request, and the pieces of memory they come to. */
#define VHOST_CHAIN_MAX 130u
#define VHOST_SEG_MAX 126u /* told to the guest: less header and status, and fits a ring of 128 */
#define VHOST_IOV_MAX 160u
#define VHOST_REGIONS_MAX 256u
/* Requests of one connection under way. */
#define VHOST_IN_FLIGHT_MAX 128u
/* Longer reads and writes are done in pieces of this, one after another. */
#define VHOST_PIECE VD_MIB(1)
/* What one discard or write-zeroes may have. */
#define VHOST_RANGES_MAX 32u
#define VHOST_RANGE_SECTORS (VD_GIB(2) / VD_SECTOR)
#define VHOST_STOP_NS (UINT64_C(10) * 1000000000)

/* "VOLUME@SNAPSHOT" */
#define VHOST_EXPORT_MAX (2 * VD_NAME_MAX + 2)

struct vhost_conn;
struct vhost_queue;

struct vhost_region {
    uint64_t guest, user, size; /* where guest and client have it */
    uint8_t *mem;               /* where we have it */
    void *map;
    size_t map_len;
    int guard; /* of sigbus.c */
};

/* One request, from its descriptors to the used ring. */
struct vhost_req {
    struct vd_list link; /* free list, work queue, or queue->done */
    struct vhost_queue *queue;
    uint16_t head;
    uint8_t status;
    uint8_t *status_at;
    uint64_t status_guest;
    uint32_t written; /* bytes, status included */
    struct virtio_blk_outhdr hdr;
    /* First what the guest gives, then what it takes: iov[out...], header and status taken off. */
    unsigned n, out;
    size_t out_len, in_len;
    struct iovec iov[VHOST_IOV_MAX];
    uint64_t guest[VHOST_IOV_MAX];
};

struct vhost_worker {
    struct vd_list link;
    struct vhost_conn *conn;
    struct vd_fiber *fiber;
    struct vhost_req *req;
};

struct vhost_queue {
    struct vd_list link; /* of those that have something done */
    struct vhost_conn *conn;
    unsigned index;
    /* What the messages have said. */
    uint32_t num;
    struct vhost_addr addr;
    bool addressed, enabled;
    int kick_fd, call_fd;
    /* While it runs. */
    bool started, stopping;
    bool starved; /* there may be more to fetch, when something is finished */
    bool kicker;  /* its fiber lives */
    struct vd_poll poll;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t last_avail, used_idx, signalled;
    bool signalled_valid;
    unsigned in_flight;
    uint64_t busy[VHOST_RING_MAX / 64]; /* heads that are in flight */
    struct vd_list done;
    struct vhost_inflight_area *inflight; /* NULL = not kept */
    uint64_t counter;
};

struct vhost_conn {
    struct vd_list link;
    struct vd_vhost_server *server;
    struct vd_stream *stream;
    char peer[64];
    char export[VHOST_EXPORT_MAX];
    uint64_t connected_s;
    struct vd_disk *disk;
    struct vd_disk_watch watch;
    bool read_only;
    /* Negotiated. */
    uint64_t features, protocol;
    bool wce; /* write-back: writes may be lost until a flush */
    int backend_fd;
    bool config_changed;
    /* Memory. */
    unsigned n_regions;
    struct vhost_region *regions;
    uint8_t *log; /* one bit for each 4 KiB */
    uint64_t log_len;
    void *log_map;
    size_t log_map_len;
    int log_guard;
    uint8_t *inflight; /* of all rings */
    void *inflight_map;
    size_t inflight_map_len, inflight_len;
    unsigned inflight_queues, inflight_size;
    int inflight_guard;
    atomic_bool memory_lost; /* set by sigbus.c */
    /* Rings, made when they are first named. */
    struct vhost_queue *queues[VHOST_QUEUES_MAX];
    unsigned paused; /* nothing is fetched */
    /* Work. */
    struct vd_list work, idle, free_reqs;
    unsigned n_workers, in_flight;
    struct vd_list dirty; /* queues */
    struct vd_waitq publish_q;
    struct vd_waitq drain_q; /* a request, a fiber or a worker has ended */
    bool publisher, ending;
    bool broken;
    uint64_t requests, read_bytes, write_bytes;
};

struct vhost_export {
    struct vd_list link;
    struct vd_vhost_server *server;
    char name[VD_NAME_MAX + 1];
    struct vd_listener *listener;
    bool seen, closed;
};

struct vd_vhost_server {
    struct vd_loop *loop;
    struct vd_store *store;
    char *dir;
    unsigned flags;
    uint64_t stop_ns;
    struct vd_list exports, conns;
    unsigned n_conns;
    bool stopping;
    struct vd_fmutex refreshing;
    struct vd_waitq conns_q;
    struct vd_group fibers; /* acceptors */
};

/* conn.c */
/* Takes the stream over. */
int conn_start(struct vd_vhost_server *s, struct vd_target target, struct vd_stream *stream);
/* Ends it: what is under way is dropped. Does not suspend, takes any state. */
void conn_break(struct vhost_conn *c);
/* The client broke the rules: says why in the log and breaks the connection. Returns -EPROTO. */
int conn_refuse(struct vhost_conn *c, const char *why);

/* message.c: reads and does the next. -ENODATA at a clean end. VD_YIELDS */
int message_read(struct vhost_conn *c);
/* Tells the client that the config space is another. Does not suspend. */
void message_config_changed(struct vhost_conn *c);

/* config.c */
uint64_t config_features(struct vhost_conn *c);
#define VHOST_PROTOCOL_FEATURES                                                            \
    (UINT64_C(1) << VHOST_PROTOCOL_MQ | UINT64_C(1) << VHOST_PROTOCOL_LOG_SHMFD |          \
     UINT64_C(1) << VHOST_PROTOCOL_REPLY_ACK | UINT64_C(1) << VHOST_PROTOCOL_BACKEND_REQ | \
     UINT64_C(1) << VHOST_PROTOCOL_CONFIG | UINT64_C(1) << VHOST_PROTOCOL_INFLIGHT_SHMFD | \
     UINT64_C(1) << VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS)
/* The part of it, beyond the end zeroes. */
void config_read(struct vhost_conn *c, uint32_t off, uint8_t *buf, uint32_t len);
/* 0, or -EINVAL for what cannot be written. VD_YIELDS */
int config_write(struct vhost_conn *c, uint32_t off, const uint8_t *buf, uint32_t len);
/* Whether a write must be durable before it is answered. */
bool config_write_through(const struct vhost_conn *c);

static inline bool conn_has(const struct vhost_conn *c, unsigned feature)
{
    return c->features >> feature & 1;
}
static inline bool conn_protocol(const struct vhost_conn *c, unsigned feature)
{
    return c->protocol >> feature & 1;
}

/* memory.c. None suspends. */
/* Maps `len` bytes of a descriptor from `off` on, if its file has them. */
int memory_map(struct vhost_conn *c, int fd, uint64_t off, uint64_t len, void **ret_map,
               size_t *ret_map_len, uint8_t **ret, int *ret_guard);
void memory_unmap(void *map, size_t map_len, int guard);
int memory_region_add(struct vhost_conn *c, const struct vhost_mem_region *r, int fd);
int memory_region_remove(struct vhost_conn *c, const struct vhost_mem_region *r);
void memory_regions_free(struct vhost_conn *c);
/* Memory at the guest's address: up to len bytes (*len becomes less at a region's end); NULL. */
uint8_t *memory_guest(const struct vhost_conn *c, uint64_t addr, uint64_t *len);
/* `len` bytes at the client's address, or NULL. */
void *memory_user(const struct vhost_conn *c, uint64_t addr, uint64_t len);
/* Notes that the guest's memory was written. -EPROTO beyond the log. */
int memory_dirty(struct vhost_conn *c, uint64_t guest, uint64_t len);
void memory_log_free(struct vhost_conn *c);

/* inflight.c: what survives us. */
uint64_t inflight_area_len(unsigned queue_size);
/* Makes memory for so many rings; gives its descriptor. */
int inflight_make(unsigned queues, unsigned queue_size, int *ret_fd, uint64_t *ret_len);
int inflight_set(struct vhost_conn *c, const struct vhost_inflight_desc *d, int fd);
void inflight_free(struct vhost_conn *c);
/* A ring starts: settles what was being handed back, and gives the heads that are to be done again,
 * in their order. -EPROTO if what is there makes no sense. */
int inflight_recover(struct vhost_queue *q, uint16_t *heads, unsigned *n);
void inflight_taken(struct vhost_queue *q, uint16_t head);
/* Before the used index moves over it, and, with the whole batch, after. */
void inflight_batch_add(struct vhost_queue *q, uint16_t head);
void inflight_batch_end(struct vhost_queue *q, const struct vd_list *reqs);

/* queue.c: a ring's life. */
struct vhost_queue *queue_get(struct vhost_conn *c, unsigned index); /* NULL: no memory */
int queue_start(struct vhost_queue *q);
/* Takes no more, and returns when nothing is left under way. VD_YIELDS */
void queue_stop(struct vhost_queue *q);
void queue_free(struct vhost_queue *q);
/* Where the ring is in our memory, again. -EPROTO */
int queue_map(struct vhost_queue *q);
/* Nothing is fetched, and nothing is under way, between these. VD_YIELDS */
void queues_pause(struct vhost_conn *c);
void queues_resume(struct vhost_conn *c);
void publisher_main(void *conn);

/* ring.c. None suspends. */
/* Takes what the guest has put there, and starts it. */
void ring_fetch(struct vhost_queue *q);
/* Starts requests that a server before us had taken. */
int ring_resubmit(struct vhost_queue *q, const uint16_t *heads, unsigned n);
/* Tells the guest to look at the used ring. */
void ring_call(struct vhost_queue *q);
/* Hands back all of queue->done. */
void ring_publish(struct vhost_queue *q);

/* request.c */
void request_run(struct vhost_req *req); /* VD_YIELDS */
void request_finish(struct vhost_req *req);
struct vhost_req *request_new(struct vhost_queue *q);
void request_free(struct vhost_req *req);

/* worker.c. Neither suspends. */
int work_push(struct vhost_conn *c, struct vhost_req *req);
void workers_stop(struct vhost_conn *c);

/* sigbus.c: mapped files that their owner may cut short. */
/* Watches over a mapping: a fault in it is given zeroes and sets *lost. -1 = no room. */
int sigbus_guard(void *map, size_t len, atomic_bool *lost);
void sigbus_release(int guard);

#endif
