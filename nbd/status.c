/* SPDX-License-Identifier: MIT */
/*
 * Block status: what a client is told of a range, in each of the contexts that it has chosen. The
 * whole answer, a chunk for each context, is built in the request's buffer.
 *
 * Invariants:
 *  1. Each chunk begins at the request's offset, has no gaps and no empty extents, and ends inside
 *     the range; where it takes more extents than fit, it ends early, as the protocol allows.
 *  2. "Unchanged" is said only of blocks that were compared just now. Nothing is kept from one
 *     request to the next: a change map that is stale loses data in somebody's backup.
 *
 * Runs on workers; suspends.
 */
#include "nbd/nbd_priv.h"

#include <stdio.h>

#define CHUNK_HEAD (NBD_CHUNK_LEN + 4)
#define EXTENT_LEN 8u

/* A chunk that grows. */
struct chunk {
    uint8_t *p; /* where it begins */
    unsigned n, max;
    uint64_t at, end; /* covered up to here; of the range */
    unsigned state;   /* of the last extent */
};

static uint8_t *extent_at(const struct chunk *k, unsigned i)
{
    return k->p + CHUNK_HEAD + EXTENT_LEN * i;
}

/* Everything up to `to` is so. 1 = no room for it. */
static int chunk_add(struct chunk *k, uint64_t to, unsigned state)
{
    to = VD_MIN(to, k->end);
    if (to <= k->at)
        return 0;
    uint32_t len = (uint32_t)(to - k->at);
    if (k->n > 0 && k->state == state) {
        uint8_t *last = extent_at(k, k->n - 1);
        vd_put_be32(last, vd_get_be32(last) + len);
    } else {
        if (k->n == k->max)
            return 1;
        vd_put_be32(extent_at(k, k->n), len);
        vd_put_be32(extent_at(k, k->n) + 4, state);
        k->n++;
    }
    k->at = to;
    k->state = state;
    return 0;
}

/* Returns where it ends. */
static uint8_t *chunk_finish(const struct chunk *k, const struct nbd_req *req, uint32_t id,
                             bool last)
{
    nbd_put_chunk(k->p, NBD_CHUNK_BLOCK_STATUS, last, req->cookie, 4 + EXTENT_LEN * k->n);
    vd_put_be32(k->p + NBD_CHUNK_LEN, id);
    return extent_at(k, k->n);
}

static int run_allocation(struct nbd_req *req, struct chunk *k, struct vd_extent *ext)
{
    int n = (int)VD_MIN(k->max, (unsigned)NBD_EXTENTS_MAX);
    int r = vd_disk_extents(req->conn->disk, req->off, req->len, ext, &n);
    for (int i = 0; r == 0 && i < n; i++) {
        unsigned state = ext[i].flags & VD_EXTENT_HOLE ? NBD_STATE_HOLE : 0;
        state |= ext[i].flags & VD_EXTENT_ZERO ? NBD_STATE_ZERO : 0;
        (void)chunk_add(k, ext[i].off + ext[i].len, state);
    }
    return r;
}

/* ---- changed since a snapshot ---- */

/* What snapshots are called now; "" = gone. */
struct search {
    struct vd_uuid from, own;
    char from_name[VD_NAME_MAX + 1], own_name[VD_NAME_MAX + 1];
};

static int search_compare(void *arg, const struct vd_snapshot_info *info)
{
    struct search *s = arg;
    if (vd_uuid_equal(&info->uuid, &s->from))
        memcpy(s->from_name, info->name, sizeof(s->from_name));
    if (vd_uuid_equal(&info->uuid, &s->own))
        memcpy(s->own_name, info->name, sizeof(s->own_name));
    return 0;
}

static int add_changed(void *arg, const struct vd_extent *extent)
{
    struct chunk *k = arg;
    int r = chunk_add(k, extent->off, 0);
    return r != 0 ? r : chunk_add(k, extent->off + extent->len, NBD_STATE_CHANGED);
}

static int run_since(struct nbd_req *req, const struct vd_uuid *snapshot, struct chunk *k)
{
    struct nbd_conn *c = req->conn;
    struct vd_disk_info info;
    vd_disk_info(c->disk, &info);
    struct search search = {.from = *snapshot, .own = info.uuid};
    char volume[NBD_EXPORT_MAX];
    snprintf(volume, sizeof(volume), "%s", c->export);
    char *at = strchr(volume, '@');
    if (at)
        *at = 0;
    /* Found by what they are, in the volume of that name: so if that is another volume by now, they
     * are not found. */
    int r = vd_store_snapshots(c->server->store, volume, search_compare, &search);
    if (r < 0)
        return r;
    req->why = "the snapshot to compare with is gone";
    if (!*search.from_name || (at && !*search.own_name))
        return -EIO;
    struct vd_target from = {.volume = volume, .snapshot = search.from_name};
    struct vd_target to = {.volume = volume, .snapshot = at ? search.own_name : NULL};
    r = vd_store_diff_part(c->server->store, from, to, req->off, req->len, add_changed, k, NULL);
    if (r == 0)
        r = chunk_add(k, k->end, 0);
    req->why = NULL;
    return VD_MIN(r, 0);
}

size_t nbd_status_room(const struct nbd_conn *c)
{
    size_t chunk = CHUNK_HEAD + EXTENT_LEN * NBD_EXTENTS_MAX;
    return NBD_EXTENTS_MAX * sizeof(struct vd_extent) + (1 + c->contexts.n_since) * chunk;
}

int nbd_status_run(struct nbd_req *req)
{
    const struct nbd_contexts *contexts = &req->conn->contexts;
    /* For a moment, the extents of the disk lie where chunks will. */
    struct vd_extent *ext = req->buf;
    uint8_t *start = (uint8_t *)(ext + NBD_EXTENTS_MAX), *p = start;
    struct chunk proto = {.max = req->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : NBD_EXTENTS_MAX,
                          .at = req->off,
                          .end = req->off + req->len};
    int r = 0;
    if (contexts->allocation) {
        struct chunk k = proto;
        k.p = p;
        r = run_allocation(req, &k, ext);
        p = chunk_finish(&k, req, NBD_ALLOCATION_ID, contexts->n_since == 0);
    }
    for (unsigned i = 0; r == 0 && i < contexts->n_since; i++) {
        struct chunk k = proto;
        k.p = p;
        r = run_since(req, &contexts->since[i], &k);
        p = chunk_finish(&k, req, NBD_SINCE_ID + i, i + 1 == contexts->n_since);
    }
    if (r < 0)
        return r;
    req->data_len = (uint32_t)(p - start);
    memmove(req->buf, start, req->data_len);
    return 0;
}
