/* SPDX-License-Identifier: MIT */
/*
 * Meters, limits and gates on the simulated loop: its clock jumps, so that rates are exact and
 * nothing is timed for real.
 */
#include "core/block/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)
#define S (1000 * MS)

static uint64_t now_ns(void)
{
    return vd_loop_now_ns(vd_loop_current());
}

static void sim(int (*fn)(void *arg))
{
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 1, fn, NULL), 0);
}

/* ---- histogram ---- */

static void histogram_quantiles(void **state)
{
    struct vd_histogram h = {0};
    assert_int_equal(vd_histogram_quantile_ns(&h, 0.5), 0);
    for (uint64_t us = 1; us <= 1000; us++)
        vd_histogram_add(&h, us * 1000);
    assert_int_equal(vd_histogram_count(&h), 1000);
    uint64_t p50 = vd_histogram_quantile_ns(&h, 0.5), p99 = vd_histogram_quantile_ns(&h, 0.99);
    assert_in_range(p50, 500000 - 500000 / 8, 500000 + 500000 / 8);
    assert_in_range(p99, 990000 - 990000 / 8, 990000 + 990000 / 8);
    /* 2^16 ns = 65.536 us */
    assert_int_equal(vd_histogram_below(&h, 16), 65);
    vd_histogram_add(&h, 0);
    vd_histogram_add(&h, UINT64_MAX / 2);
    assert_int_equal(h.n[0], 2); /* 1 us is below 2^10 ns, too */
    assert_int_equal(h.n[VD_HISTOGRAM_BUCKETS - 1], 1);
    for (unsigned i = 1; i < VD_HISTOGRAM_BUCKETS; i++)
        assert_true(vd_histogram_end_ns(i) > vd_histogram_end_ns(i - 1));
}

/* ---- limits ---- */

static void limit_properties(void **state)
{
    static const char *const bad[][2] = {
        {"limit.iops", "0"},        {"limit.iops", "x"},      {"limit.iops", "-5"},
        {"limit.iops", ""},         {"limit.iops", "10k"},    {"limit.bandwidth", "0"},
        {"limit.bandwidth", "512"}, {"limit.bandwidth", "x"}, {"limit.burst", "10"},
        {"limit.burst", "2h"},      {"limit.burst", "3601s"}, {"limit.burst", "-1s"}};
    struct vd_limits l = {0};
    struct vd_error err;
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++) {
        assert_int_equal(vd_limits_property(&l, bad[i][0], bad[i][1], &err), -EINVAL);
        assert_string_equal(err.id, "property-invalid");
    }
    assert_int_equal(vd_limits_property(&l, "limit.iops", "1000", NULL), 0);
    assert_int_equal(vd_limits_property(&l, "limit.bandwidth", "50MiB", NULL), 0);
    assert_int_equal(vd_limits_property(&l, "limit.burst", "500ms", NULL), 0);
    assert_int_equal(l.iops, 1000);
    assert_int_equal(l.bandwidth, VD_MIB(50));
    assert_int_equal(l.burst_ns, 500 * MS);
    assert_int_equal(vd_limits_property(&l, "limit.iops", NULL, NULL), 0);
    assert_int_equal(vd_limits_property(&l, "limit.burst", NULL, NULL), 0);
    assert_int_equal(l.iops, 0);
    assert_int_equal(l.burst_ns, VD_LIMIT_BURST_NS);
    assert_int_equal(vd_limits_property(&l, "comment", "x", NULL), -ENOENT);
}

static int rate_fiber(void *arg)
{
    struct vd_limit l;
    struct vd_limit_user u;
    struct vd_limits set = {.iops = 100, .burst_ns = S};
    vd_limit_init(&l);
    vd_limit_user_init(&u);
    uint64_t start = now_ns();
    vd_limit_take(&l, &u, VD_MIB(32)); /* nothing is set */
    assert_int_equal(now_ns(), start);

    /* A second's worth at once, and one that pays afterwards; then one each 10 ms. */
    vd_limit_set(&l, &set);
    for (int i = 0; i < 101; i++)
        vd_limit_take(&l, &u, 4096);
    assert_int_equal(now_ns(), start);
    for (int i = 0; i < 100; i++)
        vd_limit_take(&l, &u, 4096);
    assert_in_range(now_ns() - start, S - 20 * MS, S);

    /* Bandwidth; a request that is larger than all that may be saved goes, and the next one pays.
     */
    set = (struct vd_limits){.bandwidth = VD_MIB(1), .burst_ns = 0};
    vd_limit_set(&l, &set);
    start = now_ns();
    vd_limit_take(&l, &u, VD_MIB(8));
    assert_int_equal(now_ns(), start);
    vd_limit_take(&l, &u, 4096);
    assert_int_equal(now_ns() - start, 8 * S);
    return 0;
}

