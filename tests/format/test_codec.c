/* SPDX-License-Identifier: MIT */
/*
 * The codecs give back what was put in, and refuse every single flipped byte, every shortened entry
 * and every value that the format does not allow, even under a right checksum.
 */
#include "tests/format/samples.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static uint8_t buf[4096], again[4096];

/* Every field of *a must survive; padding inside structs is zero in both, by initialisation. */
#define assert_same(a, b) assert_memory_equal(a, b, sizeof(*(a)))

typedef int decode_fn(const void *buf4k);

static int decode_label(const void *p)
{
    static struct vd_label l;
    return label_decode(p, &l);
}
static int decode_root(const void *p)
{
    static struct vd_root r;
    return root_decode(p, &r);
}
static int decode_record(const void *p)
{
    static struct vd_record r;
    return record_decode(p, &r);
}

static void flip_each_byte(decode_fn *decode)
{
    assert_int_equal(decode(buf), 0);
    for (size_t i = 0; i < sizeof(buf); i++) {
        for (int bit = 0; bit < 8; bit += 7) {
            buf[i] ^= (uint8_t)(1 << bit);
            int r = decode(buf);
            assert_true(r == -EBADMSG || r == -ENODATA);
            buf[i] ^= (uint8_t)(1 << bit);
        }
    }
    assert_int_equal(decode(buf), 0);
}

/* Sets `len` bytes at `off` to `v`, puts the checksum right, and wants -EUCLEAN. */
static void refuse_at(decode_fn *decode, size_t off, size_t len, uint64_t v)
{
    uint8_t keep[8], csum[8];

    memcpy(keep, buf + off, len);
    memcpy(csum, buf + 8, 8);
    le64_t le = vd_le64(v);
    memcpy(buf + off, &le, len);
    le = vd_le64(od_csum(buf, 8));
    memcpy(buf + 8, &le, 8);
    if (decode(buf) != -EUCLEAN)
        fail_msg("%" PRIu64 " at offset %zu was accepted", v, off);
    memcpy(buf + off, keep, len);
    memcpy(buf + 8, csum, 8);
    assert_int_equal(decode(buf), 0);
}
#define refuse(decode, type, member, v) \
    refuse_at(decode, offsetof(struct type, member), sizeof(((struct type *)0)->member), v)

static void test_label_round_trip(void **state)
{
    static struct vd_label in, out;
    for (unsigned cuts = 0; cuts <= OD_LABEL_CUTS; cuts++) {
        sample_label(&in, cuts);
        memset(buf, 0xee, sizeof(buf));
        label_encode(&in, buf);
        assert_int_equal(label_decode(buf, &out), 0);
        label_encode(&out, again);
        assert_memory_equal(buf, again, sizeof(buf));
        assert_int_equal(out.cut_count, cuts);
        assert_int_equal(out.generation, in.generation);
        assert_int_equal(out.chunk_size, in.chunk_size);
        assert_string_equal(out.pool_name, in.pool_name);
        if (cuts > 0)
            assert_int_equal(out.cut[cuts - 1].next.rid, in.cut[cuts - 1].next.rid);
    }
    flip_each_byte(decode_label);
}

