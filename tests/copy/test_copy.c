/* SPDX-License-Identifier: MIT */
/*
 * Guards the disk-to-disk engine: equal content whatever the buffers and fibers, zeroes that are
 * not written, failures that stop it and are told, and the exact place of a difference. Everything
 * runs on the simulated loop, so a seed replays a failure.
 */
#include "copy/copy.h"
#include "tests/copy/spy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define SIZE (VD_MIB(3) + VD_KIB(7) + VD_SECTOR)

/* One test's body runs on a fiber of a fresh loop. */
static void on_fiber(int (*fn)(void *arg), void *arg)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 7, fn, arg), 0);
}

struct watch {
    uint64_t last;
    unsigned calls;
    bool backwards;
    bool cancel;
    uint64_t cancel_at; /* sets cancel when done reaches this; 0 = never */
};

static void watch_progress(void *arg, const struct vd_copy_stats *now)
{
    struct watch *w = arg;

    if (now->done < w->last || now->done != now->data + now->zeroed + now->skipped)
        w->backwards = true;
    w->last = now->done;
    w->calls++;
    if (w->cancel_at && now->done >= w->cancel_at)
        w->cancel = true;
}

static bool all_zero(const uint8_t *p, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

static int equal_body(void *arg)
{
    struct vd_rng rng;

    vd_rng_seed(&rng, *(uint64_t *)arg);
    for (unsigned round = 0; round < 60; round++) {
        uint64_t size = (1 + vd_rng_below(&rng, SIZE / VD_SECTOR)) * VD_SECTOR;
        struct spy *src = spy_new(size, size, vd_rng_u64(&rng));
        uint64_t more = vd_rng_below(&rng, 3) * VD_KIB(100) / VD_SECTOR * VD_SECTOR;
        struct spy *dst = spy_new(size + more, size + more, vd_rng_u64(&rng));
        struct watch w = {0};
        struct vd_copy_options opt = {
            .fibers = (unsigned)vd_rng_below(&rng, 12),
            .buffer = (uint32_t)(vd_rng_below(&rng, 6) * VD_KIB(64)),
            .progress = watch_progress,
            .arg = &w,
        };
        struct vd_copy_stats stats;
        struct vd_error err = {0};

        spy_scatter(src);
        src->no_extents = vd_rng_below(&rng, 4) == 0;
        if (vd_rng_below(&rng, 3) == 0)
            opt.flags |= VD_COPY_TARGET_ZERO;
        else
            spy_fill(dst);
        if (vd_rng_below(&rng, 4) == 0)
            opt.flags |= VD_COPY_NO_ZERO_DETECT;
        assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, &opt, &stats, &err), 0);
        assert_int_equal(err.code, 0);
        assert_memory_equal(src->data, dst->data, size);
        assert_true(all_zero(dst->data + size, more));
        assert_false(w.backwards);
        assert_int_equal(stats.done, size + more);
        assert_int_equal(stats.total, size + more);
        assert_int_equal(w.last, stats.total);
        assert_int_equal(stats.data, dst->written_bytes);
        assert_int_equal(dst->flushes, 1);
        assert_false(dst->dirty);
        vd_disk_unref(&src->disk);
        vd_disk_unref(&dst->disk);
    }
    return 0;
}

static void test_copy_is_equal(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        on_fiber(equal_body, &seed);
}

