/* SPDX-License-Identifier: MIT */
/*
 * What clients say, and what they are answered. Runs on a connection's reader.
 *
 * Invariants:
 *  1. A message is read whole, and its size and descriptors are those of its kind, before any of it
 *     is believed. What makes no sense ends the connection, and nobody else's.
 *  2. Every descriptor that came is either kept by somebody or closed when the message is done.
 *  3. What is under way never sees memory, log or rings change: it is waited for first.
 */
#include "vhost/vhost_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct message {
    struct vhost_header h;
    union vhost_payload p;
    int fds[VHOST_TABLE_REGIONS];
    int nfds;
    uint64_t ack; /* what a client that wants to know is told: 0 = done */
};

/* 0, 1 if it has been answered, or an error that ends the connection. VD_YIELDS */
typedef int message_fn(struct vhost_conn *c, struct message *m);

/* ---- answers and descriptors ---- */

/* VD_YIELDS */
static int reply_fd(struct vhost_conn *c, const struct message *m, uint32_t size, int fd)
{
    struct {
        struct vhost_header h;
        uint8_t data[sizeof(union vhost_payload)];
    } out = {{m->h.request, VHOST_FLAG_VERSION | VHOST_FLAG_REPLY, size}, {0}};
    memcpy(out.data, &m->p, size);
    int r = vd_stream_send_fds(c->stream, &out, sizeof(out.h) + size, &fd, fd >= 0);
    return r < 0 ? r : 1;
}

static int reply(struct vhost_conn *c, const struct message *m, uint32_t size)
{
    return reply_fd(c, m, size, -1);
}

static int reply_u64(struct vhost_conn *c, struct message *m, uint64_t value)
{
    m->p.u64 = value;
    return reply(c, m, sizeof(m->p.u64));
}

/* The message's only descriptor, which the caller owns from now on; -1 if there is not just one. */
static int take_fd(struct message *m)
{
    if (m->nfds != 1)
        return -1;
    m->nfds = 0;
    return m->fds[0];
}

/* Nothing else is read or written without knowing what it would do. */
static bool is_eventfd(int fd)
{
    static const char wanted[] = "anon_inode:[eventfd]";
    char path[40], name[sizeof(wanted)];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return readlink(path, name, sizeof(name)) == (ssize_t)sizeof(wanted) - 1 &&
           memcmp(name, wanted, sizeof(wanted) - 1) == 0;
}

/* ---- features ---- */

static int get_features(struct vhost_conn *c, struct message *m)
{
    return reply_u64(c, m, config_features(c));
}

static int set_features(struct vhost_conn *c, struct message *m)
{
    if (m->p.u64 & ~config_features(c))
        return conn_refuse(c, "it wants a feature that was not offered");
    c->features = m->p.u64;
    return 0;
}

static int get_protocol_features(struct vhost_conn *c, struct message *m)
{
    return reply_u64(c, m, VHOST_PROTOCOL_FEATURES);
}

static int set_protocol_features(struct vhost_conn *c, struct message *m)
{
    if (m->p.u64 & ~VHOST_PROTOCOL_FEATURES)
        return conn_refuse(c, "it wants a protocol feature that was not offered");
    c->protocol = m->p.u64;
    return 0;
}

static int get_queue_num(struct vhost_conn *c, struct message *m)
{
    return reply_u64(c, m, VHOST_QUEUES_MAX);
}

static int nothing_to_do(struct vhost_conn *c, struct message *m)
{
    return 0;
}

/* ---- memory ---- */

/* All rings that run are where they were, in the new memory. */
static int rings_map(struct vhost_conn *c)
{
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++) {
        struct vhost_queue *q = c->queues[i];
        if (q && q->started && queue_map(q) < 0)
            return conn_refuse(c, "a running ring has lost its memory");
    }
    return 0;
}

static int set_mem_table(struct vhost_conn *c, struct message *m)
{
    const struct vhost_mem_table *t = &m->p.table;
    if (t->n > VHOST_TABLE_REGIONS || (int)t->n != m->nfds ||
        m->h.size < offsetof(struct vhost_mem_table, region) + t->n * sizeof(t->region[0]))
        return conn_refuse(c, "a memory table is malformed");
    queues_pause(c);
    memory_regions_free(c);
    int r = 0;
    for (uint32_t i = 0; i < t->n && r == 0; i++)
        r = memory_region_add(c, &t->region[i], m->fds[i]);
    r = r < 0 ? conn_refuse(c, "a region of its memory cannot be mapped") : rings_map(c);
    queues_resume(c);
    return r;
}

