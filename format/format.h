/* SPDX-License-Identifier: MIT */
/*
 * Labels, roots, segment tables and log records: encode, decode, verify. No I/O, no state. Decoders
 * accept any bytes: they return -EBADMSG for a wrong checksum, -EUCLEAN for a structure that makes
 * no sense, -ENODATA where there is nothing of ours (wrong magic), and never read out of bounds.
 * Nodes are pool/tree.h's.
 */
#ifndef VD_FORMAT_FORMAT_H
#define VD_FORMAT_FORMAT_H

#include "core/base/error.h"
#include "core/base/uuid.h"
#include "format/od.h"
#include "format/run.h"

/* xxh3 of 4096 bytes, the 8 at csum_off taken as zero: the checksum that labels, roots, records and
 * nodes carry in themselves. */
uint64_t od_csum(const void *buf4k, size_t csum_off);

/* Streams: what a segment is open for. */
enum vd_stream_kind {
    VD_STREAM_LOG = 1,
    VD_STREAM_CLEAN = 2,  /* data moved by the cleaner */
    VD_STREAM_META_A = 3, /* first copies of nodes */
    VD_STREAM_META_B = 4, /* second copies */
    VD_STREAM_FIXED = 5,  /* head and segment table */
};
enum vd_seg_state {
    VD_SEG_NONE = 0, /* the chunk is beyond the end of the device: it may be added by growth */
    VD_SEG_FREE = 1,
    VD_SEG_OPEN = 2,
    VD_SEG_CLOSED = 3,
    VD_SEG_FIXED = 4,
};

struct vd_chunk {
    uint16_t dev;
    uint32_t idx;
};
struct vd_segref {
    uint32_t seg;
    enum vd_stream_kind stream;
    unsigned nchunks;
    uint64_t rid;
    struct vd_chunk chunk[OD_SEG_CHUNKS];
};
/* A log segment reserved as a successor; seg 0 = none. */
struct vd_logref {
    uint32_t seg;
    uint64_t rid;
};
struct vd_cut {
    uint64_t incarnation, last_seq, last_csum;
    struct vd_segref next;
    struct vd_logref log_next[OD_LOG_NEXT];
};
struct vd_label {
    uint16_t major, minor;
    uint64_t compat, ro_compat, incompat;
    struct vd_uuid pool_uuid, dev_uuid;
    uint16_t dev_index, dev_count;
    uint32_t chunk_size;
    uint64_t generation, incarnation, created_s, capacity, root_counter;
    uint8_t redundancy_data, redundancy_parity, tier, flags;
    char pool_name[128];
    uint64_t dev_state[OD_DEVICES];
    unsigned cut_count;
    struct vd_cut cut[OD_LABEL_CUTS];
};
void label_encode(const struct vd_label *l, void *buf4k);
/* Unknown incompatible bits are -EPROTONOSUPPORT, with *ret filled so that they can be named. */
int label_decode(const void *buf4k, struct vd_label *ret);
/* "compression, dedup": the names of known bits, "bit 17" of others. Returns buf. */
char *feature_names(uint64_t incompat, char *buf, size_t len);

struct vd_tree_root {
    struct vd_addr copy[2];
    uint64_t csum;
    unsigned height;
    uint64_t entries, leaves, nodes;
};
struct vd_root {
    struct vd_uuid pool_uuid;
    uint64_t incarnation, counter, seq, epoch;
    struct vd_segref log_seg;
    uint32_t log_sector;
    struct vd_logref log_next[OD_LOG_NEXT];
    uint64_t log_csum;
    uint64_t table_off[4], table_area, table_csum;
    uint32_t table_entries, table_entry_size;
    uint64_t live_blocks, capacity;
    struct vd_tree_root tree[OD_TREES];
};
void root_encode(const struct vd_root *r, void *buf4k);
int root_decode(const void *buf4k, struct vd_root *ret);

/* One segment as the table keeps it. */
struct vd_table_entry {
    enum vd_seg_state state;
    enum vd_stream_kind stream;
    unsigned nchunks;
    bool warm; /* its chunk was written before */
    uint32_t live;
    uint64_t last_seq, rid;
    struct vd_chunk chunk[OD_SEG_CHUNKS];
};
/* Bytes of one entry with room for n chunks, and of a whole table. */
size_t table_entry_size(unsigned nchunks);
size_t table_size(uint32_t entries, size_t entry_size); /* a multiple of 4096 */
void table_entry_encode(const struct vd_table_entry *e, void *buf, size_t entry_size);
int table_entry_decode(const void *buf, size_t entry_size, struct vd_table_entry *ret);
void table_header_encode(void *buf, const struct vd_uuid *pool, uint64_t counter, uint32_t entries,
                         size_t entry_size);
int table_header_decode(const void *buf, const struct vd_uuid *pool, uint64_t counter,
                        uint32_t entries, size_t entry_size);