static void test_label_refuses(void **state)
{
    static struct vd_label in;
    sample_label(&in, 2);
    label_encode(&in, buf);
    refuse(decode_label, od_label, dev_count, 0);
    refuse(decode_label, od_label, dev_count, 2); /* needs the feature bit */
    refuse(decode_label, od_label, dev_count, 17);
    refuse(decode_label, od_label, dev_index, 1);
    refuse(decode_label, od_label, chunk_size, 0);
    refuse(decode_label, od_label, chunk_size, 3 << 20);
    refuse(decode_label, od_label, chunk_size, 512 << 10);
    refuse(decode_label, od_label, chunk_size, 64 << 20);
    refuse(decode_label, od_label, redundancy_data, 0);
    refuse(decode_label, od_label, redundancy_parity, 1);
    refuse(decode_label, od_label, tier, 1);
    refuse(decode_label, od_label, flags, 2);
    refuse(decode_label, od_label, cut_count, 9);
    refuse(decode_label, od_label, cut_count, 1); /* the second is no longer zero */
    refuse(decode_label, od_label, cut_count, 3);
    refuse(decode_label, od_label, cut_count, UINT32_MAX);
    refuse(decode_label, od_label, cut[0].incarnation, 6); /* as the next one */
    refuse(decode_label, od_label, cut[1].incarnation, 20);
    refuse(decode_label, od_label, cut[1].next.stream, VD_STREAM_CLEAN);
    refuse(decode_label, od_label, cut[1].next.nchunks, 9);
    refuse(decode_label, od_label, cut[1].next.nchunks, 2); /* twice the same device */
    refuse(decode_label, od_label, dev_state[0], 2);
    refuse(decode_label, od_label, dev_state[1], 1);
    refuse(decode_label, od_label, key_slots[511], 1);
    refuse(decode_label, od_label, pool_name[0], '/');
    refuse(decode_label, od_label, pool_name[127], 'x');
    refuse(decode_label, od_label, pad0[3], 1);
    refuse_at(decode_label, sizeof(struct od_label), 1, 1);
    refuse_at(decode_label, 4095, 1, 1);
}

static void test_label_features(void **state)
{
    static struct vd_label in, out;
    char text[64];

    sample_label(&in, 0);
    in.incompat = OD_INCOMPAT_COMPRESSION | OD_INCOMPAT_DEDUP | UINT64_C(1) << 17;
    label_encode(&in, buf);
    assert_int_equal(label_decode(buf, &out), -EPROTONOSUPPORT);
    assert_int_equal(out.incompat, in.incompat);
    assert_string_equal(out.pool_name, in.pool_name);
    assert_string_equal(feature_names(out.incompat, text, sizeof(text)),
                        "compression, dedup, bit 17");
    assert_string_equal(feature_names(out.incompat, text, 10), "compressi");
    assert_string_equal(feature_names(0, text, sizeof(text)), "");
    sample_label(&in, 0);
    in.major = OD_FORMAT_MAJOR + 1;
    label_encode(&in, buf);
    assert_int_equal(label_decode(buf, &out), -EPROTONOSUPPORT);
    /* A later minor version, and bits that may be ignored, open; what they keep in reserved bytes
     * is theirs. */
    sample_label(&in, 0);
    in.minor = OD_FORMAT_MINOR + 1;
    in.compat = UINT64_C(1) << 40;
    in.ro_compat = 1;
    label_encode(&in, buf);
    buf[4000] = 1;
    le64_t csum = vd_le64(od_csum(buf, 8));
    memcpy(buf + 8, &csum, sizeof(csum));
    assert_int_equal(label_decode(buf, &out), 0);
    assert_int_equal(out.ro_compat, 1);
}

static void test_root_round_trip(void **state)
{
    static struct vd_root in, out;
    sample_root(&in);
    memset(buf, 0xee, sizeof(buf));
    root_encode(&in, buf);
    assert_int_equal(root_decode(buf, &out), 0);
    assert_int_equal(out.counter, in.counter);
    assert_int_equal(out.tree[0].nodes, in.tree[0].nodes);
    assert_int_equal(out.tree[1].height, 0);
    assert_int_equal(out.log_seg.rid, in.log_seg.rid);
    root_encode(&out, again);
    assert_memory_equal(buf, again, sizeof(buf));
    flip_each_byte(decode_root);
}

