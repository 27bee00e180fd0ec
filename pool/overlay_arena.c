/* SPDX-License-Identifier: MIT */
/*
 * Memory of an overlay: pieces of a few size classes cut from large chunks, so that a million
 * records cost no header each and are given back in a moment, when the overlay goes. A freed piece
 * serves only its own class again. Pure; called by the overlay only.
 */
#include "pool/overlay_priv.h"

#include <stdlib.h>

#define CHUNK_FIRST 16384
#define CHUNK 131072
#define CLASS_MAX 32768

/* Multiples of 8 up to 256, then four steps to each doubling, up to CLASS_MAX: 31 + 28 classes. */
static unsigned class_of(size_t size, size_t *rounded)
{
    if (size <= 256) {
        size_t n = VD_MAX((size + 7) / 8, 2u);
        *rounded = n * 8;
        return (unsigned)n - 1;
    }
    unsigned log = 63 - (unsigned)__builtin_clzll(size - 1); /* size in (2^log, 2^(log+1)] */
    size_t step = (size_t)1 << (log - 2);
    size_t n = (size - ((size_t)1 << log) + step - 1) / step; /* 1..4 */
    *rounded = ((size_t)1 << log) + n * step;
    return 32 + (log - 8) * 4 + (unsigned)n - 1;
}

static void *big_alloc(struct arena *a, size_t size)
{
    struct arena_big *b = malloc(sizeof(*b) + size);
    if (!b)
        return NULL;
    b->next = a->big;
    b->link = &a->big;
    if (a->big)
        a->big->link = &b->next;
    a->big = b;
    a->bytes += sizeof(*b) + size;
    return b + 1;
}

static bool chunk_add(struct arena *a)
{
    size_t size = a->chunks ? CHUNK : CHUNK_FIRST;
    struct arena_chunk *c = malloc(size);
    if (!c)
        return false;
    c->next = a->chunks;
    a->chunks = c;
    a->at = (uint8_t *)(c + 1);
    a->left = size - sizeof(*c);
    a->bytes += size;
    return true;
}

void *arena_alloc(struct arena *a, size_t *size)
{
    if (*size > CLASS_MAX) {
        *size = VD_ROUND_UP(*size + *size / 2, (size_t)4096);
        return big_alloc(a, *size);
    }
    unsigned class = class_of(*size, size);
    void *p = a->spare[class];
    if (p) {
        memcpy(&a->spare[class], p, sizeof(void *));
        return p;
    }
    if (a->left < *size) {
        /* The first chunk may be too small for the largest classes. */
        while (a->left < *size)
            if (!chunk_add(a))
                return NULL;
    }
    p = a->at;
    a->at += *size;
    a->left -= *size;
    return p;
}

void arena_free(struct arena *a, void *p, size_t size)
{
    if (size > CLASS_MAX) {
        struct arena_big *b = (struct arena_big *)p - 1;
        *b->link = b->next;
        if (b->next)
            b->next->link = b->link;
        a->bytes -= sizeof(*b) + size;
        free(b);
        return;
    }
    size_t rounded;
    unsigned class = class_of(size, &rounded);
    assert(rounded == size);
    memcpy(p, &a->spare[class], sizeof(void *));
    a->spare[class] = p;
}

void arena_done(struct arena *a)
{
    while (a->chunks) {
        struct arena_chunk *c = a->chunks;
        a->chunks = c->next;
        free(c);
    }
    while (a->big) {
        struct arena_big *b = a->big;
        a->big = b->next;
        free(b);
    }
}
