/* SPDX-License-Identifier: MIT */
/*
 * The raw-file disk against a plain array: aligned and unaligned memory, direct and buffered
 * transfers, odd tails, holes; on the file system of $TMPDIR or /var/tmp, and on tmpfs, which may
 * know no O_DIRECT.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/base/text.h"
#include "core/block/disk.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTORS 3072
#define SIZE (SECTORS * (uint64_t)VD_SECTOR)
#define MAX_SECTORS 600

/* An unnamed file; on_disk false = in memory. */
static int file_new(bool on_disk, uint64_t size)
{
    const char *dir = getenv("TMPDIR");
    int fd = on_disk ? open(dir ? dir : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)
                     : memfd_create("raw-test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

struct model {
    struct vd_disk *disk;
    struct vd_rng rng;
    uint8_t *bytes; /* what the disk must hold */
    uint8_t *buf;   /* aligned */
};

/* A range, sometimes in whole blocks. */
static void pick(struct model *m, uint64_t *off, uint64_t *len)
{
    uint64_t unit = vd_rng_below(&m->rng, 2) ? VD_BLOCK : VD_SECTOR;
    *off = vd_rng_below(&m->rng, SIZE / unit) * unit;
    *len = (1 + vd_rng_below(&m->rng, MAX_SECTORS * VD_SECTOR / unit)) * unit;
    *len = VD_MIN(*len, SIZE - *off);
}

/* The same bytes cut into a vector of odd parts; returns how many. */
static int cut(struct model *m, uint8_t *buf, uint64_t len, struct iovec *iov, int max)
{
    int n = 0;
    while (len > 0) {
        uint64_t part = n == max - 1 ? len : 1 + vd_rng_below(&m->rng, len);
        if (n < max - 1 && vd_rng_below(&m->rng, 2) && part > VD_BLOCK)
            part = VD_ROUND_DOWN(part, VD_BLOCK);
        iov[n++] = (struct iovec){.iov_base = buf, .iov_len = part};
        buf += part;
        len -= part;
    }
    return n;
}

/* Each sector of a discarded range is as it was, or zeroes; whole blocks are zeroes here. */
static void discarded(struct model *m, uint64_t off, const uint8_t *buf, uint64_t len)
{
    static const uint8_t zeroes[VD_SECTOR];
    for (uint64_t at = off; at < off + len; at += VD_SECTOR, buf += VD_SECTOR) {
        uint64_t block = VD_ROUND_DOWN(at, VD_BLOCK);
        bool whole = block >= off && block + VD_BLOCK <= off + len;
        if (whole || memcmp(buf, m->bytes + at, VD_SECTOR) != 0)
            assert_memory_equal(buf, zeroes, VD_SECTOR);
        memcpy(m->bytes + at, buf, VD_SECTOR);
    }
}

static void step(struct model *m)
{
    uint64_t off, len;
    struct iovec iov[5];
    unsigned fua = vd_rng_below(&m->rng, 10) == 0 ? VD_DISK_FUA : 0;
    uint8_t *buf = m->buf + (vd_rng_below(&m->rng, 2) ? 0 : 8);
    pick(m, &off, &len);
    int n = cut(m, buf, len, iov, 5);
    switch (vd_rng_below(&m->rng, 8)) {
    case 0:
    case 1:
    case 2:
        vd_rng_fill(&m->rng, buf, len);
        assert_int_equal(vd_disk_writev(m->disk, off, iov, n, fua), 0);
        memcpy(m->bytes + off, buf, len);
        break;
    case 3:
        assert_int_equal(vd_disk_zero(m->disk, off, len, fua | (len & 1024 ? VD_DISK_NO_UNMAP : 0)),
                         0);
        memset(m->bytes + off, 0, len);
        break;
    case 4:
        assert_int_equal(vd_disk_discard(m->disk, off, len, fua), 0);
        assert_int_equal(vd_disk_readv(m->disk, off, iov, n, 0), 0);
        discarded(m, off, buf, len);
        break;
    case 5:
        assert_int_equal(vd_disk_flush(m->disk), 0);
        break;
    default:
        memset(buf, 0xee, len);
        assert_int_equal(vd_disk_readv(m->disk, off, iov, n, 0), 0);
        assert_memory_equal(buf, m->bytes + off, len);
    }
}

/* Holes must read as zeroes and cover [0, SIZE) with the rest. */
static void check_extents(struct model *m)
{
    struct vd_extent ext[2];
    for (uint64_t off = 0; off < SIZE;) {
        int n = 2;
        assert_int_equal(vd_disk_extents(m->disk, off, SIZE - off, ext, &n), 0);
        for (int i = 0; i < n; i++) {
            assert_int_equal(ext[i].off, off);
            assert_int_equal((ext[i].off | ext[i].len) % VD_SECTOR, 0);
            for (uint64_t k = 0; (ext[i].flags & VD_EXTENT_ZERO) && k < ext[i].len; k++)
                assert_int_equal(m->bytes[off + k], 0);
            off += ext[i].len;
        }
    }
}

static int model_run(void *arg)
{
    struct model m = {0};
    struct vd_error err = {0};
    int fd = *(int *)arg;
    m.bytes = calloc(1, SIZE);
    m.buf = vd_alloc_aligned(MAX_SECTORS * VD_SECTOR + VD_BLOCK);
    vd_rng_seed(&m.rng, 42);
    assert_non_null(m.bytes);
    assert_non_null(m.buf);
    assert_int_equal(vd_disk_raw(fd, false, &m.disk, &err), 0);
    for (unsigned i = 0; i < 600; i++) {
        step(&m);
        if (i % 50 == 0)
            check_extents(&m);
    }
    vd_disk_unref(m.disk);
    free(m.bytes);
    free(m.buf);
    return 0;
}

static void a_file_is_an_array(void **state)
{
    int fd = file_new(true, SIZE);
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, model_run, &fd), 0);
}