static void test_root_refuses(void **state)
{
    static struct vd_root in;
    sample_root(&in);
    root_encode(&in, buf);
    refuse(decode_root, od_root, log_seg.stream, VD_STREAM_META_A);
    refuse(decode_root, od_root, log_seg.nchunks, 0);
    refuse(decode_root, od_root, log_sector, 801);
    refuse(decode_root, od_root, log_sector, OD_SEG_SECTORS_MAX + 8);
    refuse(decode_root, od_root, table_off[0], (1 << 20) + 512);
    refuse(decode_root, od_root, table_off[0], 4096);
    refuse(decode_root, od_root, table_off[0], (2 << 20) + 4096);
    refuse(decode_root, od_root, table_off[3], INT64_MAX - 4095);
    refuse(decode_root, od_root, table_area, 0);
    refuse(decode_root, od_root, table_area, 4096); /* too small for the table */
    refuse(decode_root, od_root, table_area, UINT64_MAX - 4095);
    refuse(decode_root, od_root, table_entries, 0);
    refuse(decode_root, od_root, table_entries, UINT32_MAX);
    refuse(decode_root, od_root, table_entry_size, 24);
    refuse(decode_root, od_root, table_entry_size, 36);
    refuse(decode_root, od_root, table_entry_size, 96);
    refuse(decode_root, od_root, pad1[31], 1);
    refuse(decode_root, od_root, tree[0].height, 0);
    refuse(decode_root, od_root, tree[0].height, 1);
    refuse(decode_root, od_root, tree[0].height, OD_HEIGHT_MAX + 1);
    refuse(decode_root, od_root, tree[0].leaves, 0);
    refuse(decode_root, od_root, tree[0].leaves, 921);
    refuse(decode_root, od_root, tree[0].entries, 899);
    refuse(decode_root, od_root, tree[0].pad[6], 1);
    refuse(decode_root, od_root, tree[0].ptr.copy[0].sector, 9);
    refuse(decode_root, od_root, tree[0].ptr.copy[1].sector, OD_SEG_SECTORS_MAX);
    refuse(decode_root, od_root, tree[1].entries, 1);
    refuse_at(decode_root, offsetof(struct od_root, tree[3].ptr.copy[1]), 8,
              50 | UINT64_C(16) << 32); /* both copies in one place */
    refuse_at(decode_root, sizeof(struct od_root), 1, 1);
}

static void test_table(void **state)
{
    for (enum vd_seg_state s = VD_SEG_NONE; s <= VD_SEG_FIXED; s++) {
        for (unsigned room = 1; room <= OD_SEG_CHUNKS; room++) {
            struct vd_table_entry in, out;
            size_t size = table_entry_size(room);
            memset(&in, 0, sizeof(in));
            sample_table_entry(&in, s);
            memset(buf, 0xee, size);
            table_entry_encode(&in, buf, size);
            assert_int_equal(table_entry_decode(buf, size, &out), 0);
            assert_int_equal(out.state, in.state);
            assert_int_equal(out.live, in.live);
            assert_int_equal(out.chunk[0].idx, in.chunk[0].idx);
            assert_int_equal(out.warm, in.warm);
            table_entry_encode(&out, again, size);
            assert_memory_equal(buf, again, size);
        }
    }
    assert_int_equal(table_entry_size(1), 32);
    assert_int_equal(table_size(1, 32), 4096);
    assert_int_equal(table_size(126, 32), 4096);
    assert_int_equal(table_size(127, 32), 8192);
    /* More than 4 GiB of entries must not wrap. */
    assert_true(table_size(UINT32_MAX, 88) > UINT32_MAX);
}

static void refuse_entry(unsigned room, size_t off, uint8_t v)
{
    struct vd_table_entry e;
    uint8_t keep = buf[off];
    buf[off] = v;
    if (table_entry_decode(buf, table_entry_size(room), &e) != -EUCLEAN)
        fail_msg("%u at offset %zu was accepted", v, off);
    buf[off] = keep;
    assert_int_equal(table_entry_decode(buf, table_entry_size(room), &e), 0);
}

