/* SPDX-License-Identifier: MIT */
/* Files and block devices as vd_dev, on the back end named by the first argument. */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "core/io/dev.h"
#include "core/io/simdev.h"
#include "tests/io/run.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <malloc.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[64];

static struct vd_dev *fresh(uint64_t size)
{
    struct vd_dev *dev;
    struct vd_error err = {0};
    (void)unlink(path);
    int r = vd_dev_open(path, VD_DEV_CREATE, &dev, &err);
    if (r < 0)
        fprintf(stderr, "%s\n", err.message);
    CHECK_IS(r, 0);
    CHECK_IS(vd_dev_truncate(dev, size), 0);
    return dev;
}

static uint8_t *pattern(size_t len, uint64_t seed)
{
    struct vd_rng rng;
    uint8_t *p = vd_alloc_aligned(len);
    vd_rng_seed(&rng, seed);
    vd_rng_fill(&rng, p, len);
    return p;
}

/* ---- transfers ---- */

#define MANY 300

static int many_body(void *arg)
{
    (void)arg;
    struct vd_dev *dev = fresh(VD_MIB(8));
    uint8_t *out = pattern(MANY * VD_BLOCK, 1), *in = vd_alloc_aligned(MANY * VD_BLOCK);
    struct vd_io *ios = calloc(MANY, sizeof(*ios));
    struct iovec *iov = calloc(MANY, sizeof(*iov));
    struct vd_loop_stats before, after;
    memset(in, 0, MANY * VD_BLOCK);
    for (int i = 0; i < MANY; i++) { /* scattered, so that none can be joined */
        iov[i] = (struct iovec){out + i * VD_BLOCK, VD_BLOCK};
        ios[i] = (struct vd_io){.op = VD_IO_WRITE,
                                .flags = i % 3 ? 0 : VD_IO_DSYNC,
                                .off = (uint64_t)(i * 7 % MANY) * 5 * VD_BLOCK,
                                .iov = &iov[i],
                                .iovcnt = 1,
                                .res = 1};
    }
    vd_loop_stats(vd_loop_current(), &before);
    CHECK_IS(vd_dev_io(dev, ios, MANY), 0);
    vd_loop_stats(vd_loop_current(), &after);
    CHECK_IS(after.io - before.io, MANY);
    CHECK_IS(after.switches - before.switches, 1); /* one suspension for all */
    for (int i = 0; i < MANY; i++) {
        CHECK_IS(ios[i].res, 0);
        ios[i].op = VD_IO_READ;
        ios[i].flags = 0;
        iov[i].iov_base = in + i * VD_BLOCK;
    }
    CHECK_IS(vd_dev_io(dev, ios, MANY), 0);
    CHECK(memcmp(in, out, MANY * VD_BLOCK) == 0);
    CHECK_IS(vd_dev_flush(dev), 0);
    CHECK_IS(dev->stats.writes, MANY);
    CHECK_IS(dev->stats.read_bytes, MANY * VD_BLOCK);
    vd_dev_close(dev);
    free(ios);
    free(iov);
    free(in);
    free(out);
    return 0;
}

static void many_transfers_go_out_together(void **state)
{
    (void)state;
    run(many_body);
}

static int vector_body(void *arg)
{
    (void)arg;
    struct vd_dev *dev = fresh(VD_MIB(8));
    uint8_t *out = pattern(VD_IO_IOV_MAX * VD_BLOCK, 2);
    uint8_t *in = vd_alloc_aligned(VD_IO_IOV_MAX * VD_BLOCK);
    struct iovec *iov = calloc(VD_IO_IOV_MAX + 1, sizeof(*iov));
    for (int i = 0; i <= VD_IO_IOV_MAX; i++)
        iov[i] = (struct iovec){out + (i % VD_IO_IOV_MAX) * VD_BLOCK, VD_BLOCK};
    struct vd_io io = {.op = VD_IO_WRITE, .off = VD_BLOCK, .iov = iov, .iovcnt = VD_IO_IOV_MAX};
    CHECK_IS(vd_dev_io(dev, &io, 1), 0);
    CHECK_IS(vd_dev_read(dev, VD_BLOCK, in, VD_IO_IOV_MAX * VD_BLOCK), 0);
    CHECK(memcmp(in, out, VD_IO_IOV_MAX * VD_BLOCK) == 0);
    io.iovcnt++;
    CHECK_IS(vd_dev_io(dev, &io, 1), -EINVAL);
    vd_dev_close(dev);
    free(iov);
    free(in);
    free(out);
    return 0;
}

