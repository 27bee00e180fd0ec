/* SPDX-License-Identifier: MIT */
/*
 * Labels: what a device says about itself and the pool it belongs to; and the pieces that labels
 * share with roots and records. Keeps I6: nothing of a label is handed out before its checksum and
 * every field were looked at. Called by pool/ when it opens, and by whoever identifies a file.
 * Pure; does not yield. On-disk structs: od_label, od_cut, od_segref.
 */
#include "format/format_priv.h"

#include "core/base/hash.h"

#include <stdio.h>

#define NODE_BYTES 4096u
#define KNOWN_RO_COMPAT UINT64_C(0)
#define KNOWN_COMPAT OD_COMPAT_SEGMAPS

uint64_t od_csum(const void *buf4k, size_t csum_off)
{
    return vd_xxh3_around(buf4k, NODE_BYTES, csum_off);
}

bool bytes_zero(const void *p, size_t len)
{
    const uint8_t *b = p;
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++)
        any |= b[i];
    return any == 0;
}

void segref_encode(const struct vd_segref *s, struct od_segref *d)
{
    assert(s->nchunks <= OD_SEG_CHUNKS);
    memset(d, 0, sizeof(*d));
    d->seg = vd_le32(s->seg);
    d->stream = (uint8_t)s->stream;
    d->nchunks = (uint8_t)s->nchunks;
    d->rid = vd_le64(s->rid);
    for (unsigned i = 0; i < s->nchunks; i++) {
        d->chunk[i].dev = vd_le16(s->chunk[i].dev);
        d->chunk[i].idx = vd_le32(s->chunk[i].idx);
    }
}

int segref_decode(const struct od_segref *s, struct vd_segref *ret)
{
    if (s->stream < VD_STREAM_LOG || s->stream > VD_STREAM_FIXED || s->nchunks < 1 ||
        s->nchunks > OD_SEG_CHUNKS || !bytes_zero(s->pad, sizeof(s->pad)))
        return -EUCLEAN;
    struct vd_segref r = {
        .seg = vd_get32(s->seg),
        .stream = (enum vd_stream_kind)s->stream,
        .nchunks = s->nchunks,
        .rid = vd_get64(s->rid),
    };
    for (unsigned i = 0; i < OD_SEG_CHUNKS; i++) {
        if (i >= r.nchunks) {
            if (!bytes_zero(&s->chunk[i], sizeof(s->chunk[i])))
                return -EUCLEAN;
            continue;
        }
        if (!bytes_zero(s->chunk[i].pad, sizeof(s->chunk[i].pad)))
            return -EUCLEAN;
        r.chunk[i].dev = vd_get16(s->chunk[i].dev);
        r.chunk[i].idx = vd_get32(s->chunk[i].idx);
        if (r.chunk[i].dev >= OD_DEVICES)
            return -EUCLEAN;
        for (unsigned j = 0; j < i; j++) /* redundancy means distinct devices */
            if (r.chunk[j].dev == r.chunk[i].dev)
                return -EUCLEAN;
    }
    *ret = r;
    return 0;
}

void logrefs_encode(const struct vd_logref s[OD_LOG_NEXT], struct od_logref d[OD_LOG_NEXT])
{
    for (unsigned i = 0; i < OD_LOG_NEXT; i++) {
        d[i] = (struct od_logref){.seg = vd_le32(s[i].seg)};
        if (s[i].seg)
            d[i].rid = vd_le64(s[i].rid);
    }
}

int logrefs_decode(const struct od_logref s[OD_LOG_NEXT], struct vd_logref ret[OD_LOG_NEXT])
{
    for (unsigned i = 0; i < OD_LOG_NEXT; i++) {
        ret[i] = (struct vd_logref){vd_get32(s[i].seg), vd_get64(s[i].rid)};
        if (!bytes_zero(s[i].pad, sizeof(s[i].pad)) || (ret[i].seg == 0 && ret[i].rid != 0))
            return -EUCLEAN;
    }
    return 0;
}

