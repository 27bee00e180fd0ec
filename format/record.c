/* SPDX-License-Identifier: MIT */
/*
 * Headers of log records and of bulk data: sealing and verifying. A header that decodes holds only
 * entries that decode and payload that the entries stay inside (I6); whether it lies where it says,
 * and continues the chain, is for the log to ask. Called by the log and the cleaner in pool/. Pure;
 * does not yield. On-disk struct: od_record.
 */
#include "format/format_priv.h"

#define RECORD_FLAGS (OD_RECORD_COMMIT | OD_RECORD_SEAL)
#define PAYLOAD_MAX (OD_SEG_SECTORS_MAX / VD_SECTORS_PER_BLOCK - 1)

uint64_t record_seal(struct vd_record *rec, void *buf4k)
{
    struct od_record *d = buf4k;
    unsigned used = rec->entries_len + rec->echo_len;

    assert(used <= sizeof(d->entries));
    memset(d, 0, offsetof(struct od_record, entries));
    memset(d->entries + used, 0, sizeof(d->entries) - used);
    d->magic = vd_le32(rec->bulk ? OD_MAGIC_BULK : OD_MAGIC_RECORD);
    d->flags = vd_le16(rec->flags);
    d->entry_count = vd_le16((uint16_t)rec->entry_count);
    d->pool = vd_le64(rec->pool);
    d->incarnation = vd_le64(rec->incarnation);
    d->seq = vd_le64(rec->seq);
    d->prev_csum = vd_le64(rec->prev_csum);
    d->rid = vd_le64(rec->rid);
    d->at = addr_encode(rec->at);
    d->payload_blocks = vd_le32(rec->payload_blocks);
    d->entries_len = vd_le16((uint16_t)rec->entries_len);
    d->echo_len = vd_le16((uint16_t)rec->echo_len);
    d->echo_count = vd_le16((uint16_t)rec->echo_count);
    d->prev_flags = vd_le16((uint16_t)rec->prev_flags);
    d->prev_payload_blocks = vd_le32(rec->prev_payload_blocks);
    d->horizon = vd_le64(rec->horizon);
    d->root_counter = vd_le64(rec->root_counter);
    d->epoch = vd_le64(rec->epoch);
    logrefs_encode(rec->next, d->next);
    d->wall_s = vd_le64(rec->wall_s);
    rec->csum = od_csum(buf4k, offsetof(struct od_record, csum));
    d->csum = vd_le64(rec->csum);
    return rec->csum;
}

/* The entries fill their bytes exactly, name blocks of the payload only, and at most one of them
 * relocates. */
static int entries_check(struct entry_walk w, uint32_t payload_blocks)
{
    struct vd_entry e;
    unsigned relocates = 0;
    int r;

    while ((r = entry_next(&w, &e)) > 0) {
        uint64_t copies = e.type == VD_ENTRY_WRITE ? 1 : e.type == VD_ENTRY_RELOCATE ? 2 : 0;
        if (copies && e.payload + copies * e.blocks > payload_blocks)
            return -EUCLEAN;
        relocates += e.type == VD_ENTRY_RELOCATE;
    }
    return r < 0 ? r : w.left == 0 && relocates <= 1 ? 0 : -EUCLEAN;
}

/* A bulk header's entries are hints about what follows it, a hint block's about its segment. */
static bool hints_valid(const struct vd_record *r, struct entry_walk w)
{
    struct vd_entry e;

    while (entry_next(&w, &e) > 0) {
        if (!(r->flags & OD_RECORD_HINTS) && e.type != VD_ENTRY_WRITE)
            return false;
        if (r->flags & OD_RECORD_HINTS && (e.type != VD_ENTRY_BULK || e.addr.seg != r->at.seg))
            return false;
    }
    return !(r->flags & OD_RECORD_HINTS) || r->payload_blocks == 0;
}

static bool lengths_valid(const struct vd_record *r)
{
    size_t most = r->bulk ? OD_BULK_ENTRIES_MAX : OD_RECORD_ENTRIES_MAX;

    return r->entries_len <= most && r->echo_len <= (r->bulk ? 0 : most) &&
           r->payload_blocks <= PAYLOAD_MAX && r->prev_payload_blocks <= PAYLOAD_MAX &&
           addr_valid(r->at, 1 + (uint64_t)r->payload_blocks);
}

static bool flags_valid(const struct vd_record *r)
{
    if (r->bulk)
        return (r->flags & ~OD_RECORD_HINTS) == 0 && r->prev_flags == 0 && r->seq == 0 &&
               r->echo_count == 0 && r->prev_payload_blocks == 0;
    if ((r->flags | r->prev_flags) & ~RECORD_FLAGS)
        return false;
    /* A record cannot know itself to be flushed. */
    return r->seq >= 1 && r->horizon < r->seq;
}

int record_decode(const void *buf4k, struct vd_record *ret)
{
    const struct od_record *d = buf4k;
    uint32_t magic = vd_get32(d->magic);

    if (magic != OD_MAGIC_RECORD && magic != OD_MAGIC_BULK)
        return -ENODATA;
    if (vd_get64(d->csum) != od_csum(buf4k, offsetof(struct od_record, csum)))
        return -EBADMSG;
    struct vd_record r = {
        .bulk = magic == OD_MAGIC_BULK,
        .flags = vd_get16(d->flags),
        .pool = vd_get64(d->pool),
        .incarnation = vd_get64(d->incarnation),
        .seq = vd_get64(d->seq),
        .csum = vd_get64(d->csum),
        .prev_csum = vd_get64(d->prev_csum),
        .rid = vd_get64(d->rid),
        .at = addr_decode(d->at),
        .payload_blocks = vd_get32(d->payload_blocks),
        .entry_count = vd_get16(d->entry_count),
        .entries_len = vd_get16(d->entries_len),
        .echo_count = vd_get16(d->echo_count),
        .echo_len = vd_get16(d->echo_len),
        .prev_flags = vd_get16(d->prev_flags),
        .prev_payload_blocks = vd_get32(d->prev_payload_blocks),
        .horizon = vd_get64(d->horizon),
        .root_counter = vd_get64(d->root_counter),
        .epoch = vd_get64(d->epoch),
        .wall_s = vd_get64(d->wall_s),
    };
    if (logrefs_decode(d->next, r.next) < 0)
        return -EUCLEAN;
    if (!lengths_valid(&r) || !flags_valid(&r) || !bytes_zero(d->pad1, sizeof(d->pad1)))
        return -EUCLEAN;
    const uint8_t *echo = d->entries + r.entries_len;
    const uint8_t *tail = echo + r.echo_len;
    int err = entries_check(entries_of(&r, buf4k), r.payload_blocks);
    if (err == 0 && r.bulk && !hints_valid(&r, entries_of(&r, buf4k)))
        err = -EUCLEAN;
    if (err == 0)
        err = entries_check((struct entry_walk){echo, r.echo_len, r.echo_count},
                            r.prev_payload_blocks);
    if (err < 0)
        return err;
    if (!bytes_zero(tail, (size_t)(d->entries + sizeof(d->entries) - tail)))
        return -EUCLEAN;
    *ret = r;
    return 0;
}
