/* SPDX-License-Identifier: MIT */
/*
 * What a store promises, one behaviour a test, over the pool in memory: errors and their ids, open
 * handles, requests at the same time, atomic snapshots, huge volumes, and that check can say no.
 */
#include "tests/snapshot/fakepool.h"
#include "tests/snapshot/model.h"

#include "core/base/text.h"
#include "snapshot/store_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- a store for one test ---- */

struct env {
    struct medium *m;
    struct vd_store *s;
};

static struct env env_open(void)
{
    struct env e = {.m = medium_new()};
    struct vd_dev *dev = medium_dev(e.m);
    assert_int_equal(vd_store_attach(&dev, 1, 0, &e.s, NULL), 0);
    return e;
}

static void env_reopen(struct env *e)
{
    struct vd_dev *dev = medium_dev(e->m);
    vd_store_abandon(e->s);
    assert_int_equal(vd_store_attach(&dev, 1, 0, &e->s, NULL), 0);
}

static void env_close(struct env *e)
{
    assert_int_equal(vd_store_detach(e->s, NULL), 0);
    medium_free(e->m);
}

static struct vd_pool *env_pool(struct env *e)
{
    return vd_container_of(e->s, struct snap_store, store)->pool;
}

static struct vd_disk *open_rw(struct env *e, const char *volume)
{
    struct vd_disk *d;
    assert_int_equal(vd_store_open(e->s, (struct vd_target){volume, NULL}, false, &d, NULL), 0);
    return d;
}

static struct vd_disk *open_snapshot(struct env *e, const char *volume, const char *snapshot)
{
    struct vd_disk *d;
    assert_int_equal(vd_store_open(e->s, (struct vd_target){volume, snapshot}, true, &d, NULL), 0);
    return d;
}

static void write_stamp(struct vd_disk *d, uint64_t sector, uint64_t sectors, uint32_t stamp)
{
    uint8_t *buf = vd_alloc_aligned(sectors * VD_SECTOR);
    model_fill(stamp, sector, buf, sectors);
    assert_int_equal(vd_disk_write(d, sector * VD_SECTOR, buf, sectors * VD_SECTOR, 0), 0);
    free(buf);
}

/* The stamp that a sector holds; it must be of that sector. */
static uint32_t read_stamp(struct vd_disk *d, uint64_t sector)
{
    uint8_t got[VD_SECTOR], want[VD_SECTOR];
    uint64_t first;
    assert_int_equal(vd_disk_read(d, sector * VD_SECTOR, got, sizeof(got)), 0);
    memcpy(&first, got, sizeof(first));
    uint32_t stamp = (uint32_t)((first ^ sector << 40) >> 8);
    model_fill(stamp, sector, want, 1);
    assert_memory_equal(got, want, sizeof(got));
    return stamp;
}

#define FAILS(call, want, name)            \
    do {                                   \
        struct vd_error err = {0};         \
        assert_int_equal(call, want);      \
        assert_int_equal(err.code, want);  \
        assert_string_equal(err.id, name); \
        assert_true(err.message[0]);       \
    } while (0)

static int snap(struct env *e, const char *volume, const char *snapshot)
{
    struct vd_target t = {volume, snapshot};
    return vd_store_snapshot_create(e->s, &t, 1, NULL);
}

static int snap_delete(struct env *e, const char *volume, const char *snapshot)
{
    struct vd_target t = {volume, snapshot};
    return vd_store_snapshot_delete(e->s, &t, 1, NULL);
}

/* ---- errors ---- */