void label_encode(const struct vd_label *l, void *buf4k)
{
    struct od_label *d = buf4k;

    assert(l->cut_count <= OD_LABEL_CUTS && memchr(l->pool_name, 0, sizeof(l->pool_name)));
    memset(buf4k, 0, NODE_BYTES);
    d->magic = vd_le64(OD_MAGIC_LABEL);
    d->major = vd_le16(l->major);
    d->minor = vd_le16(l->minor);
    d->compat = vd_le64(l->compat);
    d->ro_compat = vd_le64(l->ro_compat);
    d->incompat = vd_le64(l->incompat);
    memcpy(d->pool_uuid, l->pool_uuid.b, sizeof(d->pool_uuid));
    memcpy(d->dev_uuid, l->dev_uuid.b, sizeof(d->dev_uuid));
    d->dev_index = vd_le16(l->dev_index);
    d->dev_count = vd_le16(l->dev_count);
    d->chunk_size = vd_le32(l->chunk_size);
    d->generation = vd_le64(l->generation);
    d->incarnation = vd_le64(l->incarnation);
    d->created_s = vd_le64(l->created_s);
    d->capacity = vd_le64(l->capacity);
    d->root_counter = vd_le64(l->root_counter);
    d->redundancy_data = l->redundancy_data;
    d->redundancy_parity = l->redundancy_parity;
    d->tier = l->tier;
    d->flags = l->flags;
    d->cut_count = vd_le32(l->cut_count);
    memcpy(d->pool_name, l->pool_name, strlen(l->pool_name));
    for (unsigned i = 0; i < OD_DEVICES; i++)
        d->dev_state[i] = vd_le64(l->dev_state[i]);
    for (unsigned i = 0; i < l->cut_count; i++) {
        d->cut[i].incarnation = vd_le64(l->cut[i].incarnation);
        d->cut[i].last_seq = vd_le64(l->cut[i].last_seq);
        d->cut[i].last_csum = vd_le64(l->cut[i].last_csum);
        segref_encode(&l->cut[i].next, &d->cut[i].next);
        logrefs_encode(l->cut[i].log_next, d->cut[i].log_next);
    }
    d->csum = vd_le64(od_csum(buf4k, offsetof(struct od_label, csum)));
}

static int cuts_decode(const struct od_label *d, struct vd_label *l)
{
    uint32_t n = vd_get32(d->cut_count);
    uint64_t older = 0;

    if (n > OD_LABEL_CUTS || !bytes_zero(&d->cut[n], (OD_LABEL_CUTS - n) * sizeof(d->cut[0])))
        return -EUCLEAN;
    for (uint32_t i = 0; i < n; i++) {
        struct vd_cut *c = &l->cut[i];
        c->incarnation = vd_get64(d->cut[i].incarnation);
        c->last_seq = vd_get64(d->cut[i].last_seq);
        c->last_csum = vd_get64(d->cut[i].last_csum);
        int r = segref_decode(&d->cut[i].next, &c->next);
        if (r == 0)
            r = logrefs_decode(d->cut[i].log_next, c->log_next);
        if (r < 0)
            return r;
        /* One per session, in order, each of a session before the one that wrote this label. */
        if (c->incarnation <= older || c->incarnation >= l->incarnation ||
            c->next.stream != VD_STREAM_LOG)
            return -EUCLEAN;
        older = c->incarnation;
    }
    l->cut_count = n;
    return 0;
}

static bool pool_name_valid(const uint8_t *name, size_t size)
{
    size_t len = strnlen((const char *)name, size);
    if (len == size || !bytes_zero(name + len, size - len))
        return false;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = name[i];
        bool word = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!word && (i == 0 || !memchr("._-", c, 3)))
            return false;
    }
    return true;
}