static void the_longest_vector_is_transferred(void **state)
{
    (void)state;
    run(vector_body);
}

static int refuse_body(void *arg)
{
    (void)arg;
    struct vd_dev *dev = fresh(VD_MIB(1));
    uint8_t *buf = pattern(2 * VD_BLOCK, 3);
    CHECK_IS(vd_dev_write(dev, 512, buf, VD_BLOCK), -EINVAL);
    CHECK_IS(vd_dev_write(dev, 0, buf, 512), -EINVAL);
    CHECK_IS(vd_dev_write(dev, 0, buf + 512, VD_BLOCK), -EINVAL);
    CHECK_IS(vd_dev_write(dev, 0, buf, 0), -EINVAL);
    CHECK_IS(vd_dev_write(dev, VD_ROUND_DOWN((uint64_t)INT64_MAX, VD_BLOCK), buf, 2 * VD_BLOCK),
             -EINVAL);
    CHECK_IS(vd_dev_allocate(dev, 1, VD_BLOCK), -EINVAL);
    CHECK_IS(vd_dev_punch(dev, 0, 1), -EINVAL);
    CHECK_IS(vd_dev_truncate(dev, 1), -EINVAL);
    /* Beyond the end: that transfer fails, the other does not. */
    struct iovec iov = {buf, VD_BLOCK};
    struct vd_io ios[2] = {{.op = VD_IO_READ, .off = VD_MIB(1), .iov = &iov, .iovcnt = 1},
                           {.op = VD_IO_READ, .off = 0, .iov = &iov, .iovcnt = 1}};
    CHECK_IS(vd_dev_io(dev, ios, 2), -EIO);
    CHECK_IS(ios[0].res, -EIO);
    CHECK_IS(ios[1].res, 0);
    iov.iov_len = 2 * VD_BLOCK; /* across the end */
    ios[0].off = VD_MIB(1) - VD_BLOCK;
    CHECK_IS(vd_dev_io(dev, ios, 1), -EIO);
    vd_dev_close(dev);

    CHECK_IS(vd_dev_open(path, VD_DEV_RDONLY, &dev, NULL), 0);
    CHECK_IS(vd_dev_read(dev, 0, buf, VD_BLOCK), 0);
    CHECK_IS(vd_dev_write(dev, 0, buf, VD_BLOCK), -EROFS);
    CHECK_IS(vd_dev_allocate(dev, 0, VD_BLOCK), -EROFS);
    CHECK_IS(vd_dev_punch(dev, 0, VD_BLOCK), -EROFS);
    CHECK_IS(vd_dev_truncate(dev, 0), -EROFS);
    struct vd_dev_info info;
    vd_dev_info(dev, &info);
    CHECK(info.read_only);
    vd_dev_close(dev);
    free(buf);
    return 0;
}

static void what_breaks_the_contract_is_refused(void **state)
{
    (void)state;
    run(refuse_body);
}

