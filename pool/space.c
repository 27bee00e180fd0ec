/* SPDX-License-Identifier: MIT */
/*
 * Space: admission of writes, growth, and the fibers that make room.
 *
 * I7: a write is admitted only when there is space, given by the host, for it and for the reserve
 * (reserve.c).
 *
 * Two fibers: the keeper (log successors, growth, the horizon, giving space back) and the cleaner's
 * (moves live data out of sparse segments when growing is not allowed). Both sleep when idle.
 */
#include "pool/pool_priv.h"

#define KEEPER_TICK_NS UINT64_C(250000000)
#define BACKGROUND_EVERY_NS UINT64_C(1000000000)
#define TRIM_AFTER_NS UINT64_C(2000000000)
#define WARM_KEEP_BYTES VD_MIB(16)
#define GARBAGE_SLACK_BYTES VD_MIB(40) /* with open segments and a window: 64 MiB */
#define GARBAGE_SLACK_SEGMENTS 12u
#define LEARN_TURN_NS UINT64_C(100000000)
#define LEARN_FIRST 512u /* segments */
#define LEARN_EVERY 16u  /* blocks of guests; a quarter of what is dead in an ordinary segment */
#define WORK_BYTES VD_MIB(64)
#define MERGED_MIN 1024u /* blocks */

/* What sparse metadata needs to become dense again comes first: it brings more than it takes. */
int64_t space_to_clean(const struct vd_pool *p)
{
    int64_t blocks =
        (int64_t)p->segs.free_backed * p->seg_blocks - 2 * (int64_t)p->space.nodes - p->seg_blocks;
    return reserve_meta_sparse(p) ? blocks - RESERVE_META_SEGMENTS * p->seg_blocks : blocks;
}

uint64_t space_clean_room(const struct vd_pool *p)
{
    uint64_t have = p->segs.free_backed;
    if (have <= p->space.keep)
        return have > p->space.for_merge ? p->seg_blocks : 0;
    /* Whoever is admitted meanwhile does not know of it, but leaves the reserve alone. */
    uint64_t most = (uint64_t)RESERVE_CLEAN_SEGMENTS * p->seg_blocks +
                    (uint64_t)VD_MAX(space_available(p), 0) / 2;
    return VD_MIN((have - p->space.keep) * p->seg_blocks, most);
}

uint32_t space_idle_segments(const struct vd_pool *p)
{
    return (uint32_t)VD_DIV_UP(p->space.reserved, p->seg_blocks) + 1 + OD_LOG_NEXT;
}

/* Blocks left in the log's own segments. */
static int64_t log_room(const struct vd_pool *p)
{
    const struct pool_log *l = &p->log;
    uint64_t segments = (l->next[0].seg != 0) + (l->next[1].seg != 0) + (l->prepared.seg != 0);
    return (int64_t)(segments * p->seg_blocks + (p->seg_blocks - l->block));
}

/* The log's own segments are for whoever is admitted; behind them the reserve begins, whole. What
 * metadata is to have besides need not be there yet where the pool can still grow. */
int64_t space_available(const struct vd_pool *p)
{
    uint64_t all =
        (uint64_t)p->segs.free_backed + p->segs.free_cold + p->segs.limit - p->segs.count;
    int64_t spare = (int64_t)p->segs.free_backed * p->seg_blocks,
            ever = (int64_t)(all * p->seg_blocks) - (int64_t)p->space.for_meta;
    spare = VD_MIN(spare, ever) - (int64_t)p->space.reserved;
    return spare < 0 ? spare : spare + log_room(p) - (int64_t)p->space.admitted;
}

/* What is not merged yet replaces what is, or comes to it: which of them only the merge will know,
 * but it goes on as it did last time. */
static uint64_t data_live(const struct vd_pool *p)
{
    uint64_t unmerged = overlay_data_blocks(p->active);
    if (p->frozen)
        unmerged += overlay_data_blocks(p->frozen);
    if (p->space.merged)
        unmerged = (uint64_t)((double)unmerged * (double)p->space.added / (double)p->space.merged);
    else if (p->root.live_blocks > MERGED_MIN) /* just opened */
        unmerged /= 2;
    return p->root.live_blocks + unmerged + reserve_meta_live(p);
}

