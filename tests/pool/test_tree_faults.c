/* SPDX-License-Identifier: MIT */
/*
 * Trees under faults: damaged and misplaced nodes, failing reads, writes and allocations, roots
 * that change under a reader.
 */
#include "core/io/fiber.h"
#include "tests/pool/tree_rig.h"

/* ---- misuse ---- */

static struct store_mark before_misuse;

static struct tree_writer *misused(void)
{
    struct tree_writer *w;
    store_restore(&store, &before_misuse);
    assert_int_equal(tree_writer_new(f, TREE_HEAD, forest_root(f, TREE_HEAD), 1, 2, &w), 0);
    return w;
}

/* Always -EINVAL, nothing published: never a tree that a reader would refuse. */
static void test_misuse(void **state)
{
    static struct tree_entry e;
    static const uint64_t lba[3] = {100, 200, 300};
    struct tree_root root;

    start();
    assert_int_equal(merge_blocks(lba, 3, 1, &root), 0);
    forest_set_root(f, TREE_HEAD, &root);
    store_mark(&store, &before_misuse);

    struct tree_writer *w = misused();
    assert_int_equal(tree_writer_put(w, one_block(200, 2)), -EINVAL); /* there is one */
    assert_int_equal(tree_writer_finish(w, &root), -EINVAL);
    w = misused();
    assert_int_equal(tree_writer_put(w, one_block(250, 2)), 0);
    assert_int_equal(tree_writer_put(w, one_block(250, 2)), -EINVAL);
    assert_int_equal(tree_writer_seek(w, &TREE_KEY_MAX), -EINVAL); /* it sticks */
    assert_int_equal(tree_writer_finish(w, &root), -EINVAL);
    w = misused();
    assert_int_equal(tree_writer_seek(w, &(struct tree_key){{1, 150, 0, 0}}), 0);
    assert_int_equal(tree_writer_put(w, one_block(50, 2)), -EINVAL); /* behind */
    assert_int_equal(tree_writer_finish(w, &root), -EINVAL);
    w = misused();
    assert_int_equal(tree_writer_seek(w, &(struct tree_key){{1, 150, 0, 0}}), 0);
    assert_int_equal(tree_writer_seek(w, &(struct tree_key){{1, 149, 0, 0}}), -EINVAL);
    assert_int_equal(tree_writer_keep(w), -EINVAL);
    tree_writer_take(w);
    assert_int_equal(tree_writer_finish(w, &root), -EINVAL);
    w = misused();
    tree_writer_take(w); /* nothing was peeked */
    assert_int_equal(tree_writer_finish(w, &root), -EINVAL);
    w = misused();
    assert_int_equal(tree_writer_keep(w), -EINVAL);
    tree_writer_abort(w);
    w = misused();
    assert_int_equal(tree_writer_seek(w, &TREE_KEY_MAX), 0);
    assert_int_equal(tree_writer_peek(w, &e), -ENOENT);
    assert_int_equal(tree_writer_put(w, one_block(400, 2)), -EINVAL);
    tree_writer_abort(w);
    w = misused(); /* runs that overlap */
    e = *one_block(210, 2);
    e.run.blocks = 10;
    assert_int_equal(tree_writer_put(w, &e), 0);
    assert_int_equal(tree_writer_put(w, one_block(215, 2)), 0);
    assert_int_equal(tree_writer_finish(w, &root), -EINVAL);
    w = misused(); /* a run that leaves its cell */
    e = *one_block(210, 2);
    e.run.blocks = 32;
    assert_int_equal(tree_writer_put(w, &e), -EINVAL);
    tree_writer_abort(w);
    tree_writer_abort(NULL);
    store_unmark(&before_misuse);
    root.height = 100;
    assert_int_equal(tree_writer_new(f, TREE_HEAD, &root, 1, 2, &w), -EUCLEAN);
    stop();
}

/* ---- failing calls ---- */