/* The fields that any version with this magic has at the same place. */
static void label_fields(const struct od_label *d, struct vd_label *l)
{
    *l = (struct vd_label){
        .major = vd_get16(d->major),
        .minor = vd_get16(d->minor),
        .compat = vd_get64(d->compat),
        .ro_compat = vd_get64(d->ro_compat),
        .incompat = vd_get64(d->incompat),
        .dev_index = vd_get16(d->dev_index),
        .dev_count = vd_get16(d->dev_count),
        .chunk_size = vd_get32(d->chunk_size),
        .generation = vd_get64(d->generation),
        .incarnation = vd_get64(d->incarnation),
        .created_s = vd_get64(d->created_s),
        .capacity = vd_get64(d->capacity),
        .root_counter = vd_get64(d->root_counter),
        .redundancy_data = d->redundancy_data,
        .redundancy_parity = d->redundancy_parity,
        .tier = d->tier,
        .flags = d->flags,
    };
    memcpy(l->pool_uuid.b, d->pool_uuid, sizeof(d->pool_uuid));
    memcpy(l->dev_uuid.b, d->dev_uuid, sizeof(d->dev_uuid));
    if (pool_name_valid(d->pool_name, sizeof(d->pool_name)))
        memcpy(l->pool_name, d->pool_name, sizeof(d->pool_name));
    for (unsigned i = 0; i < OD_DEVICES; i++)
        l->dev_state[i] = vd_get64(d->dev_state[i]);
}

/* What the feature bits that are not set say about the fields that would need them. */
static bool label_plain(const struct od_label *d, const struct vd_label *l)
{
    if (!(l->incompat & OD_INCOMPAT_MULTI_DEVICE) && l->dev_count != 1)
        return false;
    if (!(l->incompat & OD_INCOMPAT_REDUNDANCY) &&
        (l->redundancy_data != 1 || l->redundancy_parity != 0))
        return false;
    if (!(l->incompat & OD_INCOMPAT_TIERS) && l->tier != 0)
        return false;
    if (!(l->incompat & OD_INCOMPAT_ENCRYPTION) && !bytes_zero(d->key_slots, sizeof(d->key_slots)))
        return false;
    for (unsigned i = 0; i < OD_DEVICES; i++)
        if (l->dev_state[i] > (i < l->dev_count ? 1 : 0))
            return false;
    return true;
}

int label_decode(const void *buf4k, struct vd_label *ret)
{
    const struct od_label *d = buf4k;

    if (vd_get64(d->magic) != OD_MAGIC_LABEL)
        return -ENODATA;
    if (vd_get64(d->csum) != od_csum(buf4k, offsetof(struct od_label, csum)))
        return -EBADMSG;
    label_fields(d, ret);
    if (ret->major != OD_FORMAT_MAJOR || (ret->incompat & ~OD_INCOMPAT_KNOWN))
        return -EPROTONOSUPPORT;
    if (ret->dev_count < 1 || ret->dev_count > OD_DEVICES || ret->dev_index >= ret->dev_count ||
        ret->chunk_size < OD_CHUNK_MIN || ret->chunk_size > OD_CHUNK_MAX ||
        (ret->chunk_size & (ret->chunk_size - 1)) || ret->redundancy_data < 1 ||
        ret->redundancy_data + ret->redundancy_parity > OD_SEG_CHUNKS ||
        !pool_name_valid(d->pool_name, sizeof(d->pool_name)) || !label_plain(d, ret))
        return -EUCLEAN;
    /* A later minor version may have given a meaning to what this one keeps zero. */
    if (ret->minor <= OD_FORMAT_MINOR && !(ret->compat & ~KNOWN_COMPAT) &&
        !(ret->ro_compat & ~KNOWN_RO_COMPAT) &&
        ((ret->flags & ~OD_LABEL_CLEAN) || !bytes_zero(d->pad0, sizeof(d->pad0)) ||
         !bytes_zero(d + 1, NODE_BYTES - sizeof(*d))))
        return -EUCLEAN;
    return cuts_decode(d, ret);
}

char *feature_names(uint64_t incompat, char *buf, size_t len)
{
    static const char *const name[] = {"multi-device", "redundancy", "tiers", "compression",
                                       "encryption",   "dedup",      "refill"};
    size_t used = 0;

    if (len > 0)
        buf[0] = '\0';
    for (unsigned bit = 0; bit < 64 && used < len; bit++) {
        if (!(incompat >> bit & 1))
            continue;
        const char *sep = used ? ", " : "";
        int n = bit < VD_ARRAY_SIZE(name) ? snprintf(buf + used, len - used, "%s%s", sep, name[bit])
                                          : snprintf(buf + used, len - used, "%sbit %u", sep, bit);
        used += (size_t)n;
    }
    return buf;
}