/* What a session that ended well knew of its segments: the header of an area, `len` bytes. */
struct vd_segmaps {
    struct vd_uuid pool_uuid;
    uint64_t incarnation, root_counter;
    uint32_t len, count;
};
/* Of one segment of `seg_blocks` blocks. The caller owns the memory: bits for each block, tellers by
 * number (OD_SEGMAP_TELLERS of them, [0] is not used), the number of each block's teller; these two
 * may be NULL when decoding. */
struct vd_segmap {
    uint32_t seg, hints;
    unsigned tellers; /* the highest number; 0: `at` and `of` are not looked at when encoding */
    uint64_t *named, *fixed;
    uint16_t *at;
    uint8_t *of;
};
size_t segmap_size(const struct vd_segmap *m, uint32_t seg_blocks);
void segmap_encode(const struct vd_segmap *m, uint32_t seg_blocks, void *buf);
/* Returns how long it was. -EUCLEAN */
int64_t segmap_decode(const void *buf, size_t len, uint32_t seg_blocks, struct vd_segmap *ret);
/* The maps lie behind the header already. */
void segmaps_seal(const struct vd_segmaps *m, void *buf);
/* -ENOBUFS: `buf` holds less than ret->len says, and nothing else is known to be right. -ENODATA,
 * -EUCLEAN, -EBADMSG. */
int segmaps_decode(const void *buf, size_t len, struct vd_segmaps *ret);

/* ---- records ---- */

struct vd_record {
    bool bulk;
    uint16_t flags; /* OD_RECORD_* */
    uint64_t pool, incarnation, seq, csum, prev_csum, rid;
    struct vd_addr at;
    uint32_t payload_blocks;
    unsigned entry_count, entries_len;
    unsigned echo_count, echo_len, prev_flags;
    uint32_t prev_payload_blocks;
    uint64_t horizon, root_counter, epoch;
    struct vd_logref next[OD_LOG_NEXT];
    uint64_t wall_s;
};
/* `buf4k` already holds entries and echo (rec->entries_len, echo_len) at OD_RECORD_ENTRIES; fills
 * the fixed part and the checksum, which is returned and set in rec->csum. */
uint64_t record_seal(struct vd_record *rec, void *buf4k);
/* Decodes and verifies everything but place and chain: -ENODATA, -EBADMSG, -EUCLEAN. */
int record_decode(const void *buf4k, struct vd_record *ret);

enum vd_entry_type {
    VD_ENTRY_WRITE = 1,
    VD_ENTRY_ZERO,
    VD_ENTRY_RELOCATE,
    VD_ENTRY_BULK,
    VD_ENTRY_EPOCH,
    VD_ENTRY_CATALOG,
    VD_ENTRY_SEGMENT,
    VD_ENTRY_EMPTIED,
};
/* A log entry in memory. WRITE, RELOCATE: `payload` is the first payload block within its record.
 */
struct vd_entry {
    enum vd_entry_type type;
    uint64_t branch, lba, blocks;
    uint32_t payload;
    uint32_t count;                /* RELOCATE: relocations in `blocks` payload blocks, twice */
    struct vd_addr addr;           /* BULK; EMPTIED: the segment */
    uint16_t hints;                /* BULK: block of that segment that the hint block is for */
    uint64_t epoch;                /* EPOCH */
    uint64_t csum[VD_CELL_BLOCKS]; /* WRITE, BULK; RELOCATE: csum[0], of one copy */
    uint64_t key[3];               /* CATALOG */
    const void *value;             /* CATALOG: NULL = delete; points into the decoded buffer */
    uint16_t value_len;
    struct vd_segref seg; /* SEGMENT */
};
#define VD_CATALOG_VALUE_MAX 1024
/* Encoded length, a multiple of 8; well below OD_RECORD_ENTRIES_MAX. */
size_t entry_size(const struct vd_entry *e);
/* Encodes at `p`, which has room for entry_size(e). Returns that size. */
size_t entry_encode(const struct vd_entry *e, void *p);
/* Decodes one at p with `len` bytes left: its size, or -EUCLEAN. */
int entry_decode(const void *p, size_t len, struct vd_entry *ret);

/* The entries of a header, one after another. */
struct entry_walk {
    const uint8_t *at;
    size_t left;    /* bytes */
    unsigned count; /* entries */
};
struct entry_walk entries_of(const struct vd_record *rec, const void *buf4k);
int entry_next(struct entry_walk *w, struct vd_entry *ret); /* 1, 0 at the end, -EUCLEAN */
/* Where the blocks of a WRITE or BULK entry of the record or bulk header lie. */
struct vd_addr entry_addr(const struct vd_record *rec, const struct vd_entry *e);

/* Blocks [lba, lba + blocks) of a branch, inside one cell, that lay at `from` now lie at `to`. */
struct vd_relocation {
    uint64_t branch, lba;
    uint32_t blocks;
    struct vd_addr from, to;
};
#define VD_RELOCATIONS_PER_BLOCK 128u
void relocation_encode(const struct vd_relocation *r, void *p32);
int relocation_decode(const void *p32, struct vd_relocation *ret); /* -EUCLEAN */

#endif