/* A fresh target gets no byte of a zero range, and holes of the source are not even read. */
static int sparse_body(void *arg)
{
    struct spy *src = spy_new(VD_MIB(8), VD_MIB(8), 1);
    struct spy *dst = spy_new(VD_MIB(8), VD_MIB(8), 2);
    struct vd_copy_options opt = {.flags = VD_COPY_TARGET_ZERO};
    struct vd_copy_stats stats;

    spy_fill(src);
    memset(src->data + VD_MIB(1), 0, VD_MIB(5));
    for (unsigned i = 16; i < 48; i++)
        src->hole[i] = true; /* [1, 3) MiB are a hole, [3, 6) MiB zero bytes */
    assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, &opt, &stats, NULL), 0);
    assert_memory_equal(src->data, dst->data, src->size);
    assert_int_equal(src->read_bytes, VD_MIB(6));
    assert_int_equal(dst->written_bytes, VD_MIB(3));
    assert_int_equal(dst->zeroes, 0);
    assert_int_equal(stats.skipped, VD_MIB(5));
    assert_true(src->in_flight_max > 1);

    opt.flags = 0;
    spy_fill(dst);
    dst->written_bytes = 0;
    assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, &opt, &stats, NULL), 0);
    assert_memory_equal(src->data, dst->data, src->size);
    assert_int_equal(dst->written_bytes, VD_MIB(3));
    assert_int_equal(stats.zeroed, VD_MIB(5));
    vd_disk_unref(&src->disk);
    vd_disk_unref(&dst->disk);
    return 0;
}

/* A request per zero block would cost more than the zeroes: short ones go along with the data. */
static int short_zeroes_body(void *arg)
{
    struct spy *src = spy_new(VD_MIB(1), VD_MIB(1), 1);
    struct spy *dst = spy_new(VD_MIB(1), VD_MIB(1), 2);
    struct vd_copy_options opt = {.flags = VD_COPY_TARGET_ZERO};

    spy_fill(src);
    for (uint64_t off = VD_KIB(32); off < VD_MIB(1); off += VD_KIB(64))
        memset(src->data + off, 0, VD_KIB(8));
    assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, &opt, NULL, NULL), 0);
    assert_memory_equal(src->data, dst->data, src->size);
    assert_int_equal(dst->writes, 1);
    vd_disk_unref(&src->disk);
    vd_disk_unref(&dst->disk);
    return 0;
}

static void test_short_zeroes_do_not_split_writes(void **state)
{
    on_fiber(short_zeroes_body, NULL);
}

static void test_zeroes_are_not_written(void **state)
{
    on_fiber(sparse_body, NULL);
}

static int small_body(void *arg)
{
    struct spy *src = spy_new(VD_MIB(1), VD_MIB(1), 1);
    struct spy *dst = spy_new(VD_MIB(1) - VD_SECTOR, VD_MIB(1), 2);
    struct vd_error err = {0};

    spy_fill(src);
    assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, NULL, NULL, &err), -ERANGE);
    assert_string_equal(err.id, "target-too-small");
    assert_int_equal(dst->writes + dst->zeroes, 0);
    vd_disk_unref(&src->disk);
    vd_disk_unref(&dst->disk);
    return 0;
}

static void test_small_target_is_refused_untouched(void **state)
{
    on_fiber(small_body, NULL);
}

/* Arms one failure, expects it with this id. */
static void fail_once(void (*arm)(struct spy *src, struct spy *dst), int code, const char *id)
{
    struct spy *src = spy_new(VD_MIB(16), VD_MIB(16), 1);
    struct spy *dst = spy_new(VD_MIB(16), VD_MIB(16), 2);
    struct vd_copy_options opt = {.fibers = 4};
    struct vd_error err = {0};

    spy_fill(src);
    arm(src, dst);
    assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, &opt, NULL, &err), code);
    assert_int_equal(err.code, code);
    assert_string_equal(err.id, id);
    assert_true(err.message[0]);
    assert_true(src->reads <= 16);
    assert_int_equal(src->in_flight + dst->in_flight, 0);
    vd_disk_unref(&src->disk);
    vd_disk_unref(&dst->disk);
}

static void arm_read(struct spy *src, struct spy *dst)
{
    src->fail_read = -EIO;
    src->fail_read_off = VD_MIB(5);
}

static void arm_write(struct spy *src, struct spy *dst)
{
    dst->fail_write = -ENOSPC;
    dst->fail_write_off = VD_MIB(5);
}

static void arm_zero(struct spy *src, struct spy *dst)
{
    memset(src->data + VD_MIB(4), 0, VD_MIB(4));
    dst->fail_zero = -EIO;
    dst->fail_zero_off = VD_MIB(5);
}

