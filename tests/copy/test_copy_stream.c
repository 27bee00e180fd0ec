/* SPDX-License-Identifier: MIT */
/*
 * Guards import from and export to pipes: every length, targets that grow, limits, early ends. A
 * peer fiber moves the bytes at the other end of a real pipe.
 */
#include "copy/copy.h"
#include "tests/copy/spy.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void on_fiber(int (*fn)(void *arg), void *arg)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_AUTO, 0, fn, arg), 0);
}

struct peer {
    struct vd_stream *stream;
    struct vd_group group;
    uint8_t *data;
    uint64_t len; /* to send; or what fits, then what was received */
    int rc;
};

static void peer_send(void *arg)
{
    struct peer *p = arg;
    uint64_t step = 0;

    for (uint64_t off = 0; off < p->len && p->rc == 0; off += step) {
        step = VD_MIN(p->len - off, UINT64_C(70001));
        p->rc = vd_stream_write(p->stream, p->data + off, step);
    }
    vd_stream_close(p->stream);
    vd_group_done(&p->group);
}

static void peer_receive(void *arg)
{
    struct peer *p = arg;
    uint64_t got = 0;
    ssize_t n;

    while (got < p->len && (n = vd_stream_read_some(p->stream, p->data + got, p->len - got)) > 0)
        got += (uint64_t)n;
    p->len = got;
    vd_stream_close(p->stream);
    vd_group_done(&p->group);
}

/* Starts `fn` at one end of a new pipe; the other end is returned. */
static struct vd_stream *peer_start(struct peer *p, void (*fn)(void *arg))
{
    struct vd_stream *mine;
    int fds[2];
    int own = fn == peer_send ? 0 : 1;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(vd_stream_new(fds[own], &mine), 0);
    assert_int_equal(vd_stream_new(fds[!own], &p->stream), 0);
    vd_group_init(&p->group);
    vd_group_add(&p->group);
    assert_int_equal(vd_fiber_spawn(vd_loop_current(), "peer", fn, p), 0);
    return mine;
}

struct import {
    uint64_t len;            /* of the stream */
    uint64_t size, size_max; /* of the target */
    struct vd_copy_options opt;
    int fail_resize;
    int want;
    const char *want_id;
};

static void import_once(const struct import *i)
{
    struct spy *dst = spy_new(i->size, i->size_max, 5);
    struct peer p = {.len = i->len};
    struct vd_rng rng;
    struct vd_stream *s;
    struct vd_copy_stats stats;
    struct vd_error err = {0};
    uint64_t grown = VD_MAX(VD_ROUND_UP(i->len, VD_BLOCK), VD_BLOCK);

    p.data = malloc(i->len + 1);
    assert_non_null(p.data);
    vd_rng_seed(&rng, i->len);
    vd_rng_fill(&rng, p.data, i->len);
    if (i->len > VD_KIB(300))
        memset(p.data + VD_KIB(100), 0, VD_KIB(150));
    if (!(i->opt.flags & VD_COPY_TARGET_ZERO))
        spy_fill(dst);
    dst->fail_resize = i->fail_resize;
    s = peer_start(&p, peer_send);
    assert_int_equal(vd_copy_from_stream(s, &dst->disk, &i->opt, &stats, &err), i->want);
    vd_stream_close(s);
    vd_group_wait(&p.group);
    if (i->want == 0) {
        assert_int_equal(p.rc, 0);
        assert_int_equal(dst->size, i->opt.flags & VD_COPY_GROW ? grown : i->size);
        assert_int_equal(stats.done,
                         i->opt.flags & VD_COPY_GROW ? VD_ROUND_UP(i->len, VD_BLOCK) : i->size);
        assert_memory_equal(dst->data, p.data, i->len);
        for (uint64_t n = i->len; n < dst->size; n++)
            assert_int_equal(dst->data[n], 0);
        assert_int_equal(dst->flushes, 1);
        assert_false(dst->dirty);
    } else {
        assert_string_equal(err.id, i->want_id);
        assert_int_equal(dst->flushes, 0);
    }
    free(p.data);
    vd_disk_unref(&dst->disk);
}

static int lengths_body(void *arg)
{
    static const uint64_t lengths[] = {0,    1,     511,   512,     513,           4095,   4096,
                                       4097, 65536, 65537, 1 << 20, (1 << 20) + 1, 3333333};

    for (unsigned i = 0; i < VD_ARRAY_SIZE(lengths); i++) {
        struct import in = {.len = lengths[i], .size = VD_MIB(4), .size_max = VD_MIB(32)};

        import_once(&in);
        in.opt.fibers = 1;
        in.opt.buffer = (uint32_t)VD_KIB(64);
        in.opt.flags = VD_COPY_TARGET_ZERO;
        import_once(&in);
        /* Grows from little, and is cut when it was larger. The spy ends below the usual growth. */
        in.opt = (struct vd_copy_options){.flags = VD_COPY_GROW, .size_limit = VD_MIB(32)};
        import_once(&in);
        in.size = VD_BLOCK;
        import_once(&in);
    }
    return 0;
}

static void test_streams_of_every_length(void **state)
{
    on_fiber(lengths_body, NULL);
}

static int limits_body(void *arg)
{
    struct import in = {.len = VD_MIB(2), .size = VD_MIB(2), .size_max = VD_MIB(32)};

    import_once(&in); /* exactly full */
    in.len = VD_MIB(2) - 1;
    import_once(&in);
    in.size = VD_MIB(2) - VD_SECTOR;
    in.len = in.size;
    import_once(&in);
    in.want = -ERANGE;
    in.want_id = "target-too-small";
    in.len++;
    import_once(&in);
    in.size = VD_BLOCK;
    in.opt = (struct vd_copy_options){.flags = VD_COPY_GROW, .size_limit = VD_MIB(1)};
    import_once(&in);
    in.len = VD_MIB(1) + 1;
    import_once(&in);
    in.len = VD_MIB(1);
    in.want = 0;
    import_once(&in);
    in.fail_resize = in.want = -ENOSPC;
    in.want_id = "no-space";
    import_once(&in);
    return 0;
}

