/* SPDX-License-Identifier: MIT */
/*
 * Branches and their retained epochs, in memory. Pure.
 *
 * Invariants: branch ids ascend from parent to child; an array of retained epochs is sorted; an
 * entry exists for every epoch that a snapshot or a child branch starts from, and, until the trees
 * have forgotten it, for those that none does any more.
 */
#include "snapshot/state_priv.h"

#include <stdlib.h>

struct branch *catalog_branch(const struct catalog *c, uint64_t id)
{
    for (struct hlink *l = htab_first(&c->branch_ids, hash_u64(id)); l; l = htab_next(l)) {
        struct branch *b = vd_container_of(l, struct branch, link);
        if (b->id == id)
            return b;
    }
    return NULL;
}

static struct alias *alias_find(const struct catalog *c, uint64_t id)
{
    for (struct hlink *l = htab_first(&c->alias_ids, hash_u64(id)); l; l = htab_next(l)) {
        struct alias *a = vd_container_of(l, struct alias, link);
        if (a->id == id)
            return a;
    }
    return NULL;
}

struct branch *catalog_resolve(const struct catalog *c, uint64_t id)
{
    struct branch *b = catalog_branch(c, id);
    while (!b) {
        struct alias *a = alias_find(c, id);
        if (!a)
            return NULL;
        id = a->to; /* always a higher id: this ends */
        b = catalog_branch(c, id);
    }
    return b;
}

static struct alias *alias_new(struct catalog *c, uint64_t id)
{
    struct alias *a = calloc(1, sizeof(*a));
    if (!a || htab_reserve(&c->alias_ids) < 0) {
        free(a);
        return NULL;
    }
    a->id = id;
    return a;
}

void alias_insert(struct catalog *c, struct alias *a, uint64_t to)
{
    a->to = to;
    htab_reserve(&c->alias_ids); /* a table that cannot grow is slower, no worse */
    htab_insert(&c->alias_ids, &a->link, hash_u64(a->id));
    vd_list_push(&c->aliases, &a->all);
    c->naliases++;
}

int catalog_alias(struct catalog *c, uint64_t id, uint64_t to)
{
    if (to <= id || alias_find(c, id))
        return -EUCLEAN;
    struct alias *a = alias_new(c, id);
    if (!a)
        return -ENOMEM;
    alias_insert(c, a, to);
    return 0;
}

struct alias *branch_alias(struct catalog *c, struct branch *b)
{
    if (!b->alias)
        b->alias = alias_new(c, b->id);
    return b->alias;
}

void alias_remove(struct catalog *c, struct alias *a)
{
    htab_remove(&c->alias_ids, &a->link);
    vd_list_remove(&a->all);
    c->naliases--;
    free(a);
}

/* The place of `epoch` in the array, or where it would go. */
static unsigned retained_place(const struct branch *b, uint64_t epoch)
{
    unsigned lo = 0, n = b->nret;
    while (n > 0) {
        unsigned half = n / 2;
        if (b->ret[lo + half].epoch < epoch) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo;
}

struct retained *branch_retained(const struct branch *b, uint64_t epoch)
{
    unsigned i = retained_place(b, epoch);
    return i < b->nret && b->ret[i].epoch == epoch ? &b->ret[i] : NULL;
}

uint64_t branch_retained_from(const struct branch *b, uint64_t epoch)
{
    unsigned i = retained_place(b, epoch);
    return i < b->nret ? b->ret[i].epoch : EPOCH_LIVE;
}

struct retained *branch_retain(struct branch *b, uint64_t epoch)
{
    unsigned i = retained_place(b, epoch);
    if (i < b->nret && b->ret[i].epoch == epoch)
        return &b->ret[i];
    if (b->nret == b->ret_room) {
        unsigned room = b->ret_room ? b->ret_room * 2 : 4;
        struct retained *ret = realloc(b->ret, room * sizeof(*ret));
        if (!ret)
            return NULL;
        b->ret = ret;
        b->ret_room = room;
    }
    memmove(&b->ret[i + 1], &b->ret[i], (b->nret - i) * sizeof(b->ret[0]));
    b->ret[i] = (struct retained){.epoch = epoch};
    b->nret++;
    return &b->ret[i];
}

/* Depth of recursion would be that of the tree of branches, which may be thousands: so this walks
 * down and up again by the links. */
static const struct branch *branch_after(const struct branch *b, const struct branch *root)
{
    if (!vd_list_empty(&b->children))
        return vd_container_of(b->children.next, struct branch, sibling);
    while (b != root) {
        if (b->sibling.next != &b->parent->children)
            return vd_container_of(b->sibling.next, struct branch, sibling);
        b = b->parent;
    }
    return NULL;
}

bool branch_needed(const struct branch *b)
{
    for (const struct branch *at = b; at; at = branch_after(at, b))
        if (at->tip || !vd_list_empty(&at->snapshots))
            return true;
    return false;
}

unsigned branch_clones(const struct branch *b, uint64_t epoch)
{
    unsigned n = 0;
    vd_list_each (it, &b->children) {
        const struct branch *child = vd_container_of(it, struct branch, sibling);
        n += child->origin == epoch && branch_needed(child);
    }
    return n;
}

void branch_set_parent(struct branch *b, struct branch *parent, uint64_t origin, uint64_t limit)
{
    vd_list_remove(&b->sibling);
    if (parent)
        vd_list_push(&parent->children, &b->sibling);
    b->parent = parent;
    b->origin = origin;
    b->limit = limit;
}

void branch_remove(struct catalog *c, struct branch *b)
{
    assert(vd_list_empty(&b->children) && vd_list_empty(&b->snapshots) && !b->tip);
    vd_list_remove(&b->sibling);
    vd_list_remove(&b->all);
    htab_remove(&c->branch_ids, &b->link);
    c->nbranches--;
    free(b->alias);
    free(b->ret);
    free(b);
}

void snapshot_repoint(struct snapshot *s, struct branch *to)
{
    branch_retained(s->branch, s->rec.epoch)->names--;
    branch_retained(to, s->rec.epoch)->names++;
    vd_list_remove(&s->in_branch);
    vd_list_push(&to->snapshots, &s->in_branch);
    s->branch = to;
    s->rec.branch = to->id;
}

struct branch *branch_below(const struct branch *b, uint64_t lba, uint64_t *epoch, uint64_t *end)
{
    struct branch *p = b->parent;

    *end = UINT64_MAX;
    if (!p)
        return NULL;
    if (b->absorbing && lba < b->fold_cursor) {
        uint64_t limit = VD_MIN(b->limit, p->limit);
        *end = b->fold_cursor;
        if (!p->parent || lba >= limit)
            return NULL;
        *end = VD_MIN(*end, limit);
        *epoch = p->origin;
        return p->parent;
    }
    if (lba >= b->limit)
        return NULL;
    *end = b->limit;
    *epoch = b->origin;
    return p;
}
