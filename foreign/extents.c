/* SPDX-License-Identifier: MIT */
/*
 * What a remote disk knows of its zeroes: base:allocation of the server. An answer may have many
 * more pieces than the caller has room for, and cost the server a walk through its tables, so it is
 * kept until something changes. Yields.
 */
#include "core/base/text.h"
#include "foreign/remote_priv.h"

#include <stdlib.h>

#define ASK_MAX VD_GIB(1) /* at once: bounds the server's work, and what is kept */

/* One answer being collected. */
struct answer {
    struct vd_extent *ext;
    int n, room;
    uint64_t at, end; /* what is not yet covered, in whole sectors */
    bool no_memory;
};

static void answer_add(struct answer *a, uint64_t to, unsigned flags)
{
    to = VD_MIN(to, a->end);
    if (to <= a->at)
        return;
    struct vd_extent *last = a->n ? &a->ext[a->n - 1] : NULL;
    if (last && last->flags == flags) {
        last->len += to - a->at;
        a->at = to;
        return;
    }
    if (a->n == a->room) {
        int room = a->room ? a->room * 2 : 64;
        struct vd_extent *more = reallocarray(a->ext, (size_t)room, sizeof(*more));
        if (!more) {
            a->no_memory = true;
            return;
        }
        a->ext = more;
        a->room = room;
    }
    a->ext[a->n++] = (struct vd_extent){.off = a->at, .len = to - a->at, .flags = flags};
    a->at = to;
}

static int on_extents(void *arg, const char *context, uint64_t off, uint32_t *entries, size_t n,
                      int *error)
{
    struct answer *a = arg;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    for (size_t i = 0; i + 1 < n && !a->no_memory; i += 2) {
        unsigned flags = (entries[i + 1] & LIBNBD_STATE_HOLE ? VD_EXTENT_HOLE : 0) |
                         (entries[i + 1] & LIBNBD_STATE_ZERO ? VD_EXTENT_ZERO : 0);
        off += entries[i];
        /* A sector that is half zero is data. */
        answer_add(
            a, flags & VD_EXTENT_ZERO ? VD_ROUND_DOWN(off, VD_SECTOR) : VD_ROUND_UP(off, VD_SECTOR),
            flags);
    }
    return 0;
}

/* Asks the server about [off, off + len) and keeps the answer. */
static int ask(struct remote *r, uint64_t off, uint64_t len)
{
    struct answer a = {.at = off, .end = off + len};
    struct remote_wait w;
    struct link *l = remote_link(r);
    if (!l)
        return -EIO;
    nbd_extent_callback cb = {.callback = on_extents, .user_data = &a};
    nbd_completion_callback done = remote_done(&w, l);
    uint64_t real = VD_MIN(len, r->size - off);
    int rc = remote_wait(&w, nbd_aio_block_status(l->nbd, real, off, cb, done, 0));
    /* The padding of the last sector goes along with it. */
    if (rc == 0 && a.n && a.at >= VD_ROUND_DOWN(r->size, VD_SECTOR))
        answer_add(&a, off + len, a.ext[a.n - 1].flags);
    if (rc == 0 && a.no_memory)
        rc = -ENOMEM;
    if (rc == 0 && a.n == 0) /* a server that says nothing about it: data */
        answer_add(&a, off + len, 0);
    if (rc < 0 || a.n == 0) {
        free(a.ext);
        return rc < 0 ? rc : -ENOMEM;
    }
    free(r->ext);
    r->ext = a.ext;
    r->n_ext = a.n;
    return 0;
}

/* Copies what is kept about [off, off + len); false when that begins elsewhere. */
static bool recall(struct remote *r, uint64_t off, uint64_t len, struct vd_extent *ret, int *n)
{
    int lo = 0, hi = r->n_ext, used = 0;
    while (lo < hi) { /* the first that ends beyond off */
        int mid = (lo + hi) / 2;
        if (r->ext[mid].off + r->ext[mid].len > off)
            hi = mid;
        else
            lo = mid + 1;
    }
    if (lo == r->n_ext || r->ext[lo].off > off)
        return false;
    for (uint64_t at = off; lo < r->n_ext && used < *n && at < off + len; lo++) {
        uint64_t end = VD_MIN(r->ext[lo].off + r->ext[lo].len, off + len);
        ret[used++] = (struct vd_extent){.off = at, .len = end - at, .flags = r->ext[lo].flags};
        at = end;
    }
    *n = used;
    return true;
}

int remote_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret, int *n)
{
    struct remote *r = remote_of(d);
    if (!r->can_extents || off >= r->size) {
        ret[0] = (struct vd_extent){.off = off, .len = len};
        *n = 1;
        return 0;
    }
    if (recall(r, off, len, ret, n))
        return 0;
    uint64_t generation = r->generation;
    int rc = ask(r, off, VD_MIN(len, ASK_MAX));
    if (rc == 0 && !recall(r, off, len, ret, n))
        rc = -EIO;
    /* Somebody has written meanwhile: good enough for the caller, who raced, and for nobody else.
     */
    if (generation != r->generation)
        r->n_ext = 0;
    return rc;
}
