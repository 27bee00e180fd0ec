/* SPDX-License-Identifier: MIT */
/*
 * What the files of pool/ share. The state is split by lifetime: geometry (fixed while open), the
 * segment table, the log, the checkpoint, space. Everything lives on one loop, so a function that
 * does not suspend is atomic.
 */
#ifndef VD_POOL_POOL_PRIV_H
#define VD_POOL_POOL_PRIV_H

#include "core/base/log.h"
#include "format/format.h"
#include "pool/pool.h"

/* ---- segments (segment.c) ---- */

struct pool_seg {
    uint8_t state;  /* enum vd_seg_state */
    uint8_t stream; /* enum vd_stream_kind */
    bool warm;    /* the chunk has been written before: overwriting needs no metadata of the host */
    bool backed;  /* the host has given the space */
    bool victim;  /* the cleaner is moving its live blocks, or has and the root is to come */
    bool doomed;  /* the root being written forgets it: nobody else frees or empties it */
    bool stuck;   /* could not be emptied: not to be tried again before its `live` changes */
    bool rotten;  /* cannot be read: not to be tried again */
    bool emptied; /* replay: the log says that nothing needed is left, and nothing came since */
    bool refilling;       /* its dead blocks are being filled: nobody else's */
    uint32_t live;        /* blocks that the published trees name; for metadata, nodes */
    int32_t delta;        /* change to live by the merge under way */
    uint32_t pins;        /* readers between resolve and verify (I11) */
    uint32_t unpublished; /* bulk writes not yet named by an entry */
    uint32_t told;        /* writes to it that were told of and are not complete */
    uint64_t last_seq;    /* last record that lies in it or names something in it */
    uint64_t rid;
    /* The trees may name what lay here before, until that root: merges find it by its address. */
    uint64_t ghosts_until;
    uint64_t victim_seq; /* once a root covers it, nothing of a victim should be left */
    struct seg_map *map; /* which of its blocks are in use; NULL = not known */
};

struct pool_segments {
    struct pool_seg *v;
    uint32_t room;  /* of v */
    uint32_t count; /* segments the table knows: chunks 0..count-1 of the device */
    uint32_t limit; /* most segments: by capacity, device and table */
    uint32_t free_backed;
    uint32_t free_cold;    /* free, not backed, below count */
    uint32_t used;         /* open or closed */
    uint32_t meta;         /* of them, with nodes */
    uint32_t low_hint;     /* no free segment below this */
    uint32_t table_backed; /* entries that the table's areas have host space for */
    struct vd_fmutex alloc_lock;
    uint64_t freed_at_ns; /* when something was last freed: punching waits a little */
    bool host_full;       /* the host refused space; forgotten after a while */
    uint64_t host_full_ns;
};

/* ---- the log (log.c) ---- */

#define LOG_RECORDS 16          /* records in flight */
#define LOG_TELL_BLOCKS 8u      /* longer writes are told of when they are complete */
#define LOG_CACHED_BLOCKS 4u    /* shorter records are complete when the host has them */
#define LOG_PAYLOAD_BLOCKS 256u /* most payload of a record */
#define LOG_IOV (LOG_PAYLOAD_BLOCKS + 1)
#define LOG_FILLS 48 /* most blocks that it has written to dead places: as many as entries fit */
#define LOG_HINTS 8  /* most hint blocks with it */

struct log_rec {
    struct vd_list link;
    uint64_t seq;
    struct vd_addr at;
    uint32_t payload_blocks;
    bool commit, done, dsync;
    /* It may be told of early: small writes only, copied. It has been handed over; told of; and
     * written again elsewhere after that. */
    bool plain, handed, told, moved;
    struct vd_addr told_at; /* what the overlay says of it, until it is complete */
    unsigned told_fills;
    int res;
    struct vd_record rec;
    uint8_t *header; /* 4096 bytes */
    uint8_t *bounce; /* LOG_PAYLOAD_BLOCKS blocks, made when first needed */
    uint32_t bounced;
    struct iovec iov[LOG_IOV];
    int iovcnt;
    const uint8_t *relocations; /* of its RELOCATE entry, if it has one */
    /* Its blocks in dead places of other segments, and hint blocks that became complete. */
    struct vd_addr fill_at[LOG_FILLS];
    struct iovec fill[LOG_FILLS];
    unsigned fills, hints;
    bool homed; /* those blocks are in the payload as well: copies that no root needs */
    struct vd_list full;
    struct vd_io io[1 + LOG_FILLS + LOG_HINTS];
    struct vd_io_batch batch;
    struct iovec hint[LOG_HINTS];
    struct vd_list ops; /* pool_op that end in this record */
};

