/* SPDX-License-Identifier: MIT */
/*
 * Nodes as bytes: verifying them, reading their entries, searching them. Everything but
 * node_verify, node_check_body and node_place takes a node that was verified before (I6) and trusts
 * it. Pure; called by the whole tree, check and the metadata cleaner. On disk: od_node and what
 * follows it.
 */
#include "pool/tree_priv.h"

#include "format/format.h"

int tree_key_cmp(const struct tree_key *a, const struct tree_key *b)
{
    for (unsigned i = 0; i < 4; i++)
        if (a->w[i] != b->w[i])
            return a->w[i] < b->w[i] ? -1 : 1;
    return 0;
}

unsigned node_count(const struct od_node *n)
{
    return vd_get16(n->count);
}

/* ---- map leaves ---- */

static const struct od_run *run_at(const struct od_node *n, unsigned i)
{
    return (const struct od_run *)n->body + i;
}

static const le64_t *leaf_epochs(const struct od_node *n)
{
    return (const le64_t *)(n->body + sizeof(struct od_run) * node_count(n));
}

static const le64_t *leaf_csums(const struct od_node *n)
{
    return leaf_epochs(n) + vd_get16(n->epochs);
}

static uint64_t leaf_base(const struct od_node *n)
{
    uint64_t w = vd_get64(n->first.w[1]);
    return n->tree == TREE_HEAD ? w : w * VD_CELL_BLOCKS;
}

static uint64_t run_blocks(const struct od_run *r)
{
    return r->blocks ? r->blocks : (uint64_t)vd_get32(r->sector) << 32 | vd_get32(r->seg);
}

void node_run_range(const struct od_node *n, unsigned i, struct vd_run *ret)
{
    const struct od_run *r = run_at(n, i);
    const le64_t *epoch = leaf_epochs(n);

    ret->lba = leaf_base(n) + vd_get32(r->lba);
    ret->blocks = run_blocks(r);
    ret->born = vd_get64(epoch[vd_get16(r->born)]);
    ret->died = n->tree == TREE_HEAD ? VD_EPOCH_MAX : vd_get64(epoch[vd_get16(r->died)]);
    ret->type = r->type;
}

void node_run_clipped(const struct od_node *n, unsigned i, uint64_t lba, uint64_t blocks,
                      struct vd_run *ret)
{
    const struct od_run *r = run_at(n, i);
    uint64_t start, end;

    node_run_range(n, i, ret);
    start = VD_MAX(ret->lba, lba);
    end = VD_MIN(vd_run_end(ret), lba + blocks);
    uint64_t skip = start - ret->lba;
    ret->lba = start;
    ret->blocks = end - start;
    if (ret->type != VD_RUN_DATA)
        return;
    ret->addr.seg = vd_get32(r->seg);
    ret->addr.sector = vd_get32(r->sector);
    ret->addr = vd_addr_plus(ret->addr, skip);
    const le64_t *csum = leaf_csums(n) + vd_get16(r->csum) + skip;
    for (uint64_t b = 0; b < ret->blocks; b++)
        ret->csum[b] = vd_get64(csum[b]);
}

/* ---- key-value leaves ---- */

static const struct od_kv *kv_at(const struct od_node *n, unsigned i)
{
    le16_t off;
    memcpy(&off, n->body + NODE_BODY - 2 * (i + 1), sizeof(off));
    return (const void *)(n->body + vd_get16(off));
}

/* ---- entries ---- */

void node_entry_key(const struct od_node *n, unsigned i, struct tree_key *ret)
{
    if (tree_is_map(n->tree)) {
        struct vd_run run;
        node_run_range(n, i, &run);
        *ret = (struct tree_key){{vd_get64(n->first.w[0]), run.lba, 0, 0}};
        if (n->tree == TREE_HISTORY)
            *ret = (struct tree_key){{ret->w[0], run.lba / VD_CELL_BLOCKS, run.lba, run.died}};
    } else {
        key_get(kv_at(n, i)->key, tree_words(n->tree), ret);
    }
}

void node_entry(const struct od_node *n, unsigned i, struct tree_entry *ret)
{
    node_entry_key(n, i, &ret->key);
    ret->val = NULL;
    ret->len = 0;
    if (tree_is_map(n->tree)) {
        node_run_clipped(n, i, 0, UINT64_MAX, &ret->run);
    } else {
        const struct od_kv *kv = kv_at(n, i);
        ret->val = kv->key + tree_words(n->tree);
        ret->len = vd_get16(kv->len);
    }
}

void node_child(const struct od_node *n, unsigned i, struct tree_key *key, struct node_ptr *ptr)
{
    const struct od_child *c = child_at(n, child_bytes(n->tree), i);
    if (key)
        key_get(c->key, tree_words(n->tree), key);
    if (ptr)
        ptr_get(&c->ptr, ptr);
}

