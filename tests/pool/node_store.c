/* SPDX-License-Identifier: MIT */
/* Nodes in memory. Misuse of the interface (a node released twice, read after its time) aborts. */
#include "tests/pool/node_store.h"

#include "tests/pool/model.h"

#define PER_SEG 1024u
#define SECOND 100000u /* segments of second copies */

static struct vd_addr addr_of(size_t i, unsigned copy)
{
    return (struct vd_addr){(uint32_t)(i / PER_SEG) + 1 + copy * SECOND,
                            (uint32_t)(i % PER_SEG) * 8};
}

struct stored_node *store_at(struct node_store *s, struct vd_addr at, int *copy)
{
    *copy = at.seg > SECOND;
    size_t i = (size_t)(at.seg - 1 - (*copy ? SECOND : 0)) * PER_SEG + at.sector / 8;
    if (i >= s->count)
        fail_msg("read of (%u, %u), where nothing was written", at.seg, at.sector);
    return &s->node[i];
}

static int store_read(void *ctx, struct vd_addr at, void *buf)
{
    struct node_store *s = ctx;
    int copy;
    struct stored_node *n = store_at(s, at, &copy);

    s->reads++;
    if (s->on_read)
        s->on_read(s->on_read_arg);
    if (s->fail_read && --s->fail_read == 0) {
        s->fail_read = s->fail_on;
        s->failed = true;
        return s->fail_err;
    }
    if (!n->copy[copy])
        fail_msg("read of a node that is gone");
    memcpy(buf, n->copy[copy], OD_NODE_SIZE);
    return 0;
}

static int store_write(void *ctx, const void *node, struct node_ptr *ret)
{
    struct node_store *s = ctx;

    if (s->fail_write && --s->fail_write == 0) {
        s->failed = true;
        return s->fail_err;
    }
    unsigned fail_later = fail_alloc; /* meant for the tree, not for the devices */
    fail_alloc = 0;
    s->writes++;
    if (s->count == s->room) {
        s->room = VD_MAX(s->room * 2, (size_t)1024);
        s->node = realloc(s->node, s->room * sizeof(*s->node));
    }
    struct stored_node *n = &s->node[s->count];
    n->live = true;
    s->live++;
    for (unsigned c = 0; c < 2; c++) {
        n->copy[c] = malloc(OD_NODE_SIZE);
        memcpy(n->copy[c], node, OD_NODE_SIZE);
        ret->copy[c] = addr_of(s->count, c);
    }
    ret->csum = vd_get64(((const struct od_node *)node)->csum);
    s->count++;
    fail_alloc = fail_later;
    return 0;
}

static void store_release(void *ctx, const struct node_ptr *ptr)
{
    struct node_store *s = ctx;
    int copy;
    struct stored_node *n = store_at(s, ptr->copy[0], &copy);

    if (!n->live)
        fail_msg("a node was released twice");
    unsigned fail_later = fail_alloc;
    fail_alloc = 0;
    if (s->dead_count == s->dead_room) {
        s->dead_room = VD_MAX(s->dead_room * 2, (size_t)1024);
        s->dead = realloc(s->dead, s->dead_room * sizeof(*s->dead));
    }
    s->dead[s->dead_count++] = (size_t)(n - s->node);
    fail_alloc = fail_later;
    n->live = false;
    s->live--;
    s->releases++;
}

static void store_bad_copy(void *ctx, struct vd_addr at, int err)
{
    struct node_store *s = ctx;
    assert_true(err < 0);
    s->bad++;
}

const struct forest_io node_store_io = {
    .read = store_read,
    .write = store_write,
    .release = store_release,
    .bad_copy = store_bad_copy,
};

void store_done(struct node_store *s)
{
    for (size_t i = 0; i < s->count; i++) {
        free(s->node[i].copy[0]);
        free(s->node[i].copy[1]);
    }
    free(s->node);
    free(s->dead);
    memset(s, 0, sizeof(*s));
}

void store_reclaim(struct node_store *s)
{
    while (s->dead_count > 0) {
        struct stored_node *n = &s->node[s->dead[--s->dead_count]];
        for (unsigned c = 0; c < 2 && !n->live; c++) {
            free(n->copy[c]);
            n->copy[c] = NULL;
        }
    }
}

void store_mark(const struct node_store *s, struct store_mark *ret)
{
    ret->count = s->count;
    ret->live = calloc(s->count + 1, sizeof(bool));
    for (size_t i = 0; i < s->count; i++)
        ret->live[i] = s->node[i].live;
}

void store_unmark(struct store_mark *mark)
{
    free(mark->live);
}

void store_restore(struct node_store *s, struct store_mark *mark)
{
    s->dead_count = 0;
    while (s->count > mark->count) {
        s->count--;
        free(s->node[s->count].copy[0]);
        free(s->node[s->count].copy[1]);
    }
    s->live = 0;
    for (size_t i = 0; i < s->count; i++) {
        s->node[i].live = mark->live[i];
        s->live += s->node[i].live;
    }
}