/* Where the first blocks of a record's payload have copies that will stay. */
struct log_homes {
    const struct vd_addr *at;
    unsigned count;
};

/* Records that replay took over from above the horizon. */
struct log_span {
    struct vd_addr at;
    uint32_t blocks;
    uint64_t csum;
};
struct log_tail {
    struct log_span *v;
    size_t count, room;
};

struct pool_log {
    struct log_tail tail;
    struct vd_logref cur;
    /* The successors that the last complete record names: replay looks nowhere else. */
    struct vd_logref known[OD_LOG_NEXT];
    struct vd_logref
        next[OD_LOG_NEXT]; /* reserved successors; the last may be missing for a while */
    /* Takes the last successor's place when the log moves on, so that its first record names both.
     */
    struct vd_logref prepared;
    uint32_t block; /* next free block in cur */
    uint64_t next_seq;
    uint64_t prev_csum;
    uint64_t incarnation;
    /* echo of the last header */
    uint8_t echo[OD_RECORD_ENTRIES_MAX];
    unsigned echo_len, echo_count, echo_flags;
    uint32_t echo_payload_blocks;
    uint8_t scratch[VD_BLOCK]; /* a block gathered from several pieces of memory */
    bool announce;             /* the next header carries a SEGMENT entry for the last successor */

    struct vd_list queue;    /* operations waiting to be encoded */
    uint64_t queued;         /* of them: blocks or entries */
    struct vd_list inflight; /* records, in sequence order */
    struct vd_list group;    /* complete records of an operation whose end is not */
    struct vd_list moved;    /* told of, and then written elsewhere: to be applied again */
    struct vd_list spare;
    unsigned inflight_count;
    unsigned told;           /* of these: told of, not complete */
    bool tells, caches;      /* the device takes writes over; and small ones at once */
    bool holding;            /* nothing more is told of early until what was is complete */
    uint64_t moves;          /* goes up when what was told of lies elsewhere */
    struct vd_waitq work;    /* writers wait here */
    struct vd_waitq idle;    /* those who wait for inflight to drain */
    struct vd_waitq settled; /* those who wait for some of it */
    bool failing;            /* a record failed: being rewritten in the successor */
    bool starved;            /* there was no memory for the last record */
    unsigned failures;       /* in a row */
    unsigned company;        /* blocks per record of late, in sixteenths */

    uint64_t applied_seq, applied_csum;
    uint64_t durable_seq; /* the horizon */
    uint64_t sealed;      /* horizon of the last header written */
    uint64_t data_seq;    /* last record that was not a seal */
    bool flushing;
    struct vd_waitq flush_done;
    uint64_t flushed_at;  /* last record before the last flush that was asked for */
    uint64_t flush_habit; /* flushes in a row that each had one record to make durable */
    uint64_t unflushed_bytes;
    uint64_t last_flush_ns;
    uint64_t rolled_ns;    /* when `cur` was begun */
    uint64_t fill_ns;      /* how long the segment before it took */
    uint64_t window_bytes; /* since the root's log position */
    uint64_t spent;        /* blocks of the log, ever, that are dead as soon as a root covers them */
};

/* As many flushes in a row each had one record to make durable: so will the next, unless many
 * records have come since. */
#define LOG_HABIT_ENDS 16
static inline bool log_flush_expected(const struct pool_log *l)
{
    return l->flush_habit >= 3 && l->applied_seq - l->flushed_at <= LOG_HABIT_ENDS;
}

