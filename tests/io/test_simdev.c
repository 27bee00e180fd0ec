/* SPDX-License-Identifier: MIT */
/* The simulated disk: what each kind of crash may leave, what each fault does, and that it catches
 * the mistakes of its users. The crash tests of the pool are worth as much as this one. */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "core/io/simdev.h"
#include "tests/io/run.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define DISK_LEN VD_MIB(1)

static struct vd_simdisk *disk;
static struct vd_dev *dev;

/* Runs `fn` with the disk open, on the simulated loop. */
static int opened(void *arg)
{
    void (*fn)(void) = *(void (**)(void))arg;
    CHECK_IS(vd_simdev_open(disk, 0, &dev), 0);
    fn();
    vd_dev_close(dev);
    return 0;
}

static void with_open(void (*fn)(void))
{
    CHECK_IS(vd_fiber_main(VD_LOOP_SIM, 1, opened, &fn), 0);
}

static void fresh(uint64_t seed)
{
    vd_simdisk_free(disk);
    disk = vd_simdisk_new(DISK_LEN, 2 * DISK_LEN, seed);
}

static int put_flags(uint64_t block, unsigned blocks, int byte, unsigned flags)
{
    uint8_t *buf = vd_alloc_aligned((size_t)blocks * VD_BLOCK);
    memset(buf, byte, (size_t)blocks * VD_BLOCK);
    struct iovec iov = {buf, (size_t)blocks * VD_BLOCK};
    struct vd_io io = {
        .op = VD_IO_WRITE, .flags = flags, .off = block * VD_BLOCK, .iov = &iov, .iovcnt = 1};
    int r = vd_dev_io(dev, &io, 1);
    free(buf);
    return r;
}

static int put(uint64_t block, int byte)
{
    return put_flags(block, 1, byte, 0);
}

/* The byte that fills the block, as a reader of the medium sees it; -1 if it is mixed. */
static int peek(uint64_t block)
{
    static uint8_t buf[VD_BLOCK];
    vd_simdisk_peek(disk, block * VD_BLOCK, buf, sizeof(buf));
    for (size_t i = 1; i < sizeof(buf); i++)
        if (buf[i] != buf[0])
            return -1;
    return buf[0];
}

static int get(uint64_t block)
{
    uint8_t *buf = vd_alloc_aligned(VD_BLOCK);
    int r = vd_dev_read(dev, block * VD_BLOCK, buf, VD_BLOCK);
    r = r < 0 ? r : buf[0];
    free(buf);
    return r;
}

/* ---- what survives ---- */

static void history_plain(void)
{
    CHECK_IS(put(0, 1), 0);
    CHECK_IS(get(0), 1);
    CHECK_IS(vd_dev_flush(dev), 0);
    CHECK_IS(put(0, 2), 0);
    CHECK_IS(put(1, 3), 0);
    CHECK_IS(get(0), 2);
}

static void only_flushed_writes_are_sure_to_survive(void **state)
{
    (void)state;
    fresh(1);
    with_open(history_plain);
    struct vd_simdisk *origin = disk;

    disk = vd_simdisk_clone(origin, 2);
    vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, 1);
    assert_int_equal(peek(0), 1);
    assert_int_equal(peek(1), 0);
    vd_simdisk_free(disk);

    disk = vd_simdisk_clone(origin, 2);
    vd_simdisk_crash(disk, VD_CRASH_POWER_KEEP, 1);
    assert_int_equal(peek(0), 2);
    assert_int_equal(peek(1), 3);
    vd_simdisk_free(disk);

    /* The death of the process takes nothing that was completed; a later loss of power may. */
    disk = vd_simdisk_clone(origin, 2);
    vd_simdisk_crash(disk, VD_CRASH_PROCESS, 1);
    assert_int_equal(peek(0), 2);
    assert_int_equal(peek(1), 3);
    vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, 1);
    assert_int_equal(peek(0), 1);
    assert_int_equal(peek(1), 0);
    vd_simdisk_free(disk);

    disk = origin; /* the clones took nothing from it */
    assert_int_equal(peek(0), 2);
}

