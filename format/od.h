/* SPDX-License-Identifier: MIT */
/*
 * The bytes on disk, as docs/format.md specifies them. Every struct is made of byte arrays and
 * little-endian byte structs, so it has no padding; sizes and offsets are asserted in od_check.c.
 * These structs are never used as state in memory: encode and decode at the edge (format.h).
 */
#ifndef VD_FORMAT_OD_H
#define VD_FORMAT_OD_H

#include "core/base/bytes.h"

/* ---- where things are on a device ----------------------------------------------------------- */

/* The first chunk of a device (its size is the chunk size) is the head: slots of 4 KiB, each in two
 * copies OD_HEAD_COPY apart. Label slots hold generations even and odd, and so do root slots. */
#define OD_LABEL_OFF(slot) ((uint64_t)(slot)*4096)       /* slot = label generation & 1 */
#define OD_ROOT_OFF(slot) (8192 + (uint64_t)(slot)*4096) /* slot = root counter & 1 */
#define OD_HEAD_COPY UINT64_C(524288)                    /* second copies: + 512 KiB */

#define OD_MAGIC_LABEL UINT64_C(0x314c4244566b7356)
#define OD_MAGIC_ROOT UINT64_C(0x3152424456746f52)
#define OD_MAGIC_RECORD UINT32_C(0x31436452)
#define OD_MAGIC_BULK UINT32_C(0x316b6c42)
#define OD_MAGIC_NODE UINT32_C(0x3165644e)
#define OD_MAGIC_TABLE UINT64_C(0x3165626154676553)
#define OD_MAGIC_SEGMAPS UINT64_C(0x317370614d676553)

#define OD_FORMAT_MAJOR 1
#define OD_FORMAT_MINOR 0

/* Feature bits of the label. Incompatible: a reader that does not know one refuses the pool.
 * Read-only compatible: it may read. Compatible: it may ignore. */
#define OD_COMPAT_SEGMAPS (UINT64_C(1) << 0)
#define OD_INCOMPAT_MULTI_DEVICE (UINT64_C(1) << 0)
#define OD_INCOMPAT_REDUNDANCY (UINT64_C(1) << 1)
#define OD_INCOMPAT_TIERS (UINT64_C(1) << 2)
#define OD_INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define OD_INCOMPAT_ENCRYPTION (UINT64_C(1) << 4)
#define OD_INCOMPAT_DEDUP (UINT64_C(1) << 5)
#define OD_INCOMPAT_REFILL (UINT64_C(1) << 6)
#define OD_INCOMPAT_KNOWN OD_INCOMPAT_REFILL

/* Address of stored bytes: segment number and offset in it in sectors of 512 bytes. */
struct od_addr {
    le32_t seg;
    le32_t sector;
};

/* Where a chunk lies: device index and chunk number on it (chunk n starts at n * chunk size). */
struct od_chunk {
    le16_t dev;
    uint8_t pad[2];
    le32_t idx;
};
#define OD_SEG_CHUNKS 8 /* most chunks in a segment */
/* Chunk sizes are powers of two in this range; the head's second copies need the smallest. */
#define OD_CHUNK_MIN (UINT32_C(1) << 20)
#define OD_CHUNK_MAX (UINT32_C(32) << 20)
/* No segment is longer than this many sectors. */
#define OD_SEG_SECTORS_MAX (OD_CHUNK_MAX / 512 * OD_SEG_CHUNKS)
/* Volumes end below this block (8 EiB). */
#define OD_LBA_MAX (UINT64_C(1) << 51)
#define OD_DEVICES 16
#define OD_HEIGHT_MAX 16 /* of a tree */

/* A segment as labels, roots and open-segment entries name it. */
struct od_segref {
    le32_t seg;
    uint8_t stream; /* enum vd_stream_kind */
    uint8_t nchunks;
    uint8_t pad[2];
    le64_t rid; /* random, new each time the segment is opened */
    struct od_chunk chunk[OD_SEG_CHUNKS];
};

/* A log segment that is reserved as a successor; seg 0 = none. */
struct od_logref {
    le32_t seg;
    uint8_t pad[4];
    le64_t rid;
};
/* How many successors are named: where the first record of a segment cannot be written, nothing in
 * that segment names the next one, so its predecessor has to. */
#define OD_LOG_NEXT 2

/* ---- label ----------------------------------------------------------------------------------- */

