/* SPDX-License-Identifier: MIT */
/* What only the simulated loop promises: a seed repeats a run exactly; deadlocks are found. */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "core/io/simdev.h"
#include "tests/io/run.h"

#include <unistd.h>

static uint64_t trace;

static void note(uint64_t x)
{
    uint64_t words[2] = {trace, x};
    trace = vd_xxh3(words, sizeof(words));
}

static struct vd_dev *dev;
static struct vd_group group;

static void worker(void *arg)
{
    struct vd_loop *loop = vd_loop_current();
    uint64_t me = (uint64_t)(uintptr_t)arg;
    uint8_t *buf = vd_alloc_aligned(VD_BLOCK);
    memset(buf, (int)me, VD_BLOCK);
    for (uint64_t i = 0; i < 20; i++) {
        vd_fiber_sleep(vd_rng_below(vd_loop_rng(loop), 100000));
        CHECK_IS(vd_dev_write(dev, (me * 20 + i) * VD_BLOCK, buf, VD_BLOCK), 0);
        note(me);
        note(vd_loop_now_ns(loop));
        if (i % 7 == 0)
            CHECK_IS(vd_dev_flush(dev), 0);
    }
    free(buf);
    vd_group_done(&group);
}

static int history(void *arg)
{
    CHECK_IS(vd_simdev_open(arg, 0, &dev), 0);
    vd_group_init(&group);
    for (uintptr_t i = 0; i < 16; i++) {
        vd_group_add(&group);
        spawn(worker, (void *)i);
    }
    vd_group_wait(&group);
    vd_dev_close(dev);
    return 0;
}

static uint64_t trace_of(uint64_t loop_seed, uint64_t disk_seed)
{
    struct vd_simdisk *disk = vd_simdisk_new(VD_MIB(4), VD_MIB(4), disk_seed);
    trace = 0;
    CHECK_IS(vd_fiber_main(VD_LOOP_SIM, loop_seed, history, disk), 0);
    vd_simdisk_crash(disk, VD_CRASH_POWER, 7);
    uint8_t *bytes = malloc(VD_MIB(4));
    vd_simdisk_peek(disk, 0, bytes, VD_MIB(4));
    note(vd_xxh3(bytes, VD_MIB(4)));
    free(bytes);
    vd_simdisk_free(disk);
    return trace;
}

static void a_seed_repeats_a_run_and_another_differs(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 6; seed++) {
        assert_true(trace_of(seed, 1) == trace_of(seed, 1));
        assert_true(trace_of(seed, 1) != trace_of(seed + 1, 1));
        assert_true(trace_of(seed, 1) != trace_of(seed, 2));
    }
}

static int long_body(void *arg)
{
    (void)arg;
    uint64_t wall = vd_loop_wall_s(vd_loop_current());
    vd_fiber_sleep(UINT64_C(86400) * 1000000000);
    CHECK_IS(vd_loop_wall_s(vd_loop_current()) - wall, 86400);
    return 0;
}

static void a_day_passes_at_once(void **state)
{
    (void)state;
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 1, long_body, NULL), 0);
}

static void waits_for_ever(void *arg)
{
    vd_wait(arg);
}

static int stuck_body(void *arg)
{
    static struct vd_waitq q;
    (void)arg;
    vd_waitq_init(&q);
    spawn(waits_for_ever, &q);
    vd_wait(&q);
    return 0;
}

static void fibers_that_nothing_can_wake_are_a_deadlock(void **state)
{
    (void)state;
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 1, stuck_body, NULL), -EDEADLK);
}

static int value_body(void *arg)
{
    return *(int *)arg;
}

static void main_hands_the_value_through(void **state)
{
    (void)state;
    int value = -ENOSPC;
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 1, value_body, &value), -ENOSPC);
    value = 3;
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 1, value_body, &value), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_repeats_a_run_and_another_differs),
        cmocka_unit_test(a_day_passes_at_once),
        cmocka_unit_test(fibers_that_nothing_can_wake_are_a_deadlock),
        cmocka_unit_test(main_hands_the_value_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