static void arm_flush(struct spy *src, struct spy *dst)
{
    dst->fail_flush = -EIO;
}

static void arm_extents(struct spy *src, struct spy *dst)
{
    src->fail_extents = -EIO;
}

static int failures_body(void *arg)
{
    fail_once(arm_read, -EIO, "copy-read");
    fail_once(arm_write, -ENOSPC, "copy-write");
    fail_once(arm_zero, -EIO, "copy-write");
    fail_once(arm_flush, -EIO, "copy-flush");
    fail_once(arm_extents, -EIO, "copy-read");
    return 0;
}

static void test_failures_stop_and_are_told(void **state)
{
    on_fiber(failures_body, NULL);
}

static int no_flush_body(void *arg)
{
    struct spy *src = spy_new(VD_MIB(1), VD_MIB(1), 1);
    struct spy *dst = spy_new(VD_MIB(1), VD_MIB(1), 2);
    struct vd_copy_options opt = {.flags = VD_COPY_NO_FLUSH};

    spy_fill(src);
    assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, &opt, NULL, NULL), 0);
    assert_int_equal(dst->flushes, 0);
    vd_disk_unref(&src->disk);
    vd_disk_unref(&dst->disk);
    return 0;
}

static void test_no_flush_leaves_out_the_flush(void **state)
{
    on_fiber(no_flush_body, NULL);
}

static int cancel_body(void *arg)
{
    struct spy *src = spy_new(VD_MIB(16), VD_MIB(16), 1);
    struct spy *dst = spy_new(VD_MIB(16), VD_MIB(16), 2);
    struct watch w = {.cancel_at = VD_MIB(5)};
    struct vd_copy_options opt = {
        .fibers = 4, .progress = watch_progress, .arg = &w, .cancel = &w.cancel};
    struct vd_copy_stats stats;
    struct vd_error err = {0};

    spy_fill(src);
    assert_int_equal(vd_copy_disk(&src->disk, &dst->disk, &opt, &stats, &err), -ECANCELED);
    assert_string_equal(err.id, "copy-cancelled");
    assert_true(stats.done >= VD_MIB(5) && stats.done <= VD_MIB(9));
    assert_int_equal(dst->flushes, 0);
    vd_disk_unref(&src->disk);
    vd_disk_unref(&dst->disk);
    return 0;
}

static void test_cancel_stops_soon(void **state)
{
    on_fiber(cancel_body, NULL);
}

static int verify_body(void *arg)
{
    struct vd_rng rng;

    vd_rng_seed(&rng, *(uint64_t *)arg);
    for (unsigned round = 0; round < 60; round++) {
        uint64_t size = (1 + vd_rng_below(&rng, SIZE / VD_SECTOR)) * VD_SECTOR;
        struct spy *a = spy_new(size, size, vd_rng_u64(&rng));
        struct spy *b = spy_new(SIZE, SIZE, vd_rng_u64(&rng));
        struct vd_copy_options opt = {
            .fibers = (unsigned)vd_rng_below(&rng, 12),
            .buffer = (uint32_t)(vd_rng_below(&rng, 6) * VD_KIB(64)),
        };
        struct vd_copy_stats stats;
        struct vd_error err = {0};
        uint64_t first = UINT64_MAX, off = 1;
        int rc;

        spy_scatter(a);
        memcpy(b->data, a->data, size);
        assert_int_equal(vd_copy_verify(&a->disk, &b->disk, &opt, &off, &stats, &err), 0);
        assert_int_equal(off, 1);
        assert_int_equal(stats.done, SIZE);
        assert_int_equal(a->writes + b->writes + a->flushes + b->flushes, 0);
        for (unsigned n = 1 + (unsigned)vd_rng_below(&rng, 4); n > 0; n--) {
            uint64_t at = vd_rng_below(&rng, SIZE);

            b->data[at] ^= 0x10;
            first = VD_MIN(first, at);
        }
        /* Two flips of one byte would cancel out; none of the seeds used does that. */
        if (vd_rng_below(&rng, 2))
            rc = vd_copy_verify(&a->disk, &b->disk, &opt, &off, NULL, &err);
        else
            rc = vd_copy_verify(&b->disk, &a->disk, &opt, &off, NULL, &err);
        assert_int_equal(rc, -EBADMSG);
        assert_string_equal(err.id, "copy-differs");
        assert_int_equal(off, first);
        vd_disk_unref(&a->disk);
        vd_disk_unref(&b->disk);
    }
    return 0;
}