static void unflushed_writes_survive_independently(void **state)
{
    (void)state;
    bool seen[2][2] = {{false}};
    unsigned torn = 0;
    fresh(1);
    with_open(history_plain);
    struct vd_simdisk *origin = disk;
    for (uint64_t seed = 0; seed < 200; seed++) {
        disk = vd_simdisk_clone(origin, seed);
        vd_simdisk_crash(disk, VD_CRASH_POWER, seed);
        int a = peek(0), b = peek(1);
        if (a >= 0 && b >= 0) {
            assert_true((a == 1 || a == 2) && (b == 0 || b == 3));
            seen[a == 2][b == 3] = true;
        } else {
            torn++;
        }
        vd_simdisk_free(disk);
    }
    disk = origin;
    assert_true(seen[0][0] && seen[0][1] && seen[1][0] && seen[1][1]);
    assert_in_range(torn, 20, 180);
}

static void history_long(void)
{
    CHECK_IS(put_flags(0, 4, 1, 0), 0);
    CHECK_IS(vd_dev_flush(dev), 0);
    CHECK_IS(put_flags(0, 4, 2, 0), 0);
}

static void a_torn_write_is_torn_between_sectors(void **state)
{
    (void)state;
    unsigned whole_old = 0, whole_new = 0, prefix = 0, scattered = 0;
    fresh(1);
    with_open(history_long);
    struct vd_simdisk *origin = disk;
    for (uint64_t seed = 0; seed < 300; seed++) {
        static uint8_t buf[4 * VD_BLOCK];
        unsigned fresh_sectors = 0, changes = 0;
        disk = vd_simdisk_clone(origin, seed);
        vd_simdisk_crash(disk, VD_CRASH_POWER, seed);
        vd_simdisk_peek(disk, 0, buf, sizeof(buf));
        for (unsigned s = 0; s < sizeof(buf) / VD_SECTOR; s++) {
            for (unsigned i = 0; i < VD_SECTOR; i++)
                assert_int_equal(buf[s * VD_SECTOR + i], buf[s * VD_SECTOR]);
            assert_in_range(buf[s * VD_SECTOR], 1, 2);
            fresh_sectors += buf[s * VD_SECTOR] == 2;
            changes += s && buf[s * VD_SECTOR] != buf[(s - 1) * VD_SECTOR];
        }
        whole_old += fresh_sectors == 0;
        whole_new += fresh_sectors == sizeof(buf) / VD_SECTOR;
        prefix += changes == 1 && buf[0] == 2;
        scattered += changes > 3;
        vd_simdisk_free(disk);
    }
    disk = origin;
    assert_true(whole_old > 30 && whole_new > 60 && prefix > 10 && scattered > 10);
}

static void history_dsync(void)
{
    CHECK_IS(put(0, 1), 0);
    CHECK_IS(put(1, 1), 0);
    CHECK_IS(put_flags(0, 1, 2, VD_IO_DSYNC), 0);
}

static void a_dsync_write_is_durable_and_only_it(void **state)
{
    (void)state;
    fresh(1);
    with_open(history_dsync);
    vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, 1);
    assert_int_equal(peek(0), 2);
    assert_int_equal(peek(1), 0);
    /* An older unflushed write of the block never comes back over it. */
    for (uint64_t seed = 0; seed < 50; seed++) {
        fresh(seed);
        with_open(history_dsync);
        vd_simdisk_crash(disk, VD_CRASH_POWER, seed);
        assert_int_equal(peek(0), 2);
    }
    fresh(1);
    with_open(history_dsync);
    vd_simdisk_crash(disk, VD_CRASH_POWER_KEEP, 1);
    assert_int_equal(peek(0), 2);
    assert_int_equal(peek(1), 1);
}

static struct vd_group group;

static void put_late(void *arg)
{
    CHECK_IS(put((uint64_t)(uintptr_t)arg, 9), 0);
    vd_group_done(&group);
}

static void history_flush_race(void)
{
    vd_group_init(&group);
    vd_group_add(&group);
    spawn(put_late, (void *)5);
    vd_fiber_yield(); /* in flight, not complete, when the flush is submitted */
    CHECK_IS(vd_dev_flush(dev), 0);
    vd_group_wait(&group);
    CHECK_IS(get(5), 9);
}

