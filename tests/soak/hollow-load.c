/* SPDX-License-Identifier: MIT */
/*
 * hollow-load WHAT POOL VOLUME [OPTION...]: a load on a volume of a hollow pool, in process, so
 * that a volume of 1 TiB can be filled block by block within the hour.
 *
 *   fill       writes every block once, so that each is a run of its own: neighbours on the device
 *              are a cell apart on the disk. Regions of 32 MiB one after another, so that a
 *              merge has little to do; --from REGION
 *   overwrite  random blocks, with another version; --version N (1), --seconds N, --count N
 *   read       random blocks, compared with what was written; --foreign: fio has written, too
 *   --lanes N  so many at a time (256 to fill, else 32)
 *   --pause F  waits while the file F is there
 *   --kill     ends by SIGKILL, so that the pool is left with its log as it is
 * VDISK_LOG=debug tells of checkpoints. What it prints is one line of key=value every ten seconds
 * and at the end; memory is what is anonymous, since the maps of the device are not the pool's.
 */
#include "core/base/hash.h"
#include "core/base/log.h"
#include "core/base/text.h"
#include "snapshot/snapshot.h"
#include "tests/soak/hollow.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REGION_BLOCKS (UINT64_C(1) << 13)
#define LANES_MOST 1024
#define TICK_NS UINT64_C(1000000000)
#define VERSIONS 4

enum what { FILL, OVERWRITE, READ };

/* Latencies: eight steps to each doubling of nanoseconds. */
#define BUCKETS 512
struct latencies {
    uint64_t count[BUCKETS], all, worst;
};

struct load {
    unsigned what; /* enum what */
    const char *pool, *volume, *pause;
    uint64_t from, count, seconds;
    unsigned lanes;
    uint32_t version;
    bool foreign, kill;

    struct vd_disk *disk;
    const struct hollow_head *head;
    struct hollow_head at_start;
    uint64_t blocks; /* of the volume */
    uint64_t next;   /* operation */
    uint64_t done, wrong, started_ns;
    uint64_t anon_most;
    int failed;
    bool paused, stop, over;
    struct vd_waitq go_on;
    struct vd_group group, *watch;
    struct latencies lat;
};

/* ---- what a block holds ---- */

static uint32_t seed_of(uint64_t lba, uint32_t version)
{
    uint64_t key[2] = {lba, version};
    return (uint32_t)vd_xxh3(key, sizeof(key)) % HOLLOW_SEED_MAX + 1;
}

static void block_make(uint8_t *buf, uint64_t lba, uint32_t version)
{
    uint64_t word = htole64(hollow_word(seed_of(lba, version)));
    for (size_t i = 0; i < VD_BLOCK; i += sizeof(word))
        memcpy(buf + i, &word, sizeof(word));
}

/* fio's --buffer_pattern has no idea of numbers, and always the same seed. */
#define FOREIGN_SEED UINT32_C(0x01010101)

static bool block_right(const struct load *l, const uint8_t *buf, uint64_t lba)
{
    uint64_t word;
    memcpy(&word, buf, sizeof(word));
    if (memcmp(buf, buf + sizeof(word), VD_BLOCK - sizeof(word)) != 0)
        return false;
    word = le64toh(word);
    if (l->foreign && word == hollow_word(FOREIGN_SEED))
        return true;
    for (uint32_t v = 0; v < VERSIONS; v++)
        if (word == hollow_word(seed_of(lba, v)))
            return true;
    return false;
}

/* ---- telling ---- */

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 8)
        return (unsigned)ns;
    unsigned top = 63 - (unsigned)__builtin_clzll(ns);
    return (top - 2) * 8 + (unsigned)(ns >> (top - 3) & 7);
}

static uint64_t bucket_end(unsigned b)
{
    return b < 8 ? b : (UINT64_C(8) + b % 8 + 1) << (b / 8 - 1);
}

static void lat_add(struct latencies *l, uint64_t ns)
{
    l->count[VD_MIN(bucket_of(ns), BUCKETS - 1u)]++;
    l->all++;
    l->worst = VD_MAX(l->worst, ns);
}

/* In microseconds; `part` of 10,000. */
static double lat_us(const struct latencies *l, uint64_t part)
{
    uint64_t upto = l->all * part / 10000, sum = 0;
    for (unsigned b = 0; b < BUCKETS; b++)
        if ((sum += l->count[b]) > upto)
            return (double)bucket_end(b) / 1e3;
    return (double)l->worst / 1e3;
}

/* Bytes of /proc/self/status. */
static uint64_t status_bytes(const char *key)
{
    char line[256];
    uint64_t kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtoull(line + strlen(key), NULL, 10);
    if (f)
        fclose(f);
    return kib * 1024;
}