static void test_table_refuses(void **state)
{
    struct vd_table_entry e;
    sample_table_entry(&e, VD_SEG_CLOSED);
    table_entry_encode(&e, buf, table_entry_size(2));
    refuse_entry(2, 0, 5); /* state */
    refuse_entry(2, 0, 1); /* free with live blocks */
    refuse_entry(2, 0, 4); /* fixed, but not of that stream */
    refuse_entry(2, 1, 0); /* stream */
    refuse_entry(2, 1, 5);
    refuse_entry(2, 1, 6);
    refuse_entry(2, 2, 0); /* chunks */
    refuse_entry(2, 2, 3);
    refuse_entry(2, 3, 2);   /* flags */
    refuse_entry(2, 7, 1);   /* live beyond any segment */
    refuse_entry(2, 24, 16); /* device */
    refuse_entry(2, 26, 1);  /* padding */
    refuse_entry(2, 32, 1);  /* second chunk that is not counted */

    struct vd_uuid a = {"a"}, b = {"b"};
    table_header_encode(buf, &a, 8, 100, 32);
    assert_int_equal(table_header_decode(buf, &a, 8, 100, 32), 0);
    assert_int_equal(table_header_decode(buf, &b, 8, 100, 32), -EUCLEAN);
    assert_int_equal(table_header_decode(buf, &a, 6, 100, 32), -EUCLEAN);
    assert_int_equal(table_header_decode(buf, &a, 8, 101, 32), -EUCLEAN);
    assert_int_equal(table_header_decode(buf, &a, 8, 100, 40), -EUCLEAN);
    buf[63] = 1;
    assert_int_equal(table_header_decode(buf, &a, 8, 100, 32), -EUCLEAN);
    buf[0] ^= 1;
    assert_int_equal(table_header_decode(buf, &a, 8, 100, 32), -ENODATA);
}

static void test_entry_round_trip(void **state)
{
    for (unsigned i = 0; i < SAMPLE_ENTRIES; i++) {
        struct vd_entry in, out;
        sample_entry(&in, i);
        size_t n = entry_size(&in);
        assert_int_equal(n % 8, 0);
        assert_true(n <= OD_RECORD_ENTRIES_MAX);
        memset(buf, 0xee, sizeof(buf));
        assert_int_equal(entry_encode(&in, buf), n);
        assert_int_equal(buf[n], 0xee);
        assert_int_equal(entry_decode(buf, sizeof(buf), &out), (int)n);
        assert_int_equal(entry_decode(buf, n, &out), (int)n);
        if (in.value) {
            assert_ptr_equal(out.value, buf + sizeof(struct od_entry_catalog));
            assert_memory_equal(out.value, in.value, in.value_len);
            out.value = in.value;
        }
        assert_same(&in, &out);
    }
}

/* A heap copy of exactly the bytes that may be read: sanitizers see one byte more. */
static int decode_exact(const uint8_t *p, size_t len)
{
    struct vd_entry e;
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, p, len);
    int r = entry_decode(copy, len, &e);
    free(copy);
    return r;
}

static void test_entry_truncated(void **state)
{
    for (unsigned i = 0; i < SAMPLE_ENTRIES; i++) {
        struct vd_entry in;
        sample_entry(&in, i);
        size_t n = entry_encode(&in, buf);
        for (size_t len = 0; len < n; len++)
            assert_int_equal(decode_exact(buf, len), -EUCLEAN);
        /* A length field that says less, or more than there is. */
        for (unsigned len = 0; len < 2 * n + 64; len++) {
            if (len == n)
                continue;
            le16_t v = vd_le16((uint16_t)len);
            memcpy(buf + 2, &v, sizeof(v));
            assert_int_equal(decode_exact(buf, n), -EUCLEAN);
            assert_int_equal(decode_exact(buf, sizeof(buf)), -EUCLEAN);
        }
        memset(buf, 0, sizeof(buf));
    }
}