static int short_body(void *arg)
{
    (void)arg;
    struct vd_dev *dev = fresh(0);
    struct rlimit old, limit;
    struct iovec iov[4];
    uint8_t *buf = pattern(4 * VD_BLOCK, 4);
    CHECK_IS(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 2 * VD_BLOCK + VD_BLOCK;
    CHECK_IS(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (int i = 0; i < 4; i++)
        iov[i] = (struct iovec){buf + (unsigned)i * VD_BLOCK, VD_BLOCK};
    /* The kernel takes three blocks, then no more: the rest is tried, and its error told. */
    struct vd_io io = {.op = VD_IO_WRITE, .iov = iov, .iovcnt = 4};
    CHECK_IS(vd_dev_io(dev, &io, 1), -ENOSPC);
    CHECK_IS(setrlimit(RLIMIT_FSIZE, &old), 0);
    struct vd_dev_info info;
    vd_dev_info(dev, &info);
    CHECK_IS(info.size, 3 * VD_BLOCK);
    CHECK(iov[0].iov_base == buf &&
          iov[3].iov_len == VD_BLOCK); /* the caller's stay as they were */
    vd_dev_close(dev);
    free(buf);
    return 0;
}

static void a_short_write_goes_on_and_tells_its_error(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    run(short_body);
}

/* ---- space ---- */

static int space_body(void *arg)
{
    (void)arg;
    struct vd_dev *dev = fresh(VD_BLOCK);
    struct vd_dev_info info;
    uint8_t *buf = pattern(VD_BLOCK, 5);
    vd_dev_info(dev, &info);
    CHECK(info.is_file && !info.read_only && info.st_ino);
    CHECK_IS(info.size, VD_BLOCK);
    if (info.can_allocate) {
        CHECK_IS(vd_dev_write(dev, 0, buf, VD_BLOCK), 0);
        CHECK_IS(vd_dev_allocate(dev, 0, VD_MIB(2)), 0);
        vd_dev_info(dev, &info);
        CHECK_IS(info.size, VD_MIB(2));
        CHECK(info.allocated >= VD_MIB(2));
        CHECK_IS(vd_dev_unwritten(dev, 0), VD_BLOCK);
        CHECK_IS(vd_dev_write(dev, VD_BLOCK, buf, VD_BLOCK), 0);
        CHECK_IS(vd_dev_unwritten(dev, 0), 2 * VD_BLOCK);
        CHECK_IS(vd_dev_unwritten(dev, VD_MIB(1)), VD_MIB(1));
        CHECK_IS(vd_dev_unwritten(dev, VD_MIB(4)), VD_MIB(4));
        uint8_t *in = vd_alloc_aligned(VD_BLOCK);
        CHECK_IS(vd_dev_read(dev, 0, in, VD_BLOCK), 0);
        CHECK(memcmp(in, buf, VD_BLOCK) == 0);
        CHECK_IS(vd_dev_read(dev, VD_MIB(1), in, VD_BLOCK), 0);
        CHECK(vd_is_zero(in, VD_BLOCK));
        free(in);
    }
    if (info.can_punch) {
        CHECK_IS(vd_dev_punch(dev, VD_MIB(1), VD_MIB(1)), 0);
        vd_dev_info(dev, &info);
        CHECK_IS(info.size, VD_MIB(2));
        CHECK(info.allocated <= VD_MIB(1) + VD_KIB(64));
    }
    CHECK_IS(vd_dev_truncate(dev, 2 * VD_BLOCK), 0);
    vd_dev_info(dev, &info);
    CHECK_IS(info.size, 2 * VD_BLOCK);
    vd_dev_close(dev);
    free(buf);
    return 0;
}

static void space_is_reserved_and_given_back(void **state)
{
    (void)state;
    run(space_body);
}

/* ---- opening and locks ---- */

static int open_body(void *arg)
{
    (void)arg;
    struct vd_dev *dev = fresh(VD_BLOCK), *other;
    struct vd_error err = {0};
    struct stat st;
    char pid[32];
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    CHECK(strcmp(vd_dev_path(dev), path) == 0);

    CHECK_IS(vd_dev_open(path, VD_DEV_CREATE, &other, &err), -EEXIST);
    CHECK(strcmp(err.id, "exists") == 0);
    CHECK_IS(vd_dev_open(path, 0, &other, &err), -EBUSY);
    CHECK(strcmp(err.id, "in-use") == 0);
    (void)snprintf(pid, sizeof(pid), "process %d (", (int)getpid());
    CHECK(strstr(err.message, pid));
    CHECK_IS(vd_dev_open(path, VD_DEV_RDONLY, &other, &err), -EBUSY);
    CHECK_IS(vd_dev_open(path, VD_DEV_RDONLY | VD_DEV_NO_LOCK, &other, &err), 0);
    vd_dev_close(other);
    CHECK_IS(vd_dev_open(path, 0, &other, &err), -EBUSY); /* that close did not drop the lock */
    vd_dev_close(dev);

    CHECK_IS(vd_dev_open(path, VD_DEV_RDONLY, &dev, &err), 0);
    CHECK_IS(vd_dev_open(path, VD_DEV_RDONLY, &other, &err), 0);
    vd_dev_close(other);
    CHECK_IS(vd_dev_open(path, 0, &other, &err), -EBUSY);
    vd_dev_close(dev);
    CHECK_IS(vd_dev_open(path, VD_DEV_BUFFERED, &dev, &err), 0);
    vd_dev_close(dev);
    vd_dev_close(NULL);

    CHECK_IS(unlink(path), 0);
    CHECK_IS(vd_dev_open(path, 0, &dev, &err), -ENOENT);
    CHECK(strcmp(err.id, "not-found") == 0);
    CHECK_IS(mkfifo(path, 0600), 0);
    CHECK_IS(vd_dev_open(path, 0, &dev, &err), -EINVAL); /* and does not hang */
    CHECK(strcmp(err.id, "not-a-disk") == 0);
    CHECK_IS(unlink(path), 0);
    CHECK_IS(vd_dev_open("/nonexistent/x", VD_DEV_CREATE, &dev, &err), -ENOENT);
    return 0;
}

static void a_device_is_opened_by_one_owner(void **state)
{
    (void)state;
    run(open_body);
}

static int holder_body(void *arg)
{
    int *fds = arg;
    struct vd_dev *dev = fresh(VD_BLOCK);
    char c = 'x';
    CHECK_IS(write(fds[1], &c, 1), 1);
    pause(); /* dies with the lock */
    vd_dev_close(dev);
    return 0;
}

static int other_body(void *arg)
{
    struct vd_dev *dev;
    struct vd_error err = {0};
    char wanted[64];
    (void)snprintf(wanted, sizeof(wanted), "process %d (", *(int *)arg);
    CHECK_IS(vd_dev_open(path, 0, &dev, &err), -EBUSY);
    CHECK(strstr(err.message, wanted));
    CHECK_IS(kill(*(int *)arg, SIGKILL), 0);
    CHECK_IS(waitpid(*(int *)arg, NULL, 0), *(int *)arg);
    /* With io_uring the kernel may take a moment to let go of a dead process's files. */
    int r;
    while ((r = vd_dev_open(path, 0, &dev, &err)) == -EBUSY)
        vd_fiber_yield();
    CHECK_IS(r, 0);
    vd_dev_close(dev);
    return 0;
}

static void the_lock_names_its_holder_and_dies_with_it(void **state)
{
    (void)state;
    int fds[2];
    char c;
    CHECK_IS(pipe(fds), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)vd_fiber_main(run_backend, 1, holder_body, fds);
        _exit(1);
    }
    CHECK_IS(read(fds[0], &c, 1), 1);
    CHECK_IS(vd_fiber_main(run_backend, 1, other_body, &pid), 0);
    close(fds[0]);
    close(fds[1]);
}

/* ---- block devices ---- */

static int block_body(void *arg)
{
    struct vd_dev *dev, *other;
    struct vd_dev_info info;
    struct vd_error err = {0};
    uint8_t *out = pattern(VD_MIB(1), 6), *in = vd_alloc_aligned(VD_MIB(1));
    CHECK_IS(vd_dev_open(arg, 0, &dev, &err), 0);
    CHECK_IS(vd_dev_open(arg, 0, &other, &err), -EBUSY);
    vd_dev_info(dev, &info);
    CHECK(!info.is_file);
    CHECK_IS(info.size, VD_MIB(4));
    CHECK_IS(info.st_ino, 0);
    CHECK_IS(vd_dev_write(dev, VD_MIB(3), out, VD_MIB(1)), 0);
    CHECK_IS(vd_dev_flush(dev), 0);
    CHECK_IS(vd_dev_read(dev, VD_MIB(3), in, VD_MIB(1)), 0);
    CHECK(memcmp(in, out, VD_MIB(1)) == 0);
    CHECK_IS(vd_dev_write(dev, VD_MIB(4), out, VD_BLOCK), -ENOSPC);
    CHECK_IS(vd_dev_read(dev, VD_MIB(4), in, VD_BLOCK), -EIO);
    CHECK_IS(vd_dev_allocate(dev, 0, VD_MIB(4)), 0);
    CHECK_IS(vd_dev_allocate(dev, VD_MIB(4), VD_BLOCK), -ENOSPC);
    CHECK_IS(vd_dev_truncate(dev, 0), -EOPNOTSUPP);
    CHECK_IS(vd_dev_punch(dev, 0, VD_MIB(4)), 0);
    vd_dev_close(dev);
    free(in);
    free(out);
    return 0;
}

static void a_block_device_works_like_a_file(void **state)
{
    (void)state;
    char name[32];
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int backing = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(backing >= 0 && ftruncate(backing, (off_t)VD_MIB(4)) == 0);
    int loop_fd = -1;
    for (int attempt = 0; control >= 0 && attempt < 20; attempt++) { /* others take loops too */
        int n = ioctl(control, LOOP_CTL_GET_FREE);
        (void)snprintf(name, sizeof(name), "/dev/loop%d", n);
        loop_fd = n < 0 ? -1 : open(name, O_RDWR | O_CLOEXEC);
        if (loop_fd >= 0 && ioctl(loop_fd, LOOP_SET_FD, backing) == 0)
            break;
        if (loop_fd >= 0)
            close(loop_fd);
        loop_fd = -1;
    }
    if (control >= 0)
        close(control);
    close(backing);
    if (loop_fd < 0)
        skip(); /* needs root and loop devices */
    CHECK_IS(vd_fiber_main(run_backend, 1, block_body, name), 0);
    CHECK_IS(ioctl(loop_fd, LOOP_CLR_FD), 0);
    close(loop_fd);
}

/* ---- writes that outlive their process ---- */

#define HANDED VD_IO_BATCH_MAX
#define ROUNDS 20

static uint64_t handed_off(int i, uint64_t round)
{
    return ((uint64_t)i * 37 + round * 11) % 2048 * VD_BLOCK;
}

struct handing {
    uint64_t round;
    bool cached, die;
};

static void hand_over(struct vd_dev *dev, const struct handing *h)
{
    uint8_t *out = pattern(HANDED * VD_BLOCK, h->round + 7);
    static struct iovec iov[HANDED];
    static struct vd_io ios[HANDED];
    struct vd_io_batch batch = {.ios = ios, .n = HANDED};
    for (int i = 0; i < HANDED; i++) {
        iov[i] = (struct iovec){out + i * VD_BLOCK, VD_BLOCK};
        ios[i] = (struct vd_io){.op = VD_IO_WRITE,
                                .flags = h->cached ? VD_IO_CACHED : 0,
                                .off = handed_off(i, h->round),
                                .iov = &iov[i],
                                .iovcnt = 1};
    }
    if (h->cached) {
        CHECK_IS(vd_dev_io(dev, ios, HANDED), 0);
        if (h->die)
            (void)raise(SIGKILL);
        free(out);
        return;
    }
    struct vd_dev_info info;
    vd_dev_info(dev, &info);
    bool all = vd_dev_begin(dev, &batch);
    CHECK(all == info.hands_over);
    if (all && h->die)
        (void)raise(SIGKILL);
    CHECK_IS(vd_dev_end(dev, &batch), 0);
    if (h->die)
        (void)raise(SIGKILL);
    for (int i = 0; i < HANDED; i++)
        CHECK_IS(ios[i].res, 0);
    free(out);
}

static int handing_body(void *arg)
{
    struct vd_dev *dev;
    struct vd_error err = {0};
    CHECK_IS(vd_dev_open(path, 0, &dev, &err), 0);
    hand_over(dev, arg);
    vd_dev_close(dev);
    return 0;
}

static int handed_body(void *arg)
{
    const struct handing *h = arg;
    struct vd_dev *dev;
    struct vd_error err = {0};
    uint8_t *want = pattern(HANDED * VD_BLOCK, h->round + 7), *in = vd_alloc_aligned(VD_BLOCK);
    CHECK_IS(vd_dev_open(path, 0, &dev, &err), 0);
    for (int i = 0; i < HANDED; i++) {
        CHECK_IS(vd_dev_read(dev, handed_off(i, h->round), in, VD_BLOCK), 0);
        CHECK(memcmp(in, want + i * VD_BLOCK, VD_BLOCK) == 0);
    }
    vd_dev_close(dev);
    free(want);
    free(in);
    return 0;
}

static int allocate_body(void *arg)
{
    (void)arg;
    struct vd_dev *dev = fresh(VD_MIB(8));
    int r = vd_dev_allocate(dev, 0, VD_MIB(8));
    CHECK(r == 0 || r == -EOPNOTSUPP);
    vd_dev_close(dev);
    return 0;
}

static void what_the_host_has_taken_outlives_the_process(void **state)
{
    (void)state;
    run(allocate_body);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        struct handing h = {.round = round, .cached = round % 2, .die = round % 4 < 3};
        int status;
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
            _exit(vd_fiber_main(run_backend, 1, handing_body, &h));
        CHECK_IS(waitpid(pid, &status, 0), pid);
        CHECK(h.die ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0);
        CHECK_IS(vd_fiber_main(run_backend, 1, handed_body, &h), 0);
    }
}

