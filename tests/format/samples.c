/* SPDX-License-Identifier: MIT */
/* See samples.h. Values are chosen so that no two fields of a structure are equal. */
#include "tests/format/samples.h"

struct vd_segref sample_segref(enum vd_stream_kind stream, uint32_t seg)
{
    return (struct vd_segref){.seg = seg,
                              .stream = stream,
                              .nchunks = 1,
                              .rid = UINT64_C(0x1122334455667788) + seg,
                              .chunk = {{.dev = 0, .idx = seg}}};
}

void sample_label(struct vd_label *ret, unsigned cuts)
{
    *ret = (struct vd_label){
        .major = OD_FORMAT_MAJOR,
        .minor = OD_FORMAT_MINOR,
        .pool_uuid = {"pool uuid here!"},
        .dev_uuid = {"device uuid too"},
        .dev_index = 0,
        .dev_count = 1,
        .chunk_size = 4 << 20,
        .generation = 77,
        .incarnation = 20,
        .created_s = 1700000000,
        .capacity = UINT64_C(5) << 30,
        .root_counter = 31,
        .redundancy_data = 1,
        .flags = cuts ? 0 : OD_LABEL_CLEAN,
        .pool_name = "tank-1.backup",
        .cut_count = cuts,
    };
    for (unsigned i = 0; i < cuts; i++)
        ret->cut[i] = (struct vd_cut){.incarnation = 5 + i,
                                      .last_seq = 1000 * (i + 1),
                                      .last_csum = UINT64_C(0xfeedface00000000) + i,
                                      .next = sample_segref(VD_STREAM_LOG, 9 + i)};
}

void sample_root(struct vd_root *ret)
{
    *ret = (struct vd_root){
        .pool_uuid = {"pool uuid here!"},
        .incarnation = 20,
        .counter = 31,
        .seq = 123456,
        .epoch = 17,
        .log_seg = sample_segref(VD_STREAM_LOG, 40),
        .log_sector = 800,
        .log_next = {{43, UINT64_C(0x9999888877776666)}, {44, 7}},
        .log_csum = UINT64_C(0x0123456789abcdef),
        .table_off = {1 << 20, 2 << 20, 3 << 20, 4 << 20},
        .table_area = 65536,
        .table_csum = 0xabcdef,
        .table_entries = 1280,
        .table_entry_size = 32,
        .live_blocks = 999,
        .capacity = UINT64_C(5) << 30,
    };
    ret->tree[0] = (struct vd_tree_root){.copy = {{50, 8}, {51, 16}},
                                         .csum = 0x777,
                                         .height = 3,
                                         .entries = 100000,
                                         .leaves = 900,
                                         .nodes = 920};
    ret->tree[3] = (struct vd_tree_root){.copy = {{50, 16}, {51, 24}},
                                         .csum = 0x778,
                                         .height = 1,
                                         .entries = 4,
                                         .leaves = 1,
                                         .nodes = 1};
}

void sample_table_entry(struct vd_table_entry *ret, enum vd_seg_state state)
{
    *ret = (struct vd_table_entry){.state = state};
    if (state == VD_SEG_NONE)
        return;
    ret->nchunks = 1;
    ret->chunk[0] = (struct vd_chunk){.dev = 0, .idx = 1234};
    ret->last_seq = 4321;
    ret->rid = 0x5555;
    ret->warm = true;
    if (state == VD_SEG_FREE)
        return;
    ret->stream = state == VD_SEG_FIXED ? VD_STREAM_FIXED : VD_STREAM_CLEAN;
    ret->live = 1000;
}

static void csums(struct vd_entry *e)
{
    for (uint64_t i = 0; i < e->blocks; i++)
        e->csum[i] = (e->lba + i) * UINT64_C(0x9e3779b97f4a7c15);
}

void sample_entry(struct vd_entry *ret, unsigned i)
{
    static uint8_t value[VD_CATALOG_VALUE_MAX];

    memset(ret, 0, sizeof(*ret));
    ret->branch = 3;
    switch (i) {
    case 0:
        ret->type = VD_ENTRY_WRITE;
        ret->lba = 32;
        ret->blocks = 32;
        break;
    case 1:
        ret->type = VD_ENTRY_WRITE;
        ret->lba = OD_LBA_MAX - 1;
        ret->blocks = 1;
        ret->payload = 32;
        break;
    case 2:
        ret->type = VD_ENTRY_ZERO;
        ret->blocks = OD_LBA_MAX;
        break;
    case 3:
        ret->type = VD_ENTRY_RELOCATE;
        ret->branch = 0;
        ret->blocks = 2;
        ret->count = 129;
        ret->payload = 4;
        ret->csum[0] = 0x1234567890abcdef;
        break;
    case 4:
        ret->type = VD_ENTRY_BULK;
        ret->lba = 64;
        ret->blocks = 5;
        ret->addr = (struct vd_addr){9, 8};
        break;
    case 5:
        ret->type = VD_ENTRY_EPOCH;
        ret->branch = 0;
        ret->epoch = 18;
        break;
    case 6:
    case 7:
        for (size_t k = 0; k < sizeof(value); k++)
            value[k] = (uint8_t)(k | 1);
        ret->type = VD_ENTRY_CATALOG;
        ret->branch = 0;
        ret->key[0] = 1;
        ret->key[1] = 2;
        ret->key[2] = i;
        ret->value = i == 6 ? value : NULL;
        ret->value_len = i == 6 ? 51 : 0;
        break;
    case 8:
        ret->type = VD_ENTRY_EMPTIED;
        ret->branch = 0;
        ret->addr.seg = 77;
        break;
    default:
        ret->type = VD_ENTRY_SEGMENT;
        ret->branch = 0;
        ret->seg = sample_segref(VD_STREAM_META_B, 71);
        break;
    }
    if (ret->type == VD_ENTRY_WRITE || ret->type == VD_ENTRY_BULK)
        csums(ret);
}