static void refuse_in_entry(unsigned i, size_t off, size_t len, uint64_t v)
{
    struct vd_entry in;
    sample_entry(&in, i);
    size_t n = entry_encode(&in, buf);
    le64_t le = vd_le64(v);
    memcpy(buf + off, &le, len);
    if (decode_exact(buf, n) != -EUCLEAN)
        fail_msg("entry %u: %" PRIu64 " at offset %zu was accepted", i, v, off);
}

static void test_entry_refuses(void **state)
{
    for (unsigned i = 0; i < SAMPLE_ENTRIES; i++) {
        refuse_in_entry(i, 0, 1, 0);
        refuse_in_entry(i, 0, 1, 9);
        refuse_in_entry(i, 0, 1, 255);
        refuse_in_entry(i, 1, 1, 2);
    }
    /* write */
    refuse_in_entry(0, offsetof(struct od_entry_write, blocks), 2, 0);
    refuse_in_entry(0, offsetof(struct od_entry_write, blocks), 2, 31);
    refuse_in_entry(0, offsetof(struct od_entry_write, blocks), 2, 33);
    refuse_in_entry(0, offsetof(struct od_entry_write, lba), 8, 33); /* crosses a cell */
    refuse_in_entry(1, offsetof(struct od_entry_write, lba), 8, OD_LBA_MAX);
    refuse_in_entry(1, offsetof(struct od_entry_write, lba), 8, UINT64_MAX);
    refuse_in_entry(1, offsetof(struct od_entry_write, pad), 1, 1);
    refuse_in_entry(1, 1, 1, 1);
    /* zero */
    refuse_in_entry(2, offsetof(struct od_entry_zero, blocks), 8, 0);
    refuse_in_entry(2, offsetof(struct od_entry_zero, blocks), 8, OD_LBA_MAX + 1);
    refuse_in_entry(2, offsetof(struct od_entry_zero, lba), 8, 1);
    /* emptied */
    refuse_in_entry(8, offsetof(struct od_entry_emptied, seg), 4, 0);
    /* relocate */
    refuse_in_entry(3, offsetof(struct od_entry_relocate, blocks), 2, 0);
    refuse_in_entry(3, offsetof(struct od_entry_relocate, blocks), 2, 3);
    refuse_in_entry(3, offsetof(struct od_entry_relocate, count), 4, 0);
    refuse_in_entry(3, offsetof(struct od_entry_relocate, count), 4, 128);
    refuse_in_entry(3, offsetof(struct od_entry_relocate, count), 4, 257);
    refuse_in_entry(3, offsetof(struct od_entry_relocate, pad), 1, 1);
    /* bulk */
    refuse_in_entry(4, offsetof(struct od_entry_bulk, blocks), 2, 4);
    refuse_in_entry(4, offsetof(struct od_entry_bulk, addr.sector), 4, 4);
    refuse_in_entry(4, offsetof(struct od_entry_bulk, addr.sector), 4, OD_SEG_SECTORS_MAX - 32);
    refuse_in_entry(4, offsetof(struct od_entry_bulk, pad), 1, 1);
    /* epoch */
    refuse_in_entry(5, offsetof(struct od_entry_epoch, pad), 1, 1);
    /* catalogue */
    refuse_in_entry(6, offsetof(struct od_entry_catalog, value_len), 2, 48);
    refuse_in_entry(6, offsetof(struct od_entry_catalog, value_len), 2,
                    50); /* padding is not zero */
    refuse_in_entry(6, offsetof(struct od_entry_catalog, value_len), 2, 1025);
    refuse_in_entry(6, offsetof(struct od_entry_catalog, pad), 1, 1);
    refuse_in_entry(6, sizeof(struct od_entry_catalog) + 55, 1, 1);
    refuse_in_entry(6, 1, 1, 1); /* deletes, yet has a value */
    /* segment */
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.stream), 1, 0);
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.stream), 1, 6);
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.nchunks), 1, 0);
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.nchunks), 1, 9);
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.pad), 1, 1);
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.chunk[0].dev), 2, 16);
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.chunk[0].pad), 1, 1);
    refuse_in_entry(9, offsetof(struct od_entry_segment, ref.chunk[1].idx), 4, 1);
    refuse_in_entry(9, offsetof(struct od_entry_segment, pad), 1, 1);
}