static int several_body(void *arg)
{
    struct vd_dev *dev = fresh(VD_MIB(8));
    uint8_t *out = pattern(2 * HANDED * VD_BLOCK, 3), *in = vd_alloc_aligned(VD_BLOCK);
    static struct iovec iov[2 * HANDED];
    static struct vd_io ios[2 * HANDED];
    struct vd_io_batch batch[2] = {{.ios = ios, .n = HANDED}, {.ios = ios + HANDED, .n = HANDED}};
    (void)arg;
    for (int i = 0; i < 2 * HANDED; i++) {
        iov[i] = (struct iovec){out + i * VD_BLOCK, VD_BLOCK};
        ios[i] = (struct vd_io){
            .op = VD_IO_WRITE, .off = (uint64_t)i * 5 * VD_BLOCK, .iov = &iov[i], .iovcnt = 1};
    }
    (void)vd_dev_begin(dev, &batch[0]);
    (void)vd_dev_begin(dev, &batch[1]);
    CHECK_IS(vd_dev_end(dev, &batch[1]), 0); /* in any order */
    CHECK_IS(vd_dev_end(dev, &batch[0]), 0);
    CHECK_IS(vd_dev_flush(dev), 0);
    for (int i = 0; i < 2 * HANDED; i++) {
        CHECK_IS(vd_dev_read(dev, ios[i].off, in, VD_BLOCK), 0);
        CHECK(memcmp(in, out + i * VD_BLOCK, VD_BLOCK) == 0);
    }
    vd_dev_close(dev);
    free(out);
    free(in);
    return 0;
}

