/* SPDX-License-Identifier: MIT */
/*
 * Values of volumes and snapshots: to and from the bytes of catalog.h. Pure. Decoders take any
 * bytes and return -EUCLEAN for those that no vdisk wrote.
 */
#include "core/base/text.h"
#include "snapshot/state_priv.h"

/* Appends the text; returns its length. */
static uint8_t text_put(uint8_t **p, const char *text)
{
    size_t n = strlen(text);
    memcpy(*p, text, n);
    *p += n;
    return (uint8_t)n;
}

/* Takes n bytes of text; "" only when `optional`. */
static bool text_get(const uint8_t **p, const uint8_t *end, uint8_t n, bool optional, char *ret)
{
    if (n > VD_NAME_MAX || n > end - *p)
        return false;
    memcpy(ret, *p, n);
    ret[n] = 0;
    *p += n;
    return n ? vd_name_valid(ret) && strlen(ret) == n : optional;
}

static bool size_valid(uint64_t size)
{
    return size > 0 && size % VD_SECTOR == 0 && size <= VD_VOLUME_MAX;
}

uint16_t volume_encode(const struct volume_rec *v, void *buf)
{
    struct od_catalog_volume od = {
        .branch = vd_le64(v->branch),
        .size = vd_le64(v->size),
        .created_s = vd_le64(v->created_s),
        .flags = vd_le32(v->flags),
    };
    memcpy(od.uuid, v->uuid.b, sizeof(od.uuid));
    uint8_t *p = (uint8_t *)buf + sizeof(od);
    od.name_len = text_put(&p, v->name);
    od.origin_volume_len = text_put(&p, v->origin_volume);
    od.origin_snapshot_len = text_put(&p, v->origin_snapshot);
    memcpy(buf, &od, sizeof(od));
    return (uint16_t)(p - (uint8_t *)buf);
}

int volume_decode(const void *val, uint16_t len, struct volume_rec *ret)
{
    struct od_catalog_volume od;
    if (len < sizeof(od))
        return -EUCLEAN;
    memcpy(&od, val, sizeof(od));
    const uint8_t *p = (const uint8_t *)val + sizeof(od), *end = (const uint8_t *)val + len;
    *ret = (struct volume_rec){
        .branch = vd_get64(od.branch),
        .size = vd_get64(od.size),
        .created_s = vd_get64(od.created_s),
        .flags = vd_get32(od.flags),
    };
    memcpy(ret->uuid.b, od.uuid, sizeof(od.uuid));
    if (!text_get(&p, end, od.name_len, false, ret->name) ||
        !text_get(&p, end, od.origin_volume_len, true, ret->origin_volume) ||
        !text_get(&p, end, od.origin_snapshot_len, true, ret->origin_snapshot))
        return -EUCLEAN;
    return p == end && size_valid(ret->size) ? 0 : -EUCLEAN;
}

uint16_t snapshot_encode(const struct snapshot_rec *s, void *buf)
{
    struct od_catalog_snapshot od = {
        .volume = vd_le64(s->volume),
        .branch = vd_le64(s->branch),
        .epoch = vd_le64(s->epoch),
        .size = vd_le64(s->size),
        .created_s = vd_le64(s->created_s),
        .flags = vd_le32(s->flags),
    };
    memcpy(od.uuid, s->uuid.b, sizeof(od.uuid));
    uint8_t *p = (uint8_t *)buf + sizeof(od);
    od.name_len = text_put(&p, s->name);
    memcpy(buf, &od, sizeof(od));
    return (uint16_t)(p - (uint8_t *)buf);
}

int snapshot_decode(const void *val, uint16_t len, struct snapshot_rec *ret)
{
    struct od_catalog_snapshot od;
    if (len < sizeof(od))
        return -EUCLEAN;
    memcpy(&od, val, sizeof(od));
    const uint8_t *p = (const uint8_t *)val + sizeof(od), *end = (const uint8_t *)val + len;
    *ret = (struct snapshot_rec){
        .volume = vd_get64(od.volume),
        .branch = vd_get64(od.branch),
        .epoch = vd_get64(od.epoch),
        .size = vd_get64(od.size),
        .created_s = vd_get64(od.created_s),
        .flags = vd_get32(od.flags),
    };
    memcpy(ret->uuid.b, od.uuid, sizeof(od.uuid));
    if (!text_get(&p, end, od.name_len, false, ret->name))
        return -EUCLEAN;
    return p == end && size_valid(ret->size) && ret->epoch > 0 ? 0 : -EUCLEAN;
}