static int get_max_mem_slots(struct vhost_conn *c, struct message *m)
{
    return reply_u64(c, m, VHOST_REGIONS_MAX);
}

static int add_mem_reg(struct vhost_conn *c, struct message *m)
{
    if (m->nfds != 1)
        return conn_refuse(c, "a region of its memory came without its descriptor");
    int r = memory_region_add(c, &m->p.one.region, m->fds[0]);
    return r < 0 ? conn_refuse(c, "a region of its memory cannot be mapped") : 0;
}

static int rem_mem_reg(struct vhost_conn *c, struct message *m)
{
    queues_pause(c);
    int r = memory_region_remove(c, &m->p.one.region);
    r = r < 0 ? conn_refuse(c, "it takes away memory that it never gave") : rings_map(c);
    queues_resume(c);
    return r;
}

static int set_log_base(struct vhost_conn *c, struct message *m)
{
    int guard;
    void *map;
    size_t map_len;
    uint8_t *log;
    if (m->nfds != 1 ||
        memory_map(c, m->fds[0], m->p.log.off, m->p.log.size, &map, &map_len, &log, &guard) < 0)
        return conn_refuse(c, "the log of dirty pages cannot be mapped");
    memory_log_free(c);
    c->log_map = map;
    c->log_map_len = map_len;
    c->log_guard = guard;
    c->log = log;
    c->log_len = m->p.log.size;
    return reply_u64(c, m, 0);
}

/* ---- rings ---- */

/* The ring that a message names, made if it is new. NULL: refused. */
static struct vhost_queue *named(struct vhost_conn *c, uint64_t index)
{
    struct vhost_queue *q = index < VHOST_QUEUES_MAX ? queue_get(c, (unsigned)index) : NULL;
    if (!q)
        (void)conn_refuse(c, "it names a ring that there is not");
    return q;
}

static struct vhost_queue *named_stopped(struct vhost_conn *c, uint64_t index)
{
    struct vhost_queue *q = named(c, index);
    if (q && q->started) {
        (void)conn_refuse(c, "it changes a ring that runs");
        return NULL;
    }
    return q;
}

static int set_vring_num(struct vhost_conn *c, struct message *m)
{
    struct vhost_queue *q = named_stopped(c, m->p.state.index);
    uint32_t num = m->p.state.num;
    if (!q)
        return -EPROTO;
    if (num == 0 || num > VHOST_RING_MAX || (num & (num - 1)))
        return conn_refuse(c, "a ring's size is not a power of two up to 1024");
    q->num = num;
    return 0;
}

static int set_vring_addr(struct vhost_conn *c, struct message *m)
{
    struct vhost_queue *q = named(c, m->p.addr.index);
    const struct vhost_addr *a = &m->p.addr;
    if (!q)
        return -EPROTO;
    /* Of a ring that runs only whether it is logged can change. */
    if (q->started &&
        (a->desc != q->addr.desc || a->avail != q->addr.avail || a->used != q->addr.used))
        return conn_refuse(c, "it moves a ring that runs");
    q->addr = *a;
    q->addressed = true;
    return 0;
}

static int set_vring_base(struct vhost_conn *c, struct message *m)
{
    struct vhost_queue *q = named_stopped(c, m->p.state.index);
    if (!q)
        return -EPROTO;
    q->last_avail = (uint16_t)m->p.state.num;
    return 0;
}

static int get_vring_base(struct vhost_conn *c, struct message *m)
{
    struct vhost_queue *q = named(c, m->p.state.index);
    if (!q)
        return -EPROTO;
    queue_stop(q);
    if (q->kick_fd >= 0)
        close(q->kick_fd);
    q->kick_fd = -1;
    m->p.state.num = q->last_avail;
    return reply(c, m, sizeof(m->p.state));
}

/* Of a message that hands over an eventfd: the ring; *ret -1 if there is none on purpose. */
static struct vhost_queue *named_fd(struct vhost_conn *c, struct message *m, int *ret)
{
    struct vhost_queue *q = named(c, m->p.u64 & VHOST_VRING_IDX_MASK);
    if (!q)
        return NULL;
    *ret = -1;
    if (m->p.u64 & VHOST_VRING_NOFD)
        return q;
    int fd = take_fd(m);
    int flags = fd >= 0 && is_eventfd(fd) ? fcntl(fd, F_GETFL) : -1;
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        if (fd >= 0)
            close(fd);
        (void)conn_refuse(c, "a ring's descriptor is missing, or no eventfd");
        return NULL;
    }
    *ret = fd;
    return q;
}

