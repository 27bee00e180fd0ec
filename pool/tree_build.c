/* SPDX-License-Identifier: MIT */
/*
 * Items of one level of a new tree, and nodes made of them. Pure; called by the writer only. On
 * disk: the bodies of od_node.
 */
#include "pool/tree_build_priv.h"

#include <stdlib.h>

static struct item *item_new(struct builder *b, const struct tree_key *key, const void *data,
                             size_t len)
{
    if (b->n == b->room) {
        size_t room = VD_MAX(b->room * 2, (size_t)64);
        struct item *v = realloc(b->item, room * sizeof(*v));
        if (!v)
            return NULL;
        b->item = v;
        b->room = room;
    }
    if (b->data_room - b->data_used < len) {
        size_t room = VD_MAX(b->data_room * 2, b->data_used + VD_MAX(len, (size_t)2048));
        uint8_t *v = realloc(b->data, room);
        if (!v)
            return NULL;
        b->data = v;
        b->data_room = room;
    }
    struct item *it = &b->item[b->n++];
    *it = (struct item){.key = *key, .len = (uint16_t)len, .data = (uint32_t)b->data_used};
    if (len)
        memcpy(b->data + b->data_used, data, len);
    b->data_used += len;
    return it;
}

static int item_sized(struct builder *b, struct item *it, size_t body_len)
{
    if (!it)
        return -ENOMEM;
    it->body_len = (uint32_t)body_len;
    b->body_len += body_len;
    return 0;
}

int builder_add_entry(struct builder *b, const struct tree_entry *e)
{
    if (!tree_is_map(b->tree)) {
        struct item *it = item_new(b, &e->key, e->val, e->len);
        return item_sized(b, it, kv_bytes(b->tree, e->len) + 2);
    }
    const struct vd_run *r = &e->run;
    size_t csums = r->type == VD_RUN_DATA ? 8 * r->blocks : 0;
    struct item *it = item_new(b, &e->key, r->csum, csums);
    if (it) {
        it->blocks = r->blocks;
        it->born = r->born;
        it->died = r->died;
        it->type = (uint8_t)r->type;
        if (csums)
            it->addr = r->addr;
    }
    return item_sized(b, it, sizeof(struct od_run) + csums);
}

int builder_add_child(struct builder *b, const struct tree_key *key, const struct node_ptr *ptr,
                      bool kept)
{
    struct item *it = item_new(b, key, ptr, sizeof(*ptr));
    if (it)
        it->kept = kept;
    return item_sized(b, it, child_bytes(b->tree));
}

int builder_add_from(struct builder *b, const struct od_node *n, unsigned i)
{
    if (n->level) {
        struct tree_key key;
        struct node_ptr ptr;
        node_child(n, i, &key, &ptr);
        return builder_add_child(b, &key, &ptr, true);
    }
    struct tree_entry e;
    node_entry(n, i, &e);
    return builder_add_entry(b, &e);
}

int builder_append(struct builder *b, const struct builder *from, size_t i)
{
    const struct item *old = &from->item[i];
    struct item *it = item_new(b, &old->key, from->data + old->data, old->len);
    if (it) {
        uint32_t data = it->data;
        *it = *old;
        it->data = data;
    }
    return item_sized(b, it, old->body_len);
}

void item_child(const struct builder *b, size_t i, struct tree_key *key, struct node_ptr *ptr)
{
    if (key)
        *key = b->item[i].key;
    memcpy(ptr, b->data + b->item[i].data, sizeof(*ptr));
}

void builder_drop(struct builder *b, size_t n)
{
    if (n == 0)
        return;
    size_t gone = n < b->n ? b->item[n].data : b->data_used;
    for (size_t i = 0; i < n; i++)
        b->body_len -= b->item[i].body_len;
    memmove(b->item, b->item + n, (b->n - n) * sizeof(*b->item));
    b->n -= n;
    for (size_t i = 0; i < b->n; i++)
        b->item[i].data -= (uint32_t)gone;
    b->data_used -= gone;
    if (b->data_used)
        memmove(b->data, b->data + gone, b->data_used);
}