static void a_flush_covers_only_what_was_complete_before(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 30; seed++) {
        fresh(seed);
        with_open(history_flush_race);
        vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, seed);
        assert_int_equal(peek(5), 0);
    }
}

static void history_size(void)
{
    CHECK_IS(vd_dev_allocate(dev, 0, DISK_LEN + VD_BLOCK), 0);
    CHECK_IS(put(DISK_LEN / VD_BLOCK, 4), 0);
    struct vd_dev_info info;
    vd_dev_info(dev, &info);
    CHECK_IS(info.size, DISK_LEN + VD_BLOCK);
    CHECK_IS(info.allocated, DISK_LEN + VD_BLOCK);
}

static void history_size_flushed(void)
{
    history_size();
    CHECK_IS(vd_dev_flush(dev), 0);
    CHECK_IS(vd_dev_truncate(dev, VD_BLOCK), 0);
    CHECK_IS(get(1), -EIO);
}

static void a_size_is_as_durable_as_its_flush(void **state)
{
    (void)state;
    fresh(1);
    with_open(history_size);
    vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, 1);
    assert_true(vd_simdisk_size(disk) == DISK_LEN);
    fresh(1);
    with_open(history_size_flushed);
    assert_true(vd_simdisk_size(disk) == VD_BLOCK);
    vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, 1);
    assert_true(vd_simdisk_size(disk) == DISK_LEN + VD_BLOCK);
    assert_int_equal(peek(DISK_LEN / VD_BLOCK), 4);
}

static void history_punch(void)
{
    CHECK_IS(put(3, 5), 0);
    CHECK_IS(vd_dev_flush(dev), 0);
    CHECK_IS(vd_dev_punch(dev, 3 * VD_BLOCK, VD_BLOCK), 0);
}

static void punched_blocks_read_as_anything(void **state)
{
    (void)state;
    bool zero = false, old = false, garbage = false;
    for (uint64_t seed = 1; seed < 60; seed++) {
        fresh(seed);
        with_open(history_punch);
        int is = peek(3);
        zero |= is == 0;
        old |= is == 5;
        garbage |= is == -1;
        assert_true(vd_simdisk_allocated(disk) == 0);
        vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, seed);
        assert_int_equal(peek(3), 5);
    }
    assert_true(zero && old && garbage);
}

/* ---- cuts ---- */

static int64_t cut_at;
static int results[6];

static void history_cut(void)
{
    vd_simdisk_cut_after(disk, cut_at);
    results[0] = put(0, 1);
    results[1] = vd_dev_flush(dev);
    results[2] = put(0, 2);
    results[3] = vd_dev_allocate(dev, DISK_LEN, VD_BLOCK);
    results[4] = vd_dev_punch(dev, 8 * VD_BLOCK, VD_BLOCK);
    results[5] = vd_dev_truncate(dev, DISK_LEN);
    CHECK_IS(get(0) < 0, vd_simdisk_is_cut(disk));
}

static void every_operation_can_be_the_last(void **state)
{
    (void)state;
    unsigned outcomes[3][3] = {{0}}; /* by cut (1, 3, later): old, new, torn */
    for (uint64_t seed = 0; seed < 40; seed++)
        for (cut_at = 0; cut_at <= 7; cut_at++) {
            fresh(seed);
            with_open(history_cut);
            for (int64_t i = 0; i < 6; i++)
                assert_int_equal(results[i], i + 1 < cut_at ? 0 : -ENODEV);
            assert_int_equal(vd_simdisk_is_cut(disk), cut_at <= 6);
            struct vd_dev *none;
            if (cut_at <= 6)
                assert_int_equal(vd_simdev_open(disk, 0, &none), -ENODEV);
            vd_simdisk_crash(disk, VD_CRASH_PROCESS, seed);
            assert_false(vd_simdisk_is_cut(disk));
            int is = peek(0);
            if (cut_at == 0)
                assert_int_equal(is, 0);
            else if (cut_at == 1)
                outcomes[0][is < 0 ? 2 : is]++;
            else if (cut_at == 2)
                assert_int_equal(is, 1);
            else if (cut_at == 3)
                outcomes[1][is < 0 ? 2 : is - 1]++;
            else
                assert_int_equal(is, 2); /* completed before the process died */
        }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            assert_true(outcomes[i][j] > 0);
}