/* ---- searching ---- */

/* Inlined for the number of words, which the compiler then knows. */
static inline unsigned pick_words(const struct od_node *n, const struct tree_key *key,
                                  unsigned words)
{
    unsigned lo = 0, count = node_count(n) - 1;
    size_t size = sizeof(struct od_child) + 8 * words;

    /* How many of children 1.. begin at or before key. */
    while (count > 0) {
        unsigned half = count / 2;
        bool right = key_cmp_od(child_at(n, size, lo + half + 1)->key, words, key) <= 0;
        lo = right ? lo + half + 1 : lo;
        count = right ? count - half - 1 : half;
    }
    return lo;
}

unsigned node_pick(const struct od_node *n, const struct tree_key *key)
{
    return n->tree == TREE_HEAD ? pick_words(n, key, 2) : pick_words(n, key, tree_words(n->tree));
}

/* HEAD, the quick way: only the lba decides. */
static unsigned head_lower(const struct od_node *n, const struct tree_key *key)
{
    uint64_t branch = vd_get64(n->first.w[0]), base = vd_get64(n->first.w[1]);
    unsigned lo = 0, count = node_count(n);

    if (key->w[0] != branch)
        return key->w[0] < branch ? 0 : count;
    if (key->w[1] < base)
        return 0;
    uint64_t rel = key->w[1] - base;
    bool past = key->w[2] || key->w[3]; /* beyond an entry at just this lba */
    while (count > 0) {
        unsigned half = count / 2;
        uint64_t lba = vd_get32(run_at(n, lo + half)->lba);
        bool right = lba < rel || (past && lba == rel);
        lo = right ? lo + half + 1 : lo;
        count = right ? count - half - 1 : half;
    }
    return lo;
}

unsigned node_lower(const struct od_node *n, const struct tree_key *key)
{
    unsigned lo = 0, count = node_count(n);

    if (n->tree == TREE_HEAD)
        return head_lower(n, key);
    while (count > 0) {
        unsigned half = count / 2;
        struct tree_key at;
        node_entry_key(n, lo + half, &at);
        bool right = tree_key_cmp(&at, key) < 0;
        lo = right ? lo + half + 1 : lo;
        count = right ? count - half - 1 : half;
    }
    return lo;
}

bool node_reaches(const struct od_node *n, unsigned i, const struct tree_key *key)
{
    struct vd_run run;

    if (n->tree != TREE_HEAD || i == 0 || vd_get64(n->first.w[0]) != key->w[0])
        return false;
    node_run_range(n, i - 1, &run);
    return vd_run_end(&run) > key->w[1];
}

/* ---- verifying ---- */

static int check_keys(const struct od_node *n, const struct tree_key *first,
                      const struct tree_key *last)
{
    struct tree_key f, l;
    key_get(n->first.w, 4, &f);
    key_get(n->last.w, 4, &l);
    return tree_key_cmp(&f, first) || tree_key_cmp(&l, last) ? -EUCLEAN : 0;
}

static int check_interior(const struct od_node *n)
{
    unsigned count = node_count(n);
    struct tree_key first, last, key;

    if (vd_get16(n->used) != count * child_bytes(n->tree) || vd_get16(n->used) > NODE_BODY)
        return -EUCLEAN;
    node_child(n, 0, &first, NULL);
    last = first;
    for (unsigned i = 1; i < count; i++, last = key) {
        node_child(n, i, &key, NULL);
        if (tree_key_cmp(&key, &last) <= 0)
            return -EUCLEAN;
    }
    return check_keys(n, &first, &last);
}

static int check_kv_leaf(const struct od_node *n)
{
    unsigned count = node_count(n), words = tree_words(n->tree);
    size_t at = 0, limit = NODE_BODY - 2 * VD_MIN(count, (unsigned)(NODE_BODY / 2));
    struct tree_key first = {{0}}, last = {{0}}, key;

    for (unsigned i = 0; i < count; i++, last = key) {
        if (at + kv_bytes(n->tree, 0) > limit)
            return -EUCLEAN;
        le16_t off;
        memcpy(&off, n->body + NODE_BODY - 2 * (i + 1), sizeof(off));
        const struct od_kv *kv = (const void *)(n->body + at);
        size_t len = vd_get16(kv->len);
        if (vd_get16(off) != at || len > TREE_VALUE_MAX || at + kv_bytes(n->tree, len) > limit)
            return -EUCLEAN;
        key_get(kv->key, words, &key);
        if (i == 0)
            first = key;
        else if (tree_key_cmp(&key, &last) <= 0)
            return -EUCLEAN;
        at += kv_bytes(n->tree, len);
    }
    return at == vd_get16(n->used) ? check_keys(n, &first, &last) : -EUCLEAN;
}

