/* SPDX-License-Identifier: MIT */
/*
 * Makes small images straight through the codecs, with logs in states that a program run does not
 * come to at will: what read_image.py and the program must both understand. The trees are empty;
 * everything is in the log. Chunks are 1 MiB; branch 1 is volume "disk" of 64 blocks, block n is
 * filled with a byte that says who wrote it.
 *
 *   make_image KIND FILE     KIND: see main()
 */
#include "core/base/hash.h"
#include "format/format.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHUNK (1u << 20)
#define CHUNK_BLOCKS (CHUNK / VD_BLOCK)
#define SEGMENTS 12u
#define OLD 11u /* a segment that was closed before the root */

static int fd;
static const struct vd_uuid pool = {"made by the test"};
static struct vd_label label;
static struct vd_root root;

/* The writer's state. */
static struct writer {
    uint64_t incarnation, seq, csum, horizon;
    uint32_t seg, block;
    struct vd_logref next[OD_LOG_NEXT];
    struct vd_record last; /* for the echo */
    uint8_t last_entries[OD_RECORD_ENTRIES_MAX];
} lg, before;

static uint64_t rid_of(uint32_t seg)
{
    return UINT64_C(0x5eed000000000000) + seg;
}

static void put(uint64_t off, const void *buf, size_t len)
{
    if (pwrite(fd, buf, len, (off_t)off) != (ssize_t)len) {
        perror("write");
        exit(1);
    }
}

static uint64_t pool64(void)
{
    le64_t v;
    memcpy(&v, pool.b, sizeof(v));
    return vd_get64(v);
}

static struct vd_segref segref(uint32_t seg)
{
    return (struct vd_segref){.seg = seg,
                              .stream = VD_STREAM_LOG,
                              .nchunks = 1,
                              .rid = rid_of(seg),
                              .chunk = {{.idx = seg}}};
}

static void successors(uint32_t seg, struct vd_logref next[OD_LOG_NEXT])
{
    for (uint32_t i = 0; i < OD_LOG_NEXT; i++)
        next[i] = (struct vd_logref){seg + 1 + i, rid_of(seg + 1 + i)};
}

static void write_head(void)
{
    static uint8_t buf[16384];
    const uint64_t second = OD_HEAD_COPY;

    label_encode(&label, buf);
    put(OD_LABEL_OFF(label.generation & 1), buf, 4096);
    put(OD_LABEL_OFF(label.generation & 1) + second, buf, 4096);

    memset(buf, 0, sizeof(buf));
    root.table_entries = SEGMENTS;
    root.table_entry_size = (uint32_t)table_entry_size(1);
    size_t len = table_size(SEGMENTS, root.table_entry_size);
    table_header_encode(buf, &pool, root.counter, SEGMENTS, root.table_entry_size);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        bool used = i == 1 || i == OLD;
        struct vd_table_entry e = {.state = i == 0 ? VD_SEG_FIXED
                                            : used ? VD_SEG_CLOSED
                                                   : VD_SEG_FREE,
                                   .stream = i == 0 ? VD_STREAM_FIXED
                                             : used ? VD_STREAM_LOG
                                                    : 0,
                                   .nchunks = 1,
                                   .rid = used ? rid_of(i) : 0,
                                   .chunk = {{.idx = i}}};
        table_entry_encode(&e, buf + sizeof(struct od_table_header) + i * root.table_entry_size,
                           root.table_entry_size);
    }
    root.table_csum = vd_xxh3(buf, len);
    for (unsigned copy = 0; copy < 2; copy++)
        put(root.table_off[(root.counter & 1) * 2 + copy], buf, len);
    root_encode(&root, buf);
    put(OD_ROOT_OFF(root.counter & 1), buf, 4096);
    put(OD_ROOT_OFF(root.counter & 1) + second, buf, 4096);
}

static struct vd_relocation relocation; /* what a RELOCATE entry holds */

