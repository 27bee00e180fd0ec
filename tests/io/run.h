/* SPDX-License-Identifier: MIT */
/* For tests whose bodies run on fibers, where cmocka's jump out of an assertion must not be used:
 * CHECK says what failed and ends the program. */
#ifndef VD_TESTS_IO_RUN_H
#define VD_TESTS_IO_RUN_H

#include "core/io/fiber.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, \
                    #condition);                                                       \
            abort();                                                                   \
        }                                                                              \
    } while (0)
/* For results: shows the value. */
#define CHECK_IS(expression, wanted)                                                               \
    do {                                                                                           \
        int64_t is_ = (int64_t)(expression), wanted_ = (int64_t)(wanted);                          \
        if (is_ != wanted_) {                                                                      \
            fprintf(stderr, "%s:%d: %s: %s is %" PRId64 ", not %" PRId64 "\n", __FILE__, __LINE__, \
                    __func__, #expression, is_, wanted_);                                          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static enum vd_loop_backend run_backend = VD_LOOP_SIM;

/* Takes the back end from the command line, or a pattern of tests to be run on the simulated one;
 * leaves with meson's "skipped" if the back end is not to be had. */
static inline void run_args(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "sim";
    run_backend = strcmp(name, "uring") == 0   ? VD_LOOP_URING
                  : strcmp(name, "epoll") == 0 ? VD_LOOP_EPOLL
                                               : VD_LOOP_SIM;
    if (run_backend == VD_LOOP_SIM && strcmp(name, "sim") != 0)
        cmocka_set_test_filter(name);
    struct vd_loop *loop;
    if (vd_loop_new(run_backend, 1, &loop) < 0)
        exit(77);
    vd_loop_free(loop);
}

static inline void run(int (*fn)(void *arg))
{
    CHECK_IS(vd_fiber_main(run_backend, 1, fn, NULL), 0);
}

static inline void spawn(void (*fn)(void *arg), void *arg)
{
    CHECK_IS(vd_fiber_spawn(vd_loop_current(), "test", fn, arg), 0);
}

#endif