/* One run by itself; *csums is how many checksums the runs before it have. */
static int check_run(const struct od_node *n, unsigned i, unsigned *csums)
{
    const struct od_run *r = run_at(n, i);
    unsigned born = vd_get16(r->born), died = vd_get16(r->died), epochs = vd_get16(n->epochs);
    bool history = n->tree == TREE_HISTORY, data = r->type == VD_RUN_DATA;
    uint64_t blocks = run_blocks(r), lba = leaf_base(n) + vd_get32(r->lba);

    if (born >= epochs || (history ? died >= epochs : died != NODE_NO_EPOCH))
        return -EUCLEAN;
    if (history && vd_get64(leaf_epochs(n)[born]) >= vd_get64(leaf_epochs(n)[died]))
        return -EUCLEAN;
    if (r->type != VD_RUN_DATA && r->type != VD_RUN_ZERO)
        return -EUCLEAN;
    if (r->blocks > VD_CELL_BLOCKS || (!r->blocks && blocks <= VD_CELL_BLOCKS))
        return -EUCLEAN;
    if (lba >= LBA_MAX || blocks > LBA_MAX - lba)
        return -EUCLEAN;
    if ((history || data) && (!r->blocks || lba % VD_CELL_BLOCKS + blocks > VD_CELL_BLOCKS))
        return -EUCLEAN;
    if (!data)
        return vd_get16(r->csum) || (r->blocks && (vd_get32(r->seg) || vd_get32(r->sector)))
                   ? -EUCLEAN
                   : 0;
    if (vd_get16(r->csum) != *csums || vd_get32(r->sector) % VD_SECTORS_PER_BLOCK)
        return -EUCLEAN;
    *csums += (unsigned)blocks;
    return *csums <= vd_get16(n->csums) ? 0 : -EUCLEAN;
}

/* Run i against those before it. */
static int check_order(const struct od_node *n, unsigned i, const struct vd_run *run)
{
    struct vd_run before;

    if (n->tree == TREE_HEAD) {
        node_run_range(n, i - 1, &before);
        return run->lba >= vd_run_end(&before) ? 0 : -EUCLEAN;
    }
    for (unsigned k = i; k-- > 0;) {
        node_run_range(n, k, &before);
        if (before.lba / VD_CELL_BLOCKS < run->lba / VD_CELL_BLOCKS)
            return 0;
        if (before.lba > run->lba || (before.lba == run->lba && before.died >= run->died))
            return -EUCLEAN;
        if (vd_run_end(&before) > run->lba && before.born < run->died && run->born < before.died)
            return -EUCLEAN;
    }
    return 0;
}

static int check_map_leaf(const struct od_node *n)
{
    unsigned count = node_count(n), csums = 0;
    size_t used = sizeof(struct od_run) * (size_t)count +
                  8 * ((size_t)vd_get16(n->epochs) + vd_get16(n->csums));
    struct tree_key first, last;
    struct vd_run run;

    if (used > NODE_BODY || used != vd_get16(n->used) || vd_get64(n->first.w[1]) >= LBA_MAX)
        return -EUCLEAN;
    for (unsigned i = 0; i < count; i++) {
        int r = check_run(n, i, &csums);
        if (r < 0)
            return r;
        node_run_range(n, i, &run);
        if (i && (r = check_order(n, i, &run)) < 0)
            return r;
    }
    if (csums != vd_get16(n->csums))
        return -EUCLEAN;
    node_entry_key(n, 0, &first);
    node_entry_key(n, count - 1, &last);
    return check_keys(n, &first, &last);
}

int node_check_body(const struct od_node *n)
{
    if (!node_count(n))
        return -EUCLEAN;
    if (n->level)
        return check_interior(n);
    return tree_is_map(n->tree) ? check_map_leaf(n) : check_kv_leaf(n);
}

int node_verify(const struct od_node *n, uint64_t pool, enum tree_id t, unsigned level)
{
    if (vd_get64(n->csum) != od_csum(n, offsetof(struct od_node, csum)))
        return -EBADMSG;
    if (vd_get32(n->magic) != OD_MAGIC_NODE || vd_get64(n->pool) != pool || n->tree != t ||
        n->level != level)
        return -EUCLEAN;
    return node_check_body(n);
}

int node_place(const struct od_node *n, const struct forest_need *need)
{
    struct tree_key first, last;

    key_get(n->first.w, 4, &first);
    key_get(n->last.w, 4, &last);
    if (!need->is_root && tree_key_cmp(&first, &need->low) != 0)
        return -EUCLEAN;
    if (tree_key_cmp(&last, &need->high) >= 0)
        return -EUCLEAN;
    if (n->tree == TREE_HEAD && n->level == 0 && need->high.w[0] == first.w[0]) {
        struct vd_run run;
        node_run_range(n, node_count(n) - 1, &run);
        if (vd_run_end(&run) > need->high.w[1])
            return -EUCLEAN;
    }
    return 0;
}