void space_merged(struct vd_pool *p, const struct vd_root *root)
{
    uint64_t before = p->root.live_blocks, merged = overlay_data_blocks(p->frozen);
    if (merged < MERGED_MIN)
        return; /* says little */
    p->space.merged = merged;
    p->space.added = root->live_blocks > before ? VD_MIN(root->live_blocks - before, merged) : 0;
}

uint64_t space_garbage(const struct vd_pool *p)
{
    uint64_t used = (uint64_t)p->segs.used * p->seg_blocks, live = data_live(p);
    return used > live ? used - live : 0;
}

/* Growing comes before cleaning while garbage is at most a quarter of what the root names, and 64
 * MiB; or, where segments are large, as much as those have room for that are always open: what is
 * not written yet counts as garbage too, and a young pool would move its few blocks round and
 * round. */
static uint64_t garbage_bound(const struct vd_pool *p)
{
    uint64_t slack = VD_MAX(GARBAGE_SLACK_BYTES / VD_BLOCK, GARBAGE_SLACK_SEGMENTS * p->seg_blocks);
    return p->root.live_blocks / 4 + slack;
}

bool space_may_grow(const struct vd_pool *p)
{
    return space_garbage(p) <= garbage_bound(p);
}

/* Who waits need not wait for a cleaner that has no room itself, as where the pool was closed and
 * gave back what was free; but there is an end to that. */
static bool may_grow_at_need(const struct vd_pool *p)
{
    uint64_t backed = ((uint64_t)p->segs.used + p->segs.free_backed) * p->seg_blocks;
    return backed <=
           data_live(p) + garbage_bound(p) + VD_MAX(WORK_BYTES / VD_BLOCK, data_live(p) / 16);
}

static bool room_to_grow(const struct vd_pool *p)
{
    return space_may_grow(p) && p->segs.count < p->segs.limit;
}

void space_kick(struct vd_pool *p)
{
    p->space.kicked = true;
    vd_wake_all(&p->space.kick);
}

/* How much should be available before the next write asks: where the file grows for it, and where
 * the cleaner has to make it, for which every block that lies idle makes all others denser. */
static int64_t low_water_part(const struct vd_pool *p, unsigned part, uint64_t most)
{
    uint64_t blocks = (uint64_t)p->segs.used * p->seg_blocks / part;
    blocks = VD_MIN(blocks, most / VD_BLOCK);
    return (int64_t)VD_MAX(blocks, 8 * (uint64_t)p->seg_blocks);
}

static int64_t low_water(const struct vd_pool *p)
{
    return low_water_part(p, 48, VD_MIB(128));
}

static int64_t clean_low_water(const struct vd_pool *p)
{
    return low_water_part(p, 64, VD_MIB(96));
}

#define OVERLAY_BYTES VD_MIB(48) /* each of the two */

/* The active overlay and the window behind it are bounded: when a checkpoint cannot keep up, writes
 * wait for it. They may take half of that at once, and the other half as the merge goes on, so that
 * they become slow and do not come to a stop. */
static bool paced(const struct vd_pool *p)
{
    if (!p->ckpt.running || !p->frozen)
        return false;
    uint64_t window = p->log.window_bytes - VD_MIN(p->ckpt.window, p->log.window_bytes);
    uint64_t full = VD_MAX(overlay_memory(p->active) * MERGE_ALL / OVERLAY_BYTES,
                           window * MERGE_ALL / (2 * checkpoint_window(p)));
    return full >= (MERGE_ALL + p->ckpt.progress) / 2;
}

/* Blocks that an operation may still take: one that makes room, all but what a merge needs; the
 * header of one that refills, all but that and what headers of trims and deletes may take. */
static int64_t space_for(const struct vd_pool *p, const struct pool_op *op)
{
    if (!(op->flags & POOL_OP_RESERVE) && !op->refill)
        return space_available(p);
    int64_t spare = (int64_t)p->segs.free_backed - (int64_t)p->space.keep;
    spare *= p->seg_blocks;
    /* The cleaner has borrowed from that. What fits into the log's segment takes nothing more away,
     * and with the next root it brings something. */
    if (spare < 0 && op->flags & POOL_OP_RESERVE && p->segs.free_backed >= p->space.for_merge)
        return (int64_t)p->seg_blocks - p->log.block - 2 - (int64_t)p->space.admitted;
    /* Should a root come between, there may be no dead blocks for what they were promised to. */
    if (!(op->flags & POOL_OP_RESERVE))
        spare -= RESERVE_HEADERS_BLOCKS + (int64_t)p->refill.promised;
    return spare < 0 ? spare : spare + log_room(p) - (int64_t)p->space.admitted;
}

