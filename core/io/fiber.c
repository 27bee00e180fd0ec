/* SPDX-License-Identifier: MIT */
/*
 * Fibers: their stacks, their states, and what suspends and wakes them. All of it on the loop's
 * thread, except that fiber_new may be called by whoever has the stacks that it is given.
 *
 * Invariants:
 *  F1 a fiber is on the ready list, or the list of those who yielded, exactly while its state is
 *     FIBER_READY or FIBER_WOKEN;
 *  F2 each switch is between a fiber and the scheduler, never from fiber to fiber;
 *  F3 a stack is reused only after its fiber has switched away for good; below it lies a guard
 *     page, and its deepest use can be told at any time, since stacks start as zeroes.
 */
#include "core/io/loop_priv.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#endif
#endif
#ifndef VALGRIND_STACK_REGISTER
#define VALGRIND_STACK_REGISTER(start, end) 0
#define VALGRIND_STACK_DEREGISTER(id) ((void)(id))
#define VALGRIND_DISABLE_ERROR_REPORTING ((void)0)
#define VALGRIND_ENABLE_ERROR_REPORTING ((void)0)
#define VALGRIND_MAKE_MEM_DEFINED(at, len) ((void)(at))
#endif

#define STACKS_CACHED_MAX 256u
#define GUARD_LEN 4096u

void fiber_set_init(struct fiber_set *set)
{
    memset(set, 0, sizeof(*set));
    vd_list_init(&set->ready);
    vd_list_init(&set->yielded);
    vd_list_init(&set->all);
    fiber_stacks_init(&set->cached);
}

/* ---- stacks ---- */

static char *fiber_stack(const struct vd_fiber *f)
{
    return f->map + GUARD_LEN;
}

/* Bytes of this stack that were ever written: from the lowest byte that is not zero to the top. */
__attribute__((no_sanitize("address"))) static size_t stack_used(const struct vd_fiber *f)
{
    unsigned char resident[64];
    const char *stack = fiber_stack(f);
    size_t len = fiber_stack_len(), page = (size_t)sysconf(_SC_PAGESIZE), first = 0;
    if (len / page <= sizeof(resident) && mincore((void *)stack, len, resident) == 0)
        while (first < len / page && !(resident[first] & 1))
            first++;
    const uint64_t *word = (const uint64_t *)(const void *)(stack + first * page);
    const uint64_t *end = (const uint64_t *)(const void *)(stack + len);
    VALGRIND_DISABLE_ERROR_REPORTING; /* this looks below stack pointers, on purpose */
    while (word < end && *word == 0)
        word++;
    VALGRIND_ENABLE_ERROR_REPORTING;
    (void)VALGRIND_MAKE_MEM_DEFINED(&word, sizeof(word));
    return (size_t)((const char *)end - (const char *)word);
}

static void fiber_unmap(struct fiber_set *set, struct vd_fiber *f)
{
    set->high_water = VD_MAX(set->high_water, stack_used(f));
    char *map = f->map;
    VALGRIND_STACK_DEREGISTER(f->valgrind_id);
    (void)munmap(map, GUARD_LEN + fiber_stack_len());
}

