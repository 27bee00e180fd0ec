/* SPDX-License-Identifier: MIT */
/* The operations whose every device operation is a cut point. */
#ifndef CRASH_SCENARIO_H
#define CRASH_SCENARIO_H

#include "tests/crash/world.h"

enum {
    SCENARIO_OPENS = 1, /* `act` attaches; `prepare` leaves the world closed */
    SCENARIO_TIGHT = 2, /* the pool is small: it cannot grow */
};
struct scenario {
    const char *name;
    unsigned flags;
    void (*prepare)(struct world *w); /* NULL = nothing; attached unless OPENS */
    void (*act)(struct world *w);
};
extern const struct scenario scenarios[];
extern const unsigned scenario_count;

/* What scenario `s` starts from, closed: volumes a, b, c (a clone of a@s1), big (sparse),
 * snapshots.
 */
void scenario_base(const struct scenario *s, struct world *w, uint64_t seed);

#endif