static void history_cut_in_flight(void)
{
    vd_group_init(&group);
    vd_simdisk_cut_after(disk, 3);
    struct vd_io ios[4];
    struct iovec iov[4];
    uint8_t *buf = vd_alloc_aligned(4 * VD_BLOCK);
    memset(buf, 7, 4 * VD_BLOCK);
    for (int i = 0; i < 4; i++) {
        iov[i] = (struct iovec){buf + i * VD_BLOCK, VD_BLOCK};
        ios[i] = (struct vd_io){
            .op = VD_IO_WRITE, .off = (uint64_t)i * VD_BLOCK, .iov = &iov[i], .iovcnt = 1};
    }
    CHECK_IS(vd_dev_io(dev, ios, 4), -ENODEV);
    for (int i = 0; i < 4; i++)
        CHECK_IS(ios[i].res, -ENODEV);
    CHECK_IS(vd_simdisk_ops(disk), 3);
    memset(buf, 8, 4 * VD_BLOCK); /* it has its own copy */
    free(buf);
}

static void what_was_in_flight_at_the_cut_is_settled_by_the_crash(void **state)
{
    (void)state;
    unsigned kept = 0, dropped = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        fresh(seed);
        with_open(history_cut_in_flight);
        for (uint64_t b = 0; b < 4; b++)
            assert_int_equal(peek(b), 0);
        vd_simdisk_crash(disk, seed % 2 ? VD_CRASH_PROCESS : VD_CRASH_POWER, seed);
        for (uint64_t b = 0; b < 3; b++) {
            kept += peek(b) == 7;
            dropped += peek(b) == 0;
        }
        assert_int_equal(peek(3), 0); /* after the cut: never */
    }
    assert_true(kept > 10 && dropped > 10);
}

/* ---- faults ---- */

static void history_read_faults(void)
{
    CHECK_IS(put_flags(0, 4, 1, 0), 0);
    vd_simdisk_fault(disk, VD_FAULT_READ_EIO, 2, false);
    CHECK_IS(get(0), 1);
    CHECK(!vd_simdisk_fault_hit(disk));
    CHECK_IS(get(0), -EIO);
    CHECK(vd_simdisk_fault_hit(disk));
    CHECK_IS(get(0), 1);
    vd_simdisk_fault(disk, VD_FAULT_READ_EIO, 1, true);
    CHECK_IS(get(0), -EIO);
    CHECK_IS(get(0), -EIO);
    vd_simdisk_clear_faults(disk);
    CHECK(vd_simdisk_fault_hit(disk)); /* can be asked afterwards */
    vd_simdisk_fault(disk, VD_FAULT_READ_FLIP, 1, false);
    CHECK(!vd_simdisk_fault_hit(disk));
    uint8_t *buf = vd_alloc_aligned(4 * VD_BLOCK);
    CHECK_IS(vd_dev_read(dev, 0, buf, 4 * VD_BLOCK), 0);
    unsigned bits = 0;
    for (size_t i = 0; i < 4 * VD_BLOCK; i++)
        bits += (unsigned)__builtin_popcount(buf[i] ^ 1u);
    CHECK_IS(bits, 1);
    CHECK_IS(vd_dev_read(dev, 0, buf, 4 * VD_BLOCK), 0);
    CHECK(buf[0] == 1 && memcmp(buf, buf + 1, 4 * VD_BLOCK - 1) == 0);
    free(buf);
}