static int set_vring_kick(struct vhost_conn *c, struct message *m)
{
    int fd;
    struct vhost_queue *q = named_fd(c, m, &fd);
    if (!q)
        return -EPROTO;
    if (fd < 0)
        return conn_refuse(c, "it wants a ring to be watched without kicks");
    queue_stop(q);
    if (q->kick_fd >= 0)
        close(q->kick_fd);
    q->kick_fd = fd;
    return queue_start(q);
}

static int set_vring_call(struct vhost_conn *c, struct message *m)
{
    int fd;
    struct vhost_queue *q = named_fd(c, m, &fd);
    if (!q)
        return -EPROTO;
    if (q->call_fd >= 0)
        close(q->call_fd);
    q->call_fd = fd;
    if (q->started)
        ring_call(q); /* the last one may have gone to nobody */
    return 0;
}

/* Errors end the connection here, which says it as well. */
static int set_vring_err(struct vhost_conn *c, struct message *m)
{
    int fd;
    if (!named_fd(c, m, &fd))
        return -EPROTO;
    if (fd >= 0)
        close(fd);
    return 0;
}

static int set_vring_enable(struct vhost_conn *c, struct message *m)
{
    struct vhost_queue *q = named(c, m->p.state.index);
    if (!q)
        return -EPROTO;
    if (m->p.state.num > 1)
        return conn_refuse(c, "a ring is neither enabled nor disabled");
    q->enabled = m->p.state.num;
    if (q->enabled && q->kicker)
        vd_poll_kick(&q->poll);
    return 0;
}

static int get_inflight_fd(struct vhost_conn *c, struct message *m)
{
    struct vhost_inflight_desc *d = &m->p.inflight;
    int fd;
    if (d->queues == 0 || d->queues > VHOST_QUEUES_MAX || d->queue_size == 0 ||
        d->queue_size > VHOST_RING_MAX)
        return conn_refuse(c, "it wants in-flight memory for rings that cannot be");
    int r = inflight_make(d->queues, d->queue_size, &fd, &d->size);
    if (r < 0)
        return r;
    d->off = 0;
    r = reply_fd(c, m, m->h.size, fd);
    close(fd);
    return r;
}

static int set_inflight_fd(struct vhost_conn *c, struct message *m)
{
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++)
        if (c->queues[i] && c->queues[i]->started)
            return conn_refuse(c, "it replaces in-flight memory that is in use");
    if (m->nfds != 1 || inflight_set(c, &m->p.inflight, m->fds[0]) < 0)
        return conn_refuse(c, "the in-flight memory cannot be mapped");
    return 0;
}

/* ---- the rest ---- */

static int set_backend_req_fd(struct vhost_conn *c, struct message *m)
{
    struct stat st;
    int fd = take_fd(m);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        if (fd >= 0)
            close(fd);
        return conn_refuse(c, "the channel for our messages is no socket");
    }
    if (c->backend_fd >= 0)
        close(c->backend_fd);
    c->backend_fd = fd;
    return 0;
}

void message_config_changed(struct vhost_conn *c)
{
    struct vhost_header h = {VHOST_BACKEND_CONFIG_CHANGE, VHOST_FLAG_VERSION, 0};
    if (c->backend_fd < 0 || !conn_protocol(c, VHOST_PROTOCOL_BACKEND_REQ))
        return;
    /* Where nothing more fits, the client has yet to read of an earlier change. */
    ssize_t n = send(c->backend_fd, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0 && n < (ssize_t)sizeof(h))
        (void)conn_refuse(c, "it does not read our messages");
}

static bool config_whole(const struct message *m)
{
    const struct vhost_config *config = &m->p.config;
    return config->size <= VHOST_CONFIG_MAX && config->off <= VHOST_CONFIG_MAX &&
           m->h.size == offsetof(struct vhost_config, data) + config->size;
}

static int get_config(struct vhost_conn *c, struct message *m)
{
    if (!config_whole(m))
        return conn_refuse(c, "a question for the config space is malformed");
    config_read(c, m->p.config.off, m->p.config.data, m->p.config.size);
    return reply(c, m, m->h.size);
}

static int set_config(struct vhost_conn *c, struct message *m)
{
    if (!config_whole(m))
        return conn_refuse(c, "a change of the config space is malformed");
    m->ack = config_write(c, m->p.config.off, m->p.config.data, m->p.config.size) < 0;
    return 0;
}

