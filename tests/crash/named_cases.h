/* SPDX-License-Identifier: MIT */
/* What the files of the named cases share; test_named.c has it, and lists the cases. */
#ifndef CRASH_NAMED_CASES_H
#define CRASH_NAMED_CASES_H

#include "tests/crash/named.h"

#define BLOCKS(n) ((uint64_t)(n)*8) /* in sectors */
#define MIB(n) ((uint64_t)(n)*2048)
#define OPT_96                                                    \
    {                                                             \
        .disk_max = VD_MIB(96), .chunk_size = (uint32_t)VD_MIB(1) \
    }

void write_blocks(struct world *w, const char *volume, uint64_t block, uint64_t blocks);
/* Volumes a, b, big, and snapshots a@s1 b@s1. */
void three_volumes(struct world *w);
/* The same, and segments that the cleaner likes, in a root. */
void half_garbage(struct world *w);
void clean_only(struct world *w);
/* Goes on after a recovery: space is used again, and what is there stays. */
void life(struct world *w);

/* named_log.c */
void log_write_fails(void **state);
void failed_flush(void **state);
void rot_in_log(void **state);
void large_delete(void **state);
void large_write(void **state);
void large_relocation(void **state);

#endif