/* ---- streams of bulk data and nodes (bulk.c, meta.c) ---- */

struct bulk_stream {
    enum vd_stream_kind kind;
    uint32_t seg; /* 0 = none open */
    uint32_t block;
};

#define META_BUFFER_NODES 64
struct meta_stream {
    struct bulk_stream a, b;
    uint8_t *buf; /* META_BUFFER_NODES nodes: not yet written, the same for both copies */
    unsigned count;
    struct vd_addr first[2]; /* where buf begins in each copy */
    struct vd_fmutex lock;
    int failed;
};

/* Batches of the cleaner's under way at once: while one looks or flushes, others read and write. */
#define CLEANERS 4

#define MERGE_ALL UINT64_C(65536)

/* ---- touch list for the metadata cleaner ---- */
struct touch_node {
    struct tree_key key;
    unsigned level;
};
struct touch_list {
    struct touch_node *v;
    size_t count, room, pos;
};

struct vd_pool {
    struct vd_loop *loop;
    struct vd_dev *dev;
    const struct pool_client_ops *client;
    void *client_arg;
    bool rdonly;
    char failure[200];

    /* geometry */
    struct vd_label label;
    uint64_t pool64; /* first 8 bytes of the UUID, as in headers and nodes */
    uint32_t chunk_size, seg_blocks;
    unsigned chunk_shift;

    struct vd_root root; /* newest durable */
    struct pool_segments segs;
    struct pool_log log;
    struct forest *forest;
    struct overlay *active, *frozen;
    uint64_t epoch;

    struct {
        bool running;          /* one at a time */
        bool held;             /* `running` only keeps others from it */
        bool merging;          /* nodes are being written */
        uint64_t progress;     /* of the merge: part of the frozen overlay, of MERGE_ALL */
        uint64_t nodes_before; /* as many as had been written when it began */
        bool wanted;           /* the checkpointer is to run one */
        uint64_t ended_ns;     /* when the last one ended */
        uint64_t done, failures;
        int last_error;
        struct vd_waitq kick, finished;
        struct touch_list touch[TREE_COUNT];
        uint64_t nodes_beside; /* it may write for these lists, and for background work */
        uint64_t zeroed;       /* in the frozen overlay, as space.zeroed is in the active one */
        /* of the frozen overlay */
        uint64_t seq, csum, epoch, window, spent;
        uint64_t spent_at_root; /* of the log, when what the newest root covers was frozen */
        struct vd_segref log_seg;
        uint32_t log_sector;
        struct vd_logref log_next[OD_LOG_NEXT];
    } ckpt;
    struct meta_stream meta;

    struct {
        unsigned used; /* transfers under way */
        struct vd_waitq ended;
    } behind;

    struct {
        struct vd_list ready;   /* struct refill, in the order they are used */
        struct vd_list found;   /* hint blocks that replay, or records that failed, left unwritten */
        struct vd_waitq untidy; /* the tidier waits here */
        uint64_t slots;         /* blocks left in those that are ready */
        uint64_t promised;      /* of them, to operations in the log's queue */
        uint64_t dead;          /* blocks in segments that may be made ready */
        uint64_t dead_at_root, filled; /* when the last root came; since then */
        uint64_t filled_before;        /* the last checkpoint */
        uint64_t filled_meanwhile;     /* while it ran */
        uint64_t garbage;              /* blocks of closed segments that no tree names */
        uint64_t learned;              /* segments looked through */
        bool all_known;                /* there is nothing to learn, until the next root */
        bool barren;                   /* there was nothing to make ready, until the next root */
        size_t map_bytes;
    } refill;

    struct {
        struct bulk_stream out[CLEANERS]; /* one for each batch under way */
        bool busy[CLEANERS];
        bool stopped;      /* the pool is about to be closed */
        uint64_t planned;  /* blocks that these may still take */
        uint64_t moving;   /* blocks that they may still relocate */
        uint64_t released; /* segments given free without waiting for a root */
        void *buffers;     /* of a chunk each, kept while there is work: each points at the next */
        struct vd_waitq kick, help, idle;
    } clean;