static void limit_rate(void **state)
{
    sim(rate_fiber);
}

/* Users that compete. */
struct rival {
    struct vd_limit *l;
    struct vd_limit_user *u;
    int n;
    struct vd_group *group;
    uint64_t ended_ns;
};

static void rival_fiber(void *arg)
{
    struct rival *r = arg;
    for (int i = 0; i < r->n; i++)
        vd_limit_take(r->l, r->u, 0);
    r->ended_ns = now_ns();
    vd_group_done(r->group);
}

static int fair_fiber(void *arg)
{
    struct vd_limit l;
    struct vd_limit_user greedy, modest;
    struct vd_group group;
    struct rival many[16], one = {&l, &modest, 10, &group, 0};
    struct vd_limits set = {.iops = 100, .burst_ns = 0};
    vd_limit_init(&l);
    vd_limit_user_init(&greedy);
    vd_limit_user_init(&modest);
    vd_group_init(&group);
    vd_limit_set(&l, &set);
    uint64_t start = now_ns();
    for (int i = 0; i < 16; i++) {
        many[i] = (struct rival){&l, &greedy, 10, &group, 0};
        vd_group_add(&group);
        assert_int_equal(vd_fiber_spawn(vd_loop_current(), "greedy", rival_fiber, &many[i]), 0);
    }
    vd_group_add(&group);
    assert_int_equal(vd_fiber_spawn(vd_loop_current(), "modest", rival_fiber, &one), 0);
    vd_group_wait(&group);
    /* Every other request is the modest one's: its ten take twenty turns of 10 ms, not 100. */
    assert_in_range(one.ended_ns - start, 150 * MS, 250 * MS);
    assert_in_range(now_ns() - start, 1680 * MS, 1700 * MS);
    return 0;
}

static void limit_fair(void **state)
{
    sim(fair_fiber);
}

static int let_go_fiber(void *arg)
{
    struct vd_limit l;
    struct vd_limit_user a, b;
    struct vd_group group;
    struct vd_limits set = {.iops = 1, .burst_ns = 0};
    struct rival ra[4], rb[4];
    vd_limit_init(&l);
    vd_limit_user_init(&a);
    vd_limit_user_init(&b);
    vd_group_init(&group);
    vd_limit_set(&l, &set);
    uint64_t start = now_ns();
    for (int i = 0; i < 4; i++) {
        ra[i] = (struct rival){&l, &a, 10, &group, 0};
        rb[i] = (struct rival){&l, &b, 10, &group, 0};
        vd_group_add(&group);
        vd_group_add(&group);
        assert_int_equal(vd_fiber_spawn(vd_loop_current(), "a", rival_fiber, &ra[i]), 0);
        assert_int_equal(vd_fiber_spawn(vd_loop_current(), "b", rival_fiber, &rb[i]), 0);
    }
    vd_fiber_sleep(500 * MS);
    vd_limit_release(&l, &a); /* its door closes */
    vd_fiber_sleep(1 * MS);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ra[i].ended_ns, start + 500 * MS);
        assert_int_equal(rb[i].ended_ns, 0);
    }
    set.iops = 1000; /* live: those who wait go at the new rate */
    vd_limit_set(&l, &set);
    vd_fiber_sleep(10 * MS);
    set.iops = 1;
    vd_limit_set(&l, &set);
    vd_fiber_sleep(5 * S);
    assert_int_equal(rb[3].ended_ns, 0);
    uint64_t lifted = now_ns();
    vd_limit_lift(&l); /* the owner ends */
    vd_group_wait(&group);
    assert_int_equal(now_ns(), lifted);
    return 0;
}

static void limit_let_go(void **state)
{
    sim(let_go_fiber);
}

/* ---- gates ---- */

/* A store of one volume "v" with one property. */
struct tiny {
    struct vd_store store;
    struct vd_uuid uuid;
    const char *iops;
    unsigned open;
};

struct tiny_disk {
    struct vd_disk d;
    struct tiny *t;
    bool read_only;
};

static struct tiny *tiny_of(struct vd_store *s)
{
    return vd_container_of(s, struct tiny, store);
}