/* Blocks of the log that the next roots free, without anything being moved. */
static int64_t comes_free(const struct vd_pool *p)
{
    if (!log_flush_expected(&p->log) || p->ckpt.held)
        return 0;
    return (int64_t)(p->log.spent - p->ckpt.spent_at_root);
}

/* Where each write is forced, it goes to the log as a whole, and to a dead place as well. Then
 * roots are all it takes to go on, and how much room there is says how often. Room costs little as
 * long as there are sparse segments, as such writes leave them that had no second place. */
#define FORCED_ROOM_BYTES VD_MIB(256)
static int64_t forced_room(const struct vd_pool *p)
{
    return (int64_t)VD_MIN((uint64_t)p->segs.used * p->seg_blocks / 16,
                           FORCED_ROOM_BYTES / VD_BLOCK);
}

bool space_cleans_sparse(const struct vd_pool *p)
{
    return log_flush_expected(&p->log) && space_available(p) + comes_free(p) >= forced_room(p) / 4;
}

bool space_wants_homes(const struct vd_pool *p)
{
    return space_garbage(p) >= (uint64_t)forced_room(p) &&
           space_available(p) < 2 * (forced_room(p) + clean_low_water(p));
}

/* A root costs what its nodes take, and the table; it is due before there is no room for what comes
 * meanwhile. */
static bool spent_root_is_due(const struct vd_pool *p)
{
    int64_t worth = VD_MAX(VD_MIN(4 * (int64_t)p->space.nodes, space_available(p)),
                           VD_MAX(1, forced_room(p) / 8));
    return !p->ckpt.running && p->ckpt.failures == 0 && space_wants_homes(p) &&
           comes_free(p) >= worth;
}

/* Where each write is forced, two places take much longer than one: then the cleaner makes room,
 * which it begins to do before this. */
static int64_t refill_low_water(const struct vd_pool *p)
{
    int64_t least = clean_low_water(p);
    return log_flush_expected(&p->log) ? least / 16 : least + reserve_to_come(p);
}

/* Where space is short, small writes take dead blocks, if these are known, and of the log only
 * their part of a header. */
#define REFILL_OP_BLOCKS 4
static uint64_t space_needed(struct vd_pool *p, struct pool_op *op)
{
    if (op->count)
        return 1 + reserve_of_zeroes(p, op);
    if (op->blocks <= REFILL_OP_BLOCKS && refill_works(p) &&
        space_available(p) < refill_low_water(p) && refill_promise(p, (uint32_t)op->blocks)) {
        op->refill = (uint32_t)op->blocks;
        return 1;
    }
    return op->blocks + op->blocks / VD_CELL_BLOCKS + 1;
}

int space_admit(struct vd_pool *p, struct pool_op *op)
{
    if (op->flags & POOL_OP_CLEANER)
        return 0;
    while (paced(p) && !pool_failed(p) && !p->closing)
        vd_wait(&p->space.paced);
    uint64_t need;
    uint64_t refusals = p->space.refusals;
    bool waited = false;
    for (;;) {
        if (pool_failed(p) || p->closing)
            return -EROFS;
        reserve_update(p);
        bool queue = p->space.waiting && !waited && !(op->flags & POOL_OP_RESERVE);
        need = space_needed(p, op);
        if ((!queue || op->refill) && space_for(p, op) >= (int64_t)need)
            break;
        p->refill.promised -= op->refill;
        op->refill = 0;
        if (p->space.refusals != refusals)
            return -ENOSPC;
        if (!waited) {
            space_kick(p);
            vd_wake_all(&p->clean.kick);
        }
        p->space.waiting++;
        vd_wait(&p->space.waiters);
        p->space.waiting--;
        waited = true;
    }
    p->space.admitted += need;
    p->space.most_free = p->space.rounds = 0;
    op->charge = need;
    if (space_available(p) < low_water(p))
        space_kick(p);
    return 0;
}

