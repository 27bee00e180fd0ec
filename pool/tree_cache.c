/* SPDX-License-Identifier: MIT */
/*
 * The forest: its roots, and the cache of verified nodes that every look-up goes through.
 *
 * Invariants:
 *  1 a node gets in only after its checksum, structure and place were verified (I6), or when the
 *    writer has just written it;
 *  2 it is named by the address of its first copy and its checksum, so a node written over an old
 *    place never meets what was cached of that place;
 *  3 a node is read by one fiber at a time; the others wait for it and look again.
 * Interior nodes survive more turns of the clock than leaves. Only forest_load and forest_fetch
 * suspend.
 */
#include "core/io/fiber.h"
#include "pool/tree_priv.h"

#include <stdlib.h>
#include <sys/mman.h>

/* Enough for any path, and for the fibers on it not to live off each other. */
#define FRAMES_MIN FRAMES_PER_CHUNK
#define HEAT_LEAF 1
#define HEAT_INTERIOR 20

enum { FRAME_SPARE, FRAME_BUSY, FRAME_VALID };

struct load { /* on the stack of the fiber that reads */
    struct vd_list link;
    struct node_ptr ptr;
    struct vd_waitq done;
};

/* ---- roots ---- */

int forest_new(const struct forest_io *io, void *ctx, uint64_t pool, size_t cache_bytes,
               struct forest **ret)
{
    struct forest *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->io = *io;
    f->ctx = ctx;
    f->pool = pool;
    vd_list_init(&f->loads);
    forest_set_cache(f, cache_bytes);
    if (!f->bucket) {
        free(f);
        return -ENOMEM;
    }
    *ret = f;
    return 0;
}

void forest_free(struct forest *f)
{
    if (!f)
        return;
    assert(vd_list_empty(&f->loads));
    for (uint32_t i = 0; i < f->frames / FRAMES_PER_CHUNK; i++)
        free(f->chunk[i]);
    free(f->chunk);
    free(f->frame);
    free(f->bucket);
    free(f);
}

void forest_set_root(struct forest *f, enum tree_id t, const struct tree_root *root)
{
    f->root[t] = *root;
    f->version++;
}

const struct tree_root *forest_root(const struct forest *f, enum tree_id t)
{
    return &f->root[t];
}

uint64_t forest_version(const struct forest *f)
{
    return f->version;
}

/* ---- frames ---- */

static uint32_t *bucket_of(struct forest *f, uint64_t addr)
{
    return &f->bucket[frame_hash(f, addr)];
}

static uint8_t *frame_page(const struct forest *f, uint32_t i)
{
    return f->chunk[i / FRAMES_PER_CHUNK] + (size_t)(i % FRAMES_PER_CHUNK) * OD_NODE_SIZE;
}

static void frame_spare(struct forest *f, uint32_t i)
{
    f->frame[i].state = FRAME_SPARE;
    f->frame[i].next = f->spare;
    f->spare = i + 1;
}

static void frame_link(struct forest *f, uint32_t i, const struct node_ptr *ptr, unsigned level)
{
    struct frame *fr = &f->frame[i];
    uint32_t *bucket = bucket_of(f, frame_addr(ptr->copy[0]));
    *fr = (struct frame){
        .addr = frame_addr(ptr->copy[0]),
        .csum = ptr->csum,
        .next = *bucket,
        .heat = level ? HEAT_INTERIOR : HEAT_LEAF,
        .state = FRAME_VALID,
        .level = (uint8_t)level,
    };
    *bucket = i + 1;
}

static void frame_unlink(struct forest *f, uint32_t i)
{
    uint32_t *at = bucket_of(f, f->frame[i].addr);
    while (*at != i + 1)
        at = &f->frame[*at - 1].next;
    *at = f->frame[i].next;
}

/* The frame that holds the node, or UINT32_MAX. */
static inline uint32_t frame_find(struct forest *f, const struct node_ptr *ptr)
{
    uint64_t addr = frame_addr(ptr->copy[0]);
    for (uint32_t at = f->bucket[frame_hash(f, addr)]; at; at = f->frame[at - 1].next)
        if (f->frame[at - 1].addr == addr && f->frame[at - 1].csum == ptr->csum)
            return at - 1;
    return UINT32_MAX;
}

