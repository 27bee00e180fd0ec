/* SPDX-License-Identifier: MIT */
/*
 * Trees against models: HEAD against a map of single blocks, the others against sorted arrays.
 * After each merge the whole tree is walked: what is stored and not released is exactly what it
 * names.
 */
#include "pool/tree.h"
#include "tests/pool/model.h"
#include "tests/pool/node_store.h"

#include <string.h>

static struct node_store store;
static struct forest *f;
static struct vd_rng rng;
static uint64_t counter;

static uint64_t below(uint64_t n)
{
    return vd_rng_below(&rng, n);
}

static void start(size_t cache)
{
    counter = 0;
    store_done(&store);
    assert_int_equal(forest_new(&node_store_io, &store, STORE_POOL, cache, &f), 0);
}

/* The same trees, nothing cached. */
static void restart(size_t cache)
{
    struct forest *old = f;
    assert_int_equal(forest_new(&node_store_io, &store, STORE_POOL, cache, &f), 0);
    for (unsigned t = 0; t < TREE_COUNT; t++)
        forest_set_root(f, t, forest_root(old, t));
    forest_free(old);
}

static void stop(void)
{
    forest_free(f);
    store_done(&store);
}

static struct tree_writer *writer(enum tree_id t)
{
    struct tree_writer *w;
    assert_int_equal(tree_writer_new(f, t, forest_root(f, t), 3, ++counter, &w), 0);
    return w;
}

struct walked {
    uint64_t nodes, leaves, entries, body;
};

static int walk_node(void *arg, const struct node_ptr *ptr, int copy, const struct od_node *n,
                     unsigned level, int err)
{
    struct walked *w = arg;
    int which;

    assert_int_equal(err, 0);
    assert_true(store_at(&store, ptr->copy[copy], &which)->live);
    assert_int_equal(which, copy);
    if (copy)
        return 0;
    w->nodes++;
    w->leaves += level == 0;
    w->entries += level == 0 ? node_count(n) : 0;
    w->body += level == 0 ? OD_NODE_SIZE : 0;
    return 0;
}

/* Ends the merge, publishes, and checks the root's counts against a walk and the store. */
static void publish(struct tree_writer *w, enum tree_id t)
{
    struct tree_root root;
    struct walked seen = {0};
    uint64_t others = 0;

    assert_int_equal(tree_writer_finish(w, &root), 0);
    forest_set_root(f, t, &root);
    store_reclaim(&store);
    assert_int_equal(tree_walk(f, t, &root, walk_node, &seen), 0);
    assert_int_equal(root.nodes, seen.nodes);
    assert_int_equal(root.leaves, seen.leaves);
    assert_int_equal(root.entries, seen.entries);
    for (unsigned i = 0; i < TREE_COUNT; i++)
        others += i == t ? 0 : forest_root(f, i)->nodes;
    assert_int_equal(store.live, seen.nodes + others);
}

static int load(struct forest_need *need)
{
    int r = forest_load(f, need);
    return r == -EAGAIN ? 0 : r;
}

/* ---- HEAD ---- */

#define BRANCHES 2
struct block {
    uint8_t type;
    uint64_t born;
    struct vd_addr addr;
    uint64_t csum;
};
static struct block *head[BRANCHES];
static uint64_t head_blocks;
static const uint64_t head_branch[BRANCHES] = {3, 4};
static uint32_t next_sector;

static void head_start(uint64_t blocks)
{
    head_blocks = blocks;
    for (unsigned b = 0; b < BRANCHES; b++)
        head[b] = calloc(blocks, sizeof(struct block));
}

static void head_stop(void)
{
    for (unsigned b = 0; b < BRANCHES; b++)
        free(head[b]);
}

static struct tree_entry head_entry(unsigned b, const struct vd_run *run)
{
    struct tree_entry e = {.key = {{head_branch[b], run->lba, 0, 0}}, .run = *run};
    return e;
}

static void head_put_part(struct tree_writer *w, unsigned b, struct vd_run run, uint64_t from,
                          uint64_t end)
{
    if (from >= end)
        return;
    vd_run_clip(&run, from, end - from);
    static struct tree_entry e;
    e = head_entry(b, &run);
    assert_int_equal(tree_writer_put(w, &e), 0);
}

