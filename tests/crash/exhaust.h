/* SPDX-License-Identifier: MIT */
/* Runs an operation again and again, each time with the next device operation cut or made to fail.
 */
#ifndef CRASH_EXHAUST_H
#define CRASH_EXHAUST_H

#include "tests/crash/report.h"

struct exhaust {
    uint64_t seed;
    unsigned limit; /* at most about so many points per cell; 0 = all */
    struct report *report;
    /* One case only, as a failure names it: -1 = all. */
    int only_column;
    int64_t only_point, only_kind, only_again;
    /* Told before each state, so that a crash of the process can be traced. */
    void (*at)(void *arg, const char *what);
    void (*failed)(void *arg, const char *what, const char *why);
    void *arg;
};
/* All cut points of scenario `row`. */
void exhaust_cuts(struct exhaust *x, unsigned row);
/* One fault column of it. */
void exhaust_faults(struct exhaust *x, unsigned row, enum column c);

#endif
