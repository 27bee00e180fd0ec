/* SPDX-License-Identifier: MIT */
/*
 * The vhost-user-blk door message by message and ring by ring, against a front end of our own: what
 * is offered, what reaches the disk, what a client is dropped for, and what survives. The server
 * has a thread of its own, disks that wait when they are told to, and runs through all the tests:
 * none of them may leave it anything but well.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/nbd/fake_store.h"
#include "tests/vhost/frontend.h"
#include "vhost/vhost.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct fake_store fs;
static struct fake_volume *vol;
static struct vd_loop *loop;
static struct vd_vhost_server *server;
static pthread_t thread;
static sem_t sem;
static struct vd_waitq stop_q;
static bool stopping;
static char dir[64];

/* ---- the server ---- */

static void server_main(void *arg)
{
    assert_int_equal(vd_vhost_start(loop, &fs.store, dir, 0, &server, NULL), 0);
    sem_post(&sem);
    while (!stopping)
        vd_wait(&stop_q);
    vd_vhost_stop(server);
}

static void *thread_main(void *arg)
{
    fake_store_init(&fs);
    vol = fake_volume_add(&fs, "vol", VD_MIB(64));
    vd_waitq_init(&stop_q);
    if (vd_fiber_spawn(loop, "server", server_main, NULL) < 0)
        abort();
    return (void *)(intptr_t)vd_loop_run(loop);
}

/* Runs fn on the server's thread and waits for it. */
static void (*on_server_fn)(void);
static void on_server_run(void *arg)
{
    on_server_fn();
    sem_post(&sem);
}
static void on_server(void (*fn)(void))
{
    on_server_fn = fn;
    assert_int_equal(vd_loop_post(loop, on_server_run, NULL), 0);
    sem_wait(&sem);
}

static int setup(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/test_vhost.%d", (int)getpid());
    sem_init(&sem, 0, 0);
    if (vd_loop_new(VD_LOOP_AUTO, 0, &loop) < 0 ||
        pthread_create(&thread, NULL, thread_main, NULL) != 0)
        return -1;
    sem_wait(&sem);
    return 0;
}

static void do_stop(void)
{
    stopping = true;
    vd_wake_all(&stop_q);
}

static int teardown(void **state)
{
    char path[120];
    struct stat st;
    on_server(do_stop);
    pthread_join(thread, NULL);
    vd_loop_free(loop);
    snprintf(path, sizeof(path), "%s/vol.sock", dir);
    int left = stat(path, &st) == 0;
    fake_store_done(&fs);
    return rmdir(dir) < 0 || left ? -1 : 0;
}

static void do_pause(void)
{
    fs.paused = true;
}
static void do_resume(void)
{
    fake_resume(&fs);
}
static void do_drop(void)
{
    assert_int_equal(vd_vhost_drop(server, "vol"), 1);
}
static void do_grow(void)
{
    assert_int_equal(fake_resize(vol, VD_MIB(128)), 0);
}
static unsigned seen_waiting, seen_opens;
static void do_look(void)
{
    seen_waiting = fs.waiting;
    seen_opens = vol->opens;
}
static void wait_waiting(unsigned n)
{
    do
        on_server(do_look);
    while (seen_waiting < n);
}
static void wait_closed(void)
{
    do
        on_server(do_look);
    while (seen_opens > 0);
}

/* ---- clients ---- */

/* -1 when there is no such socket. */
static int client_connect_to(const char *volume)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s/%s.sock", dir, volume);
    if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
        return fd;
    close(fd);
    return -1;
}

static int client_connect(void)
{
    int fd = client_connect_to("vol");
    assert_true(fd >= 0);
    return fd;
}

/* A client with memory and one ring of 64 that runs. */
static void client_open(struct front *f, uint64_t without)
{
    front_init(f, client_connect(), VD_MIB(4));
    front_negotiate(f, without);
    front_share(f);
    front_start(f, 0, 64, 0, 0);
}

static void client_close(struct front *f)
{
    front_done(f);
    wait_closed();
}

/* The server hangs up, and goes on serving others. */
static void expect_dropped(struct front *f)
{
    struct vhost_header h;
    union vhost_payload p;
    while (front_recv(f, &h, &p, sizeof(p), NULL) >= 0)
        ;
    front_done(f);
    wait_closed();
}