/* Everything that reads it sees the old tree, and nothing is lost of it. */
static void check_contents(uint64_t sum, uint64_t entries)
{
    static struct tree_cursor c;
    static struct tree_entry e;
    uint64_t s = 0, n = 0;
    int r;

    tree_cursor_init(&c, f, TREE_HEAD, &(struct tree_key){{0}});
    while ((r = tree_cursor_next(&c, &e)) == 0) {
        s += e.run.csum[0] + e.run.lba;
        n++;
    }
    assert_int_equal(r, -ENOENT);
    assert_int_equal(n, entries);
    if (sum)
        assert_int_equal(s, sum);
}

static uint64_t contents_sum(void)
{
    static struct tree_cursor c;
    static struct tree_entry e;
    uint64_t s = 0;
    tree_cursor_init(&c, f, TREE_HEAD, &(struct tree_key){{0}});
    while (tree_cursor_next(&c, &e) == 0)
        s += e.run.csum[0] + e.run.lba;
    return s;
}

/* Fails call n of a kind in a merge, n = 1, 2, 3..., until there is none left to fail. */
static unsigned fail_each(size_t *call, int err)
{
    static uint64_t lba[80];
    struct tree_root root;
    unsigned failures = 0;

    start();
    merge_random(20000, 1 << 20, 1);
    uint64_t entries = forest_root(f, TREE_HEAD)->entries, sum = contents_sum();
    size_t n = random_blocks(lba, VD_ARRAY_SIZE(lba), 1 << 20);
    store.fail_err = err;
    for (unsigned at = 1;; at++) {
        struct store_mark mark;
        forget_cache();
        store_mark(&store, &mark);
        store.failed = false;
        if (call)
            *call = at;
        else
            fail_alloc = at;
        int r = merge_blocks(lba, n, 2, &root);
        bool failed = store.failed || (!call && fail_alloc == 0);
        store.fail_read = store.fail_write = fail_alloc = 0;
        if (r == 0)
            assert_int_equal(store.live, root.nodes);
        else
            assert_true(failed && r == err);
        failures += r < 0;
        store_restore(&store, &mark);
        store_unmark(&mark);
        assert_int_equal(store.live, forest_root(f, TREE_HEAD)->nodes);
        if (at % 16 == 0 || !failed)
            check_contents(sum, entries);
        if (!failed)
            break;
    }
    stop();
    return failures;
}

static void test_write_fails(void **state)
{
    test_seed(&rng, "write fails");
    assert_true(fail_each(&store.fail_write, -ENOSPC) > 50);
}

static void test_read_fails(void **state)
{
    test_seed(&rng, "read fails");
    /* One copy that cannot be read does not matter; both do. */
    assert_int_equal(fail_each(&store.fail_read, -EIO), 0);
    store.fail_on = true;
    assert_true(fail_each(&store.fail_read, -EIO) > 50);
}

static void test_alloc_fails(void **state)
{
    test_seed(&rng, "allocation fails");
    assert_true(fail_each(NULL, -ENOMEM) > 10);
}

/* ---- damage ---- */

/* Every byte of leaves and of an interior node; and by way of the forest, in one copy and in both.
 */
