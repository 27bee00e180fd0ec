/* SPDX-License-Identifier: MIT */
/* Tree nodes: refused, or their entries can be read and make a node that says the same. */
#include "tests/fuzz/fuzz.h"

#include "pool/tree_build_priv.h"
#include "tests/pool/node_samples.h"

static void entries_equal(const struct od_node *a, const struct od_node *b, unsigned i)
{
    static struct tree_entry x, y;

    if (a->level) {
        struct node_ptr p, q;
        node_child(a, i, &x.key, &p);
        node_child(b, i, &y.key, &q);
        fuzz_equal(&p, &q, sizeof(p));
    } else {
        node_entry(a, i, &x);
        node_entry(b, i, &y);
        fuzz_check(x.len == y.len);
        if (x.len)
            fuzz_equal(x.val, y.val, x.len);
    }
    fuzz_check(tree_key_cmp(&x.key, &y.key) == 0);
    if (a->level || !tree_is_map(a->tree))
        return;
    fuzz_check(x.run.lba == y.run.lba && x.run.blocks == y.run.blocks);
    fuzz_check(x.run.born == y.run.born && x.run.died == y.run.died && x.run.type == y.run.type);
    if (x.run.type != VD_RUN_DATA)
        return;
    fuzz_check(x.run.blocks <= VD_CELL_BLOCKS && vd_addr_equal(x.run.addr, y.run.addr));
    fuzz_equal(x.run.csum, y.run.csum, x.run.blocks * 8);
}

/* Every search must stay inside the node, whatever is sought. */
static void search(const struct od_node *n, const uint8_t *data, size_t size)
{
    struct tree_key key;

    memset(&key, 0, sizeof(key));
    memcpy(&key, data, VD_MIN(size, sizeof(key)));
    if (n->level) {
        fuzz_check(node_pick(n, &key) < node_count(n));
        return;
    }
    unsigned i = node_lower(n, &key);
    fuzz_check(i <= node_count(n));
    node_reaches(n, i, &key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct od_node n, again;

    fuzz_block((uint8_t *)&n, data, size);
    enum tree_id t = n.tree < TREE_COUNT ? n.tree : TREE_HEAD;
    node_verify(&n, SAMPLE_NODE_POOL, t, n.level);
    n.pool = vd_le64(SAMPLE_NODE_POOL);
    n.tree = (uint8_t)t;
    fuzz_seal((uint8_t *)&n, offsetof(struct od_node, magic), OD_MAGIC_NODE, 4);
    if (node_verify(&n, SAMPLE_NODE_POOL, t, n.level) < 0)
        return 0;
    struct builder b = {.tree = t, .level = n.level};
    for (unsigned i = 0; i < node_count(&n); i++)
        fuzz_check(builder_add_from(&b, &n, i) == 0);
    builder_encode(&b, b.n, &again);
    builder_free(&b);
    fuzz_check(node_check_body(&again) == 0 && node_count(&again) == node_count(&n));
    for (unsigned i = 0; i < node_count(&n); i++)
        entries_equal(&n, &again, i);
    search(&n, data, size);
    search(&n, (const uint8_t *)&n.first, sizeof(n.first));
    return 0;
}