static int wait_one(struct front *f, uint32_t *len)
{
    for (;;) {
        int head = front_pop(&f->ring[0], len);
        if (head >= 0)
            return head;
        front_wait(f, &f->ring[0]);
    }
}

static uint8_t *work_at, *work_data;
static void work_alloc(struct front *f)
{
    work_at = front_alloc(f, 4096);
    work_data = front_alloc(f, 65536);
}

/* One request, from begin to end; its status. */
static uint8_t call(struct front *f, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
    front_request(f, &f->ring[0], 0, work_at, type, sector, data, len);
    front_push(&f->ring[0], 0);
    front_kick(f, &f->ring[0]);
    assert_int_equal(wait_one(f, NULL), 0);
    return work_at[16];
}

/* ---- what is offered ---- */

static struct virtio_blk_config config_of(struct front *f, uint32_t len)
{
    struct vhost_config c = {.size = len};
    struct virtio_blk_config blk = {0};
    struct vhost_header h;
    front_send(f, VHOST_GET_CONFIG, VHOST_FLAG_VERSION, &c, 12 + len, -1);
    assert_int_equal(front_recv(f, &h, &c, sizeof(c), NULL), 12 + len);
    memcpy(&blk, c.data, VD_MIN(len, (uint32_t)sizeof(blk)));
    return blk;
}

static void offers_what_it_does_and_no_more(void **state)
{
    static struct front f;
    front_init(&f, client_connect(), VD_MIB(1));
    /* SEG_MAX BLK_SIZE FLUSH TOPOLOGY CONFIG_WCE MQ DISCARD WRITE_ZEROES, LOG_ALL, INDIRECT,
     * EVENT_IDX, PROTOCOL, VERSION_1 */
    assert_int_equal(front_ask(&f, VHOST_GET_FEATURES, NULL, 0), UINT64_C(0x174007e44));
    /* Neither 8, 10, 13, 14 nor 16: QEMU would take them for granted. */
    assert_int_equal(front_ask(&f, VHOST_GET_PROTOCOL_FEATURES, NULL, 0), 0x922b);
    assert_true(front_ask(&f, VHOST_GET_QUEUE_NUM, NULL, 0) >= 64);
    assert_true(front_ask(&f, VHOST_GET_MAX_MEM_SLOTS, NULL, 0) >= 32);
    struct virtio_blk_config c = config_of(&f, 60);
    assert_int_equal(c.capacity, VD_MIB(64) / 512);
    assert_int_equal(c.blk_size, 512);
    assert_int_equal(c.physical_block_exp, 3);
    assert_int_equal(c.wce, 1);
    assert_int_equal(c.seg_max, 126);
    assert_true(c.max_discard_sectors > 0 && c.max_write_zeroes_sectors > 0);
    config_of(&f, 96);
    config_of(&f, 256);
    client_close(&f);
}

/* ---- requests ---- */

