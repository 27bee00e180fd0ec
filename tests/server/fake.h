/* SPDX-License-Identifier: MIT */
/* The store in memory: what its operations (fake_store.c) and its image (fake_image.c) share. */
#ifndef VD_TESTS_FAKE_H
#define VD_TESTS_FAKE_H

#include "snapshot/snapshot.h"

#include <jansson.h>

struct block {
    unsigned refs;
    uint8_t data[VD_BLOCK];
};

struct view {
    struct vd_list link;
    struct view *volume; /* NULL: is one */
    char name[VD_NAME_MAX + 1];
    char origin_volume[VD_NAME_MAX + 1], origin_snapshot[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t size, created, epoch;
    struct block **blocks;
    bool automatic, read_only;
    unsigned opens, opens_rw;
    json_t *props, *holds;
    struct vd_list disks;
};

struct fake {
    struct vd_store store;
    struct vd_dev *dev;
    bool read_only;
    char name[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t capacity, epoch, backlog;
    struct vd_list views;
};

struct fake_disk {
    struct vd_disk disk;
    struct vd_list link;
    struct fake *fake;
    struct view *view;
    bool read_only;
};

extern const struct vd_store_ops fake_ops;

static inline struct fake *fake_of(struct vd_store *s)
{
    return vd_container_of(s, struct fake, store);
}

static inline struct view *fake_view(struct vd_list *l)
{
    return vd_container_of(l, struct view, link);
}

static inline uint64_t fake_count(uint64_t size)
{
    return VD_DIV_UP(size, VD_BLOCK);
}

struct view *fake_view_new(struct fake *f, struct view *volume, const char *name, uint64_t size);
void fake_view_free(struct view *v);
struct view *fake_find(struct fake *f, const char *volume, const char *snapshot);

#endif