/* A record of the given entries; WRITE payload is blocks filled with `fill`. */
static void record(struct vd_entry *e, unsigned n, uint16_t flags, uint8_t fill)
{
    static uint8_t buf[(1 + 64) * VD_BLOCK];
    struct vd_record r = {
        .flags = flags,
        .pool = pool64(),
        .incarnation = lg.incarnation,
        .seq = ++lg.seq,
        .prev_csum = lg.csum,
        .rid = rid_of(lg.seg),
        .at = {lg.seg, lg.block * VD_SECTORS_PER_BLOCK},
        .entry_count = n,
        .echo_len = lg.last.entries_len,
        .echo_count = lg.last.entry_count,
        .prev_flags = lg.last.flags,
        .prev_payload_blocks = lg.last.payload_blocks,
        .horizon = lg.horizon,
        .root_counter = root.counter,
        .epoch = 1,
    };
    memcpy(r.next, lg.next, sizeof(r.next));
    for (unsigned i = 0; i < n; i++) {
        if (e[i].type == VD_ENTRY_WRITE) {
            uint8_t *data = buf + (1 + r.payload_blocks) * VD_BLOCK;
            e[i].payload = r.payload_blocks;
            memset(data, fill, e[i].blocks * VD_BLOCK);
            for (uint64_t b = 0; b < e[i].blocks; b++)
                e[i].csum[b] = vd_xxh3(data, VD_BLOCK);
            r.payload_blocks += (uint32_t)e[i].blocks;
        }
        if (e[i].type == VD_ENTRY_RELOCATE) {
            uint8_t *data = buf + (1 + r.payload_blocks) * VD_BLOCK;
            e[i].payload = r.payload_blocks;
            memset(data, 0, 2 * VD_BLOCK);
            relocation_encode(&relocation, data);
            relocation_encode(&relocation, data + VD_BLOCK);
            e[i].csum[0] = vd_xxh3(data, VD_BLOCK);
            data[fill] ^= 1; /* the first copy has rotted */
            r.payload_blocks += 2;
        }
        r.entries_len += (unsigned)entry_encode(&e[i], buf + OD_RECORD_ENTRIES + r.entries_len);
    }
    memcpy(buf + OD_RECORD_ENTRIES + r.entries_len, lg.last_entries, r.echo_len);
    lg.csum = record_seal(&r, buf);
    memcpy(lg.last_entries, buf + OD_RECORD_ENTRIES, r.entries_len);
    lg.last = r;
    put((uint64_t)lg.seg * CHUNK + lg.block * VD_BLOCK, buf,
        (1 + (size_t)r.payload_blocks) * VD_BLOCK);
    lg.block += 1 + r.payload_blocks;
}

static void write_blocks(uint64_t lba, uint64_t blocks, uint8_t fill, uint16_t flags)
{
    struct vd_entry e = {.type = VD_ENTRY_WRITE, .branch = 1, .lba = lba, .blocks = blocks};
    record(&e, 1, flags, fill);
}

/* A block that went to a dead place of an old segment. */
static void refill_block(uint64_t lba, uint32_t block, uint8_t fill)
{
    static uint8_t buf[VD_BLOCK];
    struct vd_entry e = {.type = VD_ENTRY_BULK,
                         .branch = 1,
                         .lba = lba,
                         .blocks = 1,
                         .addr = {OLD, block * VD_SECTORS_PER_BLOCK},
                         .hints = 3};
    memset(buf, fill, sizeof(buf));
    e.csum[0] = vd_xxh3(buf, VD_BLOCK);
    put((uint64_t)OLD * CHUNK + block * VD_BLOCK, buf, VD_BLOCK);
    record(&e, 1, OD_RECORD_COMMIT, 0);
}

static void catalog_put(struct vd_entry *e, uint64_t kind, uint64_t id, const void *v, uint16_t len)
{
    *e = (struct vd_entry){
        .type = VD_ENTRY_CATALOG, .key = {kind, id, 0}, .value = v, .value_len = len};
}

static void put64(uint8_t *p, uint64_t v)
{
    le64_t le = vd_le64(v);
    memcpy(p, &le, sizeof(le));
}

