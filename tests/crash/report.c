/* SPDX-License-Identifier: MIT */
/* The table of what was tried and what came of it: see report.h. */
#include "tests/crash/report.h"

#include <stdio.h>

const char *const column_name[COL_COUNT] = {
    "process",     "power",      "drop",      "keep",   "again",     "read-eio",
    "write-eio",   "write-dead", "flush-eio", "enospc", "full",      "lost",
    "misdirected", "flip",       "rot",       "slow",   "no-memory", "starved",
};
const char *const outcome_name[OUT_COUNT] = {
    "whole", "without", "prefix", "error", "read-only", "unreadable", "refused",
};

void report_count(struct report *r, unsigned row, enum column c, enum outcome o)
{
    r->states++;
    if (row < REPORT_ROWS)
        r->cell[row][c][o]++;
}

void report_add(struct report *to, const struct report *from)
{
    for (unsigned i = 0; i < REPORT_ROWS; i++)
        for (unsigned c = 0; c < COL_COUNT; c++)
            for (unsigned o = 0; o < OUT_COUNT; o++)
                to->cell[i][c][o] += from->cell[i][c][o];
    to->states += from->states;
    to->histories += from->histories;
    to->failures += from->failures;
}

static uint64_t cell_sum(const struct report *r, unsigned row, unsigned c)
{
    uint64_t n = 0;
    for (unsigned o = 0; o < OUT_COUNT; o++)
        n += r->cell[row][c][o];
    return n;
}

static void print_details(const struct report *r, const char *const *rows, unsigned nrows)
{
    for (unsigned i = 0; i < nrows; i++)
        for (unsigned c = 0; c < COL_COUNT; c++) {
            printf("%-22s %-12s", rows[i], column_name[c]);
            for (unsigned o = 0; o < OUT_COUNT; o++)
                if (r->cell[i][c][o])
                    printf(" %s %" PRIu64, outcome_name[o], r->cell[i][c][o]);
            printf("\n");
        }
}

unsigned report_print(const struct report *r, const char *const *rows, unsigned nrows, bool details)
{
    unsigned empty = 0;
    if (details)
        print_details(r, rows, nrows);
    printf("\nstates by operation and fault\n%-22s", "");
    for (unsigned c = 0; c < COL_COUNT; c++)
        printf(" %5.5s", column_name[c]);
    for (unsigned i = 0; i < nrows; i++) {
        printf("\n%-22s", rows[i]);
        for (unsigned c = 0; c < COL_COUNT; c++) {
            uint64_t n = cell_sum(r, i, c);
            empty += n == 0;
            if (n)
                printf(" %5" PRIu64, n);
            else
                printf(" EMPTY");
        }
    }
    printf("\n\noutcomes by fault\n%-12s", "");
    for (unsigned o = 0; o < OUT_COUNT; o++)
        printf(" %10s", outcome_name[o]);
    for (unsigned c = 0; c < COL_COUNT; c++) {
        printf("\n%-12s", column_name[c]);
        for (unsigned o = 0; o < OUT_COUNT; o++) {
            uint64_t n = 0;
            for (unsigned i = 0; i < REPORT_ROWS; i++)
                n += r->cell[i][c][o];
            printf(" %10" PRIu64, n);
        }
    }
    printf("\n\n%" PRIu64 " states, %" PRIu64 " random histories, %" PRIu64
           " failures, %u empty cells\n",
           r->states, r->histories, r->failures, empty);
    return empty;
}