static void test_flips(void **state)
{
    static struct vd_run run;
    struct tree_root root;

    start();
    merge_random(300, 1 << 20, 1);
    static uint64_t lba[1] = {77};
    assert_int_equal(merge_blocks(lba, 1, 2, &root), 0);
    forest_set_root(f, TREE_HEAD, &root);
    assert_int_equal(root.height, 2);
    forget_cache();
    assert_int_equal(find_one(77, &run), 1);
    for (size_t i = 0; i < store.count; i++) {
        if (!store.node[i].live)
            continue;
        const struct od_node *n = (const void *)store.node[i].copy[0];
        bool on_path = n->level || (vd_get64(n->first.w[1]) <= 77 && vd_get64(n->last.w[1]) >= 77);
        for (unsigned at = 0; at < OD_NODE_SIZE; at++) {
            static struct od_node flipped;
            memcpy(&flipped, n, sizeof(flipped));
            ((uint8_t *)&flipped)[at] ^= (uint8_t)(1 << at % 8);
            assert_int_equal(node_verify(n, STORE_POOL, TREE_HEAD, n->level), 0);
            assert_int_equal(node_verify(&flipped, STORE_POOL, TREE_HEAD, n->level), -EBADMSG);
        }
        for (unsigned at = 0; on_path && at < OD_NODE_SIZE; at += 61) {
            uint8_t bit = (uint8_t)(1 << at % 8);
            for (unsigned copy = 0; copy < 2; copy++) {
                size_t bad = store.bad;
                forget_cache();
                store.node[i].copy[copy][at] ^= bit;
                assert_int_equal(find_one(77, &run), 1);
                assert_int_equal(run.csum[0], 77 * 77 + 2);
                /* The first copy is read first: only then is the bad one seen. */
                assert_int_equal(store.bad - bad, copy == 0);
                store.node[i].copy[copy][at] ^= bit;
            }
            forget_cache();
            store.node[i].copy[0][at] ^= bit;
            store.node[i].copy[1][at] ^= bit;
            int r = find_one(77, &run);
            assert_true(r == -EBADMSG || r == -EUCLEAN);
            store.node[i].copy[0][at] ^= bit;
            store.node[i].copy[1][at] ^= bit;
        }
    }
    stop();
}

static int count_bad(void *arg, const struct node_ptr *ptr, int copy, const struct od_node *n,
                     unsigned level, int err)
{
    unsigned *v = arg;
    v[err == 0 ? copy : 2 + copy]++;
    assert_true((err == 0) == (n != NULL));
    return 0;
}

/* A walk reports each bad copy and goes on below the good one, or beside. */
static void test_walk_damage(void **state)
{
    unsigned v[4] = {0};
    const struct tree_root *root;

    start();
    merge_random(30000, 1 << 20, 1);
    root = forest_root(f, TREE_HEAD);
    assert_int_equal(root->height, 3);
    size_t i = 0, interior = 0;
    for (; i < store.count; i++) /* an interior node that is not the root */
        if (((const struct od_node *)store.node[i].copy[0])->level == 1)
            interior = i;
    store.node[interior].copy[0][1000] ^= 1;
    store.node[0].copy[1][1000] ^= 1;
    assert_int_equal(tree_walk(f, TREE_HEAD, root, count_bad, v), 0);
    assert_true(v[0] == root->nodes - 1 && v[1] == root->nodes - 1 && v[2] == 1 && v[3] == 1);
    store.node[interior].copy[1][1000] ^= 1;
    memset(v, 0, sizeof(v));
    unsigned below_it = node_count((const struct od_node *)store.node[interior].copy[0]);
    assert_int_equal(tree_walk(f, TREE_HEAD, root, count_bad, v), 0);
    assert_int_equal(v[0] + v[2], root->nodes - below_it);
    stop();
}

/* Seals a changed root node and makes it the root. */
static void set_forged(struct tree_root *root, struct od_node *n)
{
    n->csum = vd_le64(od_csum(n, offsetof(struct od_node, csum)));
    assert_int_equal(node_store_io.write(&store, n, &root->ptr), 0);
    forest_set_root(f, TREE_HEAD, root);
}

/* Good nodes in wrong places: named by a parent whose range is not theirs, by another tree, at
 * another level, in another pool. */