void sample_record(struct vd_record *ret, void *buf4k, unsigned n)
{
    uint8_t *p = (uint8_t *)buf4k + OD_RECORD_ENTRIES;
    struct vd_entry e;

    memset(buf4k, 0xee, 4096); /* sealing must not keep anything of this */
    *ret = (struct vd_record){
        .flags = OD_RECORD_COMMIT,
        .pool = 0x1111,
        .incarnation = 20,
        .seq = 500,
        .prev_csum = 0x2222,
        .rid = 0x3333,
        .at = {40, 80},
        .payload_blocks = n > 1 ? 33 : n * 32,
        .entry_count = n,
        .echo_count = 1,
        .prev_flags = OD_RECORD_COMMIT,
        .horizon = 480,
        .root_counter = 30,
        .epoch = 17,
        .next = {{41, 0x4444}, {42, 0x5555}},
        .wall_s = 1700000001,
    };
    for (unsigned i = 0; i < n; i++) {
        sample_entry(&e, i);
        ret->entries_len += (unsigned)entry_encode(&e, p + ret->entries_len);
    }
    sample_entry(&e, 4);
    ret->echo_len = (unsigned)entry_encode(&e, p + ret->entries_len);
    record_seal(ret, buf4k);
}

void sample_bulk(struct vd_record *ret, void *buf4k)
{
    uint8_t *p = (uint8_t *)buf4k + OD_RECORD_ENTRIES;
    struct vd_entry e;

    *ret = (struct vd_record){
        .bulk = true, .pool = 0x1111, .incarnation = 20, .rid = 0x3333, .at = {40, 88}};
    for (;;) {
        sample_entry(&e, 1);
        e.payload = ret->payload_blocks;
        if (ret->entries_len + entry_size(&e) > OD_BULK_ENTRIES_MAX)
            break;
        ret->entries_len += (unsigned)entry_encode(&e, p + ret->entries_len);
        ret->entry_count++;
        ret->payload_blocks++;
    }
    record_seal(ret, buf4k);
}

void sample_hints(struct vd_record *ret, void *buf4k)
{
    uint8_t *p = (uint8_t *)buf4k + OD_RECORD_ENTRIES;

    *ret = (struct vd_record){.bulk = true,
                              .flags = OD_RECORD_HINTS,
                              .pool = 0x1111,
                              .incarnation = 20,
                              .rid = 0x3333,
                              .at = {40, 88}};
    for (uint32_t block = 12;; block++) {
        struct vd_entry e = {.type = VD_ENTRY_BULK,
                             .branch = 3,
                             .lba = 7 * block,
                             .blocks = 1,
                             .addr = {40, block * VD_SECTORS_PER_BLOCK},
                             .hints = 11,
                             .csum = {block}};
        if (ret->entries_len + entry_size(&e) > OD_BULK_ENTRIES_MAX)
            break;
        ret->entries_len += (unsigned)entry_encode(&e, p + ret->entries_len);
        ret->entry_count++;
    }
    record_seal(ret, buf4k);
}

void sample_segmap(struct vd_segmap *ret, uint32_t seg_blocks, unsigned tellers)
{
    ret->seg = 12;
    ret->hints = 5;
    ret->tellers = tellers;
    memset(ret->named, 0, seg_blocks / 8);
    memset(ret->fixed, 0, seg_blocks / 8);
    memset(ret->at, 0, OD_SEGMAP_TELLERS * sizeof(*ret->at));
    for (uint32_t b = 0; b < seg_blocks; b++) {
        ret->of[b] = 0;
        if (b % 3 == 0)
            vd_bit_set(ret->named, b);
        else if (b % 9 == 1)
            vd_bit_set(ret->fixed, b);
        if (tellers)
            ret->of[b] = (uint8_t)(b * 7 % (tellers + 1));
    }
    for (unsigned i = 1; i <= tellers && 9 * i + 1 < seg_blocks; i++)
        ret->at[i] = i % 5 == 4 ? 0 : (uint16_t)(9 * i + 1);
}
