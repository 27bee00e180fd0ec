/* SPDX-License-Identifier: MIT */
/*
 * The device that keeps no payload (hollow.h). Of each block the map has 32 bits: 0, it was not
 * written or is zero; a seed, it is payload; else the place of its compressed bytes in the store,
 * in sectors of 512 bytes. A map of bits says which sectors are in use.
 *
 * Both maps are mapped files, so what they take is the host's page cache and no memory of the
 * process: what the pool takes is what is anonymous (RssAnon).
 *
 * Invariant: between two instructions of the loop's thread that may be the last, at worst sectors
 * are lost: they are taken before the map names them, and given back after it does not.
 *
 * Everything takes one turn of the loop; only reads of what is not in the page cache wait longer.
 */
#include "tests/soak/hollow.h"

#include "core/base/hash.h"
#include "core/base/text.h"

#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x0a776f6c6c6f6876)
#define SECTOR 512u
#define BLOCKS_MOST (UINT64_C(1) << 30) /* 4 TiB */
#define SECTORS_MOST (UINT64_C(1) << 28)
#define MAP_BYTES (BLOCKS_MOST * sizeof(uint32_t))
#define USED_BYTES (VD_BLOCK + SECTORS_MOST / 8)
#define WHOLE UINT32_C(0x80000000) /* | sectors - 1 << 28 | first sector */
#define RAW 8u                     /* sectors of a block that does not compress */

struct hollow {
    struct vd_dev dev;
    struct vd_dev *file; /* the store as a device: its lock, its identity */
    int fd;
    uint32_t *map;
    struct hollow_head *head;
    uint64_t *used; /* one bit for each sector */
    uint64_t most;  /* words of it */
    bool sync;
    uint8_t buf[2 + VD_BLOCK]; /* of the block that is being kept */
};

static struct hollow *hollow_of(struct vd_dev *dev)
{
    return vd_container_of(dev, struct hollow, dev);
}

/* ---- sectors ---- */

static unsigned place_sectors(uint32_t place)
{
    return (place >> 28 & 7) + 1;
}

static uint64_t place_first(uint32_t place)
{
    return place & (SECTORS_MOST - 1);
}

static void sectors_give(struct hollow *h, uint32_t place)
{
    uint64_t first = place_first(place), bits = (UINT64_C(1) << place_sectors(place)) - 1;
    h->used[first / 64] &= ~(bits << first % 64);
    h->head->free += place_sectors(place);
}

/* Takes n neighbours within one word; 0 = there are none. */
static uint32_t word_take(struct hollow *h, uint64_t word, unsigned n)
{
    uint64_t fit = ~h->used[word];
    for (unsigned i = 1; i < n; i++)
        fit &= fit >> 1; /* bit b: b .. b + i are free */
    if (fit == 0)
        return 0;
    unsigned at = (unsigned)__builtin_ctzll(fit);
    h->used[word] |= ((UINT64_C(1) << n) - 1) << at;
    h->head->free -= n;
    return WHOLE | (n - 1) << 28 | (uint32_t)(word * 64 + at);
}

/* Grows while there is hardly anything free, so the search is short. 0 = full. */
static uint32_t sectors_take(struct hollow *h, unsigned n)
{
    struct hollow_head *hd = h->head;
    bool full = hd->high == h->most;
    uint64_t tries = full || hd->free > hd->high * 64 / 8 ? hd->high : VD_MIN(hd->high, 4u);
    uint32_t place;
    for (uint64_t i = 0; i < tries; i++) {
        if (hd->next >= hd->high)
            hd->next = 0;
        if ((place = word_take(h, hd->next, n)))
            return place;
        hd->next++;
    }
    if (full)
        return 0;
    hd->next = hd->high++;
    hd->free += 64;
    return word_take(h, hd->next, n);
}

/* ---- blocks ---- */

/* The seed of a payload block, else 0. */
static uint32_t payload_seed(const uint8_t *block)
{
    uint64_t word;
    memcpy(&word, block, sizeof(word));
    word = le64toh(word);
    if ((uint32_t)word != HOLLOW_TAG || word >> 63 ||
        memcmp(block, block + sizeof(word), VD_BLOCK - sizeof(word)) != 0)
        return 0;
    return (uint32_t)(word >> 32);
}

static void payload_make(uint8_t *block, uint32_t seed)
{
    uint64_t word = htole64(hollow_word(seed));
    for (size_t i = 0; i < VD_BLOCK; i += sizeof(word))
        memcpy(block + i, &word, sizeof(word));
}

static void block_set(struct hollow *h, uint64_t block, uint32_t to)
{
    uint32_t before = h->map[block];
    h->map[block] = to;
    if (before & WHOLE)
        sectors_give(h, before);
}