static void test_misplaced(void **state)
{
    static struct od_node n, leaf;
    static struct vd_run run;
    struct tree_root root;
    int copy;

    start();
    merge_random(2000, 1 << 20, 1);
    root = *forest_root(f, TREE_HEAD);
    memcpy(&n, store_at(&store, root.ptr.copy[0], &copy)->copy[0], sizeof(n));
    struct od_child *child[2] = {(void *)n.body, (void *)(n.body + 40 * 3)};
    uint64_t in_first = vd_get64(child[0]->key[1]), in_fourth = vd_get64(child[1]->key[1]);
    struct od_node_ptr keep = child[0]->ptr;
    assert_int_equal(find_one(in_first, &run), 1);

    child[0]->ptr = child[1]->ptr; /* a sibling's node */
    set_forged(&root, &n);
    assert_int_equal(find_one(in_first, &run), -EUCLEAN);
    assert_int_equal(find_one(in_fourth, &run), 1);
    child[0]->ptr = keep;

    struct tree_root low = root; /* a leaf where an interior node should be, and the reverse */
    low.ptr.copy[0] = (struct vd_addr){vd_get32(keep.copy[0].seg), vd_get32(keep.copy[0].sector)};
    low.ptr.copy[1] = (struct vd_addr){vd_get32(keep.copy[1].seg), vd_get32(keep.copy[1].sector)};
    low.ptr.csum = vd_get64(keep.csum);
    forget_cache();
    forest_set_root(f, TREE_HEAD, &low);
    assert_int_equal(find_one(in_first, &run), -EUCLEAN);
    low.height = 1;
    forest_set_root(f, TREE_HEAD, &low);
    assert_int_equal(find_one(in_first, &run), 1);
    forget_cache();
    forest_set_root(f, TREE_HISTORY, &low); /* another tree's node */
    struct forest_need need;
    assert_int_equal(tree_history_find(f, 1, 0, 1, 1, &run, 1, &need), -EAGAIN);
    assert_int_equal(forest_load(f, &need), -EUCLEAN);

    memcpy(&leaf, store_at(&store, low.ptr.copy[0], &copy)->copy[0], sizeof(leaf));
    leaf.pool = vd_le64(STORE_POOL + 1);
    set_forged(&low, &leaf);
    assert_int_equal(find_one(in_first, &run), -EUCLEAN);
    leaf.pool = vd_le64(STORE_POOL);
    leaf.magic = vd_le32(OD_MAGIC_BULK);
    set_forged(&low, &leaf);
    assert_int_equal(find_one(in_first, &run), -EUCLEAN);

    /* A last run that reaches into the next leaf. */
    leaf.magic = vd_le32(OD_MAGIC_NODE);
    struct od_run *last = (struct od_run *)leaf.body + node_count(&leaf) - 1;
    assert_int_equal(last->blocks, 1);
    last->type = VD_RUN_ZERO;
    last->blocks = 0;
    last->csum = vd_le16(0);
    last->seg = vd_le32(1 << 20);
    last->sector = vd_le32(0);
    leaf.csums = vd_le16(vd_get16(leaf.csums) - 1);
    leaf.used = vd_le16(vd_get16(leaf.used) - 8);
    struct node_ptr forged;
    leaf.csum = vd_le64(od_csum(&leaf, offsetof(struct od_node, csum)));
    assert_int_equal(node_verify(&leaf, STORE_POOL, TREE_HEAD, 0), 0);
    assert_int_equal(node_store_io.write(&store, &leaf, &forged), 0);
    for (unsigned c = 0; c < 2; c++)
        child[0]->ptr.copy[c] =
            (struct od_addr){vd_le32(forged.copy[c].seg), vd_le32(forged.copy[c].sector)};
    child[0]->ptr.csum = vd_le64(forged.csum);
    set_forged(&root, &n);
    assert_int_equal(find_one(in_first, &run), -EUCLEAN);
    stop();
}

/* ---- structure fuzz ---- */

