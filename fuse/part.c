/* SPDX-License-Identifier: MIT */
/*
 * Partition tables: libblkid reads them, from a copy of the places where tables can be. It must not
 * read the mount itself, since that is served by the thread which would wait for it, and it must
 * not read the whole disk.
 *
 * Tables are a guest's, so they may say anything: what does not lie inside the disk is left out, so
 * is what goes beyond FUSE_PARTS_MAX, and a chain of logical partitions is followed so far only.
 *
 * Called by jobs. Reading the disk yields, libblkid runs on an offload thread.
 */
#include "core/base/bytes.h"
#include "core/base/text.h"
#include "fuse/fuse_priv.h"

#include <blkid/blkid.h>
#include <sys/mman.h>
#include <unistd.h>

/* Tables lie at the start; GPT has its second copy at the end. */
#define HEAD_LEN VD_KIB(64)
#define TAIL_LEN VD_KIB(64)
#define CHAIN_MAX 64u

struct parse {
    int fd;
    uint64_t size;
    struct fpart *parts;
    unsigned n;
};

/* ---- the copy ---- */

static int copy_range(struct vd_disk *disk, int fd, uint64_t off, size_t len, uint8_t *buf)
{
    int r = vd_disk_read(disk, off, buf, len);
    if (r < 0)
        return r;
    ssize_t n = pwrite(fd, buf, len, (off_t)off);
    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

/* The entry of a boot record that leads to more of them: its first sector, or 0. */
static uint64_t extended_start(const uint8_t *sector, uint64_t base)
{
    if (sector[510] != 0x55 || sector[511] != 0xaa)
        return 0;
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *e = sector + 446 + 16 * i;
        if (e[4] == 0x05 || e[4] == 0x0f || e[4] == 0x85)
            return base + ((uint64_t)e[8] | (uint64_t)e[9] << 8 | (uint64_t)e[10] << 16 |
                           (uint64_t)e[11] << 24);
    }
    return 0;
}

/* Logical partitions are a chain of sectors through the disk, each of which names the next,
 * counted from the first. */
static int copy_chain(struct vd_disk *disk, int fd, uint64_t size, uint8_t *buf)
{
    int r = vd_disk_read(disk, 0, buf, VD_SECTOR);
    uint64_t first = r == 0 ? extended_start(buf, 0) : 0, at = first;
    for (unsigned i = 0; r == 0 && at > 0 && at < size / VD_SECTOR && i < CHAIN_MAX; i++) {
        r = copy_range(disk, fd, at * VD_SECTOR, VD_SECTOR, buf);
        uint64_t next = r == 0 ? extended_start(buf, first) : 0;
        at = next != at && next != first ? next : 0;
    }
    return r;
}

static int copy_tables(struct vd_disk *disk, int fd, uint64_t size)
{
    uint8_t *buf = vd_alloc_aligned(HEAD_LEN);
    int r = buf ? 0 : -ENOMEM;
    if (r == 0)
        r = copy_range(disk, fd, 0, (size_t)VD_MIN(size, HEAD_LEN), buf);
    if (r == 0 && size > HEAD_LEN) {
        uint64_t tail = VD_MAX(HEAD_LEN, size > TAIL_LEN ? size - TAIL_LEN : 0);
        r = copy_range(disk, fd, tail, (size_t)(size - tail), buf);
    }
    if (r == 0)
        r = copy_chain(disk, fd, size, buf);
    free(buf);
    return r;
}

/* ---- what it says ---- */

static int add_part(struct parse *p, blkid_partition part)
{
    uint64_t start = (uint64_t)blkid_partition_get_start(part);
    uint64_t len = (uint64_t)blkid_partition_get_size(part);
    uint64_t sectors = p->size / VD_SECTOR;
    int number = blkid_partition_get_partno(part);
    /* Of the one that holds the logical ones the kernel shows a stump only; we do not. */
    if (blkid_partition_is_extended(part) || number < 1 || number > 9999)
        return 0;
    if (len == 0 || start >= sectors || len > sectors - start)
        return 0;
    for (unsigned i = 0; i < p->n; i++)
        if (p->parts[i].number == (unsigned)number)
            return 0;
    p->parts[p->n++] = (struct fpart){(unsigned)number, start * VD_SECTOR, len * VD_SECTOR};
    return 0;
}

static int parse(void *arg)
{
    struct parse *p = arg;
    blkid_probe pr = blkid_new_probe();
    if (!pr)
        return -ENOMEM;
    if (blkid_probe_set_device(pr, p->fd, 0, 0) == 0 && blkid_probe_enable_partitions(pr, 1) == 0 &&
        blkid_probe_enable_superblocks(pr, 0) == 0) {
        blkid_partlist list = blkid_probe_get_partitions(pr);
        int n = list ? blkid_partlist_numof_partitions(list) : 0;
        for (int i = 0; i < n && p->n < FUSE_PARTS_MAX; i++) {
            blkid_partition part = blkid_partlist_get_partition(list, i);
            if (part)
                add_part(p, part);
        }
    }
    blkid_free_probe(pr);
    return 0;
}

int fpart_read(struct vd_disk *disk, struct fpart **ret, unsigned *n)
{
    struct vd_disk_info info;
    vd_disk_info(disk, &info);
    struct parse p = {.size = info.size};
    p.parts = calloc(FUSE_PARTS_MAX, sizeof(*p.parts));
    if (!p.parts)
        return -ENOMEM;
    p.fd = memfd_create("vdisk-partitions", MFD_CLOEXEC);
    int r = p.fd < 0 || ftruncate(p.fd, (off_t)info.size) < 0 ? -errno : 0;
    if (r == 0)
        r = copy_tables(disk, p.fd, info.size);
    if (r == 0)
        r = vd_offload(parse, &p);
    if (p.fd >= 0)
        close(p.fd);
    if (r < 0) {
        free(p.parts);
        return r;
    }
    *ret = p.parts;
    *n = p.n;
    return 0;
}

int fpart_list(struct vd_fuse_server *s, const struct fnode *n, struct fpart **ret, unsigned *cnt)
{
    struct fdisk *d;
    int r = fdisk_open(s, n, false, 0, 0, &d);
    if (r < 0)
        return r;
    r = fdisk_enter(d);
    if (r == 0) {
        r = fpart_read(d->disk, ret, cnt);
        fdisk_leave(d);
    }
    fdisk_close(d);
    return r;
}
