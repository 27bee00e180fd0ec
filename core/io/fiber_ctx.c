/* SPDX-License-Identifier: MIT */
/*
 * Switching stacks: a few instructions on x86-64 and aarch64, ucontext elsewhere (or with
 * -DVD_FIBER_UCONTEXT), and the hooks by which sanitizers and valgrind keep track.
 *
 * Saved are the registers that a function must preserve; the floating-point control words are not,
 * nobody here changes them. Called by fiber.c only. The assembly stands in this file rather than
 * one of its own so that the compiler adds the section notes it wants.
 */
#include "core/io/loop_priv.h"

#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FIBER_TSAN 1
#endif
#endif

#ifdef FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#define FIBER_VALGRIND 1
#endif
#endif

size_t fiber_stack_len(void)
{
#if defined(FIBER_ASAN) || defined(FIBER_TSAN)
    return VD_FIBER_STACK * 8; /* red zones make frames several times larger */
#else
    return VD_FIBER_STACK;
#endif
}

#if defined(__x86_64__) && !defined(VD_FIBER_UCONTEXT)

void fiber_swap(void **save_sp, void *sp);
void fiber_thunk(void);

__asm__(".text\n"
        ".p2align 4\n"
        ".globl fiber_swap\n"
        ".hidden fiber_swap\n"
        ".type fiber_swap, @function\n"
        "fiber_swap:\n"
        "    .cfi_startproc\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size fiber_swap, .-fiber_swap\n"
        ".p2align 4\n"
        ".globl fiber_thunk\n"
        ".hidden fiber_thunk\n"
        ".type fiber_thunk, @function\n"
        "fiber_thunk:\n"
        "    .cfi_startproc\n"
        "    .cfi_undefined rip\n" /* a backtrace ends here */
        "    call fiber_entry\n"
        "    ud2\n"
        "    .cfi_endproc\n"
        ".size fiber_thunk, .-fiber_thunk\n");

static void *stack_prepare(char *top)
{
    /* What fiber_swap pops: six registers, then the address it returns to. The stack pointer is a
     * multiple of 16 when the thunk calls on. */
    uintptr_t aligned = (uintptr_t)top & ~(uintptr_t)15;
    void **sp = (void **)aligned - 7;
    memset(sp, 0, 7 * sizeof(*sp));
    sp[6] = (void *)fiber_thunk;
    return sp;
}

#elif defined(__aarch64__) && !defined(VD_FIBER_UCONTEXT)

void fiber_swap(void **save_sp, void *sp);
void fiber_thunk(void);

__asm__(".text\n"
        ".p2align 4\n"
        ".globl fiber_swap\n"
        ".hidden fiber_swap\n"
        ".type fiber_swap, %function\n"
        "fiber_swap:\n"
        "    .cfi_startproc\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp, #0]\n"
        "    stp x21, x22, [sp, #16]\n"
        "    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n"
        "    stp x27, x28, [sp, #64]\n"
        "    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x9, sp\n"
        "    str x9, [x0]\n"
        "    mov sp, x1\n"
        "    ldp x19, x20, [sp, #0]\n"
        "    ldp x21, x22, [sp, #16]\n"
        "    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n"
        "    ldp x27, x28, [sp, #64]\n"
        "    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size fiber_swap, .-fiber_swap\n"
        ".p2align 4\n"
        ".globl fiber_thunk\n"
        ".hidden fiber_thunk\n"
        ".type fiber_thunk, %function\n"
        "fiber_thunk:\n"
        "    .cfi_startproc\n"
        "    .cfi_undefined x30\n" /* a backtrace ends here */
        "    bl fiber_entry\n"
        "    brk #0\n"
        "    .cfi_endproc\n"
        ".size fiber_thunk, .-fiber_thunk\n");

static void *stack_prepare(char *top)
{
    uintptr_t aligned = (uintptr_t)top & ~(uintptr_t)15;
    void **sp = (void **)(aligned - 160);
    memset(sp, 0, 160);
    sp[11] = (void *)fiber_thunk; /* x30 */
    return sp;
}

#else

#include <ucontext.h>

/* The ucontext_t lies at `sp`; the scheduler's is static per thread. */
static void fiber_swap(void **save_sp, void *sp)
{
    (void)swapcontext(*save_sp, sp);
}

static void ucontext_main(void)
{
    fiber_entry();
}

static __thread ucontext_t scheduler_context;

static void *stack_prepare(char *top)
{
    uintptr_t at = ((uintptr_t)top - sizeof(ucontext_t)) & ~(uintptr_t)63;
    return (void *)at;
}
#define FIBER_UCONTEXT 1

#endif

void fiber_ctx_make(struct fiber_ctx *ctx, char *stack, size_t len, char *top)
{
#ifdef FIBER_ASAN
    /* The one before may have left the stack's shadow poisoned. */
    __asan_unpoison_memory_region(stack, len);
#endif
    ctx->sp = stack_prepare(top);
    ctx->stack_bottom = stack;
    ctx->stack_len = len;
#ifdef FIBER_UCONTEXT
    ucontext_t *u = ctx->sp;
    if (getcontext(u))
        abort();
    u->uc_stack.ss_sp = stack;
    u->uc_stack.ss_size = (size_t)((char *)u - stack);
    u->uc_link = NULL;
    makecontext(u, ucontext_main, 0);
#endif
#ifdef FIBER_TSAN
    ctx->sanitizer = __tsan_create_fiber(0);
#else
    ctx->sanitizer = NULL;
#endif
}

void fiber_ctx_drop(struct fiber_ctx *ctx)
{
#ifdef FIBER_TSAN
    __tsan_destroy_fiber(ctx->sanitizer);
#endif
    ctx->sanitizer = NULL;
}

void fiber_ctx_adopt_thread(struct fiber_ctx *ctx)
{
#ifdef FIBER_UCONTEXT
    ctx->sp = &scheduler_context;
#endif
#ifdef FIBER_TSAN
    ctx->sanitizer = __tsan_get_current_fiber();
#endif
}

void fiber_ctx_arrived(struct fiber_ctx *ctx, struct fiber_ctx *came_from)
{
#ifdef FIBER_ASAN
    const void **bottom = came_from ? &came_from->stack_bottom : NULL;
    size_t *len = came_from ? &came_from->stack_len : NULL;
    __sanitizer_finish_switch_fiber(ctx->sanitizer, bottom, len);
#endif
}

void fiber_ctx_switch(struct fiber_ctx *from, struct fiber_ctx *to, bool dying)
{
#ifdef FIBER_ASAN
    __sanitizer_start_switch_fiber(dying ? NULL : &from->sanitizer, to->stack_bottom,
                                   to->stack_len);
#endif
#ifdef FIBER_TSAN
    __tsan_switch_to_fiber(to->sanitizer, 0);
#endif
    fiber_swap(&from->sp, to->sp);
}