static void refuse_in_relocation(size_t off, size_t len, uint64_t v)
{
    const struct vd_relocation in = {
        .branch = 3, .lba = 95, .blocks = 1, .from = {7, 16}, .to = {8, 24}};
    struct vd_relocation out;
    le64_t le = vd_le64(v);
    relocation_encode(&in, buf);
    assert_int_equal(relocation_decode(buf, &out), 0);
    assert_true(out.branch == in.branch && out.lba == in.lba && out.blocks == in.blocks &&
                vd_addr_equal(out.from, in.from) && vd_addr_equal(out.to, in.to));
    memcpy(buf + off, &le, len);
    assert_int_equal(relocation_decode(buf, &out), -EUCLEAN);
}

static void test_relocation_refuses(void **state)
{
    refuse_in_relocation(offsetof(struct od_relocation, blocks), 4, 0);
    refuse_in_relocation(offsetof(struct od_relocation, blocks), 4, 2); /* crosses a cell */
    refuse_in_relocation(offsetof(struct od_relocation, lba), 8, OD_LBA_MAX);
    refuse_in_relocation(offsetof(struct od_relocation, from.sector), 4, 17);
    refuse_in_relocation(offsetof(struct od_relocation, to.sector), 4, OD_SEG_SECTORS_MAX);
}

static void test_empty_catalog_value_is_not_a_delete(void **state)
{
    struct vd_entry in, out;
    sample_entry(&in, 6);
    in.value_len = 0;
    size_t n = entry_encode(&in, buf);
    assert_int_equal(entry_decode(buf, n, &out), (int)n);
    assert_non_null(out.value);
    sample_entry(&in, 7);
    n = entry_encode(&in, buf);
    assert_int_equal(entry_decode(buf, n, &out), (int)n);
    assert_null(out.value);
}

static void test_record_round_trip(void **state)
{
    for (unsigned n = 0; n <= SAMPLE_ENTRIES; n++) {
        struct vd_record in, out;
        memset(&out, 0, sizeof(out));
        sample_record(&in, buf, n);
        assert_int_equal(record_decode(buf, &out), 0);
        assert_int_equal(out.csum, in.csum);
        assert_int_equal(out.entry_count, n);
        assert_int_equal(out.horizon, in.horizon);
        assert_int_equal(out.next[1].rid, in.next[1].rid);
        assert_int_equal(out.at.sector, in.at.sector);
        memcpy(again, buf, sizeof(buf));
        record_seal(&out, again);
        assert_memory_equal(buf, again, sizeof(buf));
        flip_each_byte(decode_record);
    }
    struct vd_record in, out;
    sample_bulk(&in, buf);
    assert_int_equal(record_decode(buf, &out), 0);
    assert_true(out.bulk);
    assert_true(out.payload_blocks > 100); /* a header is to be shared by many blocks */
    flip_each_byte(decode_record);
}

static void test_hint_blocks(void **state)
{
    struct vd_record in, out;
    struct vd_entry e;
    sample_hints(&in, buf);
    assert_int_equal(record_decode(buf, &out), 0);
    assert_true(out.bulk);
    assert_int_equal(out.flags, OD_RECORD_HINTS);
    assert_int_equal(out.entry_count, 97);
    struct entry_walk w = entries_of(&out, buf);
    assert_int_equal(entry_next(&w, &e), 1);
    assert_int_equal(e.type, VD_ENTRY_BULK);
    assert_int_equal(e.hints, 11);
    assert_int_equal(e.lba, 84);
    flip_each_byte(decode_record);
    sample_hints(&in, buf);
    refuse(decode_record, od_record, flags, 0); /* then its entries would be none of its */
    refuse(decode_record, od_record, flags, OD_RECORD_HINTS | OD_RECORD_COMMIT);
    refuse(decode_record, od_record, payload_blocks, 1);
    refuse(decode_record, od_record, at.seg, 41); /* hints are of their own segment */
    refuse(decode_record, od_record, seq, 1);
}