static int block_keep(struct hollow *h, uint64_t block, const uint8_t *data)
{
    uint8_t *buf = h->buf;
    int most = (int)(RAW - 1) * (int)SECTOR - 2;
    int len = LZ4_compress_default((const char *)data, (char *)buf + 2, VD_BLOCK, most);
    unsigned n = len > 0 ? VD_DIV_UP((unsigned)len + 2, SECTOR) : RAW;
    uint32_t place = sectors_take(h, n);
    if (!place)
        return -ENOSPC;
    buf[0] = (uint8_t)len;
    buf[1] = (uint8_t)(len >> 8);
    size_t bytes = n * SECTOR;
    ssize_t r = pwrite(h->fd, len > 0 ? buf : data, bytes, (off_t)(place_first(place) * SECTOR));
    if (r != (ssize_t)bytes) {
        sectors_give(h, place);
        return r < 0 && errno == ENOSPC ? -ENOSPC : -EIO;
    }
    block_set(h, block, place);
    return 0;
}

static int block_write(struct hollow *h, uint64_t block, const uint8_t *data)
{
    uint32_t seed = payload_seed(data);
    if (!seed && !vd_is_zero(data, VD_BLOCK)) {
        h->head->write_whole++;
        return block_keep(h, block, data);
    }
    h->head->write_payload++;
    block_set(h, block, seed);
    return 0;
}

struct load {
    int fd;
    uint32_t place;
    uint8_t buf[VD_BLOCK];
    int flags;
};

static int load_call(void *arg)
{
    struct load *l = arg;
    struct iovec iov = {l->buf, place_sectors(l->place) * SECTOR};
    ssize_t r = preadv2(l->fd, &iov, 1, (off_t)(place_first(l->place) * SECTOR), l->flags);
    return r == (ssize_t)iov.iov_len ? 0 : r < 0 ? -errno : -EAGAIN;
}

/* VD_YIELDS */
static int block_load(struct hollow *h, uint32_t place, uint8_t *to)
{
    struct load *l VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*l));
    if (!l)
        return -ENOMEM;
    *l = (struct load){.fd = h->fd, .place = place, .flags = RWF_NOWAIT};
    int r = load_call(l);
    if (r < 0) {
        l->flags = 0;
        r = vd_offload(load_call, l);
    }
    if (r < 0)
        return -EIO;
    if (place_sectors(place) == RAW) {
        memcpy(to, l->buf, VD_BLOCK);
        return 0;
    }
    int len = l->buf[0] | l->buf[1] << 8;
    if (len + 2 > (int)sizeof(l->buf) ||
        LZ4_decompress_safe((char *)l->buf + 2, (char *)to, len, VD_BLOCK) != VD_BLOCK)
        return -EIO;
    return 0;
}

static int block_read(struct hollow *h, uint64_t block, uint8_t *to)
{
    uint32_t what = h->map[block];
    if (what & WHOLE) {
        h->head->read_whole++;
        return block_load(h, what, to);
    }
    h->head->read_payload++;
    if (what)
        payload_make(to, what);
    else
        memset(to, 0, VD_BLOCK);
    return 0;
}

/* ---- the device ---- */

static int io_run(struct hollow *h, const struct vd_io *io)
{
    uint64_t block = io->off / VD_BLOCK, len = 0;
    for (int i = 0; i < io->iovcnt; i++)
        len += io->iov[i].iov_len;
    if (io->off + len > BLOCKS_MOST * VD_BLOCK)
        return io->op == VD_IO_READ ? -EIO : -ENOSPC;
    if (io->op == VD_IO_READ && io->off + len > h->head->size)
        return -EIO;
    (*(io->op == VD_IO_READ ? &h->head->read_calls : &h->head->write_calls))++;
    int r = 0;
    for (int i = 0; r == 0 && i < io->iovcnt; i++)
        for (size_t at = 0; r == 0 && at < io->iov[i].iov_len; at += VD_BLOCK, block++) {
            uint8_t *data = (uint8_t *)io->iov[i].iov_base + at;
            r = io->op == VD_IO_READ ? block_read(h, block, data) : block_write(h, block, data);
        }
    if (r == 0 && io->op == VD_IO_WRITE && io->off + len > h->head->size)
        h->head->size = io->off + len;
    return r;
}

static int ios_run(struct hollow *h, struct vd_io *ios, int n)
{
    int failed = 0;
    for (int i = 0; i < n; i++) {
        ios[i].res = io_run(h, &ios[i]);
        failed = failed ? failed : ios[i].res;
    }
    return failed;
}

static int hollow_io(struct vd_dev *dev, struct vd_io *ios, int n)
{
    int r = ios_run(hollow_of(dev), ios, n);
    if (!(ios[0].flags & VD_IO_CACHED))
        vd_fiber_yield();
    return r;
}

static bool hollow_begin(struct vd_dev *dev, struct vd_io_batch *batch)
{
    batch->begun = batch->n;
    return ios_run(hollow_of(dev), batch->ios, batch->n) == 0;
}

static void hollow_end(struct vd_dev *dev, struct vd_io_batch *batch)
{
    vd_fiber_yield();
}

static int sync_call(void *arg)
{
    return fdatasync(((struct hollow *)arg)->fd) < 0 ? -EIO : 0;
}

static int hollow_flush(struct vd_dev *dev)
{
    struct hollow *h = hollow_of(dev);
    h->head->flushes++;
    if (h->sync)
        return vd_offload(sync_call, h);
    vd_fiber_yield();
    return 0;
}

