/* SPDX-License-Identifier: MIT */
/*
 * The hash tables of table_priv.h. Pure. Tables double when they are as full as they have buckets
 * (chained) or half full (open), so a look-up stays O(1) at 100,000 snapshots.
 */
#include "snapshot/table_priv.h"

#include "core/base/hash.h"

#include <stdlib.h>

uint64_t hash_u64(uint64_t v)
{
    v ^= v >> 31;
    v *= UINT64_C(0x9e3779b97f4a7c15);
    return v ^ v >> 29;
}

uint64_t hash_text(uint64_t seed, const char *text)
{
    return vd_xxh3(text, strlen(text)) ^ hash_u64(seed + 1);
}

int htab_reserve(struct htab *t)
{
    if (t->count < t->room)
        return 0;
    size_t room = t->room ? t->room * 2 : 64;
    struct hlink **bucket = calloc(room, sizeof(*bucket));
    if (!bucket)
        return -ENOMEM;
    for (size_t i = 0; i < t->room; i++) {
        for (struct hlink *l = t->bucket[i], *next; l; l = next) {
            next = l->next;
            l->next = bucket[l->hash & (room - 1)];
            bucket[l->hash & (room - 1)] = l;
        }
    }
    free(t->bucket);
    t->bucket = bucket;
    t->room = room;
    return 0;
}

void htab_insert(struct htab *t, struct hlink *l, uint64_t hash)
{
    assert(t->room > 0);
    struct hlink **b = &t->bucket[hash & (t->room - 1)];
    l->hash = hash;
    l->next = *b;
    *b = l;
    t->count++;
}

void htab_remove(struct htab *t, struct hlink *l)
{
    for (struct hlink **p = &t->bucket[l->hash & (t->room - 1)]; *p; p = &(*p)->next) {
        if (*p == l) {
            *p = l->next;
            t->count--;
            return;
        }
    }
    assert(!"in the table");
}

static struct hlink *same_hash(struct hlink *l, uint64_t hash)
{
    while (l && l->hash != hash)
        l = l->next;
    return l;
}

struct hlink *htab_first(const struct htab *t, uint64_t hash)
{
    return t->room ? same_hash(t->bucket[hash & (t->room - 1)], hash) : NULL;
}

struct hlink *htab_next(const struct hlink *l)
{
    return same_hash(l->next, l->hash);
}

void htab_done(struct htab *t)
{
    free(t->bucket);
    *t = (struct htab){0};
}

/* ---- keys of three words ---- */

static size_t map3_place(const struct map3 *m, const uint64_t key[3])
{
    uint64_t h = hash_u64(key[0] + hash_u64(key[1] + hash_u64(key[2])));
    size_t i = h & (m->room - 1);
    while (m->slot[i].used && memcmp(m->slot[i].key, key, sizeof(m->slot[i].key)) != 0)
        i = (i + 1) & (m->room - 1);
    return i;
}

struct map3_entry *map3_find(const struct map3 *m, const uint64_t key[3])
{
    if (!m->count)
        return NULL;
    struct map3_entry *e = &m->slot[map3_place(m, key)];
    return e->used ? e : NULL;
}

struct map3_entry *map3_make(struct map3 *m, const uint64_t key[3])
{
    if (m->count * 2 >= m->room) {
        struct map3 bigger = {.room = m->room ? m->room * 2 : 64, .count = m->count};
        bigger.slot = calloc(bigger.room, sizeof(*bigger.slot));
        if (!bigger.slot)
            return NULL;
        for (size_t i = 0; i < m->room; i++)
            if (m->slot[i].used)
                bigger.slot[map3_place(&bigger, m->slot[i].key)] = m->slot[i];
        bigger.owns = m->owns;
        free(m->slot);
        *m = bigger;
    }
    struct map3_entry *e = &m->slot[map3_place(m, key)];
    if (!e->used) {
        memcpy(e->key, key, sizeof(e->key));
        e->used = true;
        m->count++;
    }
    return e;
}

static int entry_cmp(const void *a, const void *b)
{
    const struct map3_entry *x = *(struct map3_entry *const *)a;
    const struct map3_entry *y = *(struct map3_entry *const *)b;
    for (int i = 0; i < 3; i++)
        if (x->key[i] != y->key[i])
            return x->key[i] < y->key[i] ? -1 : 1;
    return 0;
}

int map3_sorted(const struct map3 *m, struct map3_entry ***ret)
{
    *ret = NULL;
    if (!m->count)
        return 0;
    struct map3_entry **v = malloc(m->count * sizeof(struct map3_entry *));
    if (!v)
        return -ENOMEM;
    size_t n = 0;
    for (size_t i = 0; i < m->room; i++)
        if (m->slot[i].used)
            v[n++] = &m->slot[i];
    qsort(v, n, sizeof(struct map3_entry *), entry_cmp);
    *ret = v;
    return 0;
}

void map3_done(struct map3 *m)
{
    if (m->owns)
        for (size_t i = 0; i < m->room; i++)
            if (m->slot[i].used)
                free(m->slot[i].ptr);
    free(m->slot);
    *m = (struct map3){.owns = m->owns};
}

int map3_put_bytes(struct map3 *m, const uint64_t key[3], const void *val, uint16_t len)
{
    void *copy = NULL;
    if (val) {
        copy = malloc(len ? len : 1);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, val, len);
    }
    struct map3_entry *e = map3_make(m, key);
    if (!e) {
        free(copy);
        return -ENOMEM;
    }
    free(e->ptr);
    e->ptr = copy;
    e->len = len;
    return 0;
}