void space_placed(struct vd_pool *p, uint64_t blocks)
{
    p->space.admitted -= blocks;
}

static void space_wake(struct vd_pool *p)
{
    if (p->space.waiting)
        vd_wake_all(&p->space.waiters);
}

/* Grows until enough is available; in steps that follow the pool's size. */
static void keeper_grow(struct vd_pool *p)
{
    while (space_available(p) < low_water(p) && space_may_grow(p) && !pool_failed(p)) {
        uint32_t step =
            VD_MAX(1u, VD_MIN(p->segs.used / 16, (uint32_t)(VD_MIB(64) / p->chunk_size)));
        uint32_t got = segs_back(p, step);
        if (got == 0)
            break;
        space_wake(p);
    }
    if (space_available(p) < clean_low_water(p))
        vd_wake_all(&p->clean.kick);
}

/* Host space of free segments beyond what the reserve and a little warmth need goes back. */
static void keeper_trim(struct vd_pool *p)
{
    uint64_t keep = p->space.reserved / p->seg_blocks + 1 + WARM_KEEP_BYTES / p->chunk_size;
    if (p->segs.free_backed > keep && p->space.waiting == 0)
        segs_trim(p, (uint32_t)keep);
}

/* Trims say little in the log, so no window ends because of them; but what they leave is free only
 * with a root. */
#define ZEROED_MIN (VD_MIB(16) / VD_BLOCK)
static bool space_comes_free(const struct vd_pool *p)
{
    return p->root.live_blocks && p->space.zeroed >= VD_MAX(ZEROED_MIN, p->root.live_blocks / 16);
}

static bool root_is_due(const struct vd_pool *p)
{
    return p->client->backlog(p->client_arg) || space_comes_free(p);
}

/* Purges and folds advance with checkpoints: some of them each second while there are any. */
static void keeper_background(struct vd_pool *p)
{
    uint64_t now = vd_loop_now_ns(p->loop);
    if (!p->ckpt.running && now - p->ckpt.ended_ns >= BACKGROUND_EVERY_NS && root_is_due(p))
        checkpoint_want(p);
}

static bool keeper_has_more(const struct vd_pool *p)
{
    return p->log.data_seq > p->log.durable_seq || p->log.sealed < p->log.data_seq ||
           p->segs.freed_at_ns != 0 || p->space.waiting != 0 || root_is_due(p);
}

static void keeper(void *arg)
{
    struct vd_pool *p = arg;
    while (!p->closing && !pool_failed(p)) {
        p->space.kicked = false;
        reserve_update(p);
        if (!p->log.next[OD_LOG_NEXT - 1].seg && log_reserve(p) < 0)
            vd_log(VD_LOG_DEBUG, "no space for a log segment");
        log_prepare(p);
        if (space_available(p) < low_water(p))
            keeper_grow(p);
        if (p->log.window_bytes >= checkpoint_window(p) ||
            overlay_memory(p->active) >= VD_MIB(40) || refill_runs_out(p) || spent_root_is_due(p))
            checkpoint_want(p);
        log_seal(p);
        keeper_background(p);
        if (p->segs.freed_at_ns && vd_loop_now_ns(p->loop) - p->segs.freed_at_ns > TRIM_AFTER_NS) {
            p->segs.freed_at_ns = 0;
            keeper_trim(p);
        }
        if (p->closing || pool_failed(p))
            break;
        if (p->space.kicked)
            continue; /* while this was busy */
        if (keeper_has_more(p))
            vd_wait_for(&p->space.kick, KEEPER_TICK_NS);
        else
            vd_wait(&p->space.kick);
    }
    pool_fiber_ends(p);
}

/* Somebody waits: for admission, or for the log to get a segment. */
static bool room_is_urgent(const struct vd_pool *p)
{
    return p->space.waiting || (!p->log.next[OD_LOG_NEXT - 1].seg && p->segs.free_backed == 0);
}

bool space_is_short(const struct vd_pool *p)
{
    return room_is_urgent(p) || space_available(p) < clean_low_water(p) / 2;
}

/* While small writes need no free segments, those there are may become fewer; but what the next
 * merges need has to be there before, or everything waits while they run. */
