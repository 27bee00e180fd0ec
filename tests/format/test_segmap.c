/* SPDX-License-Identifier: MIT */
/*
 * Stored maps of segments come back as they were, and whatever is damaged or makes no sense is
 * refused: who believes such a map writes over data.
 */
#include "core/base/rng.h"
#include "tests/format/samples.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define SEG_BLOCKS 1024u

static uint8_t buf[8192], again[8192];

/* Memory for one map. */
struct parts {
    uint64_t named[SEG_BLOCKS / 64], fixed[SEG_BLOCKS / 64];
    uint16_t at[OD_SEGMAP_TELLERS];
    uint8_t of[SEG_BLOCKS];
};

static struct vd_segmap in_parts(struct parts *p)
{
    memset(p, 0xee, sizeof(*p));
    return (struct vd_segmap){.named = p->named, .fixed = p->fixed, .at = p->at, .of = p->of};
}

static int64_t decode(size_t len)
{
    static struct parts p;
    struct vd_segmap m = in_parts(&p);
    return segmap_decode(buf, len, SEG_BLOCKS, &m);
}

static void test_round_trip(void **state)
{
    static struct parts from, to;
    struct vd_rng rng;
    vd_rng_seed(&rng, 5);
    for (unsigned n = 0; n < 200; n++) {
        struct vd_segmap in = in_parts(&from), out = in_parts(&to);
        sample_segmap(&in, SEG_BLOCKS, n % OD_SEGMAP_TELLERS);
        size_t size = segmap_size(&in, SEG_BLOCKS);
        assert_true(size % 8 == 0 && size <= sizeof(buf));
        memset(buf, 0xee, sizeof(buf));
        segmap_encode(&in, SEG_BLOCKS, buf);
        assert_int_equal(buf[size], 0xee);
        assert_int_equal(segmap_decode(buf, sizeof(buf), SEG_BLOCKS, &out), size);
        assert_int_equal(out.seg, in.seg);
        assert_int_equal(out.hints, in.hints);
        assert_int_equal(out.tellers, in.tellers);
        assert_memory_equal(out.named, in.named, sizeof(from.named));
        assert_memory_equal(out.fixed, in.fixed, sizeof(from.fixed));
        for (unsigned i = 1; i <= in.tellers; i++)
            assert_int_equal(out.at[i], in.at[i]);
        for (unsigned b = 0; b < SEG_BLOCKS; b++)
            assert_int_equal(out.of[b], in.tellers && vd_bit_get(in.named, b) ? in.of[b] : 0);
        segmap_encode(&out, SEG_BLOCKS, again);
        assert_memory_equal(buf, again, size);
        for (unsigned i = 0; i < 50; i++)
            assert_int_equal(decode((size_t)vd_rng_below(&rng, size)), -EUCLEAN);
    }
}

/* Who has no memory for the tellers gets the rest. */
static void test_without_tellers(void **state)
{
    static struct parts from, to;
    struct vd_segmap in = in_parts(&from), out = in_parts(&to);
    sample_segmap(&in, SEG_BLOCKS, 40);
    segmap_encode(&in, SEG_BLOCKS, buf);
    out.at = NULL;
    out.of = NULL;
    assert_int_equal(segmap_decode(buf, sizeof(buf), SEG_BLOCKS, &out),
                     segmap_size(&in, SEG_BLOCKS));
    assert_memory_equal(out.named, in.named, sizeof(from.named));
    /* A number above the highest that is stored is stored as none. */
    in.tellers = 10;
    segmap_encode(&in, SEG_BLOCKS, buf);
    out = in_parts(&to);
    assert_int_equal(segmap_decode(buf, sizeof(buf), SEG_BLOCKS, &out),
                     segmap_size(&in, SEG_BLOCKS));
    for (unsigned b = 0; b < SEG_BLOCKS; b++)
        assert_true(out.of[b] <= 10);
}

