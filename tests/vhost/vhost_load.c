/* SPDX-License-Identifier: MIT */
/*
 * vhost_load SOCKET [--depth N] [--bs N] [--seconds N] [--read | --write | --verify] [--queues N]
 *            [--json]
 *
 * Puts load on a vhost-user-blk server, ours or another's, and prints IOPS and latencies: random
 * requests of `bs` bytes, `depth` of them under way in all. --verify writes blocks that say which
 * they are and in which round, reads each back, and ends with status 1 if one is not what it should
 * be.
 */
#include "core/block/histogram.h"
#include "tests/vhost/frontend.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct slot {
    uint8_t *at, *data;
    uint64_t block, round, since_ns;
    bool reading, busy;
};

struct load {
    struct front f;
    unsigned depth, queues, seconds;
    uint32_t bs;
    enum { LOAD_READ, LOAD_WRITE, LOAD_VERIFY } mode;
    bool json;
    uint64_t blocks, rng, done, bad, round;
    struct vd_histogram latency;
    struct slot slot[256];
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t random_below(struct load *l, uint64_t n)
{
    l->rng ^= l->rng << 13;
    l->rng ^= l->rng >> 7;
    l->rng ^= l->rng << 17;
    return l->rng % n;
}

static void fill(const struct load *l, const struct slot *s, uint8_t *to)
{
    for (uint32_t i = 0; i < l->bs; i += 16) {
        uint64_t v[2] = {s->block * l->bs + i, s->round};
        memcpy(to + i, v, sizeof(v));
    }
}

static void put(struct load *l, struct front_ring *r, unsigned n)
{
    struct slot *s = &l->slot[n];
    uint32_t type = s->reading ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
    s->busy = true;
    s->since_ns = now_ns();
    front_request(&l->f, r, n / l->queues, s->at, type, s->block * (l->bs / 512), s->data, l->bs);
    front_push(r, (uint16_t)(3 * (n / l->queues)));
}

/* What comes after what the slot has just done. */
static void next(struct load *l, struct front_ring *r, unsigned n)
{
    struct slot *s = &l->slot[n];
    if (l->mode == LOAD_VERIFY && s->busy && !s->reading) {
        s->reading = true;
        memset(s->data, 0xaa, l->bs);
    } else {
        /* Each slot has blocks of its own, so nobody else writes what it reads back. */
        s->block = l->mode == LOAD_VERIFY ? random_below(l, l->blocks / l->depth) * l->depth + n
                                          : random_below(l, l->blocks);
        s->reading = l->mode == LOAD_READ;
        s->round = ++l->round;
        if (!s->reading)
            fill(l, s, s->data);
    }
    put(l, r, n);
}

static void finish(struct load *l, unsigned n)
{
    static uint8_t want[1 << 20];
    struct slot *s = &l->slot[n];
    l->done++;
    vd_histogram_add(&l->latency, now_ns() - s->since_ns);
    if (s->at[16] != VIRTIO_BLK_S_OK)
        l->bad++;
    if (l->mode != LOAD_VERIFY || !s->reading)
        return;
    fill(l, s, want);
    if (memcmp(want, s->data, l->bs) != 0)
        l->bad++;
}

static void run(struct load *l)
{
    uint64_t begin = now_ns(), end = begin + l->seconds * UINT64_C(1000000000), kicks = 0;
    for (unsigned n = 0; n < l->depth; n++)
        next(l, &l->f.ring[n % l->queues], n);
    for (unsigned q = 0; q < l->queues; q++)
        front_kick(&l->f, &l->f.ring[q]);
    while (now_ns() < end) {
        bool any = false;
        for (unsigned q = 0; q < l->queues; q++) {
            struct front_ring *r = &l->f.ring[q];
            bool some = false;
            for (int head; (head = front_pop(r, NULL)) >= 0; some = true) {
                unsigned n = (unsigned)head / 3 * l->queues + q;
                finish(l, n);
                next(l, r, n);
            }
            if (some)
                front_kick(&l->f, r);
            any |= some;
        }
        /* With one ring a guest would sleep; with several it has a processor for each. */
        if (!any && l->queues == 1)
            front_wait(&l->f, &l->f.ring[0]);
    }
    double seconds = (double)(now_ns() - begin) / 1e9;
    for (unsigned q = 0; q < l->queues; q++) {
        (void)front_stop(&l->f, q);
        kicks += l->f.ring[q].kicks;
    }
    double p50_us = (double)vd_histogram_quantile_ns(&l->latency, 0.5) / 1e3;
    double p999_us = (double)vd_histogram_quantile_ns(&l->latency, 0.999) / 1e3;
    printf(l->json ? "{\"iops\": %.1f, \"requests\": %" PRIu64 ", \"kicks\": %" PRIu64
                     ", \"bad\": %" PRIu64 ", \"p50_us\": %.1f, \"p999_us\": %.1f}\n"
                   : "%.0f IOPS, %" PRIu64 " requests, %" PRIu64 " kicks, %" PRIu64
                     " bad, half within %.0f us, 99.9 %% within %.0f us\n",
           (double)l->done / seconds, l->done, kicks, l->bad, p50_us, p999_us);
}

static int connect_to(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        perror(path);
        exit(2);
    }
    return fd;
}