static void test_record_refuses(void **state)
{
    struct vd_record in;
    sample_record(&in, buf, 2);
    refuse(decode_record, od_record, flags, 4);
    refuse(decode_record, od_record, prev_flags, 8);
    refuse(decode_record, od_record, entry_count, 1);
    refuse(decode_record, od_record, entry_count, 3);
    refuse(decode_record, od_record, entry_count, UINT16_MAX);
    refuse(decode_record, od_record, seq, 0);
    refuse(decode_record, od_record, horizon, in.seq);
    refuse(decode_record, od_record, at.sector, 81);
    refuse(decode_record, od_record, at.sector, OD_SEG_SECTORS_MAX - 8);
    refuse(decode_record, od_record, payload_blocks, 32); /* a write reaches beyond */
    refuse(decode_record, od_record, payload_blocks, UINT32_MAX);
    refuse(decode_record, od_record, entries_len, in.entries_len - 8);
    refuse(decode_record, od_record, entries_len, in.entries_len + 8);
    refuse(decode_record, od_record, entries_len, OD_RECORD_ENTRIES_MAX + 8);
    refuse(decode_record, od_record, entries_len, UINT16_MAX);
    refuse(decode_record, od_record, echo_len, in.echo_len - 8);
    refuse(decode_record, od_record, echo_len, in.echo_len + 8);
    refuse(decode_record, od_record, echo_len, UINT16_MAX);
    refuse(decode_record, od_record, echo_count, 0);
    refuse(decode_record, od_record, prev_payload_blocks, UINT32_MAX);
    refuse(decode_record, od_record, next[1].pad[0], 1);
    refuse(decode_record, od_record, pad1[47], 1);
    refuse_at(decode_record, OD_RECORD_ENTRIES + in.entries_len + in.echo_len, 1, 1);
    refuse_at(decode_record, 4095, 1, 1);

    sample_bulk(&in, buf);
    refuse(decode_record, od_record, flags, OD_RECORD_COMMIT);
    refuse(decode_record, od_record, seq, 1);
    refuse(decode_record, od_record, echo_count, 1);
    refuse(decode_record, od_record, echo_len, 8);
    refuse(decode_record, od_record, prev_payload_blocks, 1);
    refuse(decode_record, od_record, payload_blocks, in.payload_blocks - 1);
    refuse_at(decode_record, OD_RECORD_ENTRIES, 1, VD_ENTRY_BULK); /* hints are writes */
}

static void test_nothing_of_ours(void **state)
{
    memset(buf, 0, sizeof(buf));
    assert_int_equal(decode_label(buf), -ENODATA);
    assert_int_equal(decode_root(buf), -ENODATA);
    assert_int_equal(decode_record(buf), -ENODATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_label_round_trip),
        cmocka_unit_test(test_label_refuses),
        cmocka_unit_test(test_label_features),
        cmocka_unit_test(test_root_round_trip),
        cmocka_unit_test(test_root_refuses),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_table_refuses),
        cmocka_unit_test(test_entry_round_trip),
        cmocka_unit_test(test_entry_truncated),
        cmocka_unit_test(test_entry_refuses),
        cmocka_unit_test(test_relocation_refuses),
        cmocka_unit_test(test_empty_catalog_value_is_not_a_delete),
        cmocka_unit_test(test_record_round_trip),
        cmocka_unit_test(test_hint_blocks),
        cmocka_unit_test(test_record_refuses),
        cmocka_unit_test(test_nothing_of_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
