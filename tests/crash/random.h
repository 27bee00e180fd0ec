/* SPDX-License-Identifier: MIT */
/* Seeded random histories: several fibers, faults, crashes, crashes during recovery. */
#ifndef CRASH_RANDOM_H
#define CRASH_RANDOM_H

#include "tests/crash/exhaust.h"

/* One history; its states are counted in x->report, a failure named "--history SEED". */
void random_history(struct exhaust *x, uint64_t seed);

#endif