static void setup(struct load *l, const char *path)
{
    struct vhost_config config = {.size = sizeof(struct virtio_blk_config)};
    struct virtio_blk_config blk;
    struct vhost_header h;
    if (config.size > 60)
        config.size = 60;
    front_init(&l->f, connect_to(path), VD_MIB(8) + (size_t)l->depth * (l->bs + 8192));
    front_negotiate(&l->f, 0);
    front_send(&l->f, VHOST_GET_CONFIG, VHOST_FLAG_VERSION, &config, 12 + config.size, -1);
    if (front_recv(&l->f, &h, &config, sizeof(config), NULL) < 12)
        exit(2);
    memcpy(&blk, config.data, 60);
    l->blocks = blk.capacity * 512 / l->bs;
    front_share(&l->f);
    for (unsigned q = 0; q < l->queues; q++)
        front_start(&l->f, q, FRONT_RING_MAX, 0, 0);
    for (unsigned n = 0; n < l->depth; n++) {
        l->slot[n].at = front_alloc(&l->f, 32);
        l->slot[n].data = front_alloc(&l->f, l->bs);
    }
}

static unsigned number(const char *text, unsigned max)
{
    unsigned long n = text ? strtoul(text, NULL, 10) : 0;
    if (n == 0 || n > max) {
        fprintf(stderr, "vhost_load: a number from 1 to %u is wanted\n", max);
        exit(2);
    }
    return (unsigned)n;
}

int main(int argc, char **argv)
{
    static struct load l = {
        .depth = 32, .queues = 1, .seconds = 2, .bs = 4096, .rng = UINT64_C(0x9e3779b97f4a7c15)};
    if (argc < 2) {
        fprintf(stderr, "usage: vhost_load SOCKET [OPTION...]\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--read") == 0)
            l.mode = LOAD_READ;
        else if (strcmp(argv[i], "--write") == 0)
            l.mode = LOAD_WRITE;
        else if (strcmp(argv[i], "--verify") == 0)
            l.mode = LOAD_VERIFY;
        else if (strcmp(argv[i], "--json") == 0)
            l.json = true;
        else if (strcmp(argv[i], "--depth") == 0)
            l.depth = number(argv[++i], 80);
        else if (strcmp(argv[i], "--bs") == 0)
            l.bs = number(argv[++i], 1 << 20) / 512 * 512;
        else if (strcmp(argv[i], "--seconds") == 0)
            l.seconds = number(argv[++i], 100000);
        else if (strcmp(argv[i], "--queues") == 0)
            l.queues = number(argv[++i], 8);
        else
            return 2;
    }
    setup(&l, argv[1]);
    run(&l);
    front_done(&l.f);
    return l.bad > 0;
}