static void requests_reach_the_disk(void **state)
{
    static struct front f;
    uint32_t len;
    client_open(&f, 0);
    work_alloc(&f);
    for (unsigned i = 0; i < 65536; i++)
        work_data[i] = (uint8_t)(i * 7 + i / 256);
    uint8_t *copy = malloc(65536);
    memcpy(copy, work_data, 65536);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, 3, work_data, 65536), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->fua_writes, 0);
    memset(work_data, 0, 65536);
    front_request(&f, &f.ring[0], 0, work_at, VIRTIO_BLK_T_IN, 3, work_data, 65536);
    front_push(&f.ring[0], 0);
    front_kick(&f, &f.ring[0]);
    wait_one(&f, &len);
    assert_int_equal(len, 65537);
    assert_memory_equal(work_data, copy, 65536);
    /* Into memory that is not aligned. */
    memset(work_data, 0, 65536);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 3, work_data + 8, 512), VIRTIO_BLK_S_OK);
    assert_memory_equal(work_data + 8, copy, 512);
    free(copy);

    unsigned flushes = vol->flushes;
    assert_int_equal(call(&f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->flushes, flushes + 1);
    fs.fail_flush = -EIO;
    assert_int_equal(call(&f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_IOERR);
    fs.fail_flush = 0;

    struct virtio_blk_discard_write_zeroes range = {.sector = 8, .num_sectors = 8};
    memcpy(work_data, &range, sizeof(range));
    assert_int_equal(call(&f, VIRTIO_BLK_T_WRITE_ZEROES, 0, work_data, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->kept_zeroes, 1);
    assert_int_equal(call(&f, VIRTIO_BLK_T_DISCARD, 0, work_data, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->discards, 1);
    range.flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    memcpy(work_data, &range, sizeof(range));
    assert_int_equal(call(&f, VIRTIO_BLK_T_WRITE_ZEROES, 0, work_data, 16), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->kept_zeroes, 1);
    assert_int_equal(call(&f, VIRTIO_BLK_T_DISCARD, 0, work_data, 16), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(call(&f, VIRTIO_BLK_T_DISCARD, 0, work_data, 17), VIRTIO_BLK_S_IOERR);

    assert_int_equal(call(&f, VIRTIO_BLK_T_GET_ID, 0, work_data, 20), VIRTIO_BLK_S_OK);
    assert_memory_equal(work_data, "01000000000000000000", 20);
    /* What cannot be done is answered; the client stays. */
    assert_int_equal(call(&f, 4711, 0, work_data, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, 0, work_data, 100), VIRTIO_BLK_S_IOERR);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, UINT64_MAX, work_data, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, VD_MIB(64) / 512, work_data, 512),
                     VIRTIO_BLK_S_IOERR);
    client_close(&f);
}

static void without_a_write_cache_every_write_is_durable(void **state)
{
    static struct front f;
    struct vhost_config c = {.off = offsetof(struct virtio_blk_config, wce), .size = 1};
    client_open(&f, 0);
    work_alloc(&f);
    unsigned fua = vol->fua_writes, flushes = vol->flushes;
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, 0, work_data, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->fua_writes, fua);
    front_send(&f, VHOST_SET_CONFIG, VHOST_FLAG_VERSION, &c, 13, -1);
    assert_int_equal(config_of(&f, 60).wce, 0);
    assert_int_equal(vol->flushes, flushes + 1);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, 0, work_data, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->fua_writes, fua + 1);
    client_close(&f);
    /* A driver that does not know how to flush. */
    client_open(&f, UINT64_C(1) << VIRTIO_BLK_F_FLUSH);
    work_alloc(&f);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, 0, work_data, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(vol->fua_writes, fua + 2);
    client_close(&f);
}

static void indirect_and_scattered_requests(void **state)
{
    static struct front f;
    client_open(&f, 0);
    work_alloc(&f);
    struct front_ring *r = &f.ring[0];
    struct vring_desc *t = front_alloc(&f, 4096);
    struct virtio_blk_outhdr hdr = {.type = VIRTIO_BLK_T_OUT, .sector = 100};
    memcpy(work_at, &hdr, sizeof(hdr));
    memset(work_data, 0x5a, 4096);
    /* The header in two pieces, the data in eight, all in a table of its own. */
    t[0] = (struct vring_desc){front_guest(&f, work_at), 5, VRING_DESC_F_NEXT, 1};
    t[1] = (struct vring_desc){front_guest(&f, work_at) + 5, 11, VRING_DESC_F_NEXT, 2};
    for (uint16_t i = 0; i < 8; i++)
        t[2 + i] = (struct vring_desc){front_guest(&f, work_data) + i * 64u, 64, VRING_DESC_F_NEXT,
                                       (uint16_t)(3 + i)};
    t[10] = (struct vring_desc){front_guest(&f, work_at) + 16, 1, VRING_DESC_F_WRITE, 0};
    r->desc[7] = (struct vring_desc){front_guest(&f, t), 11 * 16, VRING_DESC_F_INDIRECT, 0};
    work_at[16] = 0xff;
    front_push(r, 7);
    front_kick(&f, r);
    assert_int_equal(wait_one(&f, NULL), 7);
    assert_int_equal(work_at[16], VIRTIO_BLK_S_OK);
    memset(work_data, 0, 4096);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 100, work_data, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(work_data[0], 0x5a);
    assert_int_equal(work_data[511], 0x5a);
    client_close(&f);
}

/* ---- what a client is dropped for ---- */

