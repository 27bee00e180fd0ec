/* SPDX-License-Identifier: MIT */
/*
 * Transactions: what a control operation wants changed, gathered as log entries and committed as
 * one atomic operation. Made and committed with the store's control mutex held, so ids and the
 * epoch do not move under it. Memory in memory changes only when the pool hands the entries back to
 * apply.
 */
#include "snapshot/store_priv.h"

#include <stdlib.h>

void txn_init(struct txn *t, struct snap_store *s)
{
    *t = (struct txn){.s = s, .next_id = s->cat.next_id, .next_branch = s->cat.next_branch};
}

static struct vd_entry *txn_entry(struct txn *t)
{
    if (t->err)
        return NULL;
    if (t->count == t->room) {
        unsigned room = t->room ? t->room * 2 : 4;
        struct vd_entry *e = realloc(t->entry, room * sizeof(*e));
        if (e)
            t->entry = e;
        void **v = e ? realloc(t->value, room * sizeof(*v)) : NULL;
        if (!v) {
            t->err = -ENOMEM;
            return NULL;
        }
        t->value = v;
        t->room = room;
    }
    struct vd_entry *e = &t->entry[t->count];
    memset(e, 0, sizeof(*e));
    t->value[t->count++] = NULL;
    return e;
}

void txn_put(struct txn *t, uint64_t kind, uint64_t id, uint64_t sub, const void *val, uint16_t len)
{
    struct vd_entry *e = txn_entry(t);
    if (!e)
        return;
    void *copy = malloc(len ? len : 1u);
    if (!copy) {
        t->err = -ENOMEM;
        return;
    }
    memcpy(copy, val, len);
    t->value[t->count - 1] = copy;
    e->type = VD_ENTRY_CATALOG;
    e->key[0] = kind;
    e->key[1] = id;
    e->key[2] = sub;
    e->value = copy;
    e->value_len = len;
}

void txn_del(struct txn *t, uint64_t kind, uint64_t id, uint64_t sub)
{
    struct vd_entry *e = txn_entry(t);
    if (!e)
        return;
    e->type = VD_ENTRY_CATALOG;
    e->key[0] = kind;
    e->key[1] = id;
    e->key[2] = sub;
}

void txn_zero(struct txn *t, uint64_t branch, uint64_t lba, uint64_t blocks)
{
    struct vd_entry *e = txn_entry(t);
    if (!e)
        return;
    e->type = VD_ENTRY_ZERO;
    e->branch = branch;
    e->lba = lba;
    e->blocks = blocks;
}

void txn_epoch(struct txn *t)
{
    struct vd_entry *e = txn_entry(t);
    if (!e)
        return;
    e->type = VD_ENTRY_EPOCH;
    e->epoch = pool_epoch(t->s->pool) + 1;
}

uint64_t txn_id(struct txn *t)
{
    return t->next_id++;
}

uint64_t txn_branch(struct txn *t, uint64_t parent, uint64_t origin, uint64_t limit)
{
    struct od_catalog_branch od = {
        .parent = vd_le64(parent),
        .origin = vd_le64(origin),
        .limit = vd_le64(limit),
    };
    uint64_t id = t->next_branch++;
    if (id > UINT32_MAX)
        t->err = -ENOSPC;
    txn_put(t, CATALOG_BRANCH, id, 0, &od, sizeof(od));
    return id;
}

void txn_volume(struct txn *t, uint64_t id, const struct volume_rec *rec)
{
    uint8_t buf[CATALOG_VALUE_ROOM];
    txn_put(t, CATALOG_VOLUME, id, 0, buf, volume_encode(rec, buf));
}

void txn_snapshot(struct txn *t, uint64_t id, const struct snapshot_rec *rec)
{
    uint8_t buf[CATALOG_VALUE_ROOM];
    txn_put(t, CATALOG_SNAPSHOT, id, 0, buf, snapshot_encode(rec, buf));
}

void txn_drop(struct txn *t)
{
    for (unsigned i = 0; i < t->count; i++)
        free(t->value[i]);
    free(t->value);
    free(t->entry);
    *t = (struct txn){0};
}

static int commit_failed(struct snap_store *s, int r, struct vd_error *err)
{
    if (r == -ENOSPC)
        return vd_fail(err, r, "no-space", "the pool is full");
    const char *why = pool_failure(s->pool);
    if (why[0])
        return vd_fail(err, r, "pool-failed", "the pool has failed: %s", why);
    return vd_fail(err, r, "pool-failed", "the change could not be logged: %s", strerror(-r));
}

int txn_commit(struct txn *t, unsigned flags, struct vd_error *err)
{
    struct snap_store *s = t->s;
    if (t->next_id != s->cat.next_id || t->next_branch != s->cat.next_branch) {
        struct od_catalog_meta od = {vd_le64(t->next_id), vd_le64(t->next_branch)};
        txn_put(t, CATALOG_META, 0, 0, &od, sizeof(od));
    }
    int r = t->err;
    if (r == 0) {
        struct pool_op op = {.flags = flags | POOL_OP_FUA, .entries = t->entry, .count = t->count};
        r = pool_commit(s->pool, &op);
    }
    txn_drop(t);
    return r < 0 ? commit_failed(s, r, err) : 0;
}