/* Record 1: the catalogue with one volume, flushed. Values by hand, as docs/format.md says. */
static void make_volume(void)
{
    static uint8_t meta[16], branch[64], volume[48 + 4];
    static struct vd_entry e[3];

    put64(meta, 2);
    put64(meta + 8, 2);
    memset(volume, 'u', 16);
    put64(volume + 16, 1);
    put64(volume + 24, 64 * VD_BLOCK);
    put64(volume + 32, 1700000000);
    volume[44] = 4;
    memcpy(volume + 48, "disk", 4);
    catalog_put(&e[0], 1, 0, meta, sizeof(meta));
    catalog_put(&e[1], 3, 1, branch, sizeof(branch));
    catalog_put(&e[2], 4, 1, volume, sizeof(volume));
    record(e, 3, OD_RECORD_COMMIT, 0);
    lg.horizon = lg.seq;
}

/* Snapshot "s" of what is there: one operation over two records. */
static void make_snapshot(void)
{
    static uint8_t snap[64 + 1], meta[16];
    static struct vd_entry e[2];

    memset(snap, 's', 16);
    put64(snap + 16, 1);
    put64(snap + 24, 1);
    put64(snap + 32, 1);
    put64(snap + 40, 64 * VD_BLOCK);
    put64(snap + 48, 1700000001);
    snap[60] = 1;
    snap[64] = 's';
    put64(meta, 3);
    put64(meta + 8, 2);
    catalog_put(&e[0], 1, 0, meta, sizeof(meta));
    catalog_put(&e[1], 5, 2, snap, sizeof(snap));
    record(e, 2, 0, 0);
    e[0] = (struct vd_entry){.type = VD_ENTRY_EPOCH, .epoch = 2};
    record(e, 1, OD_RECORD_COMMIT, 0);
}

static void go_to(uint32_t seg)
{
    lg.seg = seg;
    lg.block = 0;
    successors(seg, lg.next);
}

static void flip(uint64_t off)
{
    uint8_t b;
    if (pread(fd, &b, 1, (off_t)off) != 1)
        exit(1);
    b ^= 0x10;
    put(off, &b, 1);
}

static uint64_t place(void)
{
    return (uint64_t)lg.seg * CHUNK + lg.block * VD_BLOCK;
}

/* A record that could not be written: it and the next are written again in the first successor that
 * can be. What is left of them in the old segment is good, and does not count. */
static void replaced(uint32_t to)
{
    before = lg;
    write_blocks(1, 1, 'x', OD_RECORD_COMMIT);
    write_blocks(2, 1, 'x', OD_RECORD_COMMIT);
    lg = before;
    go_to(to);
    write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
    write_blocks(2, 1, 'C', OD_RECORD_COMMIT);
}

/* Another session: its log begins in a segment of its own, and the label cuts the one before. What
 * the old session had written beyond is valid, and must not come back. */
static void next_session(uint32_t seg)
{
    struct vd_cut *c = &label.cut[label.cut_count++];
    *c = (struct vd_cut){.incarnation = lg.incarnation,
                         .last_seq = lg.seq,
                         .last_csum = lg.csum,
                         .next = segref(seg)};
    successors(seg, c->log_next);
    before = lg;
    write_blocks(3, 1, 'x', OD_RECORD_COMMIT);
    write_blocks(4, 1, 'x', OD_RECORD_COMMIT);
    lg = before;
    lg.incarnation++;
    lg.horizon = lg.seq;
    label.incarnation = lg.incarnation;
    label.generation++;
    go_to(seg);
}

static void fill_to_end(uint8_t fill)
{
    while (lg.block < CHUNK_BLOCKS)
        write_blocks(0, VD_MIN(CHUNK_BLOCKS - lg.block - 1, 16u), fill, OD_RECORD_COMMIT);
}