void builder_pop(struct builder *b)
{
    b->n--;
    b->body_len -= b->item[b->n].body_len;
    b->data_used = b->item[b->n].data;
}

void builder_free(struct builder *b)
{
    free(b->item);
    free(b->data);
}

/* ---- what fits ---- */

bool keys_alike(enum tree_id t, unsigned level, const struct tree_key *first,
                const struct tree_key *key)
{
    if (level || !tree_is_map(t))
        return true;
    /* Offsets in a leaf are 32 bits, from the first key's lba or cell. */
    uint64_t from = first->w[1], to = key->w[1];
    if (t == TREE_HISTORY) {
        from *= VD_CELL_BLOCKS;
        to = key->w[2];
    }
    return first->w[0] == key->w[0] && to - from <= UINT32_MAX;
}

size_t builder_alike(const struct builder *b, size_t from)
{
    size_t i = from + 1;
    while (i < b->n && keys_alike(b->tree, b->level, &b->item[from].key, &b->item[i].key))
        i++;
    return i - from;
}

/* The epochs of a leaf, in order of appearance. `hint` says where one was last seen; what it says
 * is looked at before it is believed, so it needs no clearing. */
struct epochs {
    unsigned n;
    uint16_t hint[256];
    uint64_t v[NODE_BODY / 8];
};

static unsigned epoch_index(struct epochs *t, uint64_t epoch)
{
    uint16_t *hint = &t->hint[epoch % VD_ARRAY_SIZE(t->hint)];
    if (*hint < t->n && t->v[*hint] == epoch)
        return *hint;
    unsigned i = 0;
    while (i < t->n && t->v[i] != epoch)
        i++;
    if (i == VD_ARRAY_SIZE(t->v)) /* more than fit a node: nobody uses the index */
        return i;
    if (i == t->n)
        t->v[t->n++] = epoch;
    *hint = (uint16_t)i;
    return i;
}

static bool leaf_fits(const struct builder *b, const struct item *it, struct epochs *t, size_t len)
{
    if (!tree_is_map(b->tree) || b->level)
        return len <= NODE_BODY;
    if (len + 8 * t->n + 16 > NODE_BODY) { /* the two may be there already; give those up */
        if (len + 8 * t->n > NODE_BODY)
            return false;
        unsigned before = t->n;
        epoch_index(t, it->born);
        if (b->tree == TREE_HISTORY)
            epoch_index(t, it->died);
        if (len + 8 * t->n <= NODE_BODY)
            return true;
        t->n = before;
        return false;
    }
    epoch_index(t, it->born);
    if (b->tree == TREE_HISTORY)
        epoch_index(t, it->died);
    return true;
}

static size_t fit_len(const struct builder *b, size_t from, size_t limit, size_t *ret_len)
{
    static _Thread_local struct epochs t; /* too large for a fiber's stack; nothing yields here */
    size_t len = 0, i = from;

    t.n = 0;
    for (; i < b->n; i++) {
        const struct item *it = &b->item[i];
        if (i > from && (len + it->body_len > limit ||
                         !keys_alike(b->tree, b->level, &b->item[from].key, &it->key)))
            break;
        if (!leaf_fits(b, it, &t, len + it->body_len))
            break;
        len += it->body_len;
    }
    *ret_len = len + 8 * t.n;
    return i - from;
}

size_t builder_fit(const struct builder *b, size_t from, size_t limit)
{
    size_t len;
    return fit_len(b, from, limit, &len);
}

size_t builder_nodes(const struct builder *b, size_t n, size_t *ret_len)
{
    size_t nodes = 0, total = 0, len;
    for (size_t i = 0; i < n; nodes++) {
        size_t fit = fit_len(b, i, NODE_BODY, &len);
        i += VD_MAX(fit, (size_t)1);
        total += len;
    }
    *ret_len = total;
    return nodes;
}

/* ---- encoding ---- */

static struct od_key key_put(const struct tree_key *key)
{
    struct od_key k;
    for (unsigned i = 0; i < 4; i++)
        k.w[i] = vd_le64(key->w[i]);
    return k;
}