static void errors_have_ids(struct env *e)
{
    struct vd_store *s = e->s;
    struct vd_disk *d;
    assert_int_equal(vd_store_volume_create(s, "a", VD_MIB(1), NULL), 0);
    FAILS(vd_store_volume_create(s, "a", VD_MIB(1), &err), -EEXIST, "volume-exists");
    FAILS(vd_store_volume_create(s, "-", VD_MIB(1), &err), -EINVAL, "name-invalid");
    FAILS(vd_store_volume_create(s, "b", 100, &err), -EINVAL, "size-invalid");
    FAILS(vd_store_open(s, (struct vd_target){"b", NULL}, false, &d, &err), -ENOENT,
          "volume-not-found");
    FAILS(vd_store_open(s, (struct vd_target){"a", "x"}, false, &d, &err), -ENOENT,
          "snapshot-not-found");
    struct vd_target t[2] = {{"a", "x"}, {"a", "x"}};
    FAILS(vd_store_snapshot_create(s, t, 2, &err), -EEXIST, "snapshot-exists");
    assert_int_equal(snap(e, "a", "x"), 0);
    FAILS(vd_store_snapshot_create(s, t, 1, &err), -EEXIST, "snapshot-exists");
    FAILS(vd_store_volume_delete(s, "a", false, &err), -ENOTEMPTY, "volume-has-snapshots");
    FAILS(vd_store_clone(s, t[0], "a", &err), -EEXIST, "volume-exists");
    FAILS(vd_store_volume_resize(s, "a", VD_SECTOR, false, &err), -EINVAL, "shrink-refused");
    FAILS(vd_store_volume_rename(s, "b", "c", &err), -ENOENT, "volume-not-found");
    FAILS(vd_store_prop_set(s, "a", "colour", "red", &err), -EINVAL, "property-invalid");
    medium_fail_commits(e->m, -ENOSPC);
    FAILS(vd_store_volume_create(s, "b", VD_MIB(1), &err), -ENOSPC, "no-space");
    medium_fail_commits(e->m, 0);
}

static void several_deletions_are_all_or_nothing(struct env *e)
{
    struct vd_target t[2] = {{"a", "x"}, {"a", "nope"}};
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    assert_int_equal(snap(e, "a", "x"), 0);
    FAILS(vd_store_snapshot_delete(e->s, t, 2, &err), -ENOENT, "snapshot-not-found");
    vd_disk_unref(open_snapshot(e, "a", "x"));
}

static void held_and_open_snapshots_stay(struct env *e)
{
    struct vd_target t = {"a", "x"};
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    assert_int_equal(snap(e, "a", "x"), 0);
    assert_int_equal(vd_store_snapshot_hold(e->s, t, "backup", false, NULL), 0);
    FAILS(vd_store_snapshot_hold(e->s, t, "backup", false, &err), -EEXIST, "hold-exists");
    FAILS(vd_store_snapshot_delete(e->s, &t, 1, &err), -EBUSY, "snapshot-held");
    FAILS(vd_store_volume_delete(e->s, "a", true, &err), -EBUSY, "snapshot-held");
    env_reopen(e);
    FAILS(vd_store_snapshot_delete(e->s, &t, 1, &err), -EBUSY, "snapshot-held");
    assert_int_equal(vd_store_snapshot_hold(e->s, t, "backup", true, NULL), 0);
    struct vd_disk *d = open_snapshot(e, "a", "x");
    FAILS(vd_store_snapshot_delete(e->s, &t, 1, &err), -EBUSY, "volume-busy");
    FAILS(vd_store_volume_delete(e->s, "a", true, &err), -EBUSY, "volume-busy");
    vd_disk_unref(d);
    assert_int_equal(vd_store_volume_delete(e->s, "a", true, NULL), 0);
}

static int prop_seen(void *arg, const char *prop, const char *value)
{
    char *text = arg;
    size_t n = strlen(text);
    snprintf(text + n, 200 - n, "%s=%s;", prop, value);
    return 0;
}

static void properties_survive(struct env *e)
{
    char text[200] = "";
    char *huge = malloc(1026);
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    assert_int_equal(vd_store_prop_set(e->s, "a", "comment", "my disk", NULL), 0);
    assert_int_equal(vd_store_prop_set(e->s, "a", "user.x", "1", NULL), 0);
    assert_int_equal(vd_store_prop_set(e->s, "a", "user.x", "2", NULL), 0);
    assert_int_equal(vd_store_prop_set(e->s, "a", "user.y", "", NULL), 0);
    assert_int_equal(vd_store_prop_set(e->s, "a", "comment", NULL, NULL), 0);
    memset(huge, 'x', 1025);
    huge[1025] = 0;
    FAILS(vd_store_prop_set(e->s, "a", "user.z", huge, &err), -EINVAL, "property-invalid");
    huge[1024] = 0;
    assert_int_equal(vd_store_prop_set(e->s, "a", "user.z", huge, NULL), 0);
    assert_int_equal(vd_store_prop_set(e->s, "a", "user.z", "z", NULL), 0);
    for (int i = 0; i < 2; i++) {
        text[0] = 0;
        assert_int_equal(vd_store_props(e->s, "a", prop_seen, text, NULL), 0);
        assert_string_equal(text, "read-only=off;user.x=2;user.y=;user.z=z;");
        assert_int_equal(fake_checkpoint(env_pool(e)), 0);
        env_reopen(e);
    }
    free(huge);
}