    struct {
        uint64_t admitted;  /* blocks admitted and not yet placed */
        uint64_t reserved;  /* blocks kept for merges, cleaning, trims */
        uint64_t for_meta;  /* and for metadata to be rewritten, where the pool cannot grow */
        uint32_t keep;      /* free segments that trims leave, and the cleaner in the end: what
                             * opening takes after a crash, and the root that ends what it left */
        uint32_t for_merge; /* that the next merge may open: none while the open ones have room */
        uint32_t most_free, rounds; /* of making room for who waits: how far it has come */
        struct vd_waitq waiters;
        unsigned waiting;
        struct vd_waitq paced; /* writes that wait for a checkpoint to catch up */
        struct vd_waitq kick;  /* the keeper waits here */
        bool kicked;
        uint64_t nodes;           /* that merging both overlays may write, one copy */
        uint64_t nodes_at_freeze; /* that merging the last frozen overlay could write, one copy */
        uint64_t zeroed;          /* blocks trimmed or zeroed in the active overlay */
        uint64_t merged, added;   /* data blocks of the last overlay merged; what was live after that
                                   * and not before */
        uint64_t refusals;        /* goes up when it is found that nothing more can be had */
    } space;

    unsigned fibers; /* of the pool's own, running */
    bool closing;    /* they are to end */
    struct vd_waitq fiber_ended;

    struct {
        uint64_t guest_blocks, cleaned, refilled, homed, checkpoints, records;
        uint64_t written[VD_STREAM_FIXED + 1]; /* blocks, by stream */
    } stats;
};

/* pool.c */
/* Makes the pool read-only for good and wakes everybody who waits (I9). */
void pool_fail(struct vd_pool *p, const char *fmt, ...) VD_PRINTF(2, 3);
static inline bool pool_failed(const struct vd_pool *p)
{
    return p->failure[0] != 0;
}
uint64_t pool_inner_nodes(const struct vd_pool *p); /* of all trees */
/* The trees have changed: as much memory for nodes as they are worth. */
void pool_fit_cache(struct vd_pool *p);
int pool_spawn(struct vd_pool *p, const char *name, void (*fn)(void *arg));
void pool_fiber_ends(struct vd_pool *p);

/* head.c: labels, roots, tables */
#define HEAD_CHUNKS 5u /* labels and roots; the table's four areas */
int head_format(struct vd_dev *dev, struct vd_label *l, struct vd_root *r);
int head_read_label(struct vd_dev *dev, struct vd_label *ret, struct vd_error *err);
int head_write_label(struct vd_pool *p);
int head_read_root(struct vd_pool *p, struct vd_error *err);
int head_write_root(struct vd_pool *p, const struct vd_root *r);
/* A crash may have come between the two copies of the newest root: writes the one that is missing.
 * Or both, where no label says that this root is durable: its flush may have failed, and the host
 * may show it all the same. Not flushed. VD_YIELDS */
int head_heal_root(struct vd_pool *p);
int head_read_table(struct vd_pool *p, struct vd_error *err);
/* Writes the table of the generation that the coming root `r` names; fills r's table fields.
 * `freed` says which segments it lists as free although they are not yet so in memory. */
int head_write_table(struct vd_pool *p, struct vd_root *r, const bool *freed);
uint32_t head_table_limit(uint64_t area);
void head_table_areas(uint32_t chunk_size, uint64_t off[4], uint64_t *area);

/* segment.c */
static inline uint64_t seg_off(const struct vd_pool *p, uint32_t seg)
{
    return (uint64_t)seg << p->chunk_shift;
}
static inline uint64_t addr_off(const struct vd_pool *p, struct vd_addr a)
{
    return seg_off(p, a.seg) + (uint64_t)a.sector * VD_SECTOR;
}
static inline uint32_t addr_block(struct vd_addr a) /* of its segment */
{
    return a.sector / VD_SECTORS_PER_BLOCK;
}
int segs_init(struct vd_pool *p, uint32_t count);
void segs_free(struct vd_pool *p);
/* Adds a free segment behind the last one. -ENOSPC at the limit. */
int segs_add(struct vd_pool *p);
void segs_set_limit(struct vd_pool *p);
void segs_recount(struct vd_pool *p);
bool seg_valid(const struct vd_pool *p, struct vd_addr a, uint64_t blocks);
/* Is `header` a record, bulk header or hint block of this pool's, made for the place `at`? Of which
 * opening of the segment is for the caller to ask. */
