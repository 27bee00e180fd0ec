/* SPDX-License-Identifier: MIT */
/* What the fuzz targets share. Built as libFuzzer targets with -Dfuzz=true (clang), and in every
 * build with replay.c, which runs them over their seeds and the kept corpus. */
#ifndef VD_TESTS_FUZZ_FUZZ_H
#define VD_TESTS_FUZZ_FUZZ_H

#include "format/format.h"

#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not assert(): must hold in any build. */
#define fuzz_check(cond) ((cond) ? (void)0 : abort())

static inline void fuzz_equal(const void *a, const void *b, size_t len)
{
    fuzz_check(memcmp(a, b, len) == 0);
}

/* Where to put what a target has to read from a file. */
static inline const char *fuzz_tmp(void)
{
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

/* The input as one 4096-byte structure, zero-padded. */
static inline void fuzz_block(uint8_t *buf4k, const uint8_t *data, size_t size)
{
    size_t n = VD_MIN(size, (size_t)4096);
    memcpy(buf4k, data, n);
    memset(buf4k + n, 0, 4096 - n);
}

/* Puts magic and checksum (at byte 8) right, so that what is behind them is reached. */
static inline void fuzz_seal(uint8_t *buf4k, size_t magic_off, uint64_t magic, size_t magic_len)
{
    le64_t v = vd_le64(magic);
    memcpy(buf4k + magic_off, &v, magic_len);
    v = vd_le64(od_csum(buf4k, 8));
    memcpy(buf4k + 8, &v, sizeof(v));
}

#endif