static const struct kind {
    message_fn *fn;
    uint16_t min, max; /* size */
} kinds[] = {
    [VHOST_GET_FEATURES] = {get_features, 0, 0},
    [VHOST_SET_FEATURES] = {set_features, 8, 8},
    [VHOST_SET_OWNER] = {nothing_to_do, 0, 0},
    [VHOST_RESET_OWNER] = {nothing_to_do, 0, 0},
    [VHOST_SET_MEM_TABLE] = {set_mem_table, 8, sizeof(struct vhost_mem_table)},
    [VHOST_SET_LOG_BASE] = {set_log_base, 16, 16},
    [VHOST_SET_LOG_FD] = {nothing_to_do, 0, 8},
    [VHOST_SET_VRING_NUM] = {set_vring_num, 8, 8},
    [VHOST_SET_VRING_ADDR] = {set_vring_addr, 40, 40},
    [VHOST_SET_VRING_BASE] = {set_vring_base, 8, 8},
    [VHOST_GET_VRING_BASE] = {get_vring_base, 8, 8},
    [VHOST_SET_VRING_KICK] = {set_vring_kick, 8, 8},
    [VHOST_SET_VRING_CALL] = {set_vring_call, 8, 8},
    [VHOST_SET_VRING_ERR] = {set_vring_err, 8, 8},
    [VHOST_GET_PROTOCOL_FEATURES] = {get_protocol_features, 0, 0},
    [VHOST_SET_PROTOCOL_FEATURES] = {set_protocol_features, 8, 8},
    [VHOST_GET_QUEUE_NUM] = {get_queue_num, 0, 0},
    [VHOST_SET_VRING_ENABLE] = {set_vring_enable, 8, 8},
    [VHOST_SET_BACKEND_REQ_FD] = {set_backend_req_fd, 0, 8},
    [VHOST_GET_CONFIG] = {get_config, 12, sizeof(struct vhost_config)},
    [VHOST_SET_CONFIG] = {set_config, 12, sizeof(struct vhost_config)},
    [VHOST_GET_INFLIGHT_FD] = {get_inflight_fd, VHOST_INFLIGHT_LEN,
                               sizeof(struct vhost_inflight_desc)},
    [VHOST_SET_INFLIGHT_FD] = {set_inflight_fd, VHOST_INFLIGHT_LEN,
                               sizeof(struct vhost_inflight_desc)},
    [VHOST_GET_MAX_MEM_SLOTS] = {get_max_mem_slots, 0, 0},
    [VHOST_ADD_MEM_REG] = {add_mem_reg, sizeof(struct vhost_mem_one), sizeof(struct vhost_mem_one)},
    [VHOST_REM_MEM_REG] = {rem_mem_reg, sizeof(struct vhost_mem_one), sizeof(struct vhost_mem_one)},
};

/* VD_YIELDS */
static int message_do(struct vhost_conn *c, struct message *m)
{
    const struct kind *kind =
        m->h.request < VD_ARRAY_SIZE(kinds) ? &kinds[m->h.request] : &kinds[0];
    if ((m->h.flags & VHOST_FLAG_VERSION_MASK) != VHOST_FLAG_VERSION ||
        (m->h.flags & VHOST_FLAG_REPLY))
        return conn_refuse(c, "a message of another version, or an answer to nothing");
    if (!kind->fn)
        return conn_refuse(c, "an unknown message");
    if (m->h.size < kind->min || m->h.size > kind->max)
        return conn_refuse(c, "a message of the wrong size");
    memset(&m->p, 0, sizeof(m->p));
    int r = m->h.size > 0 ? vd_stream_read(c->stream, &m->p, m->h.size) : 0;
    if (r < 0)
        return r == -ENODATA ? -ECONNRESET : r;
    r = kind->fn(c, m);
    if (r == 0 && (m->h.flags & VHOST_FLAG_NEED_REPLY) &&
        conn_protocol(c, VHOST_PROTOCOL_REPLY_ACK))
        r = reply_u64(c, m, m->ack);
    return r < 0 ? r : 0;
}

int message_read(struct vhost_conn *c)
{
    struct message m = {.nfds = (int)VD_ARRAY_SIZE(m.fds)};
    ssize_t n = vd_stream_recv_fds(c->stream, &m.h, sizeof(m.h), m.fds, &m.nfds);
    if (n <= 0)
        return n == 0 ? -ENODATA : (int)n;
    int r = 0;
    if (n < (ssize_t)sizeof(m.h))
        r = vd_stream_read(c->stream, (uint8_t *)&m.h + n, sizeof(m.h) - (size_t)n);
    if (r == 0)
        r = message_do(c, &m);
    for (int i = 0; i < m.nfds; i++)
        close(m.fds[i]);
    return r;
}