static int hollow_allocate(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    struct hollow *h = hollow_of(dev);
    if (off + len > BLOCKS_MOST * VD_BLOCK)
        return -ENOSPC;
    vd_fiber_yield(); /* those that wait for this have to be seen waiting no more */
    h->head->size = VD_MAX(h->head->size, off + len);
    return 0;
}

static int hollow_punch(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    struct hollow *h = hollow_of(dev);
    vd_fiber_yield();
    uint64_t end = VD_MIN(off + len, h->head->size) / VD_BLOCK;
    for (uint64_t block = off / VD_BLOCK; block < end; block++)
        block_set(h, block, 0);
    return 0;
}

static int hollow_truncate(struct vd_dev *dev, uint64_t size)
{
    struct hollow *h = hollow_of(dev);
    if (size > BLOCKS_MOST * VD_BLOCK)
        return -ENOSPC;
    if (size < h->head->size)
        hollow_punch(dev, size, h->head->size - size);
    h->head->size = size;
    return 0;
}

static void hollow_info(struct vd_dev *dev, struct vd_dev_info *ret)
{
    struct hollow *h = hollow_of(dev);
    vd_dev_info(h->file, ret);
    ret->size = ret->allocated = h->head->size;
    ret->can_allocate = ret->can_punch = true;
    ret->hands_over = ret->caches = !dev->read_only;
}

static void hollow_close(struct vd_dev *dev)
{
    struct hollow *h = hollow_of(dev);
    if (h->map)
        munmap(h->map, MAP_BYTES);
    if (h->head)
        munmap(h->head, USED_BYTES);
    if (h->fd >= 0)
        close(h->fd);
    vd_dev_close(h->file);
    free(dev->path);
    free(h);
}

static const struct vd_dev_ops hollow_ops = {
    .io = hollow_io,
    .begin = hollow_begin,
    .end = hollow_end,
    .flush = hollow_flush,
    .allocate = hollow_allocate,
    .punch = hollow_punch,
    .truncate = hollow_truncate,
    .info = hollow_info,
    .close = hollow_close,
};

const struct hollow_head *hollow_head_of(struct vd_dev *dev)
{
    return dev->ops == &hollow_ops ? hollow_of(dev)->head : NULL;
}

/* ---- opening ---- */

/* Opens PATH with the suffix and maps it, for the first time or again. */
static void *map_file(const char *path, const char *suffix, uint64_t bytes, bool create)
{
    char *name VD_CLEANUP(vd_cleanup_free) = NULL;
    if (asprintf(&name, "%s%s", path, suffix) < 0) {
        name = NULL;
        return NULL;
    }
    int fd = open(name, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);
    void *p = MAP_FAILED;
    if (fd >= 0 && (!create || ftruncate(fd, (off_t)bytes) == 0))
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED)
        (void)madvise(p, bytes, MADV_RANDOM);
    if (fd >= 0)
        close(fd);
    return p == MAP_FAILED ? NULL : p;
}

static int hollow_open(struct hollow *h, const char *path, unsigned flags, struct vd_error *err)
{
    const char *sync = getenv("VDISK_HOLLOW_SYNC"), *most = getenv("VDISK_HOLLOW_MAX");
    bool create = flags & VD_DEV_CREATE;
    h->sync = sync && strcmp(sync, "1") == 0;
    h->fd = open(path, O_RDWR | O_CLOEXEC);
    h->map = map_file(path, ".map", MAP_BYTES, create);
    h->head = map_file(path, ".used", USED_BYTES, create);
    if (h->fd < 0 || !h->map || !h->head)
        return vd_fail_at(err, -errno, "%s and what belongs to it cannot be opened", path);
    (void)posix_fadvise(h->fd, 0, 0, POSIX_FADV_RANDOM);
    h->used = (uint64_t *)(void *)((uint8_t *)h->head + VD_BLOCK);
    h->most = VD_GIB(most ? strtoull(most, NULL, 10) : 32) / SECTOR / 64;
    h->most = VD_MIN(h->most, SECTORS_MOST / 64);
    if (create)
        h->head->magic = MAGIC;
    if (h->head->magic != MAGIC)
        return vd_fail(err, -EINVAL, "not-hollow", "%s.used is of something else", path);
    return 0;
}

int __wrap_vd_dev_open(const char *path, unsigned flags, struct vd_dev **ret, struct vd_error *err)
{
    size_t len = strlen(path);
    struct vd_dev *file;
    int r = __real_vd_dev_open(path, flags, &file, err);
    if (r < 0 || len < 7 || strcmp(path + len - 7, ".hollow") != 0) {
        if (r == 0)
            *ret = file;
        return r;
    }
    struct hollow *h = calloc(1, sizeof(*h));
    char *copy = strdup(path);
    if (!h || !copy) {
        free(h);
        free(copy);
        vd_dev_close(file);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    h->dev.ops = &hollow_ops;
    h->dev.path = copy;
    h->dev.read_only = flags & VD_DEV_RDONLY;
    h->file = file;
    r = hollow_open(h, path, flags, err);
    if (r < 0)
        hollow_close(&h->dev);
    else
        *ret = &h->dev;
    return r;
}