static void read_only_volumes_refuse_changes(struct env *e)
{
    uint8_t buf[VD_SECTOR] = {1};
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    assert_int_equal(snap(e, "a", "x"), 0);
    struct vd_disk *d = open_rw(e, "a");
    assert_int_equal(vd_store_prop_set(e->s, "a", "read-only", "on", NULL), 0);
    assert_int_equal(vd_disk_write(d, 0, buf, sizeof(buf), 0), -EROFS);
    FAILS(vd_disk_resize(d, VD_MIB(2), &err), -EROFS, "read-only");
    FAILS(vd_store_rollback(e->s, (struct vd_target){"a", "x"}, true, true, NULL, &err), -EROFS,
          "read-only");
    assert_int_equal(vd_store_prop_set(e->s, "a", "read-only", "off", NULL), 0);
    assert_int_equal(vd_disk_write(d, 0, buf, sizeof(buf), 0), 0);
    vd_disk_unref(d);
    d = open_snapshot(e, "a", "x");
    assert_int_equal(vd_disk_write(d, 0, buf, sizeof(buf), 0), -EROFS);
    vd_disk_unref(d);
}

/* ---- open handles ---- */

struct watcher {
    struct vd_disk_watch w;
    unsigned resized, replaced;
};

static void watched(struct vd_disk_watch *w, enum vd_disk_event event)
{
    struct watcher *x = vd_container_of(w, struct watcher, w);
    x->resized += event == VD_DISK_RESIZED;
    x->replaced += event == VD_DISK_REPLACED;
}

static void handles_hear_of_resize_and_rollback(struct env *e)
{
    struct watcher w = {.w.fn = watched};
    struct vd_disk_info info;
    struct vd_target x = {"a", "x"};
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    vd_disk_watch(d, &w.w);
    write_stamp(d, 0, 8, 1);
    assert_int_equal(snap(e, "a", "x"), 0);
    write_stamp(d, 0, 8, 2);
    assert_int_equal(vd_store_volume_resize(e->s, "a", VD_MIB(2), false, NULL), 0);
    vd_disk_info(d, &info);
    assert_int_equal(info.size, VD_MIB(2));
    assert_int_equal(w.resized, 1);
    FAILS(vd_store_rollback(e->s, x, true, false, NULL, &err), -EBUSY, "volume-busy");
    FAILS(vd_store_volume_delete(e->s, "a", true, &err), -EBUSY, "volume-busy");
    char kept[VD_NAME_MAX + 1];
    assert_int_equal(vd_store_rollback(e->s, x, false, true, kept, NULL), 0);
    assert_int_equal(w.replaced, 1);
    assert_int_equal(w.resized, 2);
    vd_disk_info(d, &info);
    assert_int_equal(info.size, VD_MIB(1));
    assert_int_equal(read_stamp(d, 0), 1);
    struct vd_disk *old = open_snapshot(e, "a", kept);
    assert_int_equal(read_stamp(old, 0), 2);
    vd_disk_unref(old);
    vd_disk_unwatch(&w.w);
    vd_disk_unref(d);
}