static void encode_children(const struct builder *b, size_t n, struct od_node *node)
{
    size_t size = child_bytes(b->tree);

    for (size_t i = 0; i < n; i++) {
        struct od_child *c = (void *)(node->body + i * size);
        struct node_ptr ptr;
        item_child(b, i, NULL, &ptr);
        c->ptr.copy[0] = addr_put(ptr.copy[0]);
        c->ptr.copy[1] = addr_put(ptr.copy[1]);
        c->ptr.csum = vd_le64(ptr.csum);
        for (unsigned k = 0; k < tree_words(b->tree); k++)
            c->key[k] = vd_le64(b->item[i].key.w[k]);
    }
    node->used = vd_le16((uint16_t)(n * size));
}

static void encode_kv(const struct builder *b, size_t n, struct od_node *node)
{
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        const struct item *it = &b->item[i];
        struct od_kv *kv = (void *)(node->body + at);
        le16_t off = vd_le16((uint16_t)at);
        kv->len = vd_le16(it->len);
        for (unsigned k = 0; k < tree_words(b->tree); k++)
            kv->key[k] = vd_le64(it->key.w[k]);
        if (it->len)
            memcpy(kv->key + tree_words(b->tree), b->data + it->data, it->len);
        memcpy(node->body + NODE_BODY - 2 * (i + 1), &off, sizeof(off));
        at += kv_bytes(b->tree, it->len);
    }
    node->used = vd_le16((uint16_t)at);
}

static void encode_runs(const struct builder *b, size_t n, struct od_node *node)
{
    static _Thread_local struct epochs t; /* as above */
    bool history = b->tree == TREE_HISTORY;
    uint64_t base = b->item[0].key.w[1] * (history ? VD_CELL_BLOCKS : 1);
    struct od_run *run = (void *)node->body;
    unsigned csums = 0;

    t.n = 0;
    for (size_t i = 0; i < n; i++, run++) {
        const struct item *it = &b->item[i];
        bool data = it->type == VD_RUN_DATA, longer = it->blocks > VD_CELL_BLOCKS;
        run->lba = vd_le32((uint32_t)(it->key.w[history ? 2 : 1] - base));
        run->born = vd_le16((uint16_t)epoch_index(&t, it->born));
        run->died = vd_le16(history ? (uint16_t)epoch_index(&t, it->died) : NODE_NO_EPOCH);
        run->type = it->type;
        run->blocks = longer ? 0 : (uint8_t)it->blocks;
        run->csum = vd_le16(data ? (uint16_t)csums : 0);
        run->seg = vd_le32(longer ? (uint32_t)it->blocks : it->addr.seg);
        run->sector = vd_le32(longer ? (uint32_t)(it->blocks >> 32) : it->addr.sector);
        csums += it->len / 8;
    }
    le64_t *out = (void *)run;
    for (unsigned i = 0; i < t.n; i++)
        *out++ = vd_le64(t.v[i]);
    for (size_t i = 0; i < n; i++)
        for (unsigned k = 0; k < b->item[i].len / 8u; k++) {
            uint64_t csum;
            memcpy(&csum, b->data + b->item[i].data + 8 * k, 8);
            *out++ = vd_le64(csum);
        }
    node->epochs = vd_le16((uint16_t)t.n);
    node->csums = vd_le16((uint16_t)csums);
    node->used = vd_le16((uint16_t)((uint8_t *)out - node->body));
}

void builder_encode(const struct builder *b, size_t n, struct od_node *node)
{
    memset(node, 0, sizeof(*node));
    node->magic = vd_le32(OD_MAGIC_NODE);
    node->tree = (uint8_t)b->tree;
    node->level = (uint8_t)b->level;
    node->count = vd_le16((uint16_t)n);
    node->first = key_put(&b->item[0].key);
    node->last = key_put(&b->item[n - 1].key);
    if (b->level)
        encode_children(b, n, node);
    else if (tree_is_map(b->tree))
        encode_runs(b, n, node);
    else
        encode_kv(b, n, node);
}