static int tiny_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    vd_fiber_sleep(2 * MS);
    return off == 0 ? 0 : -EIO;
}

static int tiny_flush(struct vd_disk *d)
{
    return 0;
}

static void tiny_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    struct tiny_disk *t = vd_container_of(d, struct tiny_disk, d);
    *ret = (struct vd_disk_info){
        .size = VD_MIB(1), .request_max = VD_MIB(1), .uuid = t->t->uuid, .read_only = t->read_only};
}

static void tiny_close(struct vd_disk *d)
{
    struct tiny_disk *t = vd_container_of(d, struct tiny_disk, d);
    t->t->open--;
    free(t);
}

static const struct vd_disk_ops tiny_disk_ops = {
    .readv = tiny_readv, .flush = tiny_flush, .info = tiny_info, .close = tiny_close};

static int tiny_volume(struct vd_store *s, const char *name, struct vd_volume_info *ret,
                       struct vd_error *err)
{
    *ret = (struct vd_volume_info){.name = "v", .uuid = tiny_of(s)->uuid};
    return 0;
}

static int tiny_open(struct vd_store *s, struct vd_target t, bool read_only, struct vd_disk **ret,
                     struct vd_error *err)
{
    struct tiny_disk *d = calloc(1, sizeof(*d));
    vd_disk_init(&d->d, &tiny_disk_ops);
    d->t = tiny_of(s);
    d->read_only = read_only;
    d->t->open++;
    *ret = &d->d;
    return 0;
}

static int tiny_props(struct vd_store *s, const char *volume, vd_prop_fn *fn, void *arg,
                      struct vd_error *err)
{
    fn(arg, "comment", "x");
    return fn(arg, "limit.burst", "0s") ||
           (tiny_of(s)->iops && fn(arg, "limit.iops", tiny_of(s)->iops));
}

static int tiny_prop_set(struct vd_store *s, const char *volume, const char *prop,
                         const char *value, struct vd_error *err)
{
    tiny_of(s)->iops = value;
    return 0;
}

static int tiny_rename(struct vd_store *s, const char *name, const char *to, struct vd_error *err)
{
    return strcmp(to, "taken") == 0 ? -EEXIST : 0;
}

static const struct vd_store_ops tiny_ops = {.volume = tiny_volume,
                                             .open = tiny_open,
                                             .props = tiny_props,
                                             .prop_set = tiny_prop_set,
                                             .volume_rename = tiny_rename};

static void count_change(void *arg)
{
    ++*(int *)arg;
}

static const struct vd_target v_target = {.volume = "v"}, snap_target = {"v", "s"};

static int doors_fiber(void *arg)
{
    struct tiny t = {.store.ops = &tiny_ops, .uuid.b = {1}};
    struct vd_gates *g;
    struct vd_gate *a, *b, *own;
    struct vd_disk *a1, *a2, *b1, *ro, *snap, *job;
    struct vd_error err = {0};
    int changes = 0;
    assert_int_equal(vd_gates_new(&t.store, count_change, &changes, &g), 0);
    assert_int_equal(vd_gate_new(g, "nbd unix:a", &a), 0);
    assert_int_equal(vd_gate_new(g, "fuse /mnt", &b), 0);
    assert_int_equal(vd_gate_new(g, NULL, &own), 0);
    assert_null(vd_gates_meter(g, &t.uuid));

    /* One door may open it as often as it likes, another only to read, the owner always. */
    assert_int_equal(vd_store_open(vd_gate_store(a), v_target, false, &a1, &err), 0);
    assert_int_equal(vd_store_open(vd_gate_store(a), v_target, false, &a2, &err), 0);
    assert_int_equal(vd_store_open(vd_gate_store(b), v_target, false, &b1, &err), -EBUSY);
    assert_string_equal(err.id, "volume-in-use");
    assert_non_null(strstr(err.message, "nbd unix:a"));
    assert_int_equal(t.open, 2);
    assert_int_equal(vd_store_open(vd_gate_store(b), v_target, true, &ro, &err), 0);
    assert_int_equal(vd_store_open(vd_gate_store(b), snap_target, false, &snap, &err), 0);
    assert_int_equal(vd_store_open(vd_gate_store(own), v_target, false, &job, &err), 0);
    vd_disk_unref(a1);
    assert_int_equal(vd_store_open(vd_gate_store(b), v_target, false, &b1, &err), -EBUSY);
    vd_disk_unref(a2);
    assert_int_equal(vd_store_open(vd_gate_store(b), v_target, false, &b1, &err), 0);
    assert_int_equal(vd_store_open(vd_gate_store(a), v_target, false, &a1, &err), -EBUSY);
    vd_gates_share(g, true);
    assert_int_equal(vd_store_open(vd_gate_store(a), v_target, false, &a1, &err), 0);

    /* Renaming is told, when it has happened. */
    assert_int_equal(vd_store_volume_rename(vd_gate_store(own), "v", "w", &err), 0);
    assert_int_equal(vd_store_volume_rename(vd_gate_store(b), "v", "taken", &err), -EEXIST);
    assert_int_equal(changes, 1);

    struct vd_disk *all[] = {a1, b1, ro, snap, job};
    for (size_t i = 0; i < VD_ARRAY_SIZE(all); i++)
        vd_disk_unref(all[i]);
    assert_int_equal(t.open, 0);
    vd_gate_free(a);
    vd_gate_free(b);
    vd_gate_free(own);
    vd_gates_free(g);
    return 0;
}

