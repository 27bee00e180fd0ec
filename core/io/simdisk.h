/* SPDX-License-Identifier: MIT */
/*
 * Inside core/io: the medium of the simulated device. simdisk.c keeps bytes and what a crash makes
 * of them; simdev.c is the device, its timing and its faults.
 */
#ifndef VD_IO_SIMDISK_H
#define VD_IO_SIMDISK_H

#include "core/base/list.h"
#include "core/base/rng.h"
#include "core/io/simdev.h"

/* A change that is in flight, or has completed and is not yet durable. */
enum sim_kind { SIM_WRITE, SIM_PUNCH, SIM_GROW, SIM_TRUNCATE };

struct sim_record {
    struct vd_list link;
    enum sim_kind kind;
    uint64_t seq;      /* order of completion, 0 while in flight */
    uint64_t off, len; /* SIM_GROW, SIM_TRUNCATE: `off` is the new size */
    bool handed_over;  /* in flight: the death of the process does not stop it */
    int punch_leaves;  /* what punched blocks read as: see PUNCH_* */
    uint8_t *data;     /* SIM_WRITE: a copy, `len` bytes */
};
enum { PUNCH_ZERO, PUNCH_OLD, PUNCH_GARBAGE };

struct sim_fault {
    bool armed, forever, hit;
    uint64_t countdown; /* 1: the next one */
};

struct sim_chunk;

struct vd_simdisk {
    uint64_t size, durable_size, size_max;
    uint64_t durable_size_seq;
    uint64_t seq; /* of the newest completed change */
    uint64_t allocated_blocks;
    uint64_t id;
    struct sim_chunk **buckets;
    size_t nbuckets, nchunks;
    struct vd_list in_flight; /* submitted, their fate open */
    struct vd_list unflushed; /* completed, by seq */
    struct vd_rng rng;
    struct sim_fault faults[VD_FAULT_COUNT];
    bool faults_cleared;
    uint64_t ops, writes_failed, handed_failed;
    int64_t cut_in; /* operations until the cut, -1: none */
    bool cut;
    unsigned open_shared, open_exclusive;
    uint8_t scratch[VD_BLOCK];
};

struct sim_record *simdisk_record_new(enum sim_kind kind, uint64_t off, uint64_t len);
void simdisk_record_free(struct sim_record *rec);
/* A change completes: it is visible from now on, and joins the unflushed. */
void simdisk_apply(struct vd_simdisk *disk, struct sim_record *rec);
/* Like it, and durable at once. Frees the record. */
void simdisk_apply_durable(struct vd_simdisk *disk, struct sim_record *rec);
/* Replaces the sectors of a write that did not arrive by what was visible before. */
void simdisk_tear(struct vd_simdisk *disk, struct sim_record *rec);
/* Makes everything up to `seq` durable; or, if `lose`, forgets that it was not. */
void simdisk_flush(struct vd_simdisk *disk, uint64_t seq, bool lose);
void simdisk_read(const struct vd_simdisk *disk, uint64_t off, void *buf, size_t len);
void simdisk_allocate(struct vd_simdisk *disk, uint64_t off, uint64_t len);
/* True if all of it has space already. */
bool simdisk_has(const struct vd_simdisk *disk, uint64_t off, uint64_t len);
/* Out of memory in the simulation, or a bug in its user: says so and aborts. */
void simdisk_die(const char *fmt, ...) VD_PRINTF(1, 2) __attribute__((noreturn));

#endif