static void history_write_faults(void)
{
    vd_simdisk_fault(disk, VD_FAULT_WRITE_EIO, 1, false);
    CHECK_IS(put(0, 1), -EIO);
    CHECK_IS(put(0, 1), 0);
    vd_simdisk_fault(disk, VD_FAULT_LOST_WRITE, 1, false);
    CHECK_IS(put(0, 2), 0);
    CHECK_IS(get(0), 1);
    vd_simdisk_fault(disk, VD_FAULT_MISDIRECTED, 1, false);
    CHECK_IS(put(10, 3), 0);
    CHECK_IS(get(10), 0);
    CHECK_IS(get(11), 3);
    vd_simdisk_fault(disk, VD_FAULT_ENOSPC, 1, false);
    CHECK_IS(vd_dev_allocate(dev, 0, VD_BLOCK), 0); /* is there already */
    CHECK_IS(vd_dev_allocate(dev, 40 * VD_BLOCK, VD_BLOCK), -ENOSPC);
    CHECK_IS(vd_dev_allocate(dev, 40 * VD_BLOCK, VD_BLOCK), 0);
    CHECK_IS(vd_dev_allocate(dev, 2 * DISK_LEN, VD_BLOCK), -ENOSPC); /* the medium is full */
    CHECK_IS(put(2 * DISK_LEN / VD_BLOCK, 1), -ENOSPC);
}

static void history_slow(void)
{
    uint64_t began = vd_loop_now_ns(vd_loop_current());
    CHECK_IS(put(0, 1), 0);
    CHECK(vd_loop_now_ns(vd_loop_current()) - began < 1000000);
    vd_simdisk_fault(disk, VD_FAULT_SLOW, 1, false);
    CHECK_IS(put(0, 1), 0);
    CHECK(vd_loop_now_ns(vd_loop_current()) - began > UINT64_C(30000000000));
}

static void faults_strike_when_armed(void **state)
{
    (void)state;
    fresh(1);
    with_open(history_read_faults);
    fresh(1);
    with_open(history_write_faults);
    fresh(1);
    with_open(history_slow);
}

static void history_flush_fault(void)
{
    CHECK_IS(put(0, 1), 0);
    vd_simdisk_fault(disk, VD_FAULT_FLUSH_EIO, 1, false);
    CHECK_IS(vd_dev_flush(dev), -EIO);
    CHECK_IS(get(0), 1); /* still in the host's cache, and clean */
    CHECK_IS(put(1, 1), 0);
    dev->flush_failed = 0; /* as one would who does not keep I9 */
    CHECK_IS(vd_dev_flush(dev), 0);
}

static void a_failed_flush_loses_what_it_should_have_kept(void **state)
{
    (void)state;
    fresh(1);
    with_open(history_flush_fault);
    vd_simdisk_crash(disk, VD_CRASH_POWER_KEEP, 1);
    assert_int_equal(peek(0), 0);
    assert_int_equal(peek(1), 1);
}

static void write_error_of_a_long_write(void)
{
    vd_simdisk_fault(disk, VD_FAULT_WRITE_EIO, 1, false);
    CHECK_IS(put_flags(0, 8, 5, 0), -EIO);
}

static void a_failed_write_may_be_torn(void **state)
{
    (void)state;
    unsigned none = 0, some = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        fresh(seed);
        with_open(write_error_of_a_long_write);
        static uint8_t buf[8 * VD_BLOCK];
        vd_simdisk_peek(disk, 0, buf, sizeof(buf));
        if (vd_is_zero(buf, sizeof(buf)))
            none++;
        else
            some++;
    }
    assert_true(none > 5 && some > 5);
}

/* ---- the user's mistakes ---- */

static void overlap_mistake(void)
{
    vd_group_init(&group);
    vd_group_add(&group);
    spawn(put_late, (void *)1);
    vd_fiber_yield();
    (void)put_flags(0, 2, 1, 0);
}

static void punch_mistake(void)
{
    vd_group_init(&group);
    vd_group_add(&group);
    spawn(put_late, (void *)1);
    vd_fiber_yield();
    (void)vd_dev_punch(dev, 0, 2 * VD_BLOCK);
}

static uint8_t *shared;

static void scribble(void *arg)
{
    (void)arg;
    shared[VD_BLOCK + 5] ^= 1;
}