/* What is left of an old run behind the last new one: put when it is known where the next begins.
 */
static struct vd_run carry; /* blocks = 0: nothing */

static void carry_put(struct tree_writer *w, unsigned b, uint64_t upto, uint64_t resume)
{
    if (!carry.blocks)
        return;
    uint64_t end = vd_run_end(&carry);
    head_put_part(w, b, carry, carry.lba, VD_MIN(end, upto));
    if (end > resume)
        vd_run_clip(&carry, resume, end - resume);
    else
        carry.blocks = 0;
}

/* What a merge does with one new run, or (type 0) with a hole. */
static void head_replace(struct tree_writer *w, unsigned b, const struct vd_run *run)
{
    struct tree_key from = {{head_branch[b], run->lba, 0, 0}};
    struct tree_key end = {{head_branch[b], vd_run_end(run), 0, 0}};
    static struct tree_entry old;
    int r;

    carry_put(w, b, run->lba, vd_run_end(run));
    assert_int_equal(tree_writer_seek(w, &from), 0);
    while ((r = tree_writer_peek_below(w, &end, &old)) == 0) {
        tree_writer_take(w);
        head_put_part(w, b, old.run, old.run.lba, run->lba);
        if (vd_run_end(&old.run) > vd_run_end(run)) {
            carry = old.run;
            vd_run_clip(&carry, vd_run_end(run), vd_run_end(&old.run) - vd_run_end(run));
        }
    }
    assert_int_equal(r, -ENOENT);
    if (run->type)
        head_put_part(w, b, *run, run->lba, vd_run_end(run));
    for (uint64_t i = 0; i < run->blocks; i++) {
        struct block *blk = &head[b][run->lba + i];
        memset(blk, 0, sizeof(*blk));
        if (!run->type)
            continue;
        blk->type = (uint8_t)run->type;
        blk->born = run->born;
        if (run->type == VD_RUN_DATA) {
            blk->addr = vd_addr_plus(run->addr, i);
            blk->csum = run->csum[i];
        }
    }
}

static void random_data(struct vd_run *run, uint64_t lba, uint64_t blocks, uint64_t born)
{
    run->lba = lba;
    run->blocks = VD_MIN(blocks, VD_CELL_BLOCKS - lba % VD_CELL_BLOCKS);
    run->born = born;
    run->died = VD_EPOCH_MAX;
    run->type = VD_RUN_DATA;
    run->addr = (struct vd_addr){(uint32_t)below(1000), next_sector += 256};
    for (uint64_t i = 0; i < run->blocks; i++)
        run->csum[i] = vd_rng_u64(&rng);
}

/* A merge of about `ops` runs in ascending order, gaps around `gap`. */
static void head_batch(uint64_t born, uint64_t gap, unsigned holes)
{
    struct tree_writer *w = writer(TREE_HEAD);
    static struct vd_run run;

    for (unsigned b = 0; b < BRANCHES; b++, carry_put(w, b - 1, UINT64_MAX, UINT64_MAX))
        for (uint64_t lba = below(gap); lba < head_blocks; lba += run.blocks + below(gap)) {
            random_data(&run, lba, below(4) ? 1 : 1 + below(40), born);
            unsigned kind = (unsigned)below(100);
            if (kind < holes + 5) {
                run.type = kind < holes ? (enum vd_run_type)0 : VD_RUN_ZERO;
                run.blocks = below(3) ? 1 + below(20) : 1 + below(gap * 4);
            }
            run.blocks = VD_MIN(run.blocks, head_blocks - lba);
            head_replace(w, b, &run);
        }
    publish(w, TREE_HEAD);
}

static void check_block(const struct block *blk, const struct vd_run *run, uint64_t lba)
{
    assert_int_equal(blk->type, run->type);
    assert_int_equal(blk->born, run->born);
    if (run->type != VD_RUN_DATA)
        return;
    struct vd_addr a = vd_addr_plus(run->addr, lba - run->lba);
    assert_true(vd_addr_equal(blk->addr, a));
    assert_int_equal(blk->csum, run->csum[lba - run->lba]);
}