bool seg_header(const struct vd_pool *p, struct vd_addr at, const void *header,
                struct vd_record *ret);
/* Opens a free segment for a stream: fallocates when it must. VD_YIELDS. -ENOSPC */
int seg_open(struct vd_pool *p, enum vd_stream_kind stream, uint32_t *ret);
/* Writes an open segment that nothing was written to once over, if it never was. Best effort.
 * VD_YIELDS */
void seg_warm(struct vd_pool *p, uint32_t seg);
/* Which segments are warm, and which free ones backed, by what the host says. */
void segs_ask_host(struct vd_pool *p);
void seg_close(struct vd_pool *p, uint32_t seg);
static inline bool seg_holds_nodes(const struct pool_seg *s)
{
    return s->stream == VD_STREAM_META_A || s->stream == VD_STREAM_META_B;
}
/* May the trees name blocks in it that are not there any more, as relocations and newer writes in
 * the log tell? */
bool seg_has_ghosts(const struct vd_pool *p, const struct pool_seg *s);
/* Would a root at `seq` forget this segment? Uses live + delta. */
bool seg_freeable(const struct vd_pool *p, uint32_t seg, uint64_t seq);
void seg_release(struct vd_pool *p, uint32_t seg);
/* Backs up to `want` more free segments with host space; returns how many. VD_YIELDS */
uint32_t segs_back(struct vd_pool *p, uint32_t want);
/* Gives host space back until at most `keep` free segments are backed. VD_YIELDS */
void segs_trim(struct vd_pool *p, uint32_t keep);

/* log_build.c */
/* Builds the next record from the queue, and puts it in flight. NULL: there is nothing to write, or
 * no successor is reserved yet, or no memory, which `starved` tells. */
struct log_rec *log_build(struct vd_pool *p, bool seal);
/* Puts a header together, at the log's end: place, number, chain, echo, horizon. Also for a second
 * attempt, which keeps entries and number. */
void log_seal_record(struct vd_pool *p, struct log_rec *rec);
/* Takes what goes to dead places elsewhere into the payload: those cannot be written. */
void log_fills_inline(struct vd_pool *p, struct log_rec *rec);
/* Of a record that was built and is not written yet, and will be forced: dead places for copies of
 * its payload, if space is short. */
void log_take_homes(struct vd_pool *p, struct log_rec *rec);
void log_rec_free(struct log_rec *rec);
void log_roll(struct vd_pool *p); /* moves on to the reserved successor */
/* Does the last complete record name it? Replay goes nowhere else. */
bool log_is_known(const struct pool_log *l, const struct vd_logref *to);
struct vd_segref log_segref(const struct vd_logref *l);

/* log.c */
int log_start(struct vd_pool *p); /* fibers */
void log_init(struct vd_pool *p);
void log_done(struct vd_pool *p);
void log_settle(struct vd_pool *p); /* waits for all that is under way now. VD_YIELDS */
/* Waits until all that was acknowledged is complete, and keeps it so until log_go_on: each write is
 * acknowledged when it is complete. VD_YIELDS */
void log_hold(struct vd_pool *p);
void log_go_on(struct vd_pool *p);
/* Are these blocks of a write that was acknowledged and is not complete? Then they wait for
 * log.settled, and if log.moves has changed by then, for another look at where they are. */
bool log_under_way(const struct vd_pool *p, struct vd_addr at, uint64_t blocks);
int log_flush_now(struct vd_pool *p); /* VD_YIELDS */
int log_flush_to(struct vd_pool *p, uint64_t seq); /* VD_YIELDS */
int log_seal(struct vd_pool *p);
/* Applies the entries of a header to overlay and client: live and at replay alike. `relocations`:
 * a good copy of what its RELOCATE entry, if any, has in the payload. */
