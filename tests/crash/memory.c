/* SPDX-License-Identifier: MIT */
/* Allocations that fail on request: see memory.h. Fibers' stacks are mapped, so that fails as well.
 */
#define CRASH_MEMORY_SHORT
#include "tests/crash/memory.h"

#include "core/io/simdev.h"

#include <errno.h>
#include <sys/mman.h>

static uint64_t countdown; /* 1: the next one */
static bool for_ever, failed;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
int __real_posix_memalign(void **ret, size_t align, size_t size);
void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
int __wrap_posix_memalign(void **ret, size_t align, size_t size);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);

void memory_fail(uint64_t n, bool forever)
{
    countdown = n;
    for_ever = forever;
    failed = false;
    vd_simdisk_memory = memory_calloc;
}

bool memory_failed(void)
{
    return failed;
}

static bool refuse(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    countdown = for_ever;
    failed = true;
    errno = ENOMEM;
    return true;
}

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

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
    return refuse() ? MAP_FAILED : __real_mmap(addr, len, prot, flags, fd, off);
}

void *memory_malloc(size_t size)
{
    return __real_malloc(size);
}

void *memory_calloc(size_t n, size_t size)
{
    return __real_calloc(n, size);
}

void *memory_realloc(void *p, size_t size)
{
    return __real_realloc(p, size);
}

void *memory_aligned(size_t len)
{
    void *p;
    return __real_posix_memalign(&p, VD_BLOCK, len) ? NULL : p;
}