static void head_check_find(unsigned b, uint64_t lba, uint64_t blocks)
{
    static struct vd_run runs[VD_CELL_BLOCKS];
    struct forest_need need;
    uint64_t at = lba;
    int n;

    while ((n = tree_head_find(f, head_branch[b], lba, blocks, runs, VD_CELL_BLOCKS, &need)) ==
           -EAGAIN)
        assert_int_equal(load(&need), 0);
    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        assert_true(runs[i].lba >= at && vd_run_end(&runs[i]) <= lba + blocks);
        for (; at < runs[i].lba; at++)
            assert_int_equal(head[b][at].type, 0);
        for (; at < vd_run_end(&runs[i]); at++)
            check_block(&head[b][at], &runs[i], at);
    }
    for (; at < lba + blocks; at++)
        assert_int_equal(head[b][at].type, 0);
}

static void head_check(void)
{
    static struct tree_cursor c;
    static struct tree_entry e;
    uint64_t at[BRANCHES] = {0};
    int r;

    tree_cursor_init(&c, f, TREE_HEAD, &(struct tree_key){{0}});
    while ((r = tree_cursor_next(&c, &e)) == 0) {
        unsigned b = e.key.w[0] == head_branch[0] ? 0 : 1;
        assert_true(e.run.lba >= at[b]);
        for (; at[b] < e.run.lba; at[b]++)
            assert_int_equal(head[b][at[b]].type, 0);
        for (; at[b] < vd_run_end(&e.run); at[b]++)
            check_block(&head[b][at[b]], &e.run, at[b]);
    }
    assert_int_equal(r, -ENOENT);
    for (unsigned b = 0; b < BRANCHES; b++)
        for (; at[b] < head_blocks; at[b]++)
            assert_int_equal(head[b][at[b]].type, 0);
    for (unsigned i = 0; i < 2000; i++) {
        uint64_t lba = below(head_blocks), room = VD_CELL_BLOCKS - lba % VD_CELL_BLOCKS;
        head_check_find((unsigned)below(BRANCHES), lba, 1 + below(VD_MIN(room, head_blocks - lba)));
    }
}

/* Grows, lives and dies: dense and sparse merges, then holes over nearly all. */
static void head_life(uint64_t blocks, size_t cache)
{
    static const uint64_t gaps[] = {3, 50, 2000, 7, 20000, 400, 30, 10};

    start(cache);
    head_start(blocks);
    for (unsigned i = 0; i < 12; i++) {
        head_batch(i + 1, gaps[i % VD_ARRAY_SIZE(gaps)], i < 8 ? 3 : 60);
        if (cache < 1 << 20)
            restart(cache);
        head_check();
    }
    struct tree_writer *w = writer(TREE_HEAD);
    for (unsigned b = 0; b < BRANCHES; b++) {
        struct vd_run all = {.lba = 0, .blocks = head_blocks};
        head_replace(w, b, &all);
    }
    publish(w, TREE_HEAD);
    assert_int_equal(forest_root(f, TREE_HEAD)->height, 0);
    assert_int_equal(store.live, 0);
    head_check();
    head_stop();
    stop();
}

static void test_head(void **state)
{
    test_seed(&rng, "head");
    head_life(3000, 1 << 24);
    head_life(60000, 1 << 24);
    head_life(60000, 0);
}

