/* SPDX-License-Identifier: MIT */
/* Allocations that fail on request: the linker sends the program's calls here. */
#include "pool/overlay_priv.h"
#include "tests/pool/model.h"

unsigned fail_alloc;

static bool refuse(void)
{
    return fail_alloc && --fail_alloc == 0;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
int __real_posix_memalign(void **ret, size_t align, size_t size);
void *__real_arena_alloc(struct arena *a, size_t *size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
int __wrap_posix_memalign(void **ret, size_t align, size_t size);
void *__wrap_arena_alloc(struct arena *a, size_t *size);

void *__wrap_malloc(size_t size)
{
    return refuse() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return refuse() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return refuse() ? NULL : __real_realloc(p, size);
}

int __wrap_posix_memalign(void **ret, size_t align, size_t size)
{
    return refuse() ? ENOMEM : __real_posix_memalign(ret, align, size);
}

/* Each piece of an arena, not only the chunks. */
void *__wrap_arena_alloc(struct arena *a, size_t *size)
{
    return refuse() ? NULL : __real_arena_alloc(a, size);
}