static void batches_end_in_any_order(void **state)
{
    (void)state;
    run(several_body);
}

/* More than the host takes at once: what it refuses is written at the end, counted once, and leaves
 * nothing behind. */
#define BATCHES 48

static void too_many(struct vd_dev *dev, struct vd_io *ios, struct vd_io_batch *batch)
{
    for (int b = 0; b < BATCHES; b++) {
        batch[b] = (struct vd_io_batch){.ios = ios + b * HANDED, .n = HANDED};
        (void)vd_dev_begin(dev, &batch[b]);
    }
    for (int b = 0; b < BATCHES; b++)
        CHECK_IS(vd_dev_end(dev, &batch[b]), 0);
}

static int too_many_body(void *arg)
{
    const int blocks = BATCHES * HANDED;
    struct vd_dev *dev = fresh((uint64_t)blocks * VD_BLOCK);
    uint8_t *out = pattern((size_t)blocks * VD_BLOCK, 4), *in = vd_alloc_aligned(VD_BLOCK);
    struct iovec *iov = calloc((size_t)blocks, sizeof(*iov));
    struct vd_io *ios = calloc((size_t)blocks, sizeof(*ios));
    struct vd_io_batch batch[BATCHES];
    (void)arg;
    for (int i = 0; i < blocks; i++) {
        iov[i] = (struct iovec){out + (size_t)i * VD_BLOCK, VD_BLOCK};
        ios[i] = (struct vd_io){
            .op = VD_IO_WRITE, .off = (uint64_t)i * VD_BLOCK, .iov = &iov[i], .iovcnt = 1};
    }
    too_many(dev, ios, batch); /* whatever is made once has been made */
    size_t before = mallinfo2().uordblks;
    uint64_t writes = dev->stats.writes;
    too_many(dev, ios, batch);
    CHECK_IS(mallinfo2().uordblks, before);
    CHECK_IS(dev->stats.writes - writes, blocks);
    for (int i = 0; i < blocks; i += 41) {
        CHECK_IS(vd_dev_read(dev, ios[i].off, in, VD_BLOCK), 0);
        CHECK(memcmp(in, out + (size_t)i * VD_BLOCK, VD_BLOCK) == 0);
    }
    vd_dev_close(dev);
    free(iov);
    free(ios);
    free(out);
    free(in);
    return 0;
}