static void test_verify_finds_the_first_difference(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        on_fiber(verify_body, &seed);
}

static int verify_holes_body(void *arg)
{
    struct spy *a = spy_new(VD_MIB(8), VD_MIB(8), 1);
    struct spy *b = spy_new(VD_MIB(8), VD_MIB(8), 2);
    struct vd_copy_options few = {.fibers = 2, .buffer = (uint32_t)VD_KIB(64)};
    struct vd_error err = {0};

    for (unsigned i = 0; i < 64; i++)
        a->hole[i] = b->hole[i] = true;
    assert_int_equal(vd_copy_verify(&a->disk, &b->disk, NULL, NULL, NULL, &err), 0);
    assert_int_equal(a->read_bytes, VD_MIB(4));
    b->data[VD_MIB(4)] = 1; /* found early: what follows is not read */
    a->read_bytes = 0;
    assert_int_equal(vd_copy_verify(&a->disk, &b->disk, &few, NULL, NULL, &err), -EBADMSG);
    assert_true(a->read_bytes <= VD_MIB(1));
    b->data[VD_MIB(4)] = 0;
    a->fail_read = -EIO;
    a->fail_read_off = VD_MIB(6);
    assert_int_equal(vd_copy_verify(&a->disk, &b->disk, NULL, NULL, NULL, &err), -EIO);
    assert_string_equal(err.id, "copy-read");
    vd_disk_unref(&a->disk);
    vd_disk_unref(&b->disk);
    return 0;
}

static void test_verify_skips_holes_and_tells_errors(void **state)
{
    on_fiber(verify_holes_body, NULL);
}

/* The real disks of core/block instead of the spy. */
static int memory_body(void *arg)
{
    struct vd_disk *a, *b;
    struct vd_rng rng;
    uint8_t buf[VD_SECTOR];
    uint64_t off = 0;

    vd_rng_seed(&rng, 3);
    assert_int_equal(vd_disk_memory(VD_MIB(4), &a), 0);
    assert_int_equal(vd_disk_memory(VD_MIB(4), &b), 0);
    for (unsigned i = 0; i < 500; i++) {
        vd_rng_fill(&rng, buf, sizeof(buf));
        off = vd_rng_below(&rng, VD_MIB(4) / VD_SECTOR) * VD_SECTOR;
        assert_int_equal(vd_disk_write(a, off, buf, sizeof(buf), 0), 0);
    }
    assert_int_equal(vd_copy_verify(a, b, NULL, NULL, NULL, NULL), -EBADMSG);
    assert_int_equal(vd_copy_disk(a, b, NULL, NULL, NULL), 0);
    assert_int_equal(vd_copy_verify(a, b, NULL, NULL, NULL, NULL), 0);
    vd_disk_unref(a);
    vd_disk_unref(b);
    return 0;
}

static void test_memory_disks(void **state)
{
    on_fiber(memory_body, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy_is_equal),
        cmocka_unit_test(test_zeroes_are_not_written),
        cmocka_unit_test(test_short_zeroes_do_not_split_writes),
        cmocka_unit_test(test_small_target_is_refused_untouched),
        cmocka_unit_test(test_failures_stop_and_are_told),
        cmocka_unit_test(test_no_flush_leaves_out_the_flush),
        cmocka_unit_test(test_cancel_stops_soon),
        cmocka_unit_test(test_verify_finds_the_first_difference),
        cmocka_unit_test(test_verify_skips_holes_and_tells_errors),
        cmocka_unit_test(test_memory_disks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