static bool room_wanted(const struct vd_pool *p)
{
    int64_t least = clean_low_water(p);
    if (p->clean.stopped)
        return false;
    if (log_flush_expected(&p->log))
        least = forced_room(p);
    else if (refill_works(p))
        least = least / 8 + reserve_to_come(p);
    return room_is_urgent(p) || space_available(p) + comes_free(p) < least;
}

/* Each block that is refilled lets another one die, but where, is known only of segments that have
 * maps: as long as there are few of those, what is known becomes less. Some are looked through at
 * once, the others as guests write. */
static bool knowledge_wanted(const struct vd_pool *p)
{
    uint64_t known = p->refill.dead + p->refill.slots;
    if (!(p->label.incompat & OD_INCOMPAT_REFILL) || p->clean.stopped || p->refill.all_known)
        return false;
    if (log_flush_expected(&p->log)) /* whoever waits for each write is not to wait for this */
        return space_wants_homes(p) && known < (uint64_t)forced_room(p) / 8 &&
               p->refill.learned < p->stats.guest_blocks / (2 * LEARN_EVERY);
    return space_available(p) < 2 * clean_low_water(p) && !room_to_grow(p) &&
           known < p->refill.garbage / 2 &&
           p->refill.learned < LEARN_FIRST + p->stats.guest_blocks / LEARN_EVERY;
}

static bool cleaning_wanted(const struct vd_pool *p)
{
    return room_wanted(p) || knowledge_wanted(p);
}

/* True if it brought something. Writes wait less for many at once than for roots between them.
 * VD_YIELDS */
static bool learn(struct vd_pool *p)
{
    uint64_t until = vd_loop_now_ns(p->loop) + LEARN_TURN_NS;
    bool learned = false;
    int r;
    do {
        r = cleaner_learn(p);
        p->refill.all_known = r == 0 || r == -ENOMEM;
        learned = learned || r == 1;
    } while (r != -EAGAIN && knowledge_wanted(p) && !p->closing && !pool_failed(p) &&
             vd_loop_now_ns(p->loop) < until);
    return learned;
}

/* Has much died since the last root, compared with what is known to be dead? */
#define SHOWN_MIN 256 /* blocks */
static bool root_shows_much(const struct vd_pool *p)
{
    uint64_t window = p->log.window_bytes / VD_BLOCK;
    return p->label.incompat & OD_INCOMPAT_REFILL && window >= SHOWN_MIN &&
           window >= p->refill.garbage / 8;
}

/* A root that makes sparse metadata dense takes less than cleaning does. */
static bool meta_rewritten(struct vd_pool *p)
{
    uint32_t before = p->segs.meta;
    if (checkpoint_run(p) < 0)
        return false;
    space_wake(p);
    vd_fiber_yield();
    return p->segs.meta < before;
}

/* One step towards room; false when there is nothing more to be had that way. Roots are dear (they
 * rewrite every leaf that anything moved in), so one is written only when the cleaner is at its
 * end. */
static bool make_room(struct vd_pool *p, bool urgent)
{
    uint64_t released = p->clean.released;
    if (refill_runs_out(p) || (urgent && root_shows_much(p))) {
        /* The next root shows what more is dead, which is enough for small writes. */
        if (!p->ckpt.running && checkpoint_run(p) < 0)
            return false;
        if (p->ckpt.running && !p->ckpt.held)
            vd_wait(&p->ckpt.finished);
        space_wake(p);
        vd_fiber_yield();
        if (!room_is_urgent(p))
            return true;
    }
    if (reserve_meta_sparse(p) && meta_rewritten(p))
        return true;
    /* A checkpoint that is under way holds space, and gives it back: not worth moving all for. */
    int n = cleaner_batch(p, urgent && !p->ckpt.running);
    if (pool_failed(p))
        return false;
    n = VD_MAX(n, 0); /* a write failed, or others took the space that it had chosen for */
    if (p->clean.released > released)
        return true;
    if (n == 0 && cleaner_busy(p)) { /* the other batch has taken what there is */
        vd_wait(&p->clean.idle);
        return true;
    }
    if (p->ckpt.running) { /* it holds the space that the next batch needs, and brings more */
        vd_wait(&p->ckpt.finished);
        return true;
    }
    /* What was overwritten in the window and superseded in the trees becomes free with a root. */
    if (!urgent && p->log.window_bytes < checkpoint_window(p) / 2)
        return n > 0;
    /* Some segments can be emptied only after two of them (ghosts_until). */
    uint64_t before = (uint64_t)p->segs.free_backed + p->segs.free_cold;
    for (int roots = 0; roots < 3; roots++) {
        if (checkpoint_run(p) < 0)
            return false;
        if (p->segs.free_backed + p->segs.free_cold > before)
            return true;
        reserve_update(p);
        enum clean_prospect prospect = cleaner_prospect(p);
        if (prospect != CLEAN_LATER)
            return prospect == CLEAN_NOW;
    }
    return n > 0;
}

