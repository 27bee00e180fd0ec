/* SPDX-License-Identifier: MIT */
/*
 * Nodes: files and directories by what they are, not by name, so that a name which was given away
 * does not lead to what had it before.
 *
 * Invariant: a node stays while the kernel knows it (lookups) or something of ours uses it (refs).
 *
 * Nothing here yields.
 */
#include "core/base/hash.h"
#include "fuse/fuse_priv.h"

#include <stdio.h>

/* As bytes without gaps: what equal keys have in common. */
struct key_bytes {
    uint8_t volume[16], snapshot[16];
    uint32_t kind, part;
};

static uint64_t key_hash(const struct fkey *key)
{
    struct key_bytes b = {.kind = key->kind, .part = key->part};
    memcpy(b.volume, key->volume.b, sizeof(b.volume));
    memcpy(b.snapshot, key->snapshot.b, sizeof(b.snapshot));
    return vd_xxh3(&b, sizeof(b));
}

uint64_t fnode_ino(const struct fkey *key)
{
    if (key->kind == F_ROOT)
        return FUSE_ROOT_ID;
    return (key_hash(key) & INT64_MAX) | 2; /* never 0 nor the root's */
}

void fnodes_init(struct vd_fuse_server *s)
{
    for (unsigned i = 0; i < FUSE_NODE_BUCKETS; i++)
        vd_list_init(&s->nodes[i]);
    s->root = (struct fnode){.key.kind = F_ROOT, .ino = FUSE_ROOT_ID, .lookups = 1, .refs = 1};
    vd_list_init(&s->root.link);
}

void fnodes_free(struct vd_fuse_server *s)
{
    for (unsigned i = 0; i < FUSE_NODE_BUCKETS; i++)
        for (struct vd_list *l; (l = vd_list_pop(&s->nodes[i]));)
            free(vd_container_of(l, struct fnode, link));
}

struct fnode *fnode_of(struct vd_fuse_server *s, fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? &s->root : (struct fnode *)(uintptr_t)ino;
}

fuse_ino_t fnode_id(const struct fnode *n)
{
    return n->key.kind == F_ROOT ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)n;
}

static void drop(struct fnode *n)
{
    if (n->refs > 0 || n->lookups > 0)
        return;
    vd_list_remove(&n->link);
    free(n);
}

void fnode_ref(struct fnode *n)
{
    n->refs++;
}

void fnode_unref(struct fnode *n)
{
    assert(n->refs > 0);
    n->refs--;
    drop(n);
}

void fnode_forget(struct vd_fuse_server *s, fuse_ino_t ino, uint64_t n)
{
    struct fnode *node = fnode_of(s, ino);
    if (node == &s->root)
        return;
    node->lookups -= VD_MIN(n, node->lookups);
    drop(node);
}

struct fnode *fnode_find(struct vd_fuse_server *s, const struct fkey *key)
{
    vd_list_each (l, &s->nodes[key_hash(key) % FUSE_NODE_BUCKETS]) {
        struct fnode *n = vd_container_of(l, struct fnode, link);
        if (n->key.kind == key->kind && n->key.part == key->part &&
            vd_uuid_equal(&n->key.volume, &key->volume) &&
            vd_uuid_equal(&n->key.snapshot, &key->snapshot))
            return n;
    }
    return NULL;
}

struct fnode *fnode_get(struct vd_fuse_server *s, const struct fkey *key, const char *volume,
                        const char *snapshot)
{
    struct fnode *n = fnode_find(s, key);
    if (!n) {
        n = calloc(1, sizeof(*n));
        if (!n)
            return NULL;
        n->key = *key;
        n->ino = fnode_ino(key);
        vd_list_push(&s->nodes[key_hash(key) % FUSE_NODE_BUCKETS], &n->link);
    }
    n->refs++;
    /* It may have been renamed. */
    snprintf(n->volume, sizeof(n->volume), "%s", volume);
    snprintf(n->snapshot, sizeof(n->snapshot), "%s", snapshot);
    return n;
}