/* A ZERO run may be as long as a volume, and reach over many leaves' worth of keys. */
static void test_long_zero(void **state)
{
    struct vd_run zero = {.lba = 5,
                          .blocks = (UINT64_C(1) << 51) - 5,
                          .born = 1,
                          .died = VD_EPOCH_MAX,
                          .type = VD_RUN_ZERO};
    static struct vd_run got[2];
    struct forest_need need;

    start(1 << 20);
    struct tree_writer *w = writer(TREE_HEAD);
    struct tree_entry e = head_entry(0, &zero);
    assert_int_equal(tree_writer_put(w, &e), 0);
    zero.lba = 7;
    zero.blocks = 1;
    e = head_entry(1, &zero);
    assert_int_equal(tree_writer_put(w, &e), 0);
    publish(w, TREE_HEAD);
    for (unsigned shift = 3; shift < 51; shift++) {
        assert_int_equal(tree_head_find(f, head_branch[0], UINT64_C(1) << shift, 20, got, 2, &need),
                         1);
        assert_true(got[0].lba == UINT64_C(1) << shift && got[0].blocks == 20);
    }
    assert_int_equal(tree_head_find(f, head_branch[1], 7, 1, got, 2, &need), 1);
    assert_int_equal(tree_head_find(f, head_branch[1], 8, 20, got, 2, &need), 0);
    assert_int_equal(tree_head_find(f, head_branch[0], 0, 5, got, 2, &need), 0);
    assert_int_equal(tree_head_find(f, 0, 0, 5, got, 2, &need), 0);
    assert_int_equal(tree_head_find(f, 99, 0, 5, got, 2, &need), 0);
    stop();
}

/* ---- the other trees: sorted arrays ---- */

struct listed {
    struct tree_entry e;
    uint8_t *val;
};
static struct listed *list;
static size_t list_count, list_room;

static int listed_cmp(const void *a, const void *b)
{
    return tree_key_cmp(&((const struct listed *)a)->e.key, &((const struct listed *)b)->e.key);
}

static void list_stop(void)
{
    for (size_t i = 0; i < list_count; i++)
        free(list[i].val);
    free(list);
    list = NULL;
    list_count = list_room = 0;
}

/* Where `key` is, or would be. */
static size_t list_find(const struct tree_key *key)
{
    size_t lo = 0, n = list_count;
    while (n) {
        size_t half = n / 2;
        if (tree_key_cmp(&list[lo + half].e.key, key) < 0) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo;
}

/* A batch: entries with len 0xffff are to be removed. Applied to tree and list. */
static int list_merge(struct tree_writer *w, struct listed *batch, size_t n)
{
    static struct tree_entry old;
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++) {
        struct tree_key *key = &batch[i].e.key, next = *key;
        next.w[3]++;
        r = tree_writer_seek(w, key);
        if (r == 0 && (r = tree_writer_peek_below(w, &next, &old)) == 0)
            tree_writer_take(w);
        if (r == -ENOENT)
            r = 0;
        if (r == 0 && batch[i].e.len != UINT16_MAX)
            r = tree_writer_put(w, &batch[i].e);
    }
    return r;
}

static void list_apply(struct listed *batch, size_t n)
{
    struct listed *to = malloc((list_count + n) * sizeof(*to));
    size_t i = 0, k = 0, out = 0;

    while (i < list_count || k < n) {
        int c = i == list_count ? 1 : k == n ? -1 : listed_cmp(&list[i], &batch[k]);
        if (c < 0) {
            to[out++] = list[i++];
            continue;
        }
        if (c == 0)
            free(list[i++].val);
        if (batch[k].e.len != UINT16_MAX)
            to[out++] = batch[k];
        k++;
    }
    free(list);
    list = to;
    list_count = out;
}

static void check_entry(const struct tree_entry *got, const struct listed *want, enum tree_id t)
{
    assert_int_equal(tree_key_cmp(&got->key, &want->e.key), 0);
    if (!tree_is_map(t)) {
        assert_int_equal(got->len, want->e.len);
        assert_memory_equal(got->val, want->e.val, got->len);
        return;
    }
    assert_int_equal(got->run.blocks, want->e.run.blocks);
    assert_int_equal(got->run.born, want->e.run.born);
    assert_int_equal(got->run.died, want->e.run.died);
    assert_int_equal(got->run.type, want->e.run.type);
    if (got->run.type != VD_RUN_DATA)
        return;
    assert_true(vd_addr_equal(got->run.addr, want->e.run.addr));
    assert_memory_equal(got->run.csum, want->e.run.csum, 8 * got->run.blocks);
}

/* The next `most` entries from a key on; if there are fewer, the end must come where the list's is.
 */