#define OD_LABEL_CUTS 8
struct od_cut {
    le64_t incarnation;                     /* the session that was cut */
    le64_t last_seq;                        /* its last record */
    le64_t last_csum;                       /* and that record's checksum */
    struct od_segref next;                  /* where the next session's log starts */
    struct od_logref log_next[OD_LOG_NEXT]; /* that segment's successors */
};

struct od_label {
    le64_t magic;
    le64_t csum; /* xxh3 of the 4096 bytes with this field zero */
    le16_t major, minor;
    uint8_t pad0[4];
    le64_t compat, ro_compat, incompat;
    uint8_t pool_uuid[16];
    uint8_t dev_uuid[16];
    le16_t dev_index, dev_count;
    le32_t chunk_size;  /* bytes, power of two */
    le64_t generation;  /* of this label; the higher valid one counts */
    le64_t incarnation; /* session that wrote it; each read-write opening takes the next */
    le64_t created_s;
    le64_t capacity;     /* bytes of this device the pool may use; 0 = as far as it grows */
    le64_t root_counter; /* newest root known durable when this was written */
    uint8_t redundancy_data, redundancy_parity; /* 1,0 single; 1,m mirror; k,m parity */
    uint8_t tier;
    uint8_t flags; /* OD_LABEL_CLEAN */
    le32_t cut_count;
    uint8_t pool_name[128];       /* NUL-padded */
    le64_t dev_state[OD_DEVICES]; /* state of devices 0..15: 0 = fine, 1 = failed */
    uint8_t key_slots[512];       /* encryption; zero */
    struct od_cut cut[OD_LABEL_CUTS];
};
#define OD_LABEL_CLEAN 1 /* closed cleanly: nothing in the log beyond the root */

/* ---- root ------------------------------------------------------------------------------------ */

struct od_node_ptr {
    struct od_addr copy[2];
    le64_t csum; /* of the node's 4096 bytes */
};

#define OD_TREES 8 /* head, history, changed, catalog, usage, shared; two spare */
struct od_tree_root {
    struct od_node_ptr ptr; /* unused when height is 0 */
    uint8_t height;         /* 0 = empty, 1 = the root is a leaf */
    uint8_t pad[7];
    le64_t entries;
    le64_t leaves;
    le64_t nodes; /* leaves included */
};

struct od_root {
    le64_t magic;
    le64_t csum; /* xxh3 of the 4096 bytes with this field zero */
    uint8_t pool_uuid[16];
    le64_t incarnation;
    le64_t counter; /* generation: never reused */
    le64_t seq;     /* the state after the record with this sequence number */
    le64_t epoch;   /* current epoch then */
    /* Where replay starts: the record seq + 1, or nothing. */
    struct od_segref log_seg;
    le32_t log_sector; /* offset in that segment */
    uint8_t pad0[4];
    struct od_logref log_next[OD_LOG_NEXT]; /* its successors, should record seq + 1 lie there */
    le64_t log_csum; /* checksum of record seq's header: the chain goes on from it */
    /* The segment table written with this root, and the areas of both generations. */
    le64_t table_off[4]; /* device 0 byte offsets: generation 0 copy 0, 0/1, 1/0, 1/1 */
    le64_t table_area;   /* bytes of each area */
    le64_t table_csum;   /* xxh3 of the area's used bytes */
    le32_t table_entries;
    le32_t table_entry_size;
    le64_t live_blocks; /* 4 KiB blocks of data that the trees name */
    le64_t capacity;
    uint8_t pad1[32];
    struct od_tree_root tree[OD_TREES];
};

/* ---- segment table --------------------------------------------------------------------------- */

/* An area starts with this header, then entries, index = segment number. */
struct od_table_header {
    le64_t magic;
    uint8_t pool_uuid[16];
    le64_t counter; /* of the root it belongs to */
    le32_t entries;
    le32_t entry_size;
    uint8_t pad[24];
};

struct od_table_entry {
    uint8_t state;  /* enum vd_seg_state: 0 none, 1 free, 2 open, 3 closed, 4 fixed (head, table) */
    uint8_t stream; /* enum vd_stream_kind */
    uint8_t nchunks;
    uint8_t flags;   /* bit 0: chunk was written before (warm) */
    le32_t live;     /* 4 KiB blocks that the trees name */
    le64_t last_seq; /* last sequence that wrote into it or published into it */
    le64_t rid;
    struct od_chunk chunk[1]; /* entry_size says how many there is room for */
};