static bool frames_grow(struct forest *f)
{
    uint32_t chunks = f->frames / FRAMES_PER_CHUNK;
    size_t size = (size_t)FRAMES_PER_CHUNK * OD_NODE_SIZE;
    void *pages = NULL;
    if (posix_memalign(&pages, size, size))
        pages = NULL;
    else
        madvise(pages, size, MADV_HUGEPAGE); /* a wish */
    uint8_t **chunk = realloc(f->chunk, (chunks + 1) * sizeof(uint8_t *));
    if (chunk)
        f->chunk = chunk;
    struct frame *frame = realloc(f->frame, (f->frames + FRAMES_PER_CHUNK) * sizeof(*frame));
    if (frame)
        f->frame = frame;
    if (!pages || !chunk || !frame) {
        free(pages);
        return false;
    }
    f->chunk[chunks] = pages;
    f->frames += FRAMES_PER_CHUNK;
    for (uint32_t i = f->frames; i-- > f->frames - FRAMES_PER_CHUNK;)
        frame_spare(f, i);
    return true;
}

static bool frame_evict(struct forest *f)
{
    uint64_t steps = (uint64_t)f->frames * (HEAT_INTERIOR + 1);

    for (; steps > 0; steps--) {
        uint32_t i = f->hand;
        f->hand = i + 1 < f->frames ? i + 1 : 0;
        if (f->frame[i].state != FRAME_VALID)
            continue;
        if (f->frame[i].heat > 0) {
            f->frame[i].heat--;
            continue;
        }
        frame_unlink(f, i);
        frame_spare(f, i);
        return true;
    }
    return false;
}

/* A frame to fill, or UINT32_MAX. When all are being filled the bound gives way. */
static uint32_t frame_take(struct forest *f)
{
    if (!f->spare && !(f->frames < f->frame_max && frames_grow(f)) && !frame_evict(f) &&
        !frames_grow(f))
        return UINT32_MAX;
    uint32_t i = f->spare - 1;
    f->spare = f->frame[i].next;
    f->frame[i].state = FRAME_BUSY;
    return i;
}

/* Gives back whole chunks from the end, as far as nothing is being read into them. */
static void frames_shrink(struct forest *f)
{
    while (f->frames > f->frame_max) {
        uint32_t from = f->frames - FRAMES_PER_CHUNK;
        for (uint32_t i = from; i < f->frames; i++)
            if (f->frame[i].state == FRAME_BUSY)
                return;
        for (uint32_t i = from; i < f->frames; i++)
            if (f->frame[i].state == FRAME_VALID)
                frame_unlink(f, i);
        free(f->chunk[from / FRAMES_PER_CHUNK]);
        f->frames = from;
        f->hand = 0;
        f->spare = 0;
        for (uint32_t i = 0; i < f->frames; i++)
            if (f->frame[i].state == FRAME_SPARE)
                frame_spare(f, i);
    }
}

void forest_set_cache(struct forest *f, size_t cache_bytes)
{
    size_t max = VD_MAX(cache_bytes / (OD_NODE_SIZE + sizeof(struct frame)), (size_t)FRAMES_MIN);
    max = VD_ROUND_DOWN(VD_MIN(max, (size_t)UINT32_MAX / 8), (size_t)FRAMES_PER_CHUNK);
    uint32_t buckets = 1;
    while (buckets < max)
        buckets *= 2;

    f->frame_max = (uint32_t)max;
    frames_shrink(f);
    if (f->bucket && buckets == f->bucket_mask + 1)
        return;
    uint32_t *bucket = calloc(buckets, sizeof(*bucket));
    if (!bucket)
        return; /* the old table serves, with other chains */
    free(f->bucket);
    f->bucket = bucket;
    f->bucket_mask = buckets - 1;
    for (uint32_t i = 0; i < f->frames; i++) {
        if (f->frame[i].state != FRAME_VALID)
            continue;
        uint32_t *at = bucket_of(f, f->frame[i].addr);
        f->frame[i].next = *at;
        *at = i + 1;
    }
}

void forest_cache(const struct forest *f, struct forest_cache *ret)
{
    *ret = (struct forest_cache){
        .bytes = (uint64_t)f->frames * OD_NODE_SIZE, .hits = f->hits, .misses = f->misses};
}

bool forest_fits(const struct forest *f, enum tree_id t)
{
    return f->root[t].nodes <= f->frame_max;
}

const struct od_node *cache_get(struct forest *f, const struct node_ptr *ptr)
{
    uint32_t i = frame_find(f, ptr);
    if (i == UINT32_MAX) {
        f->misses++;
        return NULL;
    }
    f->hits++;
    struct frame *fr = &f->frame[i];
    uint8_t heat = fr->level ? HEAT_INTERIOR : HEAT_LEAF;
    if (fr->heat != heat)
        fr->heat = heat;
    return frame_node(f, i);
}