static void buffer_mistake(void)
{
    shared = vd_alloc_aligned(2 * VD_BLOCK);
    memset(shared, 1, 2 * VD_BLOCK);
    spawn(scribble, NULL);
    (void)vd_dev_write(dev, 0, shared, 2 * VD_BLOCK);
}

static void no_mistake(void)
{
    vd_group_init(&group);
    vd_group_add(&group);
    spawn(put_late, (void *)1);
    vd_fiber_yield();
    CHECK_IS(put_flags(2, 2, 1, 0), 0); /* beside it */
    CHECK(get(1) >= 0);
    vd_group_wait(&group);
}

static bool aborts(void (*fn)(void))
{
    fresh(1);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)!freopen("/dev/null", "w", stderr);
        with_open(fn);
        _exit(0);
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void mistakes_of_the_user_are_caught(void **state)
{
    (void)state;
    assert_true(aborts(overlap_mistake));
    assert_true(aborts(punch_mistake));
    assert_true(aborts(buffer_mistake));
    assert_false(aborts(no_mistake));
}

/* ---- the rest ---- */

static void rot_flips_one_bit_for_good(void **state)
{
    (void)state;
    static uint8_t buf[VD_BLOCK];
    fresh(1);
    with_open(history_plain);
    vd_simdisk_rot(disk, VD_BLOCK + 7, 3);
    vd_simdisk_peek(disk, VD_BLOCK, buf, sizeof(buf));
    assert_int_equal(buf[7], 3 ^ 8);
    assert_int_equal(buf[6], 3);
    vd_simdisk_poke(disk, 2 * VD_BLOCK - 2, "abcd", 4);
    vd_simdisk_crash(disk, VD_CRASH_POWER_DROP, 1);
    vd_simdisk_peek(disk, VD_BLOCK, buf, sizeof(buf));
    assert_int_equal(buf[7], 8); /* rot at rest, under a write that was never flushed */
    assert_memory_equal(buf + VD_BLOCK - 2, "ab", 2);
    vd_simdisk_peek(disk, 2 * VD_BLOCK, buf, 2);
    assert_memory_equal(buf, "cd", 2);
}

static void one_owner_or_many_readers(void **state)
{
    (void)state;
    struct vd_dev *a, *b;
    fresh(1);
    assert_int_equal(vd_simdev_open(disk, 0, &a), 0);
    assert_int_equal(vd_simdev_open(disk, VD_DEV_RDONLY, &b), -EBUSY);
    assert_int_equal(vd_simdev_open(disk, VD_DEV_RDONLY | VD_DEV_NO_LOCK, &b), 0);
    vd_dev_close(b);
    vd_dev_close(a);
    assert_int_equal(vd_simdev_open(disk, VD_DEV_RDONLY, &a), 0);
    assert_int_equal(vd_simdev_open(disk, VD_DEV_RDONLY, &b), 0);
    vd_dev_close(b);
    assert_int_equal(vd_simdev_open(disk, 0, &b), -EBUSY);
    vd_dev_close(a);
}

static int last_free(void **state)
{
    (void)state;
    vd_simdisk_free(disk);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_flushed_writes_are_sure_to_survive),
        cmocka_unit_test(unflushed_writes_survive_independently),
        cmocka_unit_test(a_torn_write_is_torn_between_sectors),
        cmocka_unit_test(a_dsync_write_is_durable_and_only_it),
        cmocka_unit_test(a_flush_covers_only_what_was_complete_before),
        cmocka_unit_test(a_size_is_as_durable_as_its_flush),
        cmocka_unit_test(punched_blocks_read_as_anything),
        cmocka_unit_test(every_operation_can_be_the_last),
        cmocka_unit_test(what_was_in_flight_at_the_cut_is_settled_by_the_crash),
        cmocka_unit_test(faults_strike_when_armed),
        cmocka_unit_test(a_failed_flush_loses_what_it_should_have_kept),
        cmocka_unit_test(a_failed_write_may_be_torn),
        cmocka_unit_test(mistakes_of_the_user_are_caught),
        cmocka_unit_test(rot_flips_one_bit_for_good),
        cmocka_unit_test(one_owner_or_many_readers),
    };
    return cmocka_run_group_tests(tests, NULL, last_free);
}
