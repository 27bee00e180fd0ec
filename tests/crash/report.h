/* SPDX-License-Identifier: MIT */
/* The table operation x fault x outcome. A state is one crash or fault that was reopened and
 * judged. */
#ifndef CRASH_REPORT_H
#define CRASH_REPORT_H

#include "core/base/base.h"

enum column {
    COL_PROCESS, /* kill -9 at the n-th device operation */
    COL_POWER,   /* loss of power there: each unflushed write kept, dropped or torn */
    COL_POWER_DROP,
    COL_POWER_KEEP,
    COL_AGAIN, /* and a second crash during recovery */
    COL_READ_EIO,
    COL_WRITE_EIO,  /* once */
    COL_WRITE_DEAD, /* from then on */
    COL_FLUSH_EIO,
    COL_ENOSPC,
    COL_FULL, /* no more space from then on */
    COL_LOST,
    COL_MISDIRECTED,
    COL_FLIP,
    COL_ROT,
    COL_SLOW,
    COL_NO_MEMORY, /* one allocation fails */
    COL_STARVED,   /* and all after it */
    COL_COUNT
};
enum outcome {
    OUT_WHOLE,      /* everything asked for is there */
    OUT_WITHOUT,    /* what was under way did not happen */
    OUT_PREFIX,     /* nor some of what was acknowledged, but not flushed */
    OUT_ERROR,      /* the operation returned an error, and the state is right */
    OUT_READ_ONLY,  /* the pool went read-only and said so, and the state is right */
    OUT_UNREADABLE, /* some blocks are errors, the rest is right */
    OUT_REFUSED,    /* opening is refused by name */
    OUT_COUNT
};
#define REPORT_ROWS 48
struct report {
    uint64_t cell[REPORT_ROWS][COL_COUNT][OUT_COUNT];
    uint64_t states, histories, failures;
};
extern const char *const column_name[COL_COUNT];
extern const char *const outcome_name[OUT_COUNT];

void report_count(struct report *r, unsigned row, enum column c, enum outcome o);
void report_add(struct report *to, const struct report *from);
/* Prints it; returns the number of cells without a state. `rows` names. */
unsigned report_print(const struct report *r, const char *const *rows, unsigned nrows,
                      bool details);

#endif