void cache_put(struct forest *f, const struct node_ptr *ptr, const struct od_node *node)
{
    if (frame_find(f, ptr) != UINT32_MAX)
        return;
    uint32_t i = frame_take(f);
    if (i == UINT32_MAX)
        return;
    memcpy(frame_page(f, i), node, OD_NODE_SIZE);
    frame_link(f, i, ptr, node->level);
}

void cache_cool(struct forest *f, const struct node_ptr *ptr)
{
    uint32_t i = frame_find(f, ptr);
    if (i != UINT32_MAX)
        f->frame[i].heat = 0;
}

/* ---- loading ---- */

void need_root(const struct forest *f, enum tree_id t, const struct tree_root *root,
               struct forest_need *need)
{
    *need = (struct forest_need){
        .ptr = root->ptr,
        .tree = t,
        .level = root->height - 1,
        .is_root = true,
        .high = TREE_KEY_MAX,
        .version = f->version,
    };
}

void need_child(const struct od_node *n, unsigned i, const struct forest_need *up,
                struct forest_need *need)
{
    struct tree_key high = up->high;
    if (i + 1 < node_count(n))
        node_child(n, i + 1, &high, NULL);
    need->tree = up->tree;
    need->level = up->level - 1;
    need->version = up->version;
    need->is_root = false;
    need->high = high;
    node_child(n, i, &need->low, &need->ptr);
}

static int node_read(struct forest *f, const struct forest_need *need, unsigned copy, void *page)
{
    const struct od_node *n = page;
    int r = f->io.read(f->ctx, need->ptr.copy[copy], page);
    if (r < 0)
        return r;
    if (vd_get64(n->csum) != need->ptr.csum)
        return -EBADMSG;
    r = node_verify(n, f->pool, need->tree, need->level);
    return r < 0 ? r : node_place(n, need);
}

/* Either copy. A bad one is told of only if the node is still named: the place of one that is not
 * may have been used for something else. */
static int node_read_any(struct forest *f, const struct forest_need *need, void *page)
{
    const struct vd_addr *copy = need->ptr.copy;
    int first = node_read(f, need, 0, page);

    if (first == 0)
        return 0;
    int second = first;
    if (!vd_addr_equal(copy[0], copy[1]))
        second = node_read(f, need, 1, page);
    if (need->version != f->version)
        return second == 0 ? 0 : -EAGAIN;
    if (second == 0)
        f->io.bad_copy(f->ctx, copy[0], first);
    /* What is wrong with the bytes says more than that they could not be read. */
    return second == 0 || first == -EIO ? second : first;
}

static struct load *load_find(struct forest *f, const struct node_ptr *ptr)
{
    vd_list_each (it, &f->loads) {
        struct load *l = vd_container_of(it, struct load, link);
        if (ptr_equal(&l->ptr, ptr))
            return l;
    }
    return NULL;
}

/* Not inlined: the compiler would warn of a local's address in the list, which is the idea. */
__attribute__((noinline)) static void load_begin(struct forest *f, struct load *l)
{
    vd_waitq_init(&l->done);
    vd_list_push(&f->loads, &l->link);
}

int forest_load(struct forest *f, const struct forest_need *need)
{
    struct load *other;

    while ((other = load_find(f, &need->ptr)))
        vd_wait(&other->done);
    if (frame_find(f, &need->ptr) != UINT32_MAX)
        return 0;
    uint32_t i = frame_take(f);
    if (i == UINT32_MAX)
        return -ENOMEM;
    struct load self = {.ptr = need->ptr};
    load_begin(f, &self);
    int r = node_read_any(f, need, frame_page(f, i));
    if (r == 0)
        frame_link(f, i, &need->ptr, need->level);
    else
        frame_spare(f, i);
    vd_list_remove(&self.link);
    vd_wake_all(&self.done);
    return r;
}

int forest_fetch(struct forest *f, const struct forest_need *need, struct od_node *buf)
{
    struct forest_need now = *need;

    for (;;) {
        const struct od_node *n = cache_get(f, &need->ptr);
        if (n) {
            memcpy(buf, n, OD_NODE_SIZE);
            return n->tree == need->tree && n->level == need->level ? 0 : -EUCLEAN;
        }
        /* A merge's base stays readable whatever the roots do meanwhile: no -EAGAIN for it. */
        now.version = f->version;
        int r = forest_load(f, &now);
        if (r < 0 && r != -EAGAIN)
            return r;
    }
}