static void list_check_from(enum tree_id t, const struct tree_key *from, size_t most)
{
    static struct tree_cursor c;
    static struct tree_entry e;
    int r = 0;

    tree_cursor_init(&c, f, t, from);
    for (size_t i = list_find(from); most-- > 0; i++) {
        r = tree_cursor_next(&c, &e);
        assert_int_equal(r, i < list_count ? 0 : -ENOENT);
        if (r < 0)
            break;
        check_entry(&e, &list[i], t);
    }
}

static void list_check(enum tree_id t)
{
    list_check_from(t, &(struct tree_key){{0}}, SIZE_MAX);
    assert_int_equal(forest_root(f, t)->entries, list_count);
    for (unsigned i = 0; i < 50 && list_count; i++) {
        struct tree_key k = list[below(list_count)].e.key;
        k.w[below(3)] += below(3) - 1;
        list_check_from(t, &k, 5);
    }
}

static size_t batch_sort(struct listed *v, size_t n)
{
    size_t out = 0;
    qsort(v, n, sizeof(*v), listed_cmp);
    for (size_t i = 0; i < n; i++) {
        if (out && !listed_cmp(&v[i], &v[out - 1]))
            free(v[i].val);
        else
            v[out++] = v[i];
    }
    return out;
}

/* n random changes of key-value entries; `drop` per cent of removals, mostly of keys that are
 * there. */
static struct listed *kv_batch(size_t *n, unsigned drop, uint64_t keys, unsigned longest)
{
    struct listed *v = calloc(*n, sizeof(*v));
    for (size_t i = 0; i < *n; i++) {
        struct tree_entry *e = &v[i].e;
        e->key = (struct tree_key){{below(4), below(keys), below(3), 0}};
        if (below(100) < drop) {
            if (list_count)
                e->key = list[below(list_count)].e.key;
            e->len = UINT16_MAX;
            continue;
        }
        e->len = (uint16_t)(below(4) ? below(longest / 8 + 1) : below(longest + 1));
        e->val = v[i].val = malloc(e->len + 1u);
        vd_rng_fill(&rng, v[i].val, e->len);
    }
    *n = batch_sort(v, *n);
    return v;
}

static void kv_round(enum tree_id t, size_t n, unsigned drop, uint64_t keys, unsigned longest)
{
    struct listed *v = kv_batch(&n, drop, keys, longest);
    struct tree_writer *w = writer(t);
    assert_int_equal(list_merge(w, v, n), 0);
    publish(w, t);
    list_apply(v, n);
    free(v);
    list_check(t);
}

static void test_kv(void **state)
{
    test_seed(&rng, "kv");
    start(1 << 24);
    unsigned highest = 0;
    for (unsigned i = 0; i < 8; i++) {
        kv_round(TREE_CATALOG, i % 2 ? 30 : 3000, 20, 20000, TREE_VALUE_MAX);
        highest = VD_MAX(highest, forest_root(f, TREE_CATALOG)->height);
    }
    assert_true(highest >= 3);
    while (list_count)
        kv_round(TREE_CATALOG, list_count > 100 ? list_count : 400, 99, 5, 40);
    assert_int_equal(forest_root(f, TREE_CATALOG)->height, 0);
    list_stop();
    stop();
}

static void test_four_levels(void **state)
{
    test_seed(&rng, "four levels");
    start(0);
    struct tree_writer *w = writer(TREE_CATALOG);
    uint8_t val[TREE_VALUE_MAX] = {1};
    struct tree_entry e = {.val = val, .len = TREE_VALUE_MAX};
    for (e.key.w[1] = 0; e.key.w[1] < 30000; e.key.w[1]++)
        assert_int_equal(tree_writer_put(w, &e), 0);
    publish(w, TREE_CATALOG);
    assert_int_equal(forest_root(f, TREE_CATALOG)->height, 4);
    /* All but the last go: the height does, too. */
    w = writer(TREE_CATALOG);
    while (tree_writer_peek(w, &e) == 0 && e.key.w[1] < 29999)
        tree_writer_take(w);
    publish(w, TREE_CATALOG);
    assert_int_equal(forest_root(f, TREE_CATALOG)->height, 1);
    stop();
}

/* ---- HISTORY ---- */

static uint64_t *last_died; /* per block */