static void growing_never_shows_old_bytes(struct env *e)
{
    assert_int_equal(vd_store_volume_create(e->s, "a", 16 * VD_SECTOR, NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    write_stamp(d, 0, 16, 7);
    assert_int_equal(vd_disk_resize(d, 11 * VD_SECTOR, NULL), 0);
    assert_int_equal(vd_disk_resize(d, 16 * VD_SECTOR, NULL), 0);
    assert_int_equal(read_stamp(d, 10), 7);
    for (uint64_t s = 11; s < 16; s++)
        assert_int_equal(read_stamp(d, s), 0);
    /* The same for a clone of a snapshot with an odd size. */
    write_stamp(d, 0, 16, 8);
    assert_int_equal(vd_disk_resize(d, 11 * VD_SECTOR, NULL), 0);
    assert_int_equal(snap(e, "a", "x"), 0);
    assert_int_equal(vd_store_clone(e->s, (struct vd_target){"a", "x"}, "b", NULL), 0);
    struct vd_disk *b = open_rw(e, "b");
    assert_int_equal(vd_disk_resize(b, 64 * VD_SECTOR, NULL), 0);
    assert_int_equal(read_stamp(b, 10), 8);
    for (uint64_t s = 11; s < 64; s++)
        assert_int_equal(read_stamp(b, s), 0);
    vd_disk_unref(b);
    vd_disk_unref(d);
}

/* ---- at the same time ---- */

struct worker {
    struct env *e;
    struct vd_disk *d;
    struct vd_group *group;
    unsigned id;
    uint32_t stamp;
    bool *stop;
    uint32_t *acked, *asked;
};

static void sector_writer(void *arg)
{
    struct worker *w = arg;
    for (uint32_t i = 1; i <= 40; i++)
        write_stamp(w->d, w->id, 1, i);
    vd_group_done(w->group);
}

static void part_writes_of_one_block_all_survive(struct env *e)
{
    struct vd_group g;
    struct worker w[16];
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    vd_group_init(&g);
    for (unsigned i = 0; i < 16; i++) {
        w[i] = (struct worker){.d = d, .group = &g, .id = i};
        vd_group_add(&g);
        assert_int_equal(vd_fiber_spawn(vd_loop_current(), "writer", sector_writer, &w[i]), 0);
    }
    vd_group_wait(&g);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(read_stamp(d, i), 40);
    vd_disk_unref(d);
}

static void whole_writer(void *arg)
{
    struct worker *w = arg;
    write_stamp(w->d, 0, 16, w->stamp);
    vd_group_done(w->group);
}

static void part_writer(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; i < w->id; i++)
        vd_fiber_yield();
    write_stamp(w->d, 3, 1, w->stamp);
    vd_group_done(w->group);
}

static void whole_writes_survive_part_writes_beside_them(struct env *e)
{
    struct vd_group g;
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    vd_group_init(&g);
    for (uint32_t round = 1; round < 60; round++) {
        struct worker a = {.d = d, .group = &g, .stamp = 2 * round};
        struct worker b = {.d = d, .group = &g, .stamp = 2 * round + 1, .id = round % 12};
        vd_group_add(&g);
        vd_group_add(&g);
        bool first = round % 2;
        vd_fiber_spawn(vd_loop_current(), "one", first ? whole_writer : part_writer,
                       first ? &a : &b);
        vd_fiber_spawn(vd_loop_current(), "two", first ? part_writer : whole_writer,
                       first ? &b : &a);
        vd_group_wait(&g);
        for (uint64_t s = 0; s < 16; s++) {
            uint32_t got = read_stamp(d, s);
            assert_true(got == a.stamp || (s == 3 && got == b.stamp));
        }
    }
    vd_disk_unref(d);
}

/* Writes 1, 2, 3... to volume a, then b. */
static void pair_writer(void *arg)
{
    struct worker *w = arg;
    struct vd_disk *a = open_rw(w->e, "a"), *b = open_rw(w->e, "b");
    for (uint32_t i = 1; !*w->stop; i++) {
        write_stamp(a, 0, 8, i);
        write_stamp(b, 0, 8, i);
    }
    vd_disk_unref(a);
    vd_disk_unref(b);
    vd_group_done(w->group);
}

static void snapshot_of_several_volumes_is_one_moment(struct env *e)
{
    struct vd_group g;
    bool stop = false;
    struct worker w = {.e = e, .group = &g, .stop = &stop};
    const char *names[] = {"a", "c", "d", "e", "f", "g", "b"};
    for (unsigned i = 0; i < VD_ARRAY_SIZE(names); i++)
        assert_int_equal(vd_store_volume_create(e->s, names[i], VD_MIB(1), NULL), 0);
    vd_group_init(&g);
    vd_group_add(&g);
    vd_fiber_spawn(vd_loop_current(), "pair", pair_writer, &w);
    for (unsigned i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof(name), "s%u", i);
        struct vd_target t[VD_ARRAY_SIZE(names)];
        for (unsigned k = 0; k < VD_ARRAY_SIZE(names); k++)
            t[k] = (struct vd_target){names[k], name};
        assert_int_equal(vd_store_snapshot_create(e->s, t, VD_ARRAY_SIZE(names), NULL), 0);
        struct vd_disk *a = open_snapshot(e, "a", name), *b = open_snapshot(e, "b", name);
        uint32_t x = read_stamp(a, 0), y = read_stamp(b, 0);
        assert_true(x == y || x == y + 1);
        vd_disk_unref(a);
        vd_disk_unref(b);
        for (unsigned k = 0; k < i % 7; k++)
            vd_fiber_yield();
    }
    stop = true;
    vd_group_wait(&g);
}