static void tell(struct load *l)
{
    const struct hollow_head *h = l->head, *s = &l->at_start;
    double seconds = (double)(vd_loop_now_ns(vd_loop_current()) - l->started_ns) / 1e9;
    uint64_t reads = h->read_payload + h->read_whole - s->read_payload - s->read_whole;
    uint64_t writes = h->write_payload + h->write_whole - s->write_payload - s->write_whole;
    printf("done=%" PRIu64 " seconds=%.1f iops=%.0f anon_mib=%.1f anon_most_mib=%.1f "
           "device_gib=%.1f store_gib=%.2f reads_per_op=%.3f nodes_per_op=%.3f "
           "written_per_op=%.3f whole_per_op=%.3f p50_us=%.0f p99_us=%.0f p999_us=%.0f "
           "worst_us=%.0f wrong=%" PRIu64 "\n",
           l->done, seconds, seconds > 0 ? (double)l->done / seconds : 0,
           (double)status_bytes("RssAnon:") / 1048576.0, (double)l->anon_most / 1048576.0,
           (double)h->size / 1073741824.0, (double)(h->high * 64 - h->free) * 512 / 1073741824.0,
           (double)reads / (double)VD_MAX(l->done, 1u),
           (double)(h->read_whole - s->read_whole) / (double)VD_MAX(l->done, 1u),
           (double)writes / (double)VD_MAX(l->done, 1u),
           (double)(h->write_whole - s->write_whole) / (double)VD_MAX(l->done, 1u),
           lat_us(&l->lat, 5000), lat_us(&l->lat, 9900), lat_us(&l->lat, 9990),
           (double)l->lat.worst / 1e3, l->wrong);
    fflush(stdout);
}

/* Watches memory, the clock and the file that says pause. */
static void watcher(void *arg)
{
    struct load *l = arg;
    for (unsigned tick = 1; !l->over; tick++) {
        l->anon_most = VD_MAX(l->anon_most, status_bytes("RssAnon:"));
        if (tick % 20 == 0) {
            bool paused = l->pause && access(l->pause, F_OK) == 0;
            if (l->paused && !paused)
                vd_wake_all(&l->go_on);
            l->paused = paused;
            uint64_t ns = vd_loop_now_ns(vd_loop_current()) - l->started_ns;
            l->stop = l->stop || (l->seconds && ns >= l->seconds * UINT64_C(1000000000));
        }
        if (tick % 200 == 0)
            tell(l);
        vd_fiber_sleep(TICK_NS / 20);
    }
    vd_group_done(l->watch);
}

/* ---- the load ---- */

/* Where operation `n` goes. */
static uint64_t lba_of(struct load *l, uint64_t n)
{
    if (l->what != FILL)
        return vd_rng_u64(vd_loop_rng(vd_loop_current())) % l->blocks;
    uint64_t base = n / REGION_BLOCKS * REGION_BLOCKS, in = n % REGION_BLOCKS;
    uint64_t cells = VD_MIN(REGION_BLOCKS, l->blocks - base) / VD_CELL_BLOCKS;
    if (in >= cells * VD_CELL_BLOCKS) /* the end of a volume that is no whole number of cells */
        return base + in;
    return base + in % cells * VD_CELL_BLOCKS + in / cells;
}

static int lane_op(struct load *l, uint64_t lba, uint8_t *buf)
{
    if (l->what == READ) {
        int r = vd_disk_read(l->disk, lba * VD_BLOCK, buf, VD_BLOCK);
        l->wrong += r == 0 && !block_right(l, buf, lba);
        return r;
    }
    block_make(buf, lba, l->what == FILL ? 0 : l->version);
    return vd_disk_write(l->disk, lba * VD_BLOCK, buf, VD_BLOCK, 0);
}

static void lane(void *arg)
{
    struct load *l = arg;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_BLOCK);
    if (!buf)
        l->failed = -ENOMEM;
    while (!l->failed && !l->stop && l->next < l->count) {
        if (l->paused) {
            vd_wait(&l->go_on);
            continue;
        }
        uint64_t from = vd_loop_now_ns(vd_loop_current());
        int r = lane_op(l, lba_of(l, l->next++), buf);
        if (r < 0 && !l->failed)
            l->failed = r;
        lat_add(&l->lat, vd_loop_now_ns(vd_loop_current()) - from);
        l->done++;
    }
    vd_group_done(&l->group);
}

/* VD_YIELDS */
static int run(struct load *l)
{
    struct vd_loop *loop = vd_loop_current();
    struct vd_group watch;
    l->started_ns = vd_loop_now_ns(loop);
    l->at_start = *l->head;
    vd_waitq_init(&l->go_on);
    vd_group_init(&l->group);
    vd_group_init(&watch);
    l->watch = &watch;
    vd_group_add(&watch);
    int r = vd_fiber_spawn(loop, "watcher", watcher, l);
    if (r < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < l->lanes; i++) {
        r = vd_fiber_spawn(loop, "lane", lane, l);
        if (r == 0)
            vd_group_add(&l->group);
    }
    l->failed = r;
    vd_group_wait(&l->group);
    l->over = true;
    vd_group_wait(&watch);
    tell(l);
    if (l->kill)
        (void)kill(getpid(), SIGKILL);
    return l->failed;
}

