/* SPDX-License-Identifier: MIT */
/* What trees cost: how full their nodes are, what a merge writes, what the cache holds. */
#include "tests/pool/tree_rig.h"

static double leaf_bytes(void)
{
    const struct tree_root *r = forest_root(f, TREE_HEAD);
    return (double)r->leaves * OD_NODE_SIZE / (double)r->entries;
}

/* ---- cost ---- */

static void test_packing(void **state)
{
    test_seed(&rng, "packing");
    start();
    merge_random(400000, 1 << 28, 1);
    printf("one merge: %.1f bytes of leaf per random block\n", leaf_bytes());
    assert_true(leaf_bytes() <= 32);
    for (unsigned i = 2; i < 22; i++)
        merge_random(20000, 1 << 28, i);
    printf("and 20 that touch every leaf: %.1f\n", leaf_bytes());
    assert_true(leaf_bytes() <= 34);
    for (unsigned i = 22; i < 222; i++)
        merge_random(1000, 1 << 28, i);
    printf("and 200 that touch a third of them: %.1f\n", leaf_bytes());
    assert_true(leaf_bytes() <= 40);
    stop();
    /* Many small merges from nothing, as a busy small volume has them. */
    start();
    for (unsigned i = 1; i < 300; i++)
        merge_random(200, 1 << 28, 1 + i / 50);
    printf("300 merges of 200 blocks from nothing: %.1f\n", leaf_bytes());
    assert_true(leaf_bytes() <= 40);
    stop();
    /* Appending does not leave half-empty leaves behind. */
    start();
    static uint64_t lba[50];
    struct tree_root root;
    for (unsigned i = 0; i < 600; i++) {
        for (unsigned k = 0; k < 50; k++)
            lba[k] = i * 50 + k;
        assert_int_equal(merge_blocks(lba, 50, i + 1, &root), 0);
        forest_set_root(f, TREE_HEAD, &root);
    }
    printf("appending, 600 times 50 blocks: %.1f\n", leaf_bytes());
    assert_true(leaf_bytes() <= 34 && forest_root(f, TREE_HEAD)->height == 3);
    stop();
}

/* A merge that changes k leaves reads and writes their paths, and little else. */
static void test_sparse(void **state)
{
    static uint64_t lba[10];
    struct tree_root root;

    test_seed(&rng, "sparse");
    start();
    merge_random(100000, 1 << 20, 1);
    size_t height = forest_root(f, TREE_HEAD)->height;
    assert_int_equal(height, 3);
    for (unsigned i = 0; i < 50; i++) {
        forget_cache();
        size_t n = random_blocks(lba, 10, 1 << 20), reads = store.reads, writes = store.writes;
        assert_int_equal(merge_blocks(lba, n, i + 2, &root), 0);
        forest_set_root(f, TREE_HEAD, &root);
        assert_true(store.writes - writes <= n * height);
        assert_true(store.reads - reads <= 2 * n * height);
        assert_int_equal(store.live, root.nodes);
    }
    /* One that changes nothing writes nothing, and reads the path at most. */
    struct tree_writer *w;
    struct tree_root before = *forest_root(f, TREE_HEAD);
    size_t writes = store.writes, releases = store.releases;
    static struct tree_entry e;
    assert_int_equal(tree_writer_new(f, TREE_HEAD, &before, 1, 99, &w), 0);
    for (uint64_t i = 0; i < 1000; i++) {
        assert_int_equal(tree_writer_seek(w, &(struct tree_key){{1, i * 1000, 0, 0}}), 0);
        if (tree_writer_peek(w, &e) == 0 && i % 2)
            assert_int_equal(tree_writer_keep(w), 0);
    }
    assert_int_equal(tree_writer_finish(w, &root), 0);
    assert_memory_equal(&root, &before, sizeof(root));
    assert_true(store.writes == writes && store.releases == releases);
    stop();
}

/* ---- touching and naming ---- */

struct picked {
    struct od_node *node;
    struct node_ptr ptr;
    struct vd_addr at;
    unsigned level;
};
static struct picked pick[40];
static unsigned picks;

static int pick_node(void *arg, const struct node_ptr *ptr, int copy, const struct od_node *n,
                     unsigned level, int err)
{
    unsigned *every = arg;
    assert_int_equal(err, 0);
    if (picks < VD_ARRAY_SIZE(pick) && (level || below(*every) == 0)) {
        struct picked *p = &pick[picks++];
        p->node = malloc(OD_NODE_SIZE);
        memcpy(p->node, n, OD_NODE_SIZE);
        p->ptr = *ptr;
        p->at = ptr->copy[copy];
        p->level = level;
    }
    return 0;
}

static void picks_free(void)
{
    while (picks)
        free(pick[--picks].node);
}

static int named(const struct picked *p)
{
    struct forest_need need;
    int r;
    while ((r = tree_names(f, p->node, p->at, &need)) == -EAGAIN)
        assert_int_equal(forest_load(f, &need), 0);
    return r;
}

static int picked_cmp(const void *a, const void *b)
{
    const struct picked *x = a, *y = b;
    struct tree_key kx, ky;
    for (unsigned i = 0; i < 4; i++) {
        kx.w[i] = vd_get64(x->node->first.w[i]);
        ky.w[i] = vd_get64(y->node->first.w[i]);
    }
    return tree_key_cmp(&kx, &ky);
}

