/* SPDX-License-Identifier: MIT */
/*
 * The oracle itself: that it allows what may be and nothing else. Every history here is a few
 * changes by hand, every found state is made by hand too.
 */
#include "tests/crash/oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct oracle_op *ask(struct oracle *o, enum oracle_kind kind, const char *volume,
                             uint64_t sector, uint64_t sectors)
{
    struct oracle_change c = {.kind = kind, .targets = 1, .sector = sector, .sectors = sectors};
    snprintf(c.t[0].volume, ORACLE_NAME, "%s", volume);
    return oracle_begin(o, &c);
}

static uint32_t done(struct oracle *o, struct oracle_op *op)
{
    oracle_end(o, op, ORACLE_DONE, false);
    return oracle_version(op);
}

/* Is volume v of 8 sectors, with the first two as given, allowed? */
static bool allowed(struct oracle *o, enum oracle_floor floor, uint32_t first, uint32_t second,
                    struct oracle_verdict *v)
{
    struct oracle_verdict mine;
    char why[600];
    struct oracle_state *s = oracle_state_new();
    struct oracle_content *c = oracle_state_add(o, s, "v", NULL, 8, false);
    oracle_content_set(c, 0, first);
    oracle_content_set(c, 1, second);
    int r = oracle_judge(o, s, floor, v ? v : &mine, why, sizeof(why));
    oracle_state_free(s);
    return r == 0;
}

static struct oracle *with_volume(void)
{
    struct oracle *o = oracle_new();
    oracle_end(o, ask(o, ORACLE_CREATE, "v", 0, 8), ORACLE_DONE, true);
    return o;
}

static void bytes_tell_their_version_and_place(void **state)
{
    (void)state;
    uint8_t buf[ORACLE_SECTOR * 2];
    oracle_fill(7, 3, buf, 2);
    assert_int_equal(oracle_parse(3, buf), 7);
    assert_int_equal(oracle_parse(4, buf + ORACLE_SECTOR), 7);
    assert_int_equal(oracle_parse(4, buf), ORACLE_GARBAGE);
    buf[511] ^= 1;
    assert_int_equal(oracle_parse(3, buf), ORACLE_GARBAGE);
    memset(buf, 0, sizeof(buf));
    assert_int_equal(oracle_parse(3, buf), 0);
    buf[200] = 1;
    assert_int_equal(oracle_parse(3, buf), ORACLE_GARBAGE);
}

static void only_prefixes_are_allowed(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    struct oracle_verdict v;
    uint32_t a = done(o, ask(o, ORACLE_WRITE, "v", 0, 1));
    uint32_t b = done(o, ask(o, ORACLE_WRITE, "v", 1, 1));
    assert_true(allowed(o, ORACLE_DURABLE, a, b, &v));
    assert_int_equal(v.lost, 0);
    assert_true(allowed(o, ORACLE_DURABLE, a, 0, &v));
    assert_int_equal(v.lost, 1);
    assert_true(allowed(o, ORACLE_DURABLE, 0, 0, NULL));
    assert_false(allowed(o, ORACLE_DURABLE, 0, b, NULL)); /* a hole */
    assert_false(allowed(o, ORACLE_ACKNOWLEDGED, a, 0, NULL));
    assert_false(allowed(o, ORACLE_DURABLE, b, a, NULL));
    assert_false(allowed(o, ORACLE_DURABLE, ORACLE_GARBAGE, b, NULL));
    assert_true(allowed(o, ORACLE_DURABLE, ORACLE_UNREADABLE, b, &v));
    assert_int_equal(v.unreadable, 1);
    oracle_free(o);
}

static void a_flush_is_a_floor(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    uint32_t a = done(o, ask(o, ORACLE_WRITE, "v", 0, 1));
    uint64_t when = oracle_now(o);
    uint32_t b = done(o, ask(o, ORACLE_WRITE, "v", 1, 1));
    oracle_flushed(o, when);
    assert_false(allowed(o, ORACLE_DURABLE, 0, 0, NULL));
    assert_true(allowed(o, ORACLE_DURABLE, a, 0, NULL));
    assert_true(allowed(o, ORACLE_DURABLE, a, b, NULL));
    assert_true(allowed(o, ORACLE_NOTHING, 0, 0, NULL));
    /* And so is a write with FUA, for all before it. */
    struct oracle_op *op = ask(o, ORACLE_WRITE, "v", 0, 1);
    oracle_end(o, op, ORACLE_DONE, true);
    assert_false(allowed(o, ORACLE_DURABLE, a, b, NULL));
    assert_false(allowed(o, ORACLE_DURABLE, oracle_version(op), 0, NULL));
    assert_true(allowed(o, ORACLE_DURABLE, oracle_version(op), b, NULL));
    oracle_free(o);
}