/* Whatever is in a sealed node: refused, or its entries can be read. */
static void test_mutations(void **state)
{
    static struct tree_entry e;
    static struct od_node n;
    struct tree_writer *w;
    struct tree_root root;
    unsigned good = 0;

    test_seed(&rng, "mutations");
    start();
    merge_random(300, 1 << 10, 1);
    for (enum tree_id t = TREE_HISTORY; t <= TREE_CATALOG; t++) {
        static uint8_t val[100];
        assert_int_equal(tree_writer_new(f, t, forest_root(f, t), 1, 1, &w), 0);
        for (uint64_t i = 0; i < 300; i++) {
            e = *one_block(i / 3, 1 + i % 3);
            e.val = val;
            e.len = (uint16_t)below(100);
            e.run.died = e.run.born + 1;
            e.key = (struct tree_key){{1, i / 96, i, 0}};
            if (t == TREE_HISTORY)
                e.key = (struct tree_key){{1, i / 3 / 32, i / 3, e.run.died}};
            assert_int_equal(tree_writer_put(w, &e), 0);
        }
        assert_int_equal(tree_writer_finish(w, &root), 0);
    }
    for (unsigned i = 0; i < 100000; i++) {
        memcpy(&n, store.node[i % store.count].copy[0], sizeof(n));
        for (uint64_t k = 1 + below(3); k > 0; k--)
            ((uint8_t *)&n)[below(3) ? below(300) : below(sizeof(n))] ^= (uint8_t)(1 << below(8));
        n.csum = vd_le64(od_csum(&n, offsetof(struct od_node, csum)));
        n.magic = vd_le32(OD_MAGIC_NODE);
        n.csum = vd_le64(od_csum(&n, offsetof(struct od_node, csum)));
        if (n.tree >= TREE_COUNT || node_verify(&n, STORE_POOL, n.tree, n.level) < 0)
            continue;
        good++;
        for (unsigned k = 0; k < node_count(&n); k++) {
            struct node_ptr ptr;
            if (n.level)
                node_child(&n, k, &e.key, &ptr);
            else
                node_entry(&n, k, &e);
            assert_true(n.level || e.len <= TREE_VALUE_MAX);
        }
    }
    assert_true(good > 1000);
    stop();
}

/* ---- several fibers ---- */

static struct tree_root other_root;
static unsigned fibers_done;
static bool swap_roots;

static void slow_read(void *arg)
{
    vd_fiber_yield();
    if (swap_roots) {
        swap_roots = false;
        forest_set_root(f, TREE_HEAD, &other_root);
    }
    vd_fiber_yield();
}

static void find_fiber(void *arg)
{
    static struct vd_run run; /* nothing suspends between filling and looking */
    assert_int_equal(find_one((uint64_t)(uintptr_t)arg, &run), 1);
    fibers_done++;
}

static int fibers_main(void *arg)
{
    const uint64_t *lba = arg;
    struct forest_need need;
    static struct vd_run run;

    store.on_read = slow_read;
    size_t reads = store.reads;
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(
            vd_fiber_spawn(vd_loop_current(), "find", find_fiber, (void *)(uintptr_t)*lba), 0);
    while (fibers_done < 100)
        vd_fiber_yield();
    assert_int_equal(store.reads - reads, forest_root(f, TREE_HEAD)->height);

    /* The roots change while a node is read, and its place has been used again: look again. */
    other_root = *forest_root(f, TREE_HEAD);
    forget_cache();
    assert_int_equal(tree_head_find(f, 1, *lba, 1, &run, 1, &need), -EAGAIN);
    store.fail_read = 1;
    store.fail_err = -EIO;
    swap_roots = true;
    size_t bad = store.bad;
    int copy;
    struct stored_node *n = store_at(&store, need.ptr.copy[0], &copy);
    memset(n->copy[1], 0x55, 100);
    assert_int_equal(forest_load(f, &need), -EAGAIN);
    assert_int_equal(store.bad, bad);
    store.fail_read = 0;
    assert_int_equal(find_one(*lba, &run), 1); /* the other copy is still good here */
    store.on_read = NULL;
    return 0;
}

static void test_fibers(void **state)
{
    static uint64_t lba = 4711;
    struct tree_root root;

    start();
    merge_random(30000, 1 << 20, 1);
    assert_int_equal(merge_blocks(&lba, 1, 2, &root), 0);
    forest_set_root(f, TREE_HEAD, &root);
    forget_cache();
    assert_int_equal(vd_fiber_main(VD_LOOP_SIM, 1, fibers_main, &lba), 0);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_misuse),     cmocka_unit_test(test_write_fails),
        cmocka_unit_test(test_read_fails), cmocka_unit_test(test_alloc_fails),
        cmocka_unit_test(test_flips),      cmocka_unit_test(test_walk_damage),
        cmocka_unit_test(test_misplaced),  cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_fibers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
