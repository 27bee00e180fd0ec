/* SPDX-License-Identifier: MIT */
/*
 * Model test: random histories of volumes, snapshots, clones, roll backs and deletions over the
 * pool in memory, compared byte for byte with arrays, and counted again from the trees.
 *
 *     test_model [FIRST_SEED [SEEDS [STEPS]]]
 *
 * A failure prints the seed; VD_TRACE=1 prints the operations.
 */
#include "tests/snapshot/drive.h"

#include "core/base/log.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t seed, steps;
static bool complained;

/* Whatever the code under test finds wrong with its own accounts fails the run. */
static void sink(void *arg, enum vd_log_level level, const char *message)
{
    fprintf(stderr, "log: %s\n", message);
    complained = complained || level == VD_LOG_ERROR;
}

static int run(void *arg)
{
    struct drive d;
    int r = drive_open(&d, seed);
    for (uint64_t i = 0; r == 0 && !complained && i < steps; i++)
        r = drive_step(&d);
    if (r == 0 && !complained)
        r = drive_end(&d);
    if (r < 0 || complained)
        fprintf(stderr, "seed %" PRIu64 ", step %u: %s\n", seed, d.step, d.why);
    drive_close(&d);
    return complained ? -EUCLEAN : r;
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 0) : 60;
    steps = argc > 3 ? strtoull(argv[3], NULL, 0) : 400;
    vd_log_set_sink(sink, NULL, VD_LOG_WARNING);
    for (seed = first; seed < first + seeds; seed++) {
        int r = vd_fiber_main(VD_LOOP_SIM, seed, run, NULL);
        if (r < 0) {
            printf("not ok - seed %" PRIu64 ": %s\n", seed, strerror(-r));
            return 1;
        }
    }
    printf("ok - %" PRIu64 " histories of %" PRIu64 " steps\n", seeds, steps);
    return 0;
}