static void a_file_in_memory_is_an_array(void **state)
{
    int fd = file_new(false, SIZE);
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, model_run, &fd), 0);
}

/* A loop device over `backing`, detached by the kernel when its last user goes; -1 = not here. */
static int loop_device(int backing, unsigned block)
{
    char path[32];
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return -1;
    /* Another process may take the free one first. */
    for (int i = 0; i < 16; i++) {
        struct loop_config config = {
            .fd = (unsigned)backing, .block_size = block, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
        int n = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(path, sizeof(path), "/dev/loop%d", n);
        int fd = n < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            close(control);
            return fd;
        }
        if (fd < 0 || errno != EBUSY)
            break;
        close(fd);
    }
    close(control);
    return -1;
}

static void block_device(unsigned block)
{
    int backing = file_new(true, SIZE), fd = loop_device(backing, block);
    close(backing);
    if (fd < 0)
        skip();
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, model_run, &fd), 0);
}

static void a_block_device_is_an_array(void **state)
{
    block_device(512);
}

/* Its sectors are smaller than what it can transfer: they go through the page cache. */
static void a_block_device_of_4k_is_an_array(void **state)
{
    block_device(4096);
}

/* Many at once, direct and buffered mixed: each writes its own 512 bytes of shared 4 KiB pages, so
 * a read-modify-write that loses a neighbour's bytes shows. */
struct neighbour {
    struct vd_disk *disk;
    struct vd_group *group;
    unsigned idx;
};

static void neighbour_main(void *arg)
{
    struct neighbour *nb = arg;
    uint8_t buf[VD_SECTOR];
    for (unsigned round = 0; round < 50; round++) {
        memset(buf, (int)(nb->idx * 50 + round), sizeof(buf));
        assert_int_equal(vd_disk_write(nb->disk, nb->idx * VD_SECTOR, buf, VD_SECTOR, 0), 0);
    }
    vd_group_done(nb->group);
}

static int neighbours_run(void *arg)
{
    struct vd_disk *d;
    struct vd_group group;
    struct neighbour nb[16];
    uint8_t buf[VD_SECTOR];
    assert_int_equal(vd_disk_raw(file_new(true, VD_KIB(64)), false, &d, NULL), 0);
    vd_group_init(&group);
    for (unsigned i = 0; i < 16; i++) {
        nb[i] = (struct neighbour){.disk = d, .group = &group, .idx = i};
        vd_group_add(&group);
        assert_int_equal(vd_fiber_spawn(vd_loop_current(), "neighbour", neighbour_main, &nb[i]), 0);
    }
    vd_group_wait(&group);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(vd_disk_read(d, i * VD_SECTOR, buf, VD_SECTOR), 0);
        assert_int_equal(buf[0], (uint8_t)(i * 50 + 49));
        assert_int_equal(buf[511], (uint8_t)(i * 50 + 49));
    }
    vd_disk_unref(d);
    return 0;
}

static void sectors_of_one_page_do_not_disturb_each_other(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, neighbours_run, NULL), 0);
}

static int tail_run(void *arg)
{
    struct vd_disk_info info;
    struct vd_disk *d;
    uint8_t *buf = vd_alloc_aligned(VD_KIB(8));
    int fd = file_new(*(bool *)arg, 0), fd2 = dup(fd);
    assert_non_null(buf);
    memset(buf, 'x', VD_KIB(8));
    assert_int_equal(pwrite(fd, buf, 5000, 0), 5000);
    assert_int_equal(vd_disk_raw(fd, false, &d, NULL), 0);
    vd_disk_info(d, &info);
    assert_int_equal(info.size, 5120);
    assert_int_equal(vd_disk_read(d, 0, buf, 5120), 0);
    assert_int_equal(buf[4999], 'x');
    for (unsigned i = 5000; i < 5120; i++)
        assert_int_equal(buf[i], 0);
    assert_int_equal(vd_disk_read(d, 5120, buf, 512), -ERANGE);
    /* A file that shrinks behind our back is an error, not zeroes. */
    assert_int_equal(ftruncate(fd2, 1000), 0);
    assert_true(vd_disk_read(d, 0, buf, 5120) < 0);
    assert_int_equal(ftruncate(fd2, 5000), 0);
    /* Writing the last sector makes it whole. */
    assert_int_equal(vd_disk_write(d, 4608, buf, 512, VD_DISK_FUA), 0);
    assert_int_equal(vd_disk_resize(d, VD_MIB(1), NULL), 0);
    vd_disk_info(d, &info);
    assert_int_equal(info.size, VD_MIB(1));
    vd_disk_unref(d);
    struct stat st;
    assert_int_equal(fstat(fd2, &st), 0);
    assert_int_equal(st.st_size, VD_MIB(1));
    close(fd2);
    free(buf);
    return 0;
}