static void malformed_messages_drop_their_client(void **state)
{
    static const struct {
        uint32_t request, flags;
        size_t len;
        int fd; /* 0 = the memory's, 1 = a pipe's, -1 = none */
        union vhost_payload p;
    } cases[] = {
        {0, 1, 0, -1, {0}},
        {99, 1, 0, -1, {0}},
        {VHOST_GET_FEATURES, 2, 0, -1, {0}},
        {VHOST_GET_FEATURES, 5, 0, -1, {0}},
        {VHOST_SET_FEATURES, 1, 4, -1, {0}},
        {VHOST_SET_FEATURES, 1, 8, -1, {.u64 = UINT64_MAX}},
        {VHOST_SET_PROTOCOL_FEATURES, 1, 8, -1, {.u64 = 1 << 14}},
        /* More regions than there are descriptors; than fit; beyond the file's end; wrapping. */
        {VHOST_SET_MEM_TABLE, 1, 72, 0, {.table = {.n = 2, .region[0] = {0, 4096, 0, 0}}}},
        {VHOST_SET_MEM_TABLE, 1, 40, 0, {.table = {.n = UINT32_MAX}}},
        {VHOST_SET_MEM_TABLE, 1, 8, 0, {.table = {.n = 1}}},
        {VHOST_SET_MEM_TABLE, 1, 40, -1, {.table = {.n = 1, .region[0] = {0, 4096, 0, 0}}}},
        {VHOST_SET_MEM_TABLE, 1, 40, 0, {.table = {.n = 1, .region[0] = {0, 0, 0, 0}}}},
        {VHOST_SET_MEM_TABLE, 1, 40, 0, {.table = {.n = 1, .region[0] = {0, VD_GIB(1), 0, 0}}}},
        {VHOST_SET_MEM_TABLE, 1, 40, 0, {.table = {.n = 1, .region[0] = {0, 4096, 0, -4096UL}}}},
        {VHOST_SET_MEM_TABLE, 1, 40, 0, {.table = {.n = 1, .region[0] = {-1UL, 4096, 0, 0}}}},
        {VHOST_SET_MEM_TABLE, 1, 40, 1, {.table = {.n = 1, .region[0] = {0, 4096, 0, 0}}}},
        {VHOST_ADD_MEM_REG, 1, 40, -1, {.one = {0, {0, 4096, 0, 0}}}},
        {VHOST_REM_MEM_REG, 1, 40, -1, {.one = {0, {0, 4096, 0, 0}}}},
        {VHOST_SET_LOG_BASE, 1, 16, -1, {.log = {4096, 0}}},
        {VHOST_SET_LOG_BASE, 1, 16, 0, {.log = {VD_GIB(8), 0}}},
        {VHOST_SET_VRING_NUM, 1, 8, -1, {.state = {0, 0}}},
        {VHOST_SET_VRING_NUM, 1, 8, -1, {.state = {0, 3}}},
        {VHOST_SET_VRING_NUM, 1, 8, -1, {.state = {0, 65536}}},
        {VHOST_SET_VRING_NUM, 1, 8, -1, {.state = {UINT32_MAX, 64}}},
        {VHOST_SET_VRING_KICK, 1, 8, -1, {.u64 = 0}},
        {VHOST_SET_VRING_KICK, 1, 8, -1, {.u64 = 0x100}},
        {VHOST_SET_VRING_KICK, 1, 8, 1, {.u64 = 0}},
        {VHOST_SET_VRING_CALL, 1, 8, 0, {.u64 = 0}},
        {VHOST_SET_VRING_ENABLE, 1, 8, -1, {.state = {0, 2}}},
        {VHOST_SET_BACKEND_REQ_FD, 1, 0, 1, {0}},
        {VHOST_GET_CONFIG, 1, 12, -1, {.config = {.size = 60}}},
        {VHOST_GET_CONFIG, 1, 12, -1, {.config = {.off = UINT32_MAX}}},
        {VHOST_GET_INFLIGHT_FD, 1, 24, -1, {.inflight = {.queues = 65535, .queue_size = 65535}}},
        {VHOST_SET_INFLIGHT_FD, 1, 24, -1, {.inflight = {4096, 0, 1, 64}}},
        {VHOST_SET_INFLIGHT_FD, 1, 24, 0, {.inflight = {64, 0, 256, 1024}}},
        {VHOST_SET_INFLIGHT_FD, 1, 24, 0, {.inflight = {4096, 1, 1, 64}}},
    };
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        static struct front f;
        front_init(&f, client_connect(), VD_MIB(1));
        int fd = cases[i].fd == 0 ? f.mem_fd : cases[i].fd == 1 ? pipes[1] : -1;
        front_send(&f, cases[i].request, cases[i].flags, &cases[i].p, cases[i].len, fd);
        expect_dropped(&f);
    }
    /* A size that nothing has, of which not all comes. */
    struct vhost_header h = {VHOST_SET_MEM_TABLE, 1, UINT32_MAX};
    static struct front f;
    front_init(&f, client_connect(), VD_MIB(1));
    assert_int_equal(send(f.fd, &h, sizeof(h), 0), sizeof(h));
    expect_dropped(&f);
    close(pipes[0]);
    close(pipes[1]);
}

