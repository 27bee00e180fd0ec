/* SPDX-License-Identifier: MIT */
/* Well-formed examples of every structure, for the codecs' tests and the fuzzers' seeds. */
#ifndef VD_TESTS_FORMAT_SAMPLES_H
#define VD_TESTS_FORMAT_SAMPLES_H

#include "format/format.h"

struct vd_segref sample_segref(enum vd_stream_kind stream, uint32_t seg);
void sample_label(struct vd_label *ret, unsigned cuts);
void sample_root(struct vd_root *ret);
void sample_table_entry(struct vd_table_entry *ret, enum vd_seg_state state);
/* One of each type for 0 <= i < SAMPLE_ENTRIES, some at their largest. */
#define SAMPLE_ENTRIES 10
void sample_entry(struct vd_entry *ret, unsigned i);
/* A record with entries 0..n-1 and an echo of entry 4; seals it into buf4k. */
void sample_record(struct vd_record *ret, void *buf4k, unsigned n);
/* A bulk header with as many one-block hints as fit. */
void sample_bulk(struct vd_record *ret, void *buf4k);
void sample_hints(struct vd_record *ret, void *buf4k); /* a hint block, full */
/* Into the memory that its pointers say: every third block in use, and as many tellers as that. */
void sample_segmap(struct vd_segmap *ret, uint32_t seg_blocks, unsigned tellers);

#endif