static void test_limits_are_kept_and_told(void **state)
{
    on_fiber(limits_body, NULL);
}

static int export_body(void *arg)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        uint64_t size = seed * 299 * VD_KIB(1);
        struct spy *src = spy_new(size, size, seed);
        struct peer p = {.len = size + 1};
        struct vd_copy_options opt = {.fibers = (unsigned)seed, .buffer = (uint32_t)VD_KIB(64)};
        struct vd_stream *s;
        struct vd_copy_stats stats;

        p.data = malloc(p.len);
        assert_non_null(p.data);
        spy_scatter(src);
        s = peer_start(&p, peer_receive);
        assert_int_equal(vd_copy_to_stream(&src->disk, s, &opt, &stats, NULL), 0);
        vd_stream_close(s);
        vd_group_wait(&p.group);
        assert_int_equal(p.len, size);
        assert_memory_equal(p.data, src->data, size);
        assert_int_equal(stats.done, size);
        free(p.data);
        vd_disk_unref(&src->disk);
    }
    return 0;
}

static void test_export_is_in_order(void **state)
{
    on_fiber(export_body, NULL);
}

static int broken_body(void *arg)
{
    struct spy *src = spy_new(VD_MIB(8), VD_MIB(8), 1);
    struct peer p = {.len = 1000};
    struct vd_stream *s;
    struct vd_error err = {0};
    int rc;

    p.data = malloc(p.len);
    assert_non_null(p.data);
    spy_fill(src);
    s = peer_start(&p, peer_receive); /* reads a little and hangs up */
    rc = vd_copy_to_stream(&src->disk, s, NULL, NULL, &err);
    assert_true(rc < 0);
    assert_string_equal(err.id, "copy-write");
    vd_stream_close(s);
    vd_group_wait(&p.group);
    src->fail_read = -EIO;
    src->fail_read_off = VD_MIB(3);
    free(p.data);
    p = (struct peer){.len = VD_MIB(8), .data = malloc(VD_MIB(8))};
    assert_non_null(p.data);
    s = peer_start(&p, peer_receive);
    assert_int_equal(vd_copy_to_stream(&src->disk, s, NULL, NULL, &err), -EIO);
    vd_stream_close(s);
    vd_group_wait(&p.group);
    assert_memory_equal(p.data, src->data, p.len);
    assert_true(p.len <= VD_MIB(3));
    free(p.data);
    vd_disk_unref(&src->disk);
    return 0;
}

static void test_broken_pipes_and_disks_are_told(void **state)
{
    on_fiber(broken_body, NULL);
}

/* A file in the current directory, for tests are run on a real file system. */
static struct vd_disk *raw_new(const char *name, uint64_t size, bool read_only, int *ret_fd)
{
    struct vd_disk *disk;
    struct vd_error err = {0};
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    *ret_fd = dup(fd);
    if (size)
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(vd_disk_raw(fd, read_only, &disk, &err), 0);
    return disk;
}

/* From a sparse file whose end is no whole sector to another, and back. */
static int raw_body(void *arg)
{
    uint64_t size = VD_MIB(64) + 100;
    static uint8_t buf[3000], back[3000];
    struct vd_rng rng;
    struct stat st;
    struct vd_disk *src, *dst;
    int src_fd, dst_fd;

    unlink("raw-source");
    unlink("raw-target");
    vd_rng_seed(&rng, 9);
    vd_rng_fill(&rng, buf, sizeof(buf));
    src = raw_new("raw-source", size, false, &src_fd);
    vd_disk_unref(src); /* only the file is wanted yet */
    assert_int_equal(pwrite(src_fd, buf, 3000, VD_MIB(5) + 77), 3000);
    assert_int_equal(pwrite(src_fd, buf, 100, VD_MIB(64)), 100);
    assert_int_equal(fsync(src_fd), 0);
    close(src_fd);
    src = raw_new("raw-source", 0, true, &src_fd);
    dst = raw_new("raw-target", VD_MIB(65), false, &dst_fd);
    assert_int_equal(vd_copy_verify(src, dst, NULL, NULL, NULL, NULL), -EBADMSG);
    assert_int_equal(vd_copy_disk(src, dst, NULL, NULL, NULL), 0);
    assert_int_equal(vd_copy_verify(src, dst, NULL, NULL, NULL, NULL), 0);
    assert_int_equal(pread(dst_fd, back, 3000, VD_MIB(5) + 77), 3000);
    assert_memory_equal(back, buf, 3000);
    assert_int_equal(pread(dst_fd, back, 512, VD_MIB(64)), 512);
    assert_memory_equal(back, buf, 100);
    for (unsigned i = 100; i < 512; i++)
        assert_int_equal(back[i], 0);
    assert_int_equal(fstat(dst_fd, &st), 0);
    assert_true(st.st_blocks * 512 < (blkcnt_t)VD_MIB(1));
    vd_disk_unref(src);
    vd_disk_unref(dst);
    close(src_fd);
    close(dst_fd);
    unlink("raw-source");
    unlink("raw-target");
    return 0;
}

static void test_raw_files_stay_sparse(void **state)
{
    on_fiber(raw_body, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_of_every_length),
        cmocka_unit_test(test_limits_are_kept_and_told),
        cmocka_unit_test(test_export_is_in_order),
        cmocka_unit_test(test_raw_files_stay_sparse),
        cmocka_unit_test(test_broken_pipes_and_disks_are_told),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