enum ring_case {
    RING_HEAD,
    RING_LOOP,
    RING_INDEX,
    RING_ADDRESS,
    RING_LENGTH,
    RING_NEXT,
    RING_SHORT,
    RING_EMPTY,
    RING_MIXED,
    RING_NO_STATUS,
    RING_INDIRECT_LEN,
    RING_INDIRECT_TWICE,
    RING_INDIRECT_AWAY,
    RING_TWICE,
    RING_CASES
};

static void ring_break(struct front *f, struct front_ring *r, enum ring_case which)
{
    struct vring_desc *d = r->desc;
    uint16_t head = 0;
    front_request(f, r, 0, work_at, VIRTIO_BLK_T_IN, 0, work_data, 512);
    switch (which) {
    case RING_HEAD:
        head = 64;
        break;
    case RING_LOOP:
        d[1].next = 1;
        break;
    case RING_INDEX:
        r->avail_idx = 1000;
        break;
    case RING_ADDRESS:
        d[1].addr = UINT64_MAX - 3;
        break;
    case RING_LENGTH:
        d[1].len = UINT32_MAX;
        break;
    case RING_NEXT:
        d[1].next = 64;
        break;
    case RING_SHORT:
        d[0].len = 15;
        break;
    case RING_EMPTY:
        d[1].len = 0;
        break;
    case RING_MIXED:
        d[2].flags = 0;
        break;
    case RING_NO_STATUS:
        d[0].flags = 0;
        break;
    case RING_INDIRECT_LEN:
        d[0] = (struct vring_desc){front_guest(f, work_data), 17, VRING_DESC_F_INDIRECT, 0};
        break;
    case RING_INDIRECT_TWICE:
        memcpy(work_data,
               &(struct vring_desc){front_guest(f, work_data), 16, VRING_DESC_F_INDIRECT, 0}, 16);
        d[0] = (struct vring_desc){front_guest(f, work_data), 16, VRING_DESC_F_INDIRECT, 0};
        break;
    case RING_INDIRECT_AWAY:
        d[0] = (struct vring_desc){FRONT_GUEST + VD_MIB(4) - 8, 16, VRING_DESC_F_INDIRECT, 0};
        break;
    default:
        front_push(r, head);
        break;
    }
    front_push(r, head);
    front_kick(f, r);
}

static void malformed_rings_drop_their_client(void **state)
{
    static struct front f;
    for (int i = 0; i < RING_CASES; i++) {
        client_open(&f, 0);
        work_alloc(&f);
        ring_break(&f, &f.ring[0], (enum ring_case)i);
        uint64_t one = 1;
        (void)!write(f.ring[0].kick, &one, sizeof(one));
        expect_dropped(&f);
    }
}

static void memory_that_is_cut_short_drops_its_client(void **state)
{
    static struct front f, other;
    client_open(&other, 0);
    client_open(&f, 0);
    work_alloc(&f);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 0, work_data, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(ftruncate(f.mem_fd, 0), 0);
    uint64_t one = 1;
    assert_int_equal(write(f.ring[0].kick, &one, sizeof(one)), sizeof(one));
    struct vhost_header h;
    union vhost_payload p;
    assert_int_equal(front_recv(&f, &h, &p, sizeof(p), NULL), -1);
    front_done(&f);
    work_alloc(&other);
    assert_int_equal(call(&other, VIRTIO_BLK_T_IN, 0, work_data, 512), VIRTIO_BLK_S_OK);
    client_close(&other);
}

/* ---- what survives ---- */