static struct vd_fiber *fiber_map(void)
{
    size_t len = GUARD_LEN + fiber_stack_len();
    char *map = mmap(NULL, len, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    if (mprotect(map, GUARD_LEN, PROT_NONE) < 0) {
        (void)munmap(map, len);
        return NULL;
    }
    uintptr_t at = ((uintptr_t)map + len - sizeof(struct vd_fiber)) & ~(uintptr_t)63;
    struct vd_fiber *f = (struct vd_fiber *)at;
    f->map = map;
    f->valgrind_id = VALGRIND_STACK_REGISTER(map + GUARD_LEN, map + len);
    return f;
}

size_t fiber_high_water(const struct fiber_set *set)
{
    size_t most = set->high_water;
    vd_list_each (it, &set->all) {
        size_t used = stack_used(vd_container_of(it, struct vd_fiber, all));
        most = VD_MAX(most, used);
    }
    vd_list_each (it, &set->cached.fibers) {
        size_t used = stack_used(vd_container_of(it, struct vd_fiber, all));
        most = VD_MAX(most, used);
    }
    return most;
}

void fiber_set_done(struct fiber_set *set)
{
    struct vd_list *heads[] = {&set->all, &set->cached.fibers};
    for (size_t i = 0; i < VD_ARRAY_SIZE(heads); i++) {
        struct vd_list *it;
        while ((it = vd_list_pop(heads[i]))) {
            struct vd_fiber *f = vd_container_of(it, struct vd_fiber, all);
            if (heads[i] == &set->all)
                fiber_ctx_drop(&f->ctx);
            fiber_unmap(set, f);
        }
    }
}

/* ---- life ---- */

void fiber_stacks_init(struct fiber_stacks *stacks)
{
    vd_list_init(&stacks->fibers);
    stacks->count = 0;
}

void fiber_stacks_lend(struct fiber_stacks *from, struct fiber_stacks *to, unsigned most)
{
    for (; from->count && to->count < most; from->count--, to->count++)
        vd_list_push_front(&to->fibers, vd_list_pop(&from->fibers));
}

struct vd_fiber *fiber_new(struct fiber_stacks *stacks, const char *name, void (*fn)(void *),
                           void *arg)
{
    struct vd_fiber *f;
    struct vd_list *cached = vd_list_pop(&stacks->fibers);
    if (cached) {
        f = vd_container_of(cached, struct vd_fiber, all);
        stacks->count--;
    } else {
        f = fiber_map();
        if (!f)
            return NULL;
    }
    vd_list_init(&f->link);
    vd_list_init(&f->all);
    f->name = name;
    f->fn = fn;
    f->arg = arg;
    f->woken = false;
    fiber_ctx_make(&f->ctx, fiber_stack(f), (size_t)((char *)f - fiber_stack(f)), (char *)f);
    return f;
}

void fiber_start(struct vd_loop *loop, struct vd_fiber *f)
{
    f->loop = loop;
    f->state = FIBER_READY;
    vd_list_push(&loop->fibers.all, &f->all);
    vd_list_push(&loop->fibers.ready, &f->link);
    loop->fibers.count++;
}

static void fiber_end(struct vd_loop *loop, struct vd_fiber *f)
{
    struct fiber_set *set = &loop->fibers;
    set->count--;
    vd_list_remove(&f->all);
    fiber_ctx_drop(&f->ctx);
    if (set->cached.count < STACKS_CACHED_MAX) {
        vd_list_push_front(&set->cached.fibers, &f->all); /* the warmest is taken first */
        set->cached.count++;
    } else {
        fiber_unmap(set, f);
    }
}

void fiber_discard(struct fiber_set *set, struct vd_fiber *f)
{
    fiber_ctx_drop(&f->ctx);
    fiber_unmap(set, f);
}

int vd_fiber_spawn(struct vd_loop *loop, const char *name, void (*fn)(void *arg), void *arg)
{
    struct vd_fiber *f = fiber_new(&loop->fibers.cached, name, fn, arg);
    if (!f)
        return -ENOMEM;
    fiber_start(loop, f);
    return 0;
}

struct vd_fiber *vd_fiber_current(void)
{
    return loop_this_thread ? loop_this_thread->fibers.current : NULL;
}

/* ---- switching ---- */

void fiber_entry(void)
{
    struct vd_loop *loop = loop_this_thread;
    struct vd_fiber *f = loop->fibers.current;
    fiber_ctx_arrived(&f->ctx, &loop->fibers.scheduler);
    f->fn(f->arg);
    f->state = FIBER_ENDED;
    fiber_ctx_switch(&f->ctx, &loop->fibers.scheduler, true);
    abort(); /* nobody switches to a fiber that has ended */
}

static void run_batch(struct vd_loop *loop)
{
    struct fiber_set *set = &loop->fibers;
    struct vd_list batch;
    vd_list_init(&batch);
    vd_list_push_all(&batch, &set->ready);
    struct vd_list *it;
    while ((it = vd_list_pop(&batch))) {
        struct vd_fiber *f = vd_container_of(it, struct vd_fiber, link);
        set->current = f;
        f->state = FIBER_RUNNING;
        loop->stats.switches++;
        fiber_ctx_switch(&set->scheduler, &f->ctx, false);
        fiber_ctx_arrived(&set->scheduler, NULL);
        set->current = NULL;
        if (f->state == FIBER_ENDED)
            fiber_end(loop, f);
    }
}

/* A request goes through a few fibers before it has to wait: what they hand to the kernel goes in
 * one call. What becomes ready beyond that waits for the next turn, and who yields does so at once,
 * so that I/O is looked at in between. */
#define BATCHES_PER_TURN 4

void fiber_run_ready(struct vd_loop *loop)
{
    for (int i = 0; i < BATCHES_PER_TURN && !vd_list_empty(&loop->fibers.ready); i++)
        run_batch(loop);
    vd_list_push_all(&loop->fibers.ready, &loop->fibers.yielded);
}

static void switch_away(struct vd_fiber *f)
{
    struct vd_loop *loop = f->loop;
    fiber_ctx_switch(&f->ctx, &loop->fibers.scheduler, false);
    fiber_ctx_arrived(&f->ctx, &loop->fibers.scheduler);
}

void vd_fiber_yield(void)
{
    struct vd_fiber *f = vd_fiber_current();
    assert(f);
    f->state = FIBER_READY;
    vd_list_push(&f->loop->fibers.yielded, &f->link);
    switch_away(f);
}

void vd_fiber_suspend(void)
{
    struct vd_fiber *f = vd_fiber_current();
    assert(f);
    if (f->woken) {
        f->woken = false;
        return;
    }
    f->state = FIBER_SUSPENDED;
    switch_away(f);
}

void vd_fiber_wake(struct vd_fiber *f)
{
    assert(f->loop == loop_this_thread);
    if (f->state == FIBER_SUSPENDED) {
        f->state = FIBER_WOKEN;
        vd_list_push(&f->loop->fibers.ready, &f->link);
    } else if (f->state != FIBER_WOKEN) {
        f->woken = true; /* a wake on top of a wake says nothing new, this one does */
    }
}