static int make(const char *kind)
{
    uint64_t at;

    make_volume();
    write_blocks(0, 8, 'A', OD_RECORD_COMMIT);
    if (!strcmp(kind, "plain")) {
        make_snapshot();
        write_blocks(0, 1, 'B', OD_RECORD_COMMIT);
        struct vd_entry e = {.type = VD_ENTRY_ZERO, .branch = 1, .lba = 6, .blocks = 40};
        record(&e, 1, OD_RECORD_COMMIT, 0);
    } else if (!strcmp(kind, "two-segments")) {
        while (lg.block + 40 < CHUNK_BLOCKS)
            write_blocks(32, 32, 'f', OD_RECORD_COMMIT);
        fill_to_end('A');
        go_to(2);
        write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
    } else if (!strcmp(kind, "replaced")) {
        replaced(2);
    } else if (!strcmp(kind, "replaced-twice")) {
        replaced(3); /* the first successor could not be written either */
    } else if (!strcmp(kind, "cut")) {
        write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
        next_session(5);
        write_blocks(2, 1, 'C', OD_RECORD_COMMIT);
        next_session(8);
        next_session(10); /* a session that wrote nothing */
        write_blocks(5, 1, 'D', OD_RECORD_COMMIT);
    } else if (!strcmp(kind, "rot-repaired") || !strcmp(kind, "rot-lost")) {
        at = place();
        write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
        uint64_t second = place();
        write_blocks(2, 1, 'C', OD_RECORD_COMMIT);
        lg.horizon = lg.seq;
        record(NULL, 0, OD_RECORD_COMMIT | OD_RECORD_SEAL, 0);
        flip(at + 300);
        if (kind[4] == 'l')
            flip(second + 300);
    } else if (!strcmp(kind, "torn-header") || !strcmp(kind, "torn-payload")) {
        write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
        at = place();
        write_blocks(2, 2, 'x', OD_RECORD_COMMIT);
        write_blocks(3, 1, 'x', OD_RECORD_COMMIT);
        flip(at + (kind[5] == 'h' ? 100 : 2 * VD_BLOCK + 7));
    } else if (!strcmp(kind, "half-operation")) {
        write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
        write_blocks(2, 2, 'x', 0);
    } else if (!strcmp(kind, "refilled") || !strcmp(kind, "torn-refill")) {
        refill_block(1, 5, 'B');
        refill_block(2, 6, 'C');
        write_blocks(3, 1, 'D', OD_RECORD_COMMIT);
        if (kind[0] == 't')
            flip((uint64_t)OLD * CHUNK + 6 * VD_BLOCK + 700);
    } else if (!strcmp(kind, "reused")) {
        /* What lay where the next record's payload will lie was moved away: old news by then. */
        struct vd_entry e = {.type = VD_ENTRY_RELOCATE, .blocks = 1, .count = 1};
        relocation = (struct vd_relocation){.branch = 1,
                                            .lba = 40,
                                            .blocks = 1,
                                            .from = {lg.seg, (lg.block + 4) * VD_SECTORS_PER_BLOCK},
                                            .to = {7, 0}};
        record(&e, 1, OD_RECORD_COMMIT, 0);
        write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
    } else if (!strcmp(kind, "newer-root")) {
        root.counter++;
        write_blocks(1, 1, 'B', OD_RECORD_COMMIT);
        root.counter--;
    } else if (!strcmp(kind, "feature")) {
        label.incompat = OD_INCOMPAT_ENCRYPTION;
    } else {
        return -EINVAL;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3 || (fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0666)) < 0 ||
        ftruncate(fd, SEGMENTS * CHUNK) < 0) {
        fprintf(stderr, "usage: make_image KIND FILE\n");
        return 2;
    }
    label = (struct vd_label){.major = OD_FORMAT_MAJOR,
                              .minor = OD_FORMAT_MINOR,
                              .pool_uuid = pool,
                              .dev_uuid = {"device"},
                              .dev_count = 1,
                              .chunk_size = CHUNK,
                              .generation = 1,
                              .incarnation = 2,
                              .created_s = 1700000000,
                              .root_counter = 1,
                              .redundancy_data = 1,
                              .incompat = OD_INCOMPAT_REFILL,
                              .pool_name = "made"};
    root =
        (struct vd_root){.pool_uuid = pool,
                         .incarnation = 1,
                         .counter = 1,
                         .epoch = 1,
                         .log_seg = segref(1),
                         .table_off = {65536, OD_HEAD_COPY + 65536, 131072, OD_HEAD_COPY + 131072},
                         .table_area = 65536};
    lg.incarnation = 2;
    go_to(1);
    memcpy(root.log_next, lg.next, sizeof(root.log_next));
    int r = make(argv[1]);
    if (r < 0) {
        fprintf(stderr, "unknown kind %s\n", argv[1]);
        return 2;
    }
    write_head();
    return close(fd) ? 1 : 0;
}