/* Emptying dense segments takes about what it brings, and could go on for ever: where a number of
 * rounds have not left more free than there was, there is no more to be had. Before that is said,
 * roots have shown what was overwritten of late, and made ghosts victims; a checkpoint that is
 * under way holds space that comes back. VD_YIELDS */
#define ROUNDS_MAX 16
#define ROUNDS_PER_ROOT 4
static bool room_grows(struct vd_pool *p)
{
    uint32_t free = p->segs.free_backed + p->segs.free_cold;
    if (free > p->space.most_free) {
        p->space.most_free = free;
        p->space.rounds = 0;
    }
    p->space.rounds++;
    if (p->space.rounds % ROUNDS_PER_ROOT == 0 && checkpoint_run(p) < 0)
        return false;
    return p->space.rounds <= ROUNDS_MAX;
}

static void cleaner(void *arg)
{
    struct vd_pool *p = arg;
    while (!p->closing && !pool_failed(p)) {
        if (!cleaning_wanted(p)) {
            if (!cleaner_busy(p))
                cleaner_rest(p);
            vd_wait(&p->clean.kick);
            continue;
        }
        if (!room_wanted(p)) {
            /* While it read, whoever kicks may have done so. */
            if (!learn(p) && !room_wanted(p) && !p->closing && !pool_failed(p))
                vd_wait(&p->clean.kick);
            continue;
        }
        bool urgent = room_is_urgent(p);
        bool may_grow = urgent ? may_grow_at_need(p) : space_may_grow(p);
        bool progress = may_grow && segs_back(p, 1) > 0;
        /* To know what is dead is cheaper than to move what is not. */
        bool learned = !progress &&
                       (!log_flush_expected(&p->log) || urgent || knowledge_wanted(p)) && learn(p);
        progress = progress || (learned && !room_is_urgent(p));
        progress = progress || (make_room(p, urgent) && (learned || room_grows(p)));
        /* Where garbage does not pay any more, growing beyond the usual bound is right; but not for
         * room that is only worth what is sparse. */
        bool beyond = urgent || !space_cleans_sparse(p);
        progress = progress || (beyond && segs_back(p, 1) > 0) || learned;
        space_wake(p);
        if (progress || (!urgent && room_is_urgent(p)))
            continue;
        p->space.most_free = p->space.rounds = 0;
        if (urgent) {
            p->space.refusals++;
            space_wake(p);
        }
        if (!p->closing && !pool_failed(p))
            vd_wait(&p->clean.kick);
    }
    pool_fiber_ends(p);
}

/* Go along while the cleaner works, and decide nothing: their batches overlap its own. */
static void cleaner_mate(void *arg)
{
    struct vd_pool *p = arg;
    while (!p->closing && !pool_failed(p)) {
        if (!cleaner_busy(p) || !room_wanted(p) || cleaner_batch(p, false) <= 0) {
            if (!p->closing && !pool_failed(p))
                vd_wait(&p->clean.help);
            continue;
        }
        space_wake(p);
    }
    pool_fiber_ends(p);
}

int space_start(struct vd_pool *p)
{
    int r = pool_spawn(p, "keeper", keeper);
    if (r == 0)
        r = pool_spawn(p, "cleaner", cleaner);
    for (unsigned i = 1; r == 0 && i < CLEANERS; i++)
        r = pool_spawn(p, "cleaner-mate", cleaner_mate);
    if (r == 0)
        r = refill_start(p);
    if (r == 0)
        r = checkpoint_start(p);
    return r;
}