/* ---- the pool ---- */

static int with_disk(struct load *l, struct vd_store *store, struct vd_error *err)
{
    struct vd_disk_info info;
    int r = vd_store_open(store, (struct vd_target){.volume = l->volume}, l->what == READ, &l->disk,
                          err);
    if (r < 0)
        return r;
    vd_disk_info(l->disk, &info);
    l->blocks = info.size / VD_BLOCK;
    if (l->what == FILL) {
        l->next = VD_MIN(l->from * REGION_BLOCKS, l->blocks);
        l->count = VD_MIN(l->count, l->blocks);
    }
    r = l->blocks ? run(l) : vd_fail(err, -EINVAL, "too-small", "%s is too small", l->volume);
    vd_disk_unref(l->disk);
    if (r < 0 && !err->code)
        vd_fail(err, r, "load-failed", "%s: %s", l->pool, strerror(-r));
    if (r == 0 && l->wrong)
        r = vd_fail(err, -EBADMSG, "wrong", "%" PRIu64 " blocks of %s are wrong", l->wrong,
                    l->volume);
    return r;
}

static int main_fiber(void *arg)
{
    struct load *l = arg;
    struct vd_dev *dev;
    struct vd_store *store;
    struct vd_error err = {0};
    int r = vd_dev_open(l->pool, 0, &dev, &err);
    if (r == 0 && !(l->head = hollow_head_of(dev))) {
        vd_dev_close(dev);
        r = vd_fail(&err, -EINVAL, "not-hollow", "%s is no hollow pool", l->pool);
    }
    uint64_t from = vd_loop_now_ns(vd_loop_current());
    if (r == 0)
        r = vd_store_attach(&dev, 1, 0, &store, &err);
    if (r == 0) {
        printf("opened_s=%.3f anon_mib=%.1f\n",
               (double)(vd_loop_now_ns(vd_loop_current()) - from) / 1e9,
               (double)status_bytes("RssAnon:") / 1048576.0);
        r = with_disk(l, store, &err);
        struct vd_error why = {0};
        int r2 = vd_store_detach(store, &why);
        if (r == 0 && r2 < 0) {
            r = r2;
            err = why;
        }
    }
    if (r < 0)
        fprintf(stderr, "hollow-load: %s\n", err.message);
    return r < 0 ? 1 : 0;
}

static void print_log(void *arg, enum vd_log_level level, const char *message)
{
    fprintf(stderr, "log: %s\n", message);
}

/* One option with its value; how many words, 0 = not understood. */
static int option(struct load *l, const char *name, const char *value)
{
    if (strcmp(name, "--foreign") == 0) {
        l->foreign = true;
        return 1;
    }
    if (strcmp(name, "--kill") == 0) {
        l->kill = true;
        return 1;
    }
    if (!value)
        return 0;
    if (strcmp(name, "--pause") == 0) {
        l->pause = value;
        return 2;
    }
    uint64_t n = strtoull(value, NULL, 10);
    if (strcmp(name, "--from") == 0)
        l->from = n;
    else if (strcmp(name, "--count") == 0)
        l->count = n;
    else if (strcmp(name, "--seconds") == 0)
        l->seconds = n;
    else if (strcmp(name, "--lanes") == 0 && n && n <= LANES_MOST)
        l->lanes = (unsigned)n;
    else if (strcmp(name, "--version") == 0 && n < VERSIONS)
        l->version = (uint32_t)n;
    else
        return 0;
    return 2;
}

int main(int argc, char **argv)
{
    static const char *const words[] = {
        [FILL] = "fill", [OVERWRITE] = "overwrite", [READ] = "read"};
    static struct load l = {.count = UINT64_MAX, .version = 1};
    bool good = argc >= 4;
    l.what = VD_ARRAY_SIZE(words);
    for (unsigned i = 0; good && i < VD_ARRAY_SIZE(words); i++)
        if (strcmp(argv[1], words[i]) == 0)
            l.what = i;
    good = good && l.what < VD_ARRAY_SIZE(words);
    l.lanes = l.what == FILL ? 256 : 32;
    for (int i = 4, used; good && i < argc; i += used)
        good = (used = option(&l, argv[i], i + 1 < argc ? argv[i + 1] : NULL)) != 0;
    if (!good) {
        fprintf(stderr, "usage: hollow-load fill|overwrite|read POOL VOLUME [OPTION...]\n");
        return 2;
    }
    l.pool = argv[2];
    l.volume = argv[3];
    const char *level = getenv("VDISK_LOG");
    vd_log_set_sink(print_log, NULL,
                    level && strcmp(level, "debug") == 0 ? VD_LOG_DEBUG : VD_LOG_WARNING);
    int r = vd_fiber_main(VD_LOOP_AUTO, 0, main_fiber, &l);
    if (r < 0)
        fprintf(stderr, "hollow-load: %s\n", strerror(-r));
    return r < 0 ? 1 : r;
}