int log_apply(struct vd_pool *p, const struct vd_record *rec, const uint8_t *header,
              const uint8_t *relocations, const struct log_homes *homes);
/* Reserves successors until all are there. VD_YIELDS */
int log_reserve(struct vd_pool *p);
/* Gets the segment after those ready, if there is space to spare. VD_YIELDS */
void log_prepare(struct vd_pool *p);
void log_wake_writers(struct vd_pool *p);

/* replay.c */
int pool_replay(struct vd_pool *p, struct vd_error *err);
/* Writes the log's end again, as far as no flush is known to have covered it. VD_YIELDS */
int replay_tail_rewrite(struct vd_pool *p);

/* meta.c */
extern const struct forest_io pool_forest_io;
int meta_init(struct vd_pool *p);
void meta_done(struct vd_pool *p);
int meta_flush(struct vd_pool *p); /* VD_YIELDS */

/* checkpoint.c */
int checkpoint_run(struct vd_pool *p); /* VD_YIELDS */
void checkpoint_want(struct vd_pool *p);
/* Bytes of log after which one is due. */
uint64_t checkpoint_window(const struct vd_pool *p);
int checkpoint_start(struct vd_pool *p);

/* cleaner.c */
/* Empties some segments by moving their live blocks. Returns how many (the next checkpoint frees
 * them), 0 when nothing pays, or -errno. `urgent`: any garbage pays. VD_YIELDS */
int cleaner_batch(struct vd_pool *p, bool urgent);
/* Finds out what is dead in one more segment of an earlier session: 1, 0 when there is none, -EAGAIN
 * when merges got in the way, or another -errno that concerns one segment. VD_YIELDS */
int cleaner_learn(struct vd_pool *p);
bool cleaner_busy(const struct vd_pool *p); /* is a batch under way? */
/* Waits until what is under way has ended; nothing begins any more. VD_YIELDS */
void cleaner_stop(struct vd_pool *p);
void cleaner_rest(struct vd_pool *p);       /* gives back memory that the next batch would take */
/* What an urgent batch could do: at once, or only when one or two more roots are written. */
enum clean_prospect { CLEAN_NOTHING, CLEAN_LATER, CLEAN_NOW };
enum clean_prospect cleaner_prospect(const struct vd_pool *p);
/* Lists the live nodes of sparse metadata segments for the coming merge. VD_YIELDS */
int cleaner_touch_meta(struct vd_pool *p);
void touch_list_clear(struct vd_pool *p);

/* refill.c */
/* What is dead, and where that is known. */
void refill_count(struct vd_pool *p);
/* A merge has ended. */
void refill_merge_ends(struct vd_pool *p, bool published);
/* Is there enough that is dead for small writes to go there? */
bool refill_works(const struct vd_pool *p);
/* A segment has got a map. */
void refill_learned(struct vd_pool *p, uint32_t seg);
/* What is left is about what is filled while a checkpoint runs: the next one should bring more. */
bool refill_runs_out(const struct vd_pool *p);
/* Promises dead blocks to an operation; p->refill.promised goes down when it is in a record. */
bool refill_promise(struct vd_pool *p, uint32_t blocks);
/* One block to fill, and whose hints tell about it. False: there is none, against the promise (a
 * root came between). */
struct refill;
bool refill_slot(struct vd_pool *p, struct vd_addr *ret, struct refill **from);
uint16_t refill_hints(const struct refill *f);
/* The entry of a block from refill_slot, as it is in record `seq`. True: the hint block is complete
 * and was put on `full`, to be written with the record. */
bool refill_filled(struct vd_pool *p, struct refill *f, uint64_t seq, const void *entry, size_t len,
                   struct vd_list *full);