static void test_touch(void **state)
{
    unsigned every = 60;
    struct tree_root root;
    struct tree_writer *w;

    test_seed(&rng, "touch");
    start();
    merge_random(100000, 1 << 20, 1);
    forget_cache();
    root = *forest_root(f, TREE_HEAD);
    assert_int_equal(tree_walk(f, TREE_HEAD, &root, pick_node, &every), 0);
    qsort(pick, picks, sizeof(pick[0]), picked_cmp);
    uint64_t entries = root.entries;
    for (unsigned i = 0; i < picks; i++) {
        forget_cache();
        assert_int_equal(named(&pick[i]), 1);
    }
    assert_int_equal(tree_writer_new(f, TREE_HEAD, &root, 1, 2, &w), 0);
    for (unsigned i = 0; i < picks; i++) {
        struct tree_key key;
        for (unsigned k = 0; k < 4; k++)
            key.w[k] = vd_get64(pick[i].node->first.w[k]);
        assert_int_equal(tree_writer_touch(w, &key, pick[i].level), 0);
    }
    assert_int_equal(tree_writer_touch(w, &TREE_KEY_MAX, 0), 0);
    assert_int_equal(tree_writer_finish(w, &root), 0);
    forest_set_root(f, TREE_HEAD, &root);
    assert_int_equal(root.entries, entries);
    assert_int_equal(store.live, root.nodes);
    for (unsigned i = 0; i < picks; i++)
        assert_int_equal(named(&pick[i]), 0);
    /* Not named elsewhere: another place, another tree. */
    picks_free();
    assert_int_equal(tree_walk(f, TREE_HEAD, &root, pick_node, &every), 0);
    pick[0].at.sector += 8;
    assert_int_equal(named(&pick[0]), 0);
    pick[1].node->tree = TREE_CATALOG;
    assert_int_equal(named(&pick[1]), 0);
    pick[1].node->tree = TREE_COUNT;
    assert_int_equal(named(&pick[1]), 0);
    picks_free();
    stop();
}

/* Only one old subtree stays: it is the new tree, and is not even read but for its top. */
static void test_shrink(void **state)
{
    static struct tree_entry e;
    struct tree_root root;
    struct tree_writer *w;
    struct tree_key from, to;
    uint64_t kept = 0;

    start();
    merge_random(100000, 1 << 20, 1);
    root = *forest_root(f, TREE_HEAD);
    assert_int_equal(root.height, 3);
    int copy;
    const struct od_node *top = (void *)store_at(&store, root.ptr.copy[0], &copy)->copy[0];
    node_child(top, node_count(top) / 2, &from, NULL);
    node_child(top, node_count(top) / 2 + 1, &to, NULL);
    assert_int_equal(tree_writer_new(f, TREE_HEAD, &root, 1, 2, &w), 0);
    while (tree_writer_peek_below(w, &from, &e) == 0)
        tree_writer_take(w);
    assert_int_equal(tree_writer_seek(w, &to), 0);
    while (tree_writer_peek(w, &e) == 0)
        tree_writer_take(w);
    size_t writes = store.writes;
    assert_int_equal(tree_writer_finish(w, &root), 0);
    forest_set_root(f, TREE_HEAD, &root);
    store_reclaim(&store);
    assert_true(root.height == 2 && store.writes == writes);
    assert_int_equal(store.live, root.nodes);
    static struct tree_cursor c;
    tree_cursor_init(&c, f, TREE_HEAD, &(struct tree_key){{0}});
    for (; tree_cursor_next(&c, &e) == 0; kept++)
        assert_true(e.key.w[1] >= from.w[1] && e.key.w[1] < to.w[1]);
    assert_int_equal(kept, root.entries);
    stop();
}

/* ---- caching ---- */

/* The bound holds, interior nodes stay, and a smaller one gives memory back. */
static void test_cache_bound(void **state)
{
    static struct vd_run run;

    test_seed(&rng, "cache bound");
    start();
    merge_random(300000, 1 << 20, 1);
    forest_set_cache(f, 0);
    uint64_t nodes = forest_root(f, TREE_HEAD)->nodes;
    assert_true(nodes > 1400);
    for (unsigned i = 0; i < 1000; i++)
        find_one(below(1 << 20), &run);
    size_t reads = store.reads;
    for (unsigned i = 0; i < 5000; i++)
        assert_true(find_one(below(1 << 20), &run) >= 0);
    double each = (double)(store.reads - reads) / 5000;
    printf("with %.0f %% of the nodes cached: %.2f reads per look-up\n", 51200. / (double)nodes,
           each);
    assert_true(each > 0.5 && each < 1);
    forest_set_cache(f, 1 << 26);
    for (unsigned i = 0; i < 20000; i++)
        find_one(below(1 << 20), &run);
    reads = store.reads;
    for (unsigned i = 0; i < 5000; i++)
        find_one(below(1 << 20), &run);
    assert_true(store.reads - reads < 50);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packing),     cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_touch),       cmocka_unit_test(test_shrink),
        cmocka_unit_test(test_cache_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