static void open_changes_are_in_or_out_as_a_whole(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    struct oracle_verdict v;
    uint32_t both = oracle_version(ask(o, ORACLE_WRITE, "v", 0, 2));
    assert_true(allowed(o, ORACLE_ACKNOWLEDGED, both, both, &v));
    assert_int_equal(v.kept, 1);
    assert_true(allowed(o, ORACLE_ACKNOWLEDGED, 0, 0, NULL));
    assert_false(allowed(o, ORACLE_ACKNOWLEDGED, both, 0, NULL));
    struct oracle_op *refused = ask(o, ORACLE_WRITE, "v", 0, 1);
    oracle_end(o, refused, ORACLE_REFUSED, false);
    assert_false(allowed(o, ORACLE_ACKNOWLEDGED, oracle_version(refused), 0, NULL));
    oracle_free(o);
}

static void changes_at_once_have_no_order(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    struct oracle_op *a = ask(o, ORACLE_WRITE, "v", 0, 1), *b = ask(o, ORACLE_WRITE, "v", 0, 1);
    struct oracle_op *z = ask(o, ORACLE_ZERO, "v", 1, 1), *c = ask(o, ORACLE_WRITE, "v", 1, 1);
    uint32_t va = done(o, a), vb = done(o, b), vc = done(o, c);
    done(o, z);
    for (int floor = ORACLE_ACKNOWLEDGED; floor <= ORACLE_DURABLE; floor++) {
        assert_true(allowed(o, (enum oracle_floor)floor, va, vc, NULL));
        assert_true(allowed(o, (enum oracle_floor)floor, vb, 0, NULL));
    }
    assert_false(allowed(o, ORACLE_ACKNOWLEDGED, 0, 0, NULL));
    /* What was acknowledged before another was asked for is older. */
    uint32_t later = done(o, ask(o, ORACLE_WRITE, "v", 0, 1));
    assert_false(allowed(o, ORACLE_ACKNOWLEDGED, va, vc, NULL));
    assert_true(allowed(o, ORACLE_ACKNOWLEDGED, later, vc, NULL));
    oracle_free(o);
}

static void a_cut_tail_stays_cut(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    uint32_t a = done(o, ask(o, ORACLE_WRITE, "v", 0, 1));
    struct oracle_state *s = oracle_state_new();
    (void)oracle_state_add(o, s, "v", NULL, 8, false);
    struct oracle *next = oracle_fork(o, s);
    uint32_t b = done(next, ask(next, ORACLE_WRITE, "v", 1, 1));
    assert_int_not_equal(a, b);
    assert_true(allowed(next, ORACLE_DURABLE, 0, b, NULL));
    assert_false(allowed(next, ORACLE_NOTHING, a, b, NULL));
    assert_false(allowed(next, ORACLE_NOTHING, a, 0, NULL));
    oracle_state_free(s);
    oracle_free(next);
    oracle_free(o);
}

/* Is v, with `live` in sector 0, and v@s, with `snap` (or no v@s: ORACLE_GARBAGE), allowed? */
static bool allowed_snapshot(struct oracle *o, uint32_t live, uint32_t snap)
{
    struct oracle_verdict v;
    char why[600];
    struct oracle_state *s = oracle_state_new();
    oracle_content_set(oracle_state_add(o, s, "v", NULL, 8, false), 0, live);
    if (snap != ORACLE_GARBAGE)
        oracle_content_set(oracle_state_add(o, s, "v", "s", 8, false), 0, snap);
    int r = oracle_judge(o, s, ORACLE_ACKNOWLEDGED, &v, why, sizeof(why));
    oracle_state_free(s);
    return r == 0;
}