struct vd_io refill_io(struct vd_pool *p, struct refill *f, struct iovec *iov); /* hint block */
struct refill *refill_of(struct vd_list *link);
void refill_done(struct vd_list *full);
int refill_found(struct vd_pool *p, const struct vd_entry *e);
int refill_checkpoint(struct vd_pool *p);
/* Before maps are stored: no segment is ready to be filled any more. */
void refill_rest(struct vd_pool *p);
void refill_init(struct vd_pool *p);
int refill_start(struct vd_pool *p); /* a fiber */
void refill_end(struct vd_pool *p);

/* map_store.c: a closed pool keeps what is known of its segments */
/* To be called when the newest root covers everything, before the label says so. Best effort.
 * VD_YIELDS */
void maps_store(struct vd_pool *p);
/* To be called when the log has been replayed, and nothing has been changed. VD_YIELDS */
void maps_load(struct vd_pool *p);

/* behind.c */
/* vd_dev_io for what nobody waits for. VD_YIELDS */
int behind_io(struct vd_pool *p, struct vd_io *ios, int n);

/* reserve.c */
#define RESERVE_HEADERS_BLOCKS (VD_MIB(2) / VD_BLOCK)
#define RESERVE_CLEAN_SEGMENTS 3
#define RESERVE_META_SEGMENTS 4 /* for making sparse metadata dense, where that is due */
void reserve_update(struct vd_pool *p);
void reserve_frozen(struct vd_pool *p); /* an overlay has just been frozen */
/* Nodes that are always kept for background work. */
#define RESERVE_BACKGROUND_NODES 64u
/* Nodes, counted once, that there is space for beyond those that merging both overlays may write and
 * a segment of the log's. */
uint64_t reserve_spare_nodes(const struct vd_pool *p);
/* Nodes, counted once, that merging the frozen overlay and what goes along may write. */
uint64_t reserve_frozen_nodes(const struct vd_pool *p);
/* Blocks that so many relocations more let merges write in addition. */
uint64_t reserve_of_moves(const struct vd_pool *p, uint64_t moves);
/* Is much more in use for nodes than there are? */
bool reserve_meta_sparse(const struct vd_pool *p);
/* Blocks of nodes that the trees name. */
uint64_t reserve_meta_live(const struct vd_pool *p);
/* Blocks that the zeroes of an operation let merges write in addition. */
uint64_t reserve_of_zeroes(const struct vd_pool *p, const struct pool_op *op);
/* Blocks that the reserve will grow by when the active overlay is frozen and another one has become
 * as large. */
int64_t reserve_to_come(const struct vd_pool *p);

/* space.c */
int space_admit(struct vd_pool *p, struct pool_op *op); /* VD_YIELDS */
void space_placed(struct vd_pool *p, uint64_t blocks);
void space_kick(struct vd_pool *p);
int space_start(struct vd_pool *p);
/* Blocks that new data may take right now; negative when the reserve is touched. */
int64_t space_available(const struct vd_pool *p);
/* Somebody waits for room, or will soon if the cleaner does not hurry. */
bool space_is_short(const struct vd_pool *p);
/* Blocks that cleaning may take, of free segments and of what merges write: may be negative. */
int64_t space_to_clean(const struct vd_pool *p);
/* Blocks that the cleaner may fill now. It borrows a segment even where none is to spare: a batch
 * that fits into one empties more than that, and counts for nothing if it is cut short. */
uint64_t space_clean_room(const struct vd_pool *p);
/* Free segments with host space that a closed pool keeps, to be opened and changed with (P4). */
uint32_t space_idle_segments(const struct vd_pool *p);
/* Blocks of segments in use that nothing needs. */
uint64_t space_garbage(const struct vd_pool *p);
/* The frozen overlay has been merged into what `root` names; called before that is p->root. */
void space_merged(struct vd_pool *p, const struct vd_root *root);
bool space_may_grow(const struct vd_pool *p);
/* Is room worth no more than to empty sparse segments? */
bool space_cleans_sparse(const struct vd_pool *p);
/* Is what a forced write would leave in the log worth a second place? */
bool space_wants_homes(const struct vd_pool *p);

#endif
