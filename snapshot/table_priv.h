/* SPDX-License-Identifier: MIT */
/* Two hash tables: of objects that carry their link (catalogue), and of 192-bit keys (merges). */
#ifndef VD_SNAPSHOT_TABLE_PRIV_H
#define VD_SNAPSHOT_TABLE_PRIV_H

#include "core/base/base.h"

/* ---- objects: chained, the link inside the object ---- */

struct hlink {
    struct hlink *next;
    uint64_t hash;
};
struct htab {
    struct hlink **bucket;
    size_t count, room; /* room: power of two */
};
uint64_t hash_u64(uint64_t v);
uint64_t hash_text(uint64_t seed, const char *text);
/* Room for one more. -ENOMEM; but a table that was reserved once takes more than it has room for. */
int htab_reserve(struct htab *t);
void htab_insert(struct htab *t, struct hlink *l, uint64_t hash); /* after htab_reserve */
void htab_remove(struct htab *t, struct hlink *l);
/* The first object with that hash, and the next one; the caller compares. */
struct hlink *htab_first(const struct htab *t, uint64_t hash);
struct hlink *htab_next(const struct hlink *l);
void htab_done(struct htab *t);

/* ---- keys of three words ---- */

struct map3_entry {
    uint64_t key[3];
    uint64_t val;
    void *ptr; /* owned when the map frees its pointers */
    uint16_t len;
    bool flag;
    bool used;
};
struct map3 {
    struct map3_entry *slot;
    size_t count, room;
    bool owns; /* ptr is freed with the map */
};
struct map3_entry *map3_find(const struct map3 *m, const uint64_t key[3]);
/* Finds or makes (zeroed). NULL: no memory. Good until the next map3_make. */
struct map3_entry *map3_make(struct map3 *m, const uint64_t key[3]);
/* All entries in key order; free() the array. *ret is NULL when there are none. -ENOMEM. */
int map3_sorted(const struct map3 *m, struct map3_entry ***ret);
void map3_done(struct map3 *m); /* and empty again */

/* A catalogue key -> bytes (NULL = deleted) map: replaces what was there. -ENOMEM. */
int map3_put_bytes(struct map3 *m, const uint64_t key[3], const void *val, uint16_t len);

#endif