/* Behind the table, from the next multiple of 4096 bytes on: maps of segments, if a pool was closed.
 * `len` bytes, this header included. */
struct od_segmaps {
    le64_t magic;
    le64_t csum; /* xxh3 of what follows this field, up to len */
    uint8_t pool_uuid[16];
    le64_t incarnation; /* of the session that closed the pool */
    le64_t root_counter;
    le32_t len;
    le32_t count; /* of the maps that follow */
    uint8_t pad[8];
};

/* Then two times one bit for each block of the segment, in words of 64: those that the trees name;
 * headers and hint blocks. If there are tellers, the block of each (2 bytes, 0 = none has this
 * number), and for each block that the trees name the number of the one that tells of it (1 byte,
 * 0 = one without a number). Zeroes up to a multiple of 8 bytes. */
#define OD_SEGMAP_TELLERS 256 /* numbers are below this, from 1 */
struct od_segmap {
    le32_t seg;
    le16_t hints;   /* hint blocks without a number */
    le16_t tellers; /* highest number */
};

/* ---- log record and bulk header -------------------------------------------------------------- */

/* 4096 bytes, then payload_blocks * 4096 bytes. Own entries grow from OD_RECORD_ENTRIES; the echo
 * of the previous header's entries follows them. Each is at most OD_RECORD_ENTRIES_MAX long. A bulk
 * header has no echo, so its entries may take all of OD_BULK_ENTRIES_MAX. */
#define OD_RECORD_ENTRIES 192
#define OD_RECORD_ENTRIES_MAX ((4096 - OD_RECORD_ENTRIES) / 2)
#define OD_BULK_ENTRIES_MAX (4096 - OD_RECORD_ENTRIES)
struct od_record {
    le32_t magic;
    le16_t flags; /* OD_RECORD_* */
    le16_t entry_count;
    le64_t csum; /* xxh3 of the 4096 bytes with this field zero */
    le64_t pool; /* first 8 bytes of the pool's UUID */
    le64_t incarnation;
    le64_t seq;        /* bulk: 0 */
    le64_t prev_csum;  /* checksum of record seq - 1 */
    le64_t rid;        /* of the segment it lies in */
    struct od_addr at; /* its own place */
    le32_t payload_blocks;
    le16_t entries_len;
    le16_t echo_len;
    le16_t echo_count;
    le16_t prev_flags; /* flags of the record the echo is of */
    le32_t prev_payload_blocks;
    le64_t horizon;                     /* highest sequence known to be flushed */
    le64_t root_counter;                /* newest durable root */
    le64_t epoch;                       /* current epoch before its entries */
    struct od_logref next[OD_LOG_NEXT]; /* the reserved successors of this log segment */
    le64_t wall_s;
    uint8_t pad1[48];
    uint8_t entries[4096 - OD_RECORD_ENTRIES];
};
#define OD_RECORD_COMMIT 1 /* the operation that its entries belong to ends in this record */
#define OD_RECORD_SEAL 2   /* written only to move the horizon; for people who look */
#define OD_RECORD_HINTS 4  /* bulk: a hint block of a segment that was refilled */

/* Entries: a type byte, a flags byte, total length (multiple of 8), then by type. */
enum od_entry_type {
    OD_ENTRY_WRITE = 1,    /* payload in this record */
    OD_ENTRY_ZERO = 2,     /* reads as zeroes from here on (zero, trim) */
    OD_ENTRY_RELOCATE = 3, /* old addresses -> new addresses */
    OD_ENTRY_BULK = 4,     /* as WRITE, payload at an address */
    OD_ENTRY_EPOCH = 5,
    OD_ENTRY_CATALOG = 6, /* put or delete one catalogue key */
    OD_ENTRY_SEGMENT = 7, /* a segment was opened */
    OD_ENTRY_EMPTIED = 8, /* what the trees name in a segment is needed there by nobody any more */
};
struct od_entry {
    uint8_t type;
    uint8_t flags;
    le16_t len;
};
struct od_entry_write { /* + csum[blocks] */
    struct od_entry e;
    le16_t blocks;  /* 1..32, within one cell */
    le16_t payload; /* first payload block of the record it is in */
    le32_t branch;
    uint8_t pad[4];
    le64_t lba; /* in blocks */
};
struct od_entry_zero {
    struct od_entry e;
    le32_t branch;
    le64_t lba;
    le64_t blocks;
};
struct od_entry_bulk { /* + csum[blocks] */
    struct od_entry e;
    le16_t blocks;
    le16_t hints; /* block of that segment where the hint block lies, or will; 0 = none */
    le32_t branch;
    uint8_t pad[4];
    le64_t lba;
    struct od_addr addr;
};
struct od_entry_relocate {
    struct od_entry e;
    le16_t payload; /* first payload block of the record it is in */
    le16_t blocks;  /* of one copy; the second copy lies behind the first */
    le32_t count;   /* of od_relocations */
    uint8_t pad[4];
    le64_t csum; /* xxh3 of one copy, whole blocks */
};
struct od_relocation { /* in the payload; zeroes behind the last one */
    le32_t branch;
    le32_t blocks; /* 1..32, within one cell */
    le64_t lba;
    struct od_addr from, to;
};
struct od_entry_epoch {
    struct od_entry e;
    uint8_t pad[4];
    le64_t epoch;
};
struct od_entry_catalog { /* + value, zero-padded to 8 */
    struct od_entry e;
    le16_t value_len; /* flags bit 0: delete, no value */
    uint8_t pad[2];
    le64_t key[3];
};
struct od_entry_segment {
    struct od_entry e;
    uint8_t pad[4];
    struct od_segref ref;
};

