/* SPDX-License-Identifier: MIT */
/*
 * Memory that runs out on request. The linker sends the program's allocations to memory.c; those of
 * the simulator itself go past it, by the macros below: include this after all other headers.
 */
#ifndef CRASH_MEMORY_H
#define CRASH_MEMORY_H

#include "core/base/text.h"

#include <stdlib.h>

/* The n-th allocation from now (1 = the next) fails; `forever`: and all after it. 0: none. */
void memory_fail(uint64_t n, bool forever);
/* True if one has failed since memory_fail. */
bool memory_failed(void);

void *memory_malloc(size_t size);
void *memory_calloc(size_t n, size_t size);
void *memory_realloc(void *p, size_t size);
void *memory_aligned(size_t len);
#ifndef CRASH_MEMORY_SHORT
#define malloc(size) memory_malloc(size)
#define calloc(n, size) memory_calloc(n, size)
#define realloc(p, size) memory_realloc(p, size)
#define vd_alloc_aligned(len) memory_aligned(len)
#endif

#endif