static void what_the_host_does_not_take_is_written_at_the_end(void **state)
{
    (void)state;
    run(too_many_body);
}

/* More than is sent on at once, read while it is on its way, and the device closed meanwhile. */
static int cached_body(void *arg)
{
    struct vd_dev *dev = fresh(VD_MIB(8));
    const struct handing h[] = {{1, true, false}, {2, true, false}, {3, true, false}};
    uint8_t *in = vd_alloc_aligned(VD_BLOCK);
    (void)arg;
    for (size_t n = 0; n < VD_ARRAY_SIZE(h); n++) {
        hand_over(dev, &h[n]);
        uint8_t *want = pattern(HANDED * VD_BLOCK, h[n].round + 7);
        CHECK_IS(vd_dev_read(dev, handed_off(5, h[n].round), in, VD_BLOCK), 0);
        CHECK(memcmp(in, want + 5 * VD_BLOCK, VD_BLOCK) == 0);
        free(want);
    }
    vd_dev_close(dev);
    free(in);
    return 0;
}

static void small_writes_pass_through_the_page_cache(void **state)
{
    (void)state;
    run(cached_body);
}

/* ---- I9 ---- */

static int sticky_body(void *arg)
{
    struct vd_dev *dev;
    CHECK_IS(vd_simdev_open(arg, 0, &dev), 0);
    CHECK_IS(vd_dev_flush(dev), 0);
    vd_simdisk_fault(arg, VD_FAULT_FLUSH_EIO, 1, false);
    CHECK_IS(vd_dev_flush(dev), -EIO);
    vd_simdisk_clear_faults(arg);
    CHECK_IS(vd_dev_flush(dev), -EIO); /* the disk would say 0 now */
    CHECK_IS(dev->flush_failed, -EIO);
    vd_dev_close(dev);
    return 0;
}