struct od_entry_emptied {
    struct od_entry e;
    le32_t seg;
};

/* Bulk header: same 4096-byte frame as a record with magic OD_MAGIC_BULK and seq 0. Its entries are
 * od_entry_write hints of whose data follows: branch and lba when it was stored. A hint block,
 * which has the flag OD_RECORD_HINTS and no payload, has od_entry_bulk instead, of its own segment.
 */

/* ---- nodes ----------------------------------------------------------------------------------- */

#define OD_NODE_SIZE 4096
/* Keys are four words, compared in order; see enum tree_id in pool/tree.h for their meaning. */
struct od_key {
    le64_t w[4];
};
struct od_node {
    le32_t magic;
    uint8_t tree;
    uint8_t level; /* 0 = leaf */
    le16_t count;
    le64_t csum; /* xxh3 of the 4096 bytes with this field zero */
    le64_t pool; /* first 8 bytes of the pool's UUID */
    le64_t incarnation;
    le64_t counter;      /* of the root it was written for */
    struct od_key first; /* the first and the last key in its body (interior: of its children's */
    struct od_key last;  /* first keys) */
    le16_t used;         /* bytes of body used, from its start */
    le16_t csums;        /* map leaf: how many checksums */
    le16_t epochs;       /* map leaf: how many epochs in its table */
    le16_t pad;
    uint8_t body[4096 - 112];
};

/* A key inside a body has only the words that its key space uses, `words` below: head 2, changed,
 * catalog and usage 3, history and shared 4. The words left out are 0. */
/* Interior body: count of these, each 24 + words * 8 bytes, sorted; key = the child's first key.
 * Keys below a child are below the next child's key. */
struct od_child {
    struct od_node_ptr ptr;
    le64_t key[]; /* words */
};
/* Key-value leaf (changed, catalog, usage, shared): entries one after another from the start of the
 * body, each padded with zeroes to a multiple of 8 (`used` is their length). The offset in the body
 * of entry i is a le16 at the body's end - 2 * (i + 1). */
struct od_kv {
    le16_t len; /* of the value: at most 1024 */
    uint8_t pad[6];
    le64_t key[]; /* words; then the value */
};
/* Map leaf (head, history): od_run[count], then le64 epoch[epochs], then le64 csum[csums]; `used`
 * is the sum. All its runs are of one branch, first.w[0]. Runs of HEAD do not overlap. Those of
 * HISTORY lie inside a cell (the one in their key is lba / 32), are sorted by lba, then died, and
 * where two share a block their [born, died) do not overlap. */
struct od_run {
    le32_t lba;     /* relative to first.w[1] (head) or to first.w[1] * 32 (history) */
    le16_t born;    /* index in the node's epoch table */
    le16_t died;    /* same; 0xffff in HEAD */
    uint8_t type;   /* enum vd_run_type */
    uint8_t blocks; /* 1..32; 0 for a ZERO run (HEAD) of `seg` + `sector` * 2^32 > 32 blocks */
    le16_t csum;    /* DATA: index of its first checksum, after those of the runs before; else 0 */
    le32_t seg;     /* DATA: address; ZERO: 0 unless `blocks` is 0 */
    le32_t sector;
};

#endif
