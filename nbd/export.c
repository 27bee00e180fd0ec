/* SPDX-License-Identifier: MIT */
/*
 * Export names and what an export can do. Names come from clients: anything may be in them.
 */
#include "core/base/text.h"
#include "nbd/nbd_priv.h"

#include <stdio.h>

bool nbd_utf8_valid(const void *text, size_t len)
{
    const uint8_t *p = text, *end = p + len;
    while (p < end) {
        uint32_t c = *p++;
        unsigned more = c < 0x80 ? 0 : (c & 0xe0) == 0xc0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : 3;
        if (c == 0 || (c >= 0x80 && (c < 0xc2 || c > 0xf4)) || (size_t)(end - p) < more)
            return false;
        c &= more == 0 ? 0x7f : 0x3fu >> more;
        for (unsigned i = 0; i < more; i++) {
            if ((*p & 0xc0) != 0x80)
                return false;
            c = c << 6 | (*p++ & 0x3f);
        }
        /* Longer than needed, a surrogate, or beyond the last code point. */
        if ((more == 2 && c < 0x800) || (more == 3 && c < 0x10000) ||
            (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
            return false;
    }
    return true;
}

struct only_volume {
    unsigned n;
    char name[VD_NAME_MAX + 1];
};

static int count_volume(void *arg, const struct vd_volume_info *info)
{
    struct only_volume *only = arg;
    memcpy(only->name, info->name, sizeof(only->name));
    return ++only->n > 1;
}

/* The name that "" stands for. VD_YIELDS */
static int default_export(struct vd_nbd_server *s, char full[NBD_EXPORT_MAX], struct vd_error *err)
{
    struct only_volume only = {0};
    int r = vd_store_volumes(s->store, count_volume, &only);
    if (r < 0)
        return vd_fail_at(err, r, "listing the volumes");
    if (only.n != 1)
        return vd_fail(err, -ENOENT, "volume-not-found",
                       "the pool has %s volume, so the empty name means none of them",
                       only.n == 0 ? "no" : "more than one");
    snprintf(full, NBD_EXPORT_MAX, "%s", only.name);
    return 0;
}

int nbd_export_open(struct vd_nbd_server *s, const void *name, size_t len, bool read_only,
                    struct vd_disk **ret, char full[NBD_EXPORT_MAX], struct vd_error *err)
{
    if (len == 0) {
        int r = default_export(s, full, err);
        if (r < 0)
            return r;
    } else {
        if (len >= NBD_EXPORT_MAX || memchr(name, 0, len))
            return vd_fail(err, -ENOENT, "volume-not-found", "there is no export of that name");
        memcpy(full, name, len);
        full[len] = 0;
    }
    char volume[NBD_EXPORT_MAX];
    snprintf(volume, sizeof(volume), "%s", full);
    char *at = strrchr(volume, '@');
    if (at)
        *at = 0;
    struct vd_target t = {.volume = volume, .snapshot = at ? at + 1 : NULL};
    if (!vd_name_valid(volume) || (at && !vd_name_valid(t.snapshot)))
        return vd_fail(err, -ENOENT, "volume-not-found", "there is no export of that name");
    return vd_store_open(s->store, t, read_only || (s->flags & VD_NBD_READ_ONLY), ret, err);
}

struct list_call {
    nbd_export_fn *fn;
    void *arg;
};

static int list_volume(void *arg, const struct vd_volume_info *info)
{
    struct list_call *call = arg;
    return call->fn(call->arg, info->name);
}

static int list_snapshot(void *arg, const struct vd_snapshot_info *info)
{
    struct list_call *call = arg;
    char full[NBD_EXPORT_MAX];
    snprintf(full, sizeof(full), "%s@%s", info->volume, info->name);
    return call->fn(call->arg, full);
}

int nbd_export_list(struct vd_nbd_server *s, nbd_export_fn *fn, void *arg)
{
    struct list_call call = {.fn = fn, .arg = arg};
    int r = vd_store_volumes(s->store, list_volume, &call);
    return r != 0 ? r : vd_store_snapshots(s->store, NULL, list_snapshot, &call);
}

uint16_t nbd_export_flags(const struct vd_disk_info *info, bool structured)
{
    unsigned flags = NBD_EXPORT_HAS_FLAGS | NBD_EXPORT_SEND_FLUSH | NBD_EXPORT_SEND_FUA |
                     NBD_EXPORT_CAN_MULTI_CONN | NBD_EXPORT_SEND_CACHE;
    if (info->read_only)
        flags |= NBD_EXPORT_READ_ONLY;
    else
        flags |= NBD_EXPORT_SEND_TRIM | NBD_EXPORT_SEND_WRITE_ZEROES | NBD_EXPORT_SEND_FAST_ZERO;
    if (info->rotational)
        flags |= NBD_EXPORT_ROTATIONAL;
    if (structured)
        flags |= NBD_EXPORT_SEND_DF;
    return (uint16_t)flags;
}
