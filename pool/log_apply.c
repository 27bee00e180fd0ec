/* SPDX-License-Identifier: MIT */
/*
 * What the entries of a log record do: to the overlay, the segments and the client. Live, when a
 * record has been acknowledged, and at replay, by the same function. The caller has verified them;
 * does not suspend.
 */
#include "pool/pool_priv.h"

static int apply_map(struct vd_pool *p, const struct vd_entry *e, struct vd_addr addr)
{
    struct vd_run run = {
        .lba = e->lba,
        .blocks = e->blocks,
        .born = p->epoch,
        .died = VD_EPOCH_MAX,
        .type = e->type == VD_ENTRY_ZERO ? VD_RUN_ZERO : VD_RUN_DATA,
        .addr = addr,
    };
    if (run.type == VD_RUN_DATA) {
        memcpy(run.csum, e->csum, e->blocks * sizeof(run.csum[0]));
        p->stats.guest_blocks += e->blocks;
    } else {
        p->space.zeroed += e->blocks;
    }
    return overlay_apply(p->active, e->branch, &run);
}

static int apply_relocations(struct vd_pool *p, uint64_t seq, uint32_t count, const uint8_t *at)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct vd_relocation m;
        r = relocation_decode(at + (size_t)i * sizeof(struct od_relocation), &m);
        if (r < 0)
            break;
        struct pool_seg *from = &p->segs.v[m.from.seg], *to = &p->segs.v[m.to.seg];
        to->last_seq = VD_MAX(to->last_seq, seq);
        /* While an overlay says "moved from there", nothing else may lie there. */
        from->last_seq = VD_MAX(from->last_seq, seq);
        r = overlay_relocate(p->active, m.branch, m.lba, m.blocks, m.from, m.to);
    }
    return r;
}

/* Blocks of the payload, of which the first few have other places that will stay. */
static int apply_write(struct vd_pool *p, const struct vd_record *rec, const struct vd_entry *e,
                       const struct log_homes *homes)
{
    struct vd_addr at = entry_addr(rec, e);
    int r = 0;
    if (!homes || homes->count <= e->payload)
        return apply_map(p, e, at);
    for (uint64_t i = 0; r == 0 && i < e->blocks; i++) {
        struct vd_entry one = {.type = VD_ENTRY_WRITE,
                               .branch = e->branch,
                               .lba = e->lba + i,
                               .blocks = 1,
                               .csum = {e->csum[i]}};
        bool home = e->payload + i < homes->count;
        r = apply_map(p, &one, home ? homes->at[e->payload + i] : vd_addr_plus(at, i));
    }
    return r;
}

int log_apply(struct vd_pool *p, const struct vd_record *rec, const uint8_t *header,
              const uint8_t *relocations, const struct log_homes *homes)
{
    struct entry_walk w = entries_of(rec, header);
    struct vd_entry e;
    int r;
    while ((r = entry_next(&w, &e)) > 0) {
        switch (e.type) {
        case VD_ENTRY_WRITE:
            r = apply_write(p, rec, &e, homes);
            break;
        case VD_ENTRY_BULK:
            p->segs.v[e.addr.seg].last_seq = VD_MAX(p->segs.v[e.addr.seg].last_seq, rec->seq);
            r = apply_map(p, &e, entry_addr(rec, &e));
            break;
        case VD_ENTRY_ZERO:
            r = apply_map(p, &e, (struct vd_addr){0});
            break;
        case VD_ENTRY_RELOCATE:
            r = apply_relocations(p, rec->seq, e.count, relocations);
            break;
        case VD_ENTRY_EPOCH:
            p->epoch = e.epoch;
            r = p->client->apply(p->client_arg, &e);
            break;
        case VD_ENTRY_CATALOG:
            r = p->client->apply(p->client_arg, &e);
            break;
        case VD_ENTRY_EMPTIED:
            p->segs.v[e.addr.seg].emptied = true;
            break;
        case VD_ENTRY_SEGMENT:
            break;
        }
        if (r < 0)
            return r;
    }
    return r;
}
