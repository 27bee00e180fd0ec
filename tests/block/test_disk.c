/* SPDX-License-Identifier: MIT */
/*
 * The choke point: what an implementation is promised never to see, what callers are promised to
 * be told; and the memory disk against a plain array.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/block/store.h"

#define SIZE VD_MIB(1)

/* A disk that only notes what reaches it. */
struct spy {
    struct vd_disk disk;
    unsigned calls;
    unsigned flags;
    uint64_t off, len;
    bool read_only, closed;
};

static struct spy *spy_of(struct vd_disk *d)
{
    return vd_container_of(d, struct spy, disk);
}

static int note(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct spy *s = spy_of(d);
    s->calls++;
    s->off = off;
    s->len = len;
    s->flags = flags;
    return 0;
}

static int spy_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    return note(d, off, len, 0);
}

static int spy_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len,
                      unsigned flags)
{
    return note(d, off, len, flags);
}

static int spy_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    return note(d, off, len, flags);
}

static int spy_flush(struct vd_disk *d)
{
    return note(d, 0, 0, 0);
}

static void spy_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    *ret = (struct vd_disk_info){.size = SIZE,
                                 .block_min = VD_SECTOR,
                                 .block_pref = VD_BLOCK,
                                 .request_max = (uint32_t)VD_KIB(64),
                                 .read_only = spy_of(d)->read_only};
}

static void spy_close(struct vd_disk *d)
{
    spy_of(d)->closed = true;
}

static const struct vd_disk_ops spy_ops = {
    .readv = spy_readv,
    .writev = spy_writev,
    .zero = spy_zero,
    .discard = spy_zero,
    .flush = spy_flush,
    .info = spy_info,
    .close = spy_close,
};

static void spy_init(struct spy *s)
{
    memset(s, 0, sizeof(*s));
    vd_disk_init(&s->disk, &spy_ops);
}

static void bad_ranges_reach_no_implementation(void **state)
{
    struct spy s;
    struct vd_extent ext;
    static uint8_t buf[VD_KIB(128)];
    static const struct {
        uint64_t off, len;
        int r;
    } cases[] = {
        {1, 512, -EINVAL},
        {0, 511, -EINVAL},
        {512, 1, -EINVAL},
        {SIZE, 512, -ERANGE},
        {SIZE - 512, 1024, -ERANGE},
        {SIZE + 512, 0, -ERANGE},
        {UINT64_MAX - 511, 512, -ERANGE},
        {UINT64_MAX - 511, 1024, -ERANGE},
    };
    spy_init(&s);
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        int n = 1;
        uint64_t off = cases[i].off, len = cases[i].len;
        assert_int_equal(vd_disk_read(&s.disk, off, buf, len), cases[i].r);
        assert_int_equal(vd_disk_write(&s.disk, off, buf, len, 0), cases[i].r);
        assert_int_equal(vd_disk_zero(&s.disk, off, len, 0), cases[i].r);
        assert_int_equal(vd_disk_discard(&s.disk, off, len, 0), cases[i].r);
        assert_int_equal(vd_disk_extents(&s.disk, off, len, &ext, &n), cases[i].r);
    }
    /* Longer than a request may be, though inside the disk. */
    assert_int_equal(vd_disk_read(&s.disk, 0, buf, sizeof(buf)), -EINVAL);
    assert_int_equal(vd_disk_write(&s.disk, 0, buf, sizeof(buf), 0), -EINVAL);
    assert_int_equal(s.calls, 0);
    /* Zeroing and discarding have no such limit. */
    assert_int_equal(vd_disk_zero(&s.disk, 0, SIZE, 0), 0);
    assert_int_equal(vd_disk_discard(&s.disk, 0, SIZE, 0), 0);
    assert_int_equal(s.calls, 2);
}

static void vectors_that_overflow_are_refused(void **state)
{
    struct spy s;
    uint8_t buf[512];
    struct iovec iov[2] = {{buf, SIZE_MAX - 511}, {buf, 1024}};
    spy_init(&s);
    assert_int_equal(vd_disk_readv(&s.disk, 0, iov, 2, 0), -EINVAL);
    assert_int_equal(vd_disk_writev(&s.disk, 0, iov, 2, 0), -EINVAL);
    assert_int_equal(vd_disk_readv(&s.disk, 0, iov, -1, 0), -EINVAL);
    assert_int_equal(s.calls, 0);
    iov[0].iov_len = 256;
    iov[1].iov_len = 256;
    assert_int_equal(vd_disk_readv(&s.disk, 1024, iov, 2, 0), 0);
    assert_int_equal(s.len, 512);
    assert_int_equal(s.off, 1024);
}