static void the_odd_end_of_a_file_reads_as_zeroes(void **state)
{
    for (int on_disk = 0; on_disk < 2; on_disk++) {
        bool arg = on_disk;
        assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, tail_run, &arg), 0);
    }
}

static int holes_run(void *arg)
{
    struct vd_disk *d;
    struct vd_extent ext[8];
    int n = 8;
    static uint8_t buf[VD_KIB(64)];
    memset(buf, 1, sizeof(buf));
    assert_int_equal(vd_disk_raw(file_new(true, VD_MIB(1)), false, &d, NULL), 0);
    assert_int_equal(vd_disk_write(d, VD_KIB(256), buf, sizeof(buf), 0), 0);
    assert_int_equal(vd_disk_extents(d, 0, VD_MIB(1), ext, &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(ext[0].flags, VD_EXTENT_HOLE | VD_EXTENT_ZERO);
    assert_int_equal(ext[0].len, VD_KIB(256));
    assert_int_equal(ext[1].flags, 0);
    assert_int_equal(ext[1].len, VD_KIB(64));
    assert_int_equal(ext[2].flags, VD_EXTENT_HOLE | VD_EXTENT_ZERO);
    n = 1;
    assert_int_equal(vd_disk_extents(d, 0, VD_MIB(1), ext, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ext[0].len, VD_KIB(256));
    /* Punched space is a hole again. */
    assert_int_equal(vd_disk_discard(d, VD_KIB(256), VD_KIB(64), 0), 0);
    n = 8;
    assert_int_equal(vd_disk_extents(d, 0, VD_MIB(1), ext, &n), 0);
    assert_int_equal(n, 1);
    vd_disk_unref(d);
    return 0;
}

static void holes_of_a_file_are_known(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, holes_run, NULL), 0);
}

static int refused_run(void *arg)
{
    struct vd_disk *d;
    struct vd_error err = {0};
    int pipes[2];
    uint8_t buf[512] = {0};
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(vd_disk_raw(pipes[0], true, &d, &err), -EINVAL);
    assert_string_equal(err.id, "not-a-disk");
    close(pipes[0]);
    close(pipes[1]);

    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_int_equal(vd_disk_raw(fd, false, &d, &err), -EINVAL);
    assert_int_equal(vd_disk_raw(fd, true, &d, &err), 0);
    assert_int_equal(vd_disk_write(d, 0, buf, 512, 0), -EROFS);
    assert_int_equal(vd_disk_read(d, 0, buf, 512), 0);
    assert_memory_equal(buf, "\177ELF", 4);
    assert_int_equal(vd_disk_flush(d), 0);
    vd_disk_unref(d);
    return 0;
}

static void what_is_no_disk_is_refused(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, refused_run, NULL), 0);
}

static int append_run(void *arg)
{
    char path[] = "/var/tmp/vdisk-raw-XXXXXX";
    struct vd_disk *d;
    uint8_t buf[512], got[512];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 8192), 0);
    close(fd);
    fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    unlink(path);
    assert_int_equal(vd_disk_raw(fd, false, &d, NULL), 0);
    memset(buf, 7, sizeof(buf));
    assert_int_equal(vd_disk_write(d, 512, buf, 512, 0), 0);
    assert_int_equal(vd_disk_read(d, 512, got, 512), 0);
    assert_memory_equal(got, buf, 512);
    vd_disk_unref(d);
    return 0;
}

static void a_descriptor_that_appends_still_writes_in_place(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 1, append_run, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_an_array),
        cmocka_unit_test(a_file_in_memory_is_an_array),
        cmocka_unit_test(a_block_device_is_an_array),
        cmocka_unit_test(a_block_device_of_4k_is_an_array),
        cmocka_unit_test(sectors_of_one_page_do_not_disturb_each_other),
        cmocka_unit_test(the_odd_end_of_a_file_reads_as_zeroes),
        cmocka_unit_test(holes_of_a_file_are_known),
        cmocka_unit_test(what_is_no_disk_is_refused),
        cmocka_unit_test(a_descriptor_that_appends_still_writes_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
