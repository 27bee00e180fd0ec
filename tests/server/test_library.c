/* SPDX-License-Identifier: MIT */
/* libvdisk as a program uses it: only its public header. */
#include <vdisk.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (UINT64_C(64) << 20)

static char dir[64], pool[80], snapshot[100];
static const char *program;

static int setup(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/vdisk-library.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(pool, sizeof(pool), "%s/a.vdk", dir);
    snprintf(snapshot, sizeof(snapshot), "%s@s", pool);
    setenv("VDISK_RUNTIME_DIR", dir, 1);
    return 0;
}

static int teardown(void **state)
{
    unlink(pool);
    return rmdir(dir);
}

static void command(const char *what)
{
    char line[400];
    snprintf(line, sizeof(line), "%s %s %s", program, what, snapshot);
    assert_int_equal(system(line), 0);
}

static void test_create(void **state)
{
    struct vdisk_error err;
    struct vdisk *d;
    assert_int_equal(vdisk_create(pool, SIZE, &err), 0);
    assert_int_equal(vdisk_create(pool, SIZE, &err), -EEXIST);
    assert_string_equal(err.id, "exists");
    assert_int_equal(vdisk_open("/nonexistent/x.vdk", 0, &d, &err), -ENOENT);
    assert_string_equal(err.id, "not-found");
    assert_int_equal(vdisk_open("", 0, &d, NULL), -EINVAL);
    assert_int_equal(vdisk_open(snapshot, 0, &d, &err), -ENOENT);
    assert_string_equal(err.id, "snapshot-not-found");
}

struct worker {
    struct vdisk *d;
    unsigned n;
    pthread_t thread;
};

static void *worker(void *arg)
{
    struct worker *w = arg;
    char buf[1024];
    for (unsigned i = 0; i < 100; i++) {
        memset(buf, (int)(w->n + i), sizeof(buf));
        if (vdisk_pwrite(w->d, buf, sizeof(buf), (w->n * 1000 + i) * 4096) < 0)
            return "write";
    }
    for (unsigned i = 0; i < 100; i++) {
        if (vdisk_pread(w->d, buf, sizeof(buf), (w->n * 1000 + i) * 4096) < 0)
            return "read";
        if (buf[0] != (char)(w->n + i) || buf[1023] != buf[0])
            return "content";
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct vdisk *d, *other;
    struct vdisk_error err;
    struct worker w[4];
    char buf[512];
    assert_int_equal(vdisk_open(pool, 0, &d, &err), 0);
    assert_true(vdisk_size(d) == SIZE);
    assert_false(vdisk_is_read_only(d));
    for (unsigned i = 0; i < 4; i++) {
        w[i].d = d;
        w[i].n = i;
        assert_int_equal(pthread_create(&w[i].thread, NULL, worker, &w[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(w[i].thread, &wrong);
        assert_null(wrong);
    }
    assert_int_equal(vdisk_open(pool, 0, &other, &err), -EBUSY);
    assert_string_equal(err.id, "in-use");
    assert_true(vdisk_pread(d, buf, 512, SIZE) < 0);
    assert_int_equal(vdisk_pread(d, buf, 13, 0), -EINVAL);
    assert_int_equal(vdisk_flush(d), 0);
    memset(buf, 7, sizeof(buf));
    assert_int_equal(vdisk_pwrite_fua(d, buf, 512, 8192), 0);
    assert_int_equal(vdisk_pread(d, buf, 512, 8192), 0);
    assert_int_equal(buf[511], 7);
    assert_int_equal(vdisk_pwrite_fua(d, buf, 512, 8193), -EINVAL);
    /* The program's commands are carried out by us meanwhile. */
    command("snapshot create");
    assert_int_equal(vdisk_zero(d, 4096, 0), 0);
    assert_int_equal(vdisk_discard(d, 4096, 4096), 0);
    assert_int_equal(vdisk_close(d, &err), 0);
}

static void test_snapshot(void **state)
{
    struct vdisk *d, *live;
    struct vdisk_error err;
    static char buf[4096];
    assert_int_equal(vdisk_open(snapshot, VDISK_READ_ONLY, &d, &err), 0);
    assert_true(vdisk_is_read_only(d));
    assert_int_equal(vdisk_pread(d, buf, sizeof(buf), 4096), 0);
    assert_int_equal(buf[0], 1);
    assert_int_equal(vdisk_pwrite(d, buf, sizeof(buf), 0), -EROFS);
    assert_int_equal(vdisk_open(pool, VDISK_READ_ONLY, &live, &err), 0);
    assert_int_equal(vdisk_pread(live, buf, sizeof(buf), 4096), 0);
    assert_int_equal(buf[0], 0);
    assert_int_equal(vdisk_close(live, NULL), 0);
    assert_int_equal(vdisk_close(d, NULL), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_snapshot),
    };
    program = argc > 1 ? argv[1] : "vdisk";
    return cmocka_run_group_tests_name("libvdisk", tests, setup, teardown);
}