static void gate_doors(void **state)
{
    sim(doors_fiber);
}

struct stuck {
    struct vd_disk *d;
    struct vd_group group;
    uint64_t ended_ns;
};

static void stuck_fiber(void *arg)
{
    struct stuck *s = arg;
    char buf[512];
    for (int i = 0; i < 3; i++)
        (void)vd_disk_read(s->d, 0, buf, sizeof(buf));
    s->ended_ns = now_ns();
    vd_group_done(&s->group);
}

static int meters_fiber(void *arg)
{
    struct tiny t = {.store.ops = &tiny_ops, .uuid.b = {1}};
    struct vd_gates *g;
    struct vd_gate *a;
    struct stuck s = {0};
    char buf[512];
    assert_int_equal(vd_gates_new(&t.store, NULL, NULL, &g), 0);
    assert_int_equal(vd_gate_new(g, "nbd", &a), 0);
    assert_int_equal(vd_store_open(vd_gate_store(a), v_target, false, &s.d, NULL), 0);
    assert_int_equal(vd_disk_read(s.d, 0, buf, 512), 0);
    assert_int_equal(vd_disk_read(s.d, 512, buf, 512), -EIO);
    assert_int_equal(vd_disk_read(s.d, 1, buf, 512), -EINVAL); /* reaches nobody */
    const struct vd_meter *m = vd_gates_meter(g, &t.uuid);
    const struct vd_meter_counts *reads = &m->kinds[VD_METER_READ];
    assert_int_equal(reads->requests, 2);
    assert_int_equal(reads->errors, 1);
    assert_int_equal(reads->bytes, 512);
    assert_int_equal(reads->latency.sum_ns, 4 * MS);
    assert_int_equal(m->in_flight, 0);

    /* A limit that is set while it is open holds at once, but not for flushes. */
    assert_int_equal(vd_store_prop_set(vd_gate_store(a), "v", "limit.iops", "1", NULL), 0);
    vd_group_init(&s.group);
    vd_group_add(&s.group);
    assert_int_equal(vd_fiber_spawn(vd_loop_current(), "stuck", stuck_fiber, &s), 0);
    vd_fiber_sleep(500 * MS);
    assert_int_equal(m->in_flight, 1);
    uint64_t start = now_ns();
    assert_int_equal(vd_disk_flush(s.d), 0);
    assert_int_equal(now_ns(), start);
    /* The door closes: nobody waits for a second that does not matter any more. */
    vd_gate_release(a);
    vd_group_wait(&s.group);
    assert_int_equal(s.ended_ns - start, 4 * MS);
    assert_in_range(m->held_ns, 490 * MS, 500 * MS);
    vd_disk_unref(s.d);

    /* What is opened later has the limit from the start. */
    assert_int_equal(vd_store_open(vd_gate_store(a), v_target, false, &s.d, NULL), 0);
    start = now_ns();
    for (int i = 0; i < 3; i++)
        assert_int_equal(vd_disk_read(s.d, 0, buf, 512), 0);
    assert_in_range(now_ns() - start, 2 * S, 3 * S);
    vd_disk_unref(s.d);
    vd_gate_free(a);
    vd_gates_free(g);
    return 0;
}

static void gate_meters(void **state)
{
    sim(meters_fiber);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(histogram_quantiles), cmocka_unit_test(limit_properties),
        cmocka_unit_test(limit_rate),          cmocka_unit_test(limit_fair),
        cmocka_unit_test(limit_let_go),        cmocka_unit_test(gate_doors),
        cmocka_unit_test(gate_meters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
