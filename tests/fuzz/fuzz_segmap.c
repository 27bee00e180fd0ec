/* SPDX-License-Identifier: MIT */
/* Stored maps of segments: refused, or encode to the same bytes again. */
#include "tests/fuzz/fuzz.h"

#define BLOCKS_MOST 8192u

static void map(const uint8_t *data, size_t size, uint32_t seg_blocks)
{
    static uint64_t named[BLOCKS_MOST / 64], fixed[BLOCKS_MOST / 64];
    static uint16_t at[OD_SEGMAP_TELLERS];
    static uint8_t of[BLOCKS_MOST], again[4 * BLOCKS_MOST];
    struct vd_segmap m = {.named = named, .fixed = fixed, .at = at, .of = of};
    int64_t len = segmap_decode(data, size, seg_blocks, &m);
    if (len < 0)
        return;
    fuzz_check((size_t)len <= size);
    segmap_encode(&m, seg_blocks, again);
    fuzz_equal(data, again, (size_t)len);
    m.of = NULL;
    m.at = NULL;
    fuzz_check(segmap_decode(data, size, seg_blocks, &m) == len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vd_segmaps head;
    for (uint32_t blocks = 256; blocks <= BLOCKS_MOST; blocks *= 2)
        map(data, size, blocks);
    if (segmaps_decode(data, size, &head) == 0)
        fuzz_check(head.len <= size);
    return 0;
}