static void stream_writer(void *arg)
{
    struct worker *w = arg;
    while (!*w->stop) {
        uint32_t i = ++*w->asked;
        write_stamp(w->d, 8 * w->id, 8, i);
        *w->acked = i;
    }
    vd_group_done(w->group);
}

static void forced_rollback_drains_and_loses_nothing(struct env *e)
{
    struct vd_group g;
    bool stop = false;
    uint32_t asked[8] = {0}, acked[8] = {0}, before[8], at[8];
    struct worker w[8];
    char kept[VD_NAME_MAX + 1];
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(1), NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    assert_int_equal(snap(e, "a", "empty"), 0);
    vd_group_init(&g);
    for (unsigned i = 0; i < 8; i++) {
        w[i] = (struct worker){
            .d = d, .group = &g, .id = i, .stop = &stop, .asked = &asked[i], .acked = &acked[i]};
        vd_group_add(&g);
        vd_fiber_spawn(vd_loop_current(), "stream", stream_writer, &w[i]);
    }
    for (unsigned i = 0; i < 50; i++)
        vd_fiber_yield();
    memcpy(before, acked, sizeof(before));
    assert_int_equal(
        vd_store_rollback(e->s, (struct vd_target){"a", "empty"}, false, true, kept, NULL), 0);
    memcpy(at, asked, sizeof(at));
    for (unsigned i = 0; i < 50; i++)
        vd_fiber_yield();
    stop = true;
    vd_group_wait(&g);
    struct vd_disk *old = open_snapshot(e, "a", kept);
    for (unsigned i = 0; i < 8; i++) {
        uint32_t was = read_stamp(old, 8 * i), is = read_stamp(d, 8 * i);
        assert_true(was >= before[i] && was <= at[i]);
        assert_int_equal(is, acked[i]); /* each went on writing to what the volume is now */
        assert_true(is >= was);
    }
    vd_disk_unref(old);
    vd_disk_unref(d);
}

/* ---- huge ---- */