static void snapshots_hold_what_was_acknowledged_before(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    uint32_t a = done(o, ask(o, ORACLE_WRITE, "v", 0, 1));
    struct oracle_change c = {.kind = ORACLE_SNAPSHOT, .targets = 1};
    strcpy(c.t[0].volume, "v");
    strcpy(c.t[0].snapshot, "s");
    struct oracle_op *snap = oracle_begin(o, &c);
    struct oracle_op *b = ask(o, ORACLE_WRITE, "v", 0, 1);
    assert_true(allowed_snapshot(o, a, ORACLE_GARBAGE));
    assert_true(allowed_snapshot(o, a, a));
    assert_false(allowed_snapshot(o, a, 0));
    oracle_end(o, snap, ORACLE_DONE, true);
    done(o, b);
    /* Asked for while the snapshot was made: in it or not. */
    assert_true(allowed_snapshot(o, oracle_version(b), a));
    assert_true(allowed_snapshot(o, oracle_version(b), oracle_version(b)));
    assert_false(allowed_snapshot(o, oracle_version(b), ORACLE_GARBAGE));
    uint32_t d = done(o, ask(o, ORACLE_WRITE, "v", 0, 1));
    assert_false(allowed_snapshot(o, d, d));
    assert_true(allowed_snapshot(o, d, a));
    /* A roll back keeps the tip under a name that it did not live to tell. */
    c.kind = ORACLE_ROLLBACK;
    (void)oracle_begin(o, &c);
    struct oracle_state *s = oracle_state_new();
    struct oracle_verdict v;
    char why[600];
    oracle_content_set(oracle_state_add(o, s, "v", NULL, 8, false), 0, a);
    oracle_content_set(oracle_state_add(o, s, "v", "s", 8, false), 0, a);
    struct oracle_content *kept = oracle_state_add(o, s, "v", "whatever", 8, true);
    oracle_content_set(kept, 0, d);
    assert_int_equal(oracle_judge(o, s, ORACLE_ACKNOWLEDGED, &v, why, sizeof(why)), 0);
    oracle_content_set(kept, 0, a);
    assert_int_equal(oracle_judge(o, s, ORACLE_ACKNOWLEDGED, &v, why, sizeof(why)), -EUCLEAN);
    oracle_state_free(s);
    oracle_free(o);
}

static void a_shrink_forgets(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    uint32_t a = done(o, ask(o, ORACLE_WRITE, "v", 0, 2));
    done(o, ask(o, ORACLE_RESIZE, "v", 0, 1));
    done(o, ask(o, ORACLE_RESIZE, "v", 0, 8));
    assert_true(allowed(o, ORACLE_ACKNOWLEDGED, a, 0, NULL));
    assert_false(allowed(o, ORACLE_ACKNOWLEDGED, a, a, NULL));
    oracle_free(o);
}

static void reads_are_judged(void **state)
{
    (void)state;
    struct oracle *o = with_volume();
    char why[500];
    uint8_t buf[ORACLE_SECTOR];
    uint32_t a = done(o, ask(o, ORACLE_WRITE, "v", 0, 1));
    oracle_fill(a, 0, buf, 1);
    struct oracle_read *r = oracle_read_begin(o, "v", NULL, 0, 1);
    assert_int_equal(oracle_read_end(o, r, buf, why, sizeof(why)), 0);
    r = oracle_read_begin(o, "v", NULL, 0, 1);
    struct oracle_op *b = ask(o, ORACLE_WRITE, "v", 0, 1);
    oracle_fill(oracle_version(b), 0, buf, 1);
    assert_int_equal(oracle_read_end(o, r, buf, why, sizeof(why)), 0);
    done(o, b);
    oracle_fill(a, 0, buf, 1);
    r = oracle_read_begin(o, "v", NULL, 0, 1);
    assert_int_equal(oracle_read_end(o, r, buf, why, sizeof(why)), -EUCLEAN);
    oracle_free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_tell_their_version_and_place),
        cmocka_unit_test(only_prefixes_are_allowed),
        cmocka_unit_test(a_flush_is_a_floor),
        cmocka_unit_test(open_changes_are_in_or_out_as_a_whole),
        cmocka_unit_test(changes_at_once_have_no_order),
        cmocka_unit_test(a_cut_tail_stays_cut),
        cmocka_unit_test(snapshots_hold_what_was_acknowledged_before),
        cmocka_unit_test(a_shrink_forgets),
        cmocka_unit_test(reads_are_judged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