static void stopping_a_ring_drains_it(void **state)
{
    static struct front f;
    client_open(&f, 0);
    work_alloc(&f);
    on_server(do_pause);
    for (unsigned i = 0; i < 5; i++) {
        front_request(&f, &f.ring[0], i, work_at + 32 * i, VIRTIO_BLK_T_IN, i, work_data + 512 * i,
                      512);
        front_push(&f.ring[0], (uint16_t)(3 * i));
    }
    front_kick(&f, &f.ring[0]);
    wait_waiting(5);
    struct vhost_state s = {0, 0};
    front_send(&f, VHOST_GET_VRING_BASE, VHOST_FLAG_VERSION, &s, sizeof(s), -1);
    on_server(do_resume);
    struct vhost_header h;
    assert_int_equal(front_recv(&f, &h, &s, sizeof(s), NULL), sizeof(s));
    assert_int_equal(f.ring[0].used->idx, 5);
    assert_int_equal(s.num, 5);
    /* It stands still, and goes on where it was. */
    front_request(&f, &f.ring[0], 0, work_at, VIRTIO_BLK_T_IN, 0, work_data, 512);
    front_push(&f.ring[0], 0);
    uint64_t one = 1;
    assert_int_equal(write(f.ring[0].kick, &one, sizeof(one)), sizeof(one));
    (void)config_of(&f, 60);
    assert_int_equal(f.ring[0].used->idx, 5);
    front_start(&f, 0, 64, 5, 0);
    for (int i = 0; i < 6; i++)
        wait_one(&f, NULL);
    assert_int_equal(work_at[16], VIRTIO_BLK_S_OK);
    client_close(&f);
}

static void what_was_taken_is_done_again_and_nothing_else(void **state)
{
    static struct front f;
    struct vhost_inflight_desc d = {.queues = 1, .queue_size = 64};
    struct vhost_header h;
    int fd = -1;
    front_init(&f, client_connect(), VD_MIB(4));
    front_negotiate(&f, 0);
    front_share(&f);
    front_send(&f, VHOST_GET_INFLIGHT_FD, VHOST_FLAG_VERSION, &d, sizeof(d), -1);
    assert_int_equal(front_recv(&f, &h, &d, sizeof(d), &fd), sizeof(d));
    assert_true(fd >= 0 && d.size >= 16 + 64 * 16);
    front_send(&f, VHOST_SET_INFLIGHT_FD, VHOST_FLAG_VERSION, &d, sizeof(d), fd);
    front_start(&f, 0, 64, 0, 0);
    work_alloc(&f);
    /* Two are done, then four are taken and the server dies. */
    call(&f, VIRTIO_BLK_T_IN, 0, work_data, 512);
    call(&f, VIRTIO_BLK_T_IN, 0, work_data, 512);
    on_server(do_pause);
    for (unsigned i = 1; i < 5; i++) {
        memset(work_data + 512 * i, (int)i, 512);
        front_request(&f, &f.ring[0], i, work_at + 32 * i, VIRTIO_BLK_T_OUT, 1000 + i,
                      work_data + 512 * i, 512);
        front_push(&f.ring[0], (uint16_t)(3 * i));
    }
    front_kick(&f, &f.ring[0]);
    wait_waiting(4);
    on_server(do_drop);
    unsigned writes = vol->writes;
    on_server(do_resume);
    wait_closed();
    assert_int_equal(f.ring[0].used->idx, 2);
    /* The next one is told where the used ring stands, as QEMU does. */
    struct vhost_inflight_area *a = mmap(NULL, d.size, PROT_READ, MAP_SHARED, fd, 0);
    unsigned marked = 0;
    for (unsigned i = 0; i < 64; i++)
        marked += a->desc[i].inflight;
    assert_int_equal(marked, 4);
    close(f.fd);
    close(f.backend);
    f.fd = client_connect();
    front_negotiate(&f, 0);
    front_share(&f);
    front_send(&f, VHOST_SET_INFLIGHT_FD, VHOST_FLAG_VERSION, &d, sizeof(d), fd);
    front_start(&f, 0, 64, 2, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(work_at[wait_one(&f, NULL) / 3 * 32 + 16], VIRTIO_BLK_S_OK);
    assert_int_equal(vol->writes, writes + 8);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 1003, work_data, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(work_data[0], 3);
    assert_int_equal(f.ring[0].used->idx, 7);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(a->desc[i].inflight, 0);
    munmap(a, d.size);
    close(fd);
    client_close(&f);
}

static bool logged(const uint8_t *log, uint64_t guest)
{
    return log[guest / 4096 / 8] >> guest / 4096 % 8 & 1;
}

static void pages_that_are_written_are_logged(void **state)
{
    static struct front f;
    client_open(&f, 0);
    work_alloc(&f);
    size_t len = (FRONT_GUEST + VD_MIB(4)) / 4096 / 8;
    int fd = memfd_create("log", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    uint8_t *log = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct vhost_log_base base = {len, 0};
    struct vhost_header h;
    union vhost_payload p;
    /* Not before it is asked for. */
    front_send(&f, VHOST_SET_LOG_BASE, VHOST_FLAG_VERSION, &base, sizeof(base), fd);
    assert_true(front_recv(&f, &h, &p, sizeof(p), NULL) >= 0);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 0, work_data, 8192), VIRTIO_BLK_S_OK);
    assert_false(logged(log, front_guest(&f, work_data)));
    struct vhost_addr addr = {.flags = VHOST_ADDR_LOG,
                              .desc = (uintptr_t)f.ring[0].desc,
                              .avail = (uintptr_t)f.ring[0].avail,
                              .used = (uintptr_t)f.ring[0].used,
                              .log = front_guest(&f, f.ring[0].used)};
    front_tell(&f, VHOST_SET_FEATURES, f.features, -1);
    front_send(&f, VHOST_SET_VRING_ADDR, VHOST_FLAG_VERSION, &addr, sizeof(addr), -1);
    (void)config_of(&f, 60);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 0, work_data, 8192), VIRTIO_BLK_S_OK);
    assert_true(logged(log, front_guest(&f, work_data)));
    assert_true(logged(log, front_guest(&f, work_data) + 4096));
    assert_false(logged(log, front_guest(&f, work_data) + 8192));
    assert_true(logged(log, front_guest(&f, work_at)));
    assert_true(logged(log, front_guest(&f, f.ring[0].used)));
    assert_false(logged(log, front_guest(&f, f.ring[0].avail)));
    munmap(log, len);
    client_close(&f);
    close(fd);
}