static void extents_of_a_huge_volume_are_quick(struct env *e)
{
    struct vd_extent x[8];
    uint64_t size = VD_VOLUME_MAX / VD_BLOCK * VD_BLOCK, off = VD_GIB(1) << 10;
    assert_int_equal(vd_store_volume_create(e->s, "a", size, NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    for (int round = 0; round < 3; round++) {
        int n = 8;
        assert_int_equal(vd_disk_extents(d, 0, size, x, &n), 0);
        if (round == 0) {
            assert_int_equal(n, 1);
            write_stamp(d, off / VD_SECTOR, 8, 1);
        } else {
            assert_int_equal(n, 3);
            assert_int_equal(x[1].off, off);
            assert_int_equal(x[1].len, VD_BLOCK);
            assert_int_equal(x[1].flags, 0);
        }
        assert_int_equal(x[0].flags, VD_EXTENT_HOLE | VD_EXTENT_ZERO);
        assert_int_equal(x[n - 1].off + x[n - 1].len, size);
        assert_int_equal(round ? fake_checkpoint(env_pool(e)) : 0, 0);
    }
    vd_disk_unref(d);
}

struct total {
    uint64_t bytes, zero;
    unsigned n;
};

static int total_add(void *arg, const struct vd_extent *x)
{
    struct total *t = arg;
    t->n++;
    t->bytes += x->len;
    t->zero += x->flags & VD_EXTENT_ZERO ? x->len : 0;
    return 0;
}

static void zeroing_a_huge_clone_is_quick_and_exact(struct env *e)
{
    uint64_t size = UINT64_C(1) << 60, far = UINT64_C(1) << 59;
    struct vd_target x = {"a", "x"}, b = {"b", NULL};
    assert_int_equal(vd_store_volume_create(e->s, "a", size, NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    write_stamp(d, 80, 8, 1);
    write_stamp(d, far / VD_SECTOR, 16, 2);
    assert_int_equal(snap(e, "a", "x"), 0);
    vd_disk_unref(d);
    for (int early = 0; early < 2; early++) {
        if (early)
            assert_int_equal(fake_checkpoint(env_pool(e)), 0);
        assert_int_equal(vd_store_clone(e->s, x, "b", NULL), 0);
        d = open_rw(e, "b");
        assert_int_equal(vd_disk_zero(d, 0, size, 0), 0);
        write_stamp(d, 800, 8, 3);
        for (int round = 0; round < 2; round++) {
            struct total t = {0};
            assert_int_equal(vd_store_diff(e->s, x, b, total_add, &t, NULL), 0);
            assert_int_equal(t.bytes, 4 * VD_BLOCK);
            assert_int_equal(t.zero, 3 * VD_BLOCK);
            assert_int_equal(t.n, 3);
            assert_int_equal(read_stamp(d, 80), 0);
            assert_int_equal(read_stamp(d, far / VD_SECTOR + 8), 0);
            assert_int_equal(read_stamp(d, 800), 3);
            assert_int_equal(fake_checkpoint(env_pool(e)), 0);
        }
        vd_disk_unref(d);
        assert_int_equal(vd_store_volume_delete(e->s, "b", false, NULL), 0);
    }
    d = open_snapshot(e, "a", "x");
    assert_int_equal(read_stamp(d, far / VD_SECTOR + 8), 2);
    vd_disk_unref(d);
}

/* ---- usage ---- */

static int snapshot_exclusive(void *arg, const struct vd_snapshot_info *info)
{
    uint64_t *v = arg;
    v[info->name[0] - 'x'] = info->exclusive;
    return 0;
}

static void usage_says_what_a_deletion_frees(struct env *e)
{
    struct vd_volume_info info;
    uint64_t own[2];
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(4), NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    write_stamp(d, 0, 800, 1); /* 100 blocks */
    assert_int_equal(snap(e, "a", "x"), 0);
    write_stamp(d, 0, 80, 2); /* 10 of them only x needs */
    assert_int_equal(snap(e, "a", "y"), 0);
    write_stamp(d, 80, 160, 3); /* 20 that x and y share */
    assert_int_equal(fake_checkpoint(env_pool(e)), 0);
    assert_int_equal(vd_store_volume(e->s, "a", &info, NULL), 0);
    assert_int_equal(info.referenced, 100 * VD_BLOCK);
    assert_int_equal(info.exclusive, 20 * VD_BLOCK);
    assert_int_equal(vd_store_snapshots(e->s, "a", snapshot_exclusive, own), 0);
    assert_int_equal(own[0], 10 * VD_BLOCK);
    assert_int_equal(own[1], 0);
    assert_int_equal(fake_live(env_pool(e)), 130);
    assert_int_equal(snap_delete(e, "a", "x"), 0);
    assert_int_equal(vd_store_settle(e->s, NULL), 0);
    assert_int_equal(fake_live(env_pool(e)), 120);
    assert_int_equal(vd_store_snapshots(e->s, "a", snapshot_exclusive, own), 0);
    assert_int_equal(own[1], 20 * VD_BLOCK);
    vd_disk_unref(d);
}

static void a_nightly_revert_stays_shallow(struct env *e)
{
    struct vd_volume_info info;
    struct vd_target x = {"a", "golden"};
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(4), NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    write_stamp(d, 0, 800, 1);
    assert_int_equal(snap(e, "a", "golden"), 0);
    vd_disk_unref(d);
    for (uint32_t night = 0; night < 30; night++) {
        d = open_rw(e, "a");
        write_stamp(d, 8 * night, 80, night + 2);
        vd_disk_unref(d);
        assert_int_equal(vd_store_rollback(e->s, x, true, false, NULL, NULL), 0);
        if (night % 3 == 0)
            assert_int_equal(vd_store_settle(e->s, NULL), 0);
    }
    assert_int_equal(vd_store_settle(e->s, NULL), 0);
    assert_int_equal(vd_store_volume(e->s, "a", &info, NULL), 0);
    assert_int_equal(info.depth, 1);
    assert_int_equal(fake_live(env_pool(e)), 100);
}

static void long_chains_are_folded(struct env *e)
{
    struct vd_volume_info info;
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(4), NULL), 0);
    for (uint32_t i = 0; i < 200; i++) {
        char name[16];
        snprintf(name, sizeof(name), "s%u", i);
        struct vd_disk *d = open_rw(e, "a");
        write_stamp(d, 8 * (i % 50), 24, i + 1);
        assert_int_equal(snap(e, "a", name), 0);
        vd_disk_unref(d);
        assert_int_equal(
            vd_store_rollback(e->s, (struct vd_target){"a", name}, true, false, NULL, NULL), 0);
    }
    assert_int_equal(vd_store_volume(e->s, "a", &info, NULL), 0);
    assert_int_equal(info.depth, 200);
    assert_int_equal(vd_store_settle(e->s, NULL), 0);
    assert_int_equal(vd_store_volume(e->s, "a", &info, NULL), 0);
    assert_true(info.depth <= 1);
    assert_true(fake_checkpoints(env_pool(e)) < 100);
    for (uint32_t i = 0; i < 200; i++) {
        char name[16];
        snprintf(name, sizeof(name), "s%u", i);
        struct vd_disk *d = open_snapshot(e, "a", name);
        assert_int_equal(read_stamp(d, 8 * (i % 50) + 16), i + 1);
        vd_disk_unref(d);
    }
}

/* ---- check can say no ---- */

static void count_finding(void *arg, const char *text)
{
    ++*(unsigned *)arg;
}

static void check_finds_a_wrong_count(struct env *e)
{
    struct vd_check_report report;
    unsigned found = 0;
    assert_int_equal(vd_store_volume_create(e->s, "a", VD_MIB(4), NULL), 0);
    struct vd_disk *d = open_rw(e, "a");
    write_stamp(d, 0, 800, 1);
    vd_disk_unref(d);
    assert_int_equal(fake_checkpoint(env_pool(e)), 0);
    assert_int_equal(vd_store_check(e->s, true, count_finding, &found, NULL, &report, NULL), 0);
    assert_int_equal(report.blocks_checked, 100);
    medium_damage_live(e->m, -1);
    assert_int_equal(vd_store_check(e->s, true, count_finding, &found, NULL, &report, NULL),
                     -EUCLEAN);
    assert_int_equal(found, 1);
    medium_damage_live(e->m, 1);
    medium_damage_data(e->m);
    FAILS(vd_store_check(e->s, true, count_finding, &found, NULL, &report, &err), -EUCLEAN,
          "damaged");
    assert_int_equal(found, 2);
    assert_int_equal(vd_store_check(e->s, false, count_finding, &found, NULL, &report, NULL), 0);
}

/* ---- running ---- */

static int run(void *arg)
{
    struct env e = env_open();
    (*(void (*const *)(struct env *))arg)(&e);
    env_close(&e);
    return 0;
}

static void on_fiber(void **state)
{
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 42, run, state), 0);
}

#define TEST(fn)                                         \
    {                                                    \
#fn, on_fiber, NULL, NULL, (void *)(uintptr_t)fn \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(errors_have_ids),
        TEST(several_deletions_are_all_or_nothing),
        TEST(held_and_open_snapshots_stay),
        TEST(properties_survive),
        TEST(read_only_volumes_refuse_changes),
        TEST(handles_hear_of_resize_and_rollback),
        TEST(growing_never_shows_old_bytes),
        TEST(part_writes_of_one_block_all_survive),
        TEST(whole_writes_survive_part_writes_beside_them),
        TEST(snapshot_of_several_volumes_is_one_moment),
        TEST(forced_rollback_drains_and_loses_nothing),
        TEST(extents_of_a_huge_volume_are_quick),
        TEST(zeroing_a_huge_clone_is_quick_and_exact),
        TEST(usage_says_what_a_deletion_frees),
        TEST(a_nightly_revert_stays_shallow),
        TEST(long_chains_are_folded),
        TEST(check_finds_a_wrong_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