static void a_failed_flush_is_never_followed_by_success(void **state)
{
    (void)state;
    struct vd_simdisk *disk = vd_simdisk_new(VD_MIB(1), VD_MIB(1), 1);
    CHECK_IS(vd_fiber_main(run_backend, 1, sticky_body, disk), 0);
    vd_simdisk_free(disk);
}

int main(int argc, char **argv)
{
    run_args(argc, argv);
    (void)snprintf(path, sizeof(path), "test-dev-%d.img", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_transfers_go_out_together),
        cmocka_unit_test(the_longest_vector_is_transferred),
        cmocka_unit_test(what_breaks_the_contract_is_refused),
        cmocka_unit_test(a_short_write_goes_on_and_tells_its_error),
        cmocka_unit_test(space_is_reserved_and_given_back),
        cmocka_unit_test(a_device_is_opened_by_one_owner),
        cmocka_unit_test(the_lock_names_its_holder_and_dies_with_it),
        cmocka_unit_test(a_block_device_works_like_a_file),
        cmocka_unit_test(what_the_host_has_taken_outlives_the_process),
        cmocka_unit_test(batches_end_in_any_order),
        cmocka_unit_test(what_the_host_does_not_take_is_written_at_the_end),
        cmocka_unit_test(small_writes_pass_through_the_page_cache),
        cmocka_unit_test(a_failed_flush_is_never_followed_by_success),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(path);
    return r;
}