static void a_new_size_is_told(void **state)
{
    static struct front f, other;
    client_open(&f, 0);
    client_open(&other, 0);
    uint32_t msg[3];
    /* The answer says that the channel is known by now. */
    (void)config_of(&f, 60);
    on_server(do_grow);
    assert_int_equal(recv(f.backend, msg, sizeof(msg), MSG_WAITALL), sizeof(msg));
    assert_int_equal(msg[0], VHOST_BACKEND_CONFIG_CHANGE);
    assert_int_equal(msg[2], 0);
    assert_int_equal(config_of(&f, 60).capacity, VD_MIB(128) / 512);
    work_alloc(&f);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, VD_MIB(100) / 512, work_data, 512),
                     VIRTIO_BLK_S_OK);
    front_done(&f);
    client_close(&other);
}

/* ---- memory that comes and goes ---- */

static void region_tell(struct front *f, uint32_t request, size_t from, size_t to, int fd)
{
    struct vhost_mem_one one = {
        .region = {FRONT_GUEST + from, to - from, (uintptr_t)f->mem + from, from}};
    front_send(f, request, VHOST_FLAG_VERSION | VHOST_FLAG_NEED_REPLY, &one, sizeof(one), fd);
}

static void region_told(struct front *f)
{
    struct vhost_header h;
    uint64_t failed = 1;
    assert_int_equal(front_recv(f, &h, &failed, sizeof(failed), NULL), sizeof(failed));
    assert_int_equal(failed, 0);
}

static void memory_is_added_and_taken_away(void **state)
{
    static struct front f;
    size_t half = VD_MIB(2);
    front_init(&f, client_connect(), 2 * half);
    front_negotiate(&f, 0);
    f.protocol |= UINT64_C(1) << VHOST_PROTOCOL_REPLY_ACK;
    f.mem_len = half; /* the rest is memory that is plugged in later */
    front_share(&f);
    f.mem_len = 2 * half;
    front_start(&f, 0, 64, 0, 0);
    work_alloc(&f);
    uint8_t *later = f.mem + half;
    memset(work_data, 0x5a, 8192);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, 0, work_data, 8192), VIRTIO_BLK_S_OK);
    region_tell(&f, VHOST_ADD_MEM_REG, half, 2 * half, f.mem_fd);
    region_told(&f);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 0, later, 8192), VIRTIO_BLK_S_OK);
    assert_memory_equal(later, work_data, 8192);
    /* It is not gone before the last request that uses it has ended. */
    memset(later, 0, 8192);
    on_server(do_pause);
    front_request(&f, &f.ring[0], 0, work_at, VIRTIO_BLK_T_IN, 0, later, 8192);
    front_push(&f.ring[0], 0);
    front_kick(&f, &f.ring[0]);
    wait_waiting(1);
    region_tell(&f, VHOST_REM_MEM_REG, half, 2 * half, -1);
    struct pollfd p = {.fd = f.fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 50), 0);
    on_server(do_resume);
    region_told(&f);
    assert_int_equal(wait_one(&f, NULL), 0);
    assert_int_equal(work_at[16], VIRTIO_BLK_S_OK);
    assert_memory_equal(later, work_data, 8192);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 0, work_data, 8192), VIRTIO_BLK_S_OK);
    front_request(&f, &f.ring[0], 0, work_at, VIRTIO_BLK_T_IN, 0, later, 8192);
    front_push(&f.ring[0], 0);
    front_kick(&f, &f.ring[0]);
    expect_dropped(&f);
}