static void nothing_to_do_is_done_at_once(void **state)
{
    struct spy s;
    struct vd_extent ext;
    int n = 1;
    spy_init(&s);
    assert_int_equal(vd_disk_read(&s.disk, SIZE, NULL, 0), 0);
    assert_int_equal(vd_disk_write(&s.disk, 0, NULL, 0, VD_DISK_FUA), 0);
    assert_int_equal(vd_disk_zero(&s.disk, 0, 0, 0), 0);
    assert_int_equal(vd_disk_discard(&s.disk, 0, 0, 0), 0);
    assert_int_equal(vd_disk_extents(&s.disk, 0, 0, &ext, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(s.calls, 0);
}

static void read_only_disks_are_never_changed(void **state)
{
    struct spy s;
    uint8_t buf[512] = {0};
    struct vd_error err = {0};
    spy_init(&s);
    s.read_only = true;
    assert_int_equal(vd_disk_write(&s.disk, 0, buf, 512, 0), -EROFS);
    assert_int_equal(vd_disk_zero(&s.disk, 0, 512, 0), -EROFS);
    assert_int_equal(vd_disk_discard(&s.disk, 0, 512, 0), -EROFS);
    assert_int_equal(vd_disk_resize(&s.disk, 512, &err), -EROFS);
    assert_string_equal(err.id, "read-only");
    assert_int_equal(s.calls, 0);
    assert_int_equal(vd_disk_read(&s.disk, 0, buf, 512), 0);
    assert_int_equal(s.calls, 1);
}

static void only_known_flags_pass(void **state)
{
    struct spy s;
    uint8_t buf[512] = {0};
    struct iovec iov = {buf, 512};
    spy_init(&s);
    assert_int_equal(vd_disk_readv(&s.disk, 0, &iov, 1, VD_DISK_FUA), -EINVAL);
    assert_int_equal(vd_disk_write(&s.disk, 0, buf, 512, VD_DISK_NO_UNMAP), -EINVAL);
    assert_int_equal(vd_disk_discard(&s.disk, 0, 512, VD_DISK_NO_UNMAP), -EINVAL);
    assert_int_equal(vd_disk_zero(&s.disk, 0, 512, 4), -EINVAL);
    assert_int_equal(s.calls, 0);
    assert_int_equal(vd_disk_write(&s.disk, 0, buf, 512, VD_DISK_FUA), 0);
    assert_int_equal(s.flags, VD_DISK_FUA);
    assert_int_equal(vd_disk_zero(&s.disk, 0, 512, VD_DISK_FUA | VD_DISK_NO_UNMAP), 0);
    assert_int_equal(s.flags, VD_DISK_FUA | VD_DISK_NO_UNMAP);
}

static void a_disk_without_extents_is_all_data(void **state)
{
    struct spy s;
    struct vd_extent ext = {0};
    int n = 1;
    spy_init(&s);
    assert_int_equal(vd_disk_extents(&s.disk, 512, 4096, &ext, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ext.off, 512);
    assert_int_equal(ext.len, 4096);
    assert_int_equal(ext.flags, 0);
    n = 0;
    assert_int_equal(vd_disk_extents(&s.disk, 512, 4096, &ext, &n), -EINVAL);
}

static void what_cannot_resize_says_so(void **state)
{
    struct spy s;
    struct vd_error err = {0};
    spy_init(&s);
    assert_int_equal(vd_disk_resize(&s.disk, SIZE, &err), -EOPNOTSUPP);
    assert_int_equal(vd_disk_resize(&s.disk, SIZE + 1, &err), -EINVAL);
    assert_int_equal(vd_disk_resize(&s.disk, VD_VOLUME_MAX + 512, &err), -EINVAL);
    assert_string_equal(err.id, "size-invalid");
}

static void the_last_reference_closes(void **state)
{
    struct spy s;
    spy_init(&s);
    vd_disk_ref(&s.disk);
    vd_disk_unref(&s.disk);
    assert_false(s.closed);
    vd_disk_unref(&s.disk);
    assert_true(s.closed);
    vd_disk_unref(NULL);
}

struct watcher {
    struct vd_disk_watch watch;
    unsigned seen;
    enum vd_disk_event last;
};

static void watch_event(struct vd_disk_watch *w, enum vd_disk_event event)
{
    struct watcher *watcher = vd_container_of(w, struct watcher, watch);
    watcher->seen++;
    watcher->last = event;
    if (event == VD_DISK_GONE)
        vd_disk_unwatch(w);
}

static void watchers_are_told_and_may_leave(void **state)
{
    struct spy s;
    struct watcher a = {.watch.fn = watch_event}, b = {.watch.fn = watch_event};
    spy_init(&s);
    vd_disk_watch(&s.disk, &a.watch);
    vd_disk_watch(&s.disk, &b.watch);
    vd_disk_notify(&s.disk, VD_DISK_RESIZED);
    assert_int_equal(a.seen + b.seen, 2);
    vd_disk_notify(&s.disk, VD_DISK_GONE);
    assert_int_equal(b.last, VD_DISK_GONE);
    vd_disk_notify(&s.disk, VD_DISK_RESIZED);
    assert_int_equal(a.seen + b.seen, 4);
}

static void check_extents(struct vd_disk *d, const uint8_t *model, uint64_t size)
{
    struct vd_extent ext[3];
    for (uint64_t off = 0; off < size;) {
        int n = 3;
        assert_int_equal(vd_disk_extents(d, off, size - off, ext, &n), 0);
        for (int i = 0; i < n; i++) {
            assert_int_equal(ext[i].off, off);
            for (uint64_t k = 0; (ext[i].flags & VD_EXTENT_ZERO) && k < ext[i].len; k++)
                assert_int_equal(model[off + k], 0);
            off += ext[i].len;
        }
    }
}

static void the_memory_disk_is_an_array(void **state)
{
    enum { SECTORS = 1000, MAX = 200 };
    uint64_t size = SECTORS * VD_SECTOR;
    uint8_t *model = calloc(1, 2 * size), *buf = malloc(MAX * VD_SECTOR);
    struct vd_disk *d;
    struct vd_rng rng;
    vd_rng_seed(&rng, 7);
    assert_non_null(model);
    assert_non_null(buf);
    assert_int_equal(vd_disk_memory(size, &d), 0);
    for (unsigned i = 0; i < 4000; i++) {
        uint64_t off = vd_rng_below(&rng, size / VD_SECTOR) * VD_SECTOR;
        uint64_t len = (1 + vd_rng_below(&rng, MAX)) * VD_SECTOR;
        len = VD_MIN(len, size - off);
        switch (vd_rng_below(&rng, 6)) {
        case 0:
            vd_rng_fill(&rng, buf, len);
            assert_int_equal(vd_disk_write(d, off, buf, len, 0), 0);
            memcpy(model + off, buf, len);
            break;
        case 1:
            assert_int_equal(vd_disk_zero(d, off, len, VD_DISK_NO_UNMAP), 0);
            memset(model + off, 0, len);
            break;
        case 2:
            assert_int_equal(vd_disk_discard(d, off, len, 0), 0);
            memset(model + off, 0, len);
            break;
        case 3:
            if (vd_rng_below(&rng, 50) > 0)
                break;
            uint64_t to = (SECTORS / 2 + vd_rng_below(&rng, SECTORS)) * VD_SECTOR;
            assert_int_equal(vd_disk_resize(d, to, NULL), 0);
            memset(model + to, 0, 2 * SECTORS * VD_SECTOR - to);
            size = to;
            check_extents(d, model, size);
            break;
        default:
            assert_int_equal(vd_disk_read(d, off, buf, len), 0);
            assert_memory_equal(buf, model + off, len);
        }
    }
    assert_int_equal(vd_disk_zero(d, 0, size, 0), 0);
    struct vd_extent ext;
    int n = 1;
    assert_int_equal(vd_disk_extents(d, 0, size, &ext, &n), 0);
    assert_int_equal(ext.len, size);
    assert_int_equal(ext.flags, VD_EXTENT_HOLE | VD_EXTENT_ZERO);
    vd_disk_unref(d);
    free(model);
    free(buf);
}

/* The store's own choke point: nothing of this may reach an implementation, which is not there. */
static void names_are_checked_before_the_store_sees_them(void **state)
{
    static const struct vd_store_ops none = {0};
    struct vd_store s = {.ops = &none};
    struct vd_error err = {0};
    struct vd_disk *d;
    struct vd_target no_snapshot = {.volume = "v"}, bad = {.volume = "v", .snapshot = "a b"};
    struct vd_target odd = {.volume = "../v", .snapshot = "s"};

    assert_int_equal(vd_store_volume_create(&s, "", 4096, &err), -EINVAL);
    assert_string_equal(err.id, "name-invalid");
    assert_int_equal(vd_store_volume_create(&s, "v", 0, &err), -EINVAL);
    assert_string_equal(err.id, "size-invalid");
    assert_int_equal(vd_store_volume_create(&s, "v", 1000, &err), -EINVAL);
    assert_int_equal(vd_store_volume_resize(&s, "v", VD_VOLUME_MAX + 512, true, &err), -EINVAL);
    assert_int_equal(vd_store_volume_rename(&s, "v", "-x", &err), -EINVAL);
    assert_int_equal(vd_store_open(&s, bad, false, &d, &err), -EINVAL);
    assert_int_equal(vd_store_open(&s, odd, false, &d, &err), -EINVAL);
    assert_int_equal(vd_store_snapshot_create(&s, &no_snapshot, 1, &err), -EINVAL);
    assert_int_equal(vd_store_snapshot_create(&s, NULL, 0, &err), -EINVAL);
    assert_int_equal(vd_store_rollback(&s, no_snapshot, false, false, NULL, &err), -EINVAL);
    assert_int_equal(vd_store_clone(&s, no_snapshot, "@", &err), -EINVAL);
    assert_int_equal(vd_store_snapshot_hold(&s, bad, "tag", false, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_ranges_reach_no_implementation),
        cmocka_unit_test(vectors_that_overflow_are_refused),
        cmocka_unit_test(nothing_to_do_is_done_at_once),
        cmocka_unit_test(read_only_disks_are_never_changed),
        cmocka_unit_test(only_known_flags_pass),
        cmocka_unit_test(a_disk_without_extents_is_all_data),
        cmocka_unit_test(what_cannot_resize_says_so),
        cmocka_unit_test(the_last_reference_closes),
        cmocka_unit_test(watchers_are_told_and_may_leave),
        cmocka_unit_test(the_memory_disk_is_an_array),
        cmocka_unit_test(names_are_checked_before_the_store_sees_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