static void refuse(size_t off, size_t len, uint64_t v)
{
    uint8_t keep[8];
    memcpy(keep, buf + off, len);
    le64_t le = vd_le64(v);
    memcpy(buf + off, &le, len);
    if (decode(sizeof(buf)) != -EUCLEAN)
        fail_msg("%" PRIu64 " at offset %zu was accepted", v, off);
    memcpy(buf + off, keep, len);
    assert_true(decode(sizeof(buf)) > 0);
}

static void test_refuses(void **state)
{
    static struct parts from;
    struct vd_segmap in = in_parts(&from);
    size_t at = sizeof(struct od_segmap) + 2 * SEG_BLOCKS / 8;
    uint32_t free_block = 1;
    sample_segmap(&in, SEG_BLOCKS, 7);
    memset(buf, 0xee, sizeof(buf));
    segmap_encode(&in, SEG_BLOCKS, buf);
    while (vd_bit_get(in.fixed, free_block))
        free_block++;
    refuse(offsetof(struct od_segmap, hints), 2, SEG_BLOCKS + 1);
    refuse(offsetof(struct od_segmap, tellers), 2, OD_SEGMAP_TELLERS);
    refuse(at, 2, SEG_BLOCKS);
    refuse(at, 2, free_block); /* neither a header nor a hint block */
    refuse(at, 2, in.at[2]);   /* two numbers for one */
    refuse(at + 2 * 7, 1, 8);  /* a number that there is not */
    size_t end = segmap_size(&in, SEG_BLOCKS), used = at + 2 * 7;
    for (uint32_t b = 0; b < SEG_BLOCKS; b++)
        used += vd_bit_get(in.named, b);
    assert_true(used < end); /* so there is padding */
    refuse(end - 1, 1, 1);
    refuse(used, 1, 1);
}

static void area_make(struct vd_segmaps *in)
{
    *in = (struct vd_segmaps){.pool_uuid = {"pool uuid here!"},
                              .incarnation = 20,
                              .root_counter = 31,
                              .len = 5000,
                              .count = 3};
    memset(buf, 0x5a, sizeof(buf));
    segmaps_seal(in, buf);
}

static void test_areas(void **state)
{
    static struct vd_segmaps in, out;
    area_make(&in);
    assert_int_equal(segmaps_decode(buf, sizeof(buf), &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    assert_int_equal(segmaps_decode(buf, 5000, &out), 0);
    for (size_t i = 0; i < in.len; i++) {
        buf[i] ^= 0x10;
        int r = segmaps_decode(buf, 5000, &out);
        assert_true(r == -EBADMSG || r == -ENODATA || r == -EUCLEAN || r == -ENOBUFS);
        buf[i] ^= 0x10;
    }
    buf[in.len] ^= 1; /* is not part of it */
    assert_int_equal(segmaps_decode(buf, sizeof(buf), &out), 0);
    /* With the header alone it is known how much to read. */
    assert_int_equal(segmaps_decode(buf, 4096, &out), -ENOBUFS);
    assert_int_equal(out.len, 5000);
    assert_int_equal(segmaps_decode(buf, sizeof(struct od_segmaps) - 1, &out), -ENODATA);
    memset(buf, 0, sizeof(buf));
    assert_int_equal(segmaps_decode(buf, sizeof(buf), &out), -ENODATA);
}

static void test_areas_refused(void **state)
{
    struct vd_segmaps in, out;
    struct od_segmaps *d = (struct od_segmaps *)buf;
    area_make(&in);
    d->pad[7] = 1;
    assert_int_equal(segmaps_decode(buf, sizeof(buf), &out), -EUCLEAN);
    area_make(&in);
    d->len = vd_le32(sizeof(*d) - 1);
    assert_int_equal(segmaps_decode(buf, sizeof(buf), &out), -EUCLEAN);
    d->len = vd_le32(UINT32_MAX);
    assert_int_equal(segmaps_decode(buf, sizeof(buf), &out), -ENOBUFS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_without_tellers),
        cmocka_unit_test(test_refuses),       cmocka_unit_test(test_areas),
        cmocka_unit_test(test_areas_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