/* Versions that died at `died`, born at or after the death of those before. */
static struct listed *history_batch(size_t *n, uint64_t cells, uint64_t died)
{
    struct listed *v = calloc(*n, sizeof(*v));
    size_t out = 0;
    for (size_t i = 0; i < *n; i++) {
        struct vd_run *run = &v[out].e.run;
        uint64_t lba = below(cells * VD_CELL_BLOCKS), born = 0;
        random_data(run, lba, below(3) ? 1 : 1 + below(32), 0);
        for (uint64_t k = 0; k < run->blocks; k++)
            born = VD_MAX(born, last_died[lba + k]);
        if (born >= died)
            continue;
        run->born = born + below(died - born);
        run->died = died;
        if (below(10) == 0)
            run->type = VD_RUN_ZERO;
        for (uint64_t k = 0; k < run->blocks; k++)
            last_died[lba + k] = died;
        v[out++].e.key = (struct tree_key){{9, lba / VD_CELL_BLOCKS, lba, died}};
    }
    *n = batch_sort(v, out);
    return v;
}

static void history_check_find(uint64_t cells, uint64_t epoch)
{
    static struct vd_run got[VD_CELL_BLOCKS];
    struct forest_need need;
    uint64_t lba = below(cells * VD_CELL_BLOCKS);
    uint64_t blocks = 1 + below(VD_CELL_BLOCKS - lba % VD_CELL_BLOCKS);
    uint64_t cell = lba / VD_CELL_BLOCKS, covered = 0, expect = 0;
    int n;

    while ((n = tree_history_find(f, 9, lba, blocks, epoch, got, VD_CELL_BLOCKS, &need)) == -EAGAIN)
        assert_int_equal(load(&need), 0);
    assert_true(n >= 0);
    for (size_t i = list_find(&(struct tree_key){{9, cell, 0, 0}});
         i < list_count && list[i].e.key.w[1] == cell; i++) {
        const struct vd_run *run = &list[i].e.run;
        if (run->born > epoch || run->died <= epoch || run->lba >= lba + blocks ||
            vd_run_end(run) <= lba)
            continue;
        struct vd_run want = *run;
        vd_run_clip(&want, lba, blocks);
        expect += want.blocks;
        int k = 0;
        while (k < n && got[k].lba != want.lba)
            k++;
        assert_true(k < n && got[k].blocks == want.blocks && got[k].born == want.born &&
                    got[k].died == want.died);
        if (want.type == VD_RUN_DATA) {
            assert_true(vd_addr_equal(got[k].addr, want.addr));
            assert_memory_equal(got[k].csum, want.csum, 8 * want.blocks);
        }
    }
    for (int k = 0; k < n; k++)
        covered += got[k].blocks;
    assert_int_equal(covered, expect);
}

static void history_life(uint64_t cells, unsigned epochs, size_t per_epoch)
{
    start(1 << 24);
    last_died = calloc(cells * VD_CELL_BLOCKS, sizeof(*last_died));
    for (unsigned e = 1; e <= epochs; e++) {
        size_t n = per_epoch;
        struct listed *v = history_batch(&n, cells, e * 3);
        for (size_t i = 0; list_count && i < n / 4 && e % 5 == 0; i++) /* some are purged */
            if (below(2)) {
                free(v[i].val);
                v[i] = list[below(list_count)];
                v[i].e.len = UINT16_MAX;
            }
        n = batch_sort(v, n);
        struct tree_writer *w = writer(TREE_HISTORY);
        assert_int_equal(list_merge(w, v, n), 0);
        publish(w, TREE_HISTORY);
        list_apply(v, n);
        free(v);
    }
    list_check(TREE_HISTORY);
    for (unsigned i = 0; i < 3000; i++)
        history_check_find(cells, below(epochs * 3 + 2));
    history_check_find(cells, UINT64_MAX);
    free(last_died);
    list_stop();
    stop();
}

static void test_history(void **state)
{
    test_seed(&rng, "history");
    history_life(3, 400, 20);    /* cells that span many leaves */
    history_life(400, 20, 2000); /* many cells */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),    cmocka_unit_test(test_long_zero),
        cmocka_unit_test(test_kv),      cmocka_unit_test(test_four_levels),
        cmocka_unit_test(test_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
