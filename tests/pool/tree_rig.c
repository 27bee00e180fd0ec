/* SPDX-License-Identifier: MIT */
/* One forest on one store of nodes, and merges that write single blocks to it (tree_rig.h). */
#include "tests/pool/tree_rig.h"

struct node_store store;
struct forest *f;
struct vd_rng rng;

uint64_t below(uint64_t n)
{
    return vd_rng_below(&rng, n);
}

void start(void)
{
    bool fail_on = store.fail_on;
    store_done(&store);
    store.fail_on = fail_on;
    assert_int_equal(forest_new(&node_store_io, &store, STORE_POOL, 1 << 26, &f), 0);
}

void stop(void)
{
    forest_free(f);
    f = NULL;
    store_done(&store);
}

void forget_cache(void)
{
    struct forest *old = f;
    assert_int_equal(forest_new(&node_store_io, &store, STORE_POOL, 1 << 20, &f), 0);
    for (unsigned t = 0; t < TREE_COUNT; t++)
        forest_set_root(f, t, forest_root(old, t));
    forest_free(old);
}

const struct tree_entry *one_block(uint64_t lba, uint64_t born)
{
    static struct tree_entry e;
    e.key = (struct tree_key){{1, lba, 0, 0}};
    e.run.lba = lba;
    e.run.blocks = 1;
    e.run.born = born;
    e.run.died = VD_EPOCH_MAX;
    e.run.type = VD_RUN_DATA;
    e.run.addr = (struct vd_addr){(uint32_t)born, (uint32_t)lba * 8};
    e.run.csum[0] = lba * 77 + born;
    return &e;
}

static int u64_cmp(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int merge_blocks(const uint64_t *lba, size_t n, uint64_t born, struct tree_root *ret)
{
    static struct tree_entry old;
    struct tree_writer *w;
    int r = tree_writer_new(f, TREE_HEAD, forest_root(f, TREE_HEAD), 1, born, &w);

    if (r < 0)
        return r;
    for (size_t i = 0; i < n && r == 0; i++) {
        struct tree_key key = {{1, lba[i], 0, 0}}, next = {{1, lba[i] + 1, 0, 0}};
        r = tree_writer_seek(w, &key);
        if (r == 0 && (r = tree_writer_peek_below(w, &next, &old)) == 0)
            tree_writer_take(w);
        if (r == -ENOENT)
            r = 0;
        if (r == 0)
            r = tree_writer_put(w, one_block(lba[i], born));
    }
    if (r < 0) {
        /* It sticks: nothing that follows works. */
        assert_int_equal(tree_writer_put(w, one_block(UINT64_C(1) << 40, born)), r);
        assert_int_equal(tree_writer_peek(w, &old), r);
        assert_int_equal(tree_writer_finish(w, ret), r);
        return r;
    }
    return tree_writer_finish(w, ret);
}

size_t random_blocks(uint64_t *lba, size_t n, uint64_t space)
{
    size_t out = 0;
    for (size_t i = 0; i < n; i++)
        lba[i] = below(space);
    qsort(lba, n, sizeof(*lba), u64_cmp);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || lba[i] != lba[i - 1])
            lba[out++] = lba[i];
    return out;
}

void merge_random(size_t n, uint64_t space, uint64_t born)
{
    uint64_t *lba = malloc(n * sizeof(*lba));
    struct tree_root root;
    n = random_blocks(lba, n, space);
    assert_int_equal(merge_blocks(lba, n, born, &root), 0);
    forest_set_root(f, TREE_HEAD, &root);
    store_reclaim(&store);
    free(lba);
}

int find_one(uint64_t lba, struct vd_run *ret)
{
    struct forest_need need;
    int n;
    while ((n = tree_head_find(f, 1, lba, 1, ret, 1, &need)) == -EAGAIN) {
        int r = forest_load(f, &need);
        if (r < 0)
            return r;
    }
    return n;
}