/* ---- volumes that come and go ---- */

static int refreshed;
static void refresh_main(void *arg)
{
    refreshed = vd_vhost_refresh(server, NULL);
    sem_post(&sem);
}
static void do_refresh(void)
{
    assert_int_equal(vd_fiber_spawn(loop, "refresh", refresh_main, NULL), 0);
}
static void refresh(void)
{
    on_server(do_refresh);
    sem_wait(&sem);
    assert_int_equal(refreshed, 0);
}
static void do_add(void)
{
    fake_volume_add(&fs, "other", VD_MIB(1))->read_only = true;
}
static void do_look_other(void)
{
    seen_opens = fs.volumes[1].opens;
}
static void do_remove(void)
{
    vd_disk_unref(fs.volumes[--fs.n_volumes].memory);
}

static void volumes_come_and_go_and_may_be_read_only(void **state)
{
    static struct front f;
    assert_int_equal(client_connect_to("other"), -1);
    on_server(do_add);
    refresh();
    front_init(&f, client_connect_to("other"), VD_MIB(4));
    assert_true(f.fd >= 0);
    front_negotiate(&f, 0);
    assert_true(f.features >> VIRTIO_BLK_F_RO & 1);
    assert_false(f.features >> VIRTIO_BLK_F_DISCARD & 1);
    assert_false(f.features >> VIRTIO_BLK_F_WRITE_ZEROES & 1);
    front_share(&f);
    front_start(&f, 0, 64, 0, 0);
    work_alloc(&f);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 0, work_data, 4096), VIRTIO_BLK_S_OK);
    assert_int_equal(call(&f, VIRTIO_BLK_T_OUT, 0, work_data, 4096), VIRTIO_BLK_S_IOERR);
    assert_int_equal(call(&f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(call(&f, VIRTIO_BLK_T_DISCARD, 0, work_data, 16), VIRTIO_BLK_S_UNSUPP);
    front_done(&f);
    do
        on_server(do_look_other);
    while (seen_opens > 0);
    on_server(do_remove);
    refresh();
    assert_int_equal(client_connect_to("other"), -1);
    /* Those that stay are not disturbed. */
    client_open(&f, 0);
    work_alloc(&f);
    assert_int_equal(call(&f, VIRTIO_BLK_T_IN, 0, work_data, 4096), VIRTIO_BLK_S_OK);
    client_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offers_what_it_does_and_no_more),
        /* The first that shares memory: cmocka puts handlers of its own in place for each test, and
         * ours, which is put there once, is seen only by the test that makes it come. */
        cmocka_unit_test(memory_that_is_cut_short_drops_its_client),
        cmocka_unit_test(requests_reach_the_disk),
        cmocka_unit_test(without_a_write_cache_every_write_is_durable),
        cmocka_unit_test(indirect_and_scattered_requests),
        cmocka_unit_test(malformed_messages_drop_their_client),
        cmocka_unit_test(malformed_rings_drop_their_client),
        cmocka_unit_test(stopping_a_ring_drains_it),
        cmocka_unit_test(what_was_taken_is_done_again_and_nothing_else),
        cmocka_unit_test(pages_that_are_written_are_logged),
        cmocka_unit_test(memory_is_added_and_taken_away),
        cmocka_unit_test(volumes_come_and_go_and_may_be_read_only),
        cmocka_unit_test(a_new_size_is_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
