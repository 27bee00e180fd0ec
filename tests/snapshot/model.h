/* SPDX-License-Identifier: MIT */
/*
 * What a store of volumes should contain, in arrays: volumes x snapshots x clones, a stamp per sector
 * and per block. Reckoned without any of the product's code. A model can be copied and compared, so
 * that a store can be held against several states.
 *
 * A sector's stamp says who wrote it last (0: zeroes); its bytes follow from stamp and place. A block's
 * stamp says when any of it was last stored, which is what diff goes by.
 */
#ifndef TESTS_SNAPSHOT_MODEL_H
#define TESTS_SNAPSHOT_MODEL_H

#include "core/block/store.h"

#define BLOCK_SECTORS (VD_BLOCK / VD_SECTOR)

struct mview {
    uint64_t size;    /* bytes */
    uint64_t blocks;  /* arrays hold that many, at least the size's */
    uint32_t *sector; /* stamps, 8 per block */
    uint32_t *block;
};
struct msnap {
    char name[VD_NAME_MAX + 1];
    struct mview view;
    bool held;
};
struct mvol {
    char name[VD_NAME_MAX + 1];
    struct mview live;
    struct msnap *snap;
    int nsnap;
};
struct model {
    struct mvol *vol;
    int nvol;
    uint32_t stamp; /* last one given */
};

void model_free(struct model *m);
void model_copy(const struct model *from, struct model *to);
struct mvol *model_volume(struct model *m, const char *name);
struct msnap *model_snapshot(struct mvol *v, const char *name);
/* NULL: no such. */
struct mview *model_view(struct model *m, struct vd_target t);

struct mvol *model_create(struct model *m, const char *name, uint64_t size);
void model_delete(struct model *m, const char *name);
void model_write(struct model *m, struct mview *v, uint64_t off, uint64_t len, uint32_t stamp);
void model_zero(struct model *m, struct mview *v, uint64_t off, uint64_t len);
void model_discard(struct mview *v, uint64_t off, uint64_t len);
void model_resize(struct model *m, struct mview *v, uint64_t size);
void model_snap(struct mvol *v, const char *name);
void model_snap_delete(struct mvol *v, const char *name);
void model_clone(struct model *m, struct vd_target t, const char *name);
/* kept: name of the snapshot of what was there, or NULL. */
void model_rollback(struct model *m, struct vd_target t, const char *kept);

/* The bytes of sectors with these stamps. */
void model_fill(uint32_t stamp, uint64_t sector, void *buf, uint64_t sectors);

/* All volumes and snapshots of the store, byte for byte: 0, or what differs goes to `why`. */
int model_verify(struct model *m, struct vd_store *s, char *why, size_t len);
/* One view. */
int model_verify_view(struct model *m, struct vd_store *s, struct vd_target t, char *why, size_t len);
/* vd_disk_extents says data exactly where the model has any. */
int model_verify_extents(struct model *m, struct vd_store *s, struct vd_target t, char *why,
                         size_t len);
/* vd_store_diff names exactly the blocks that were stored or zeroed in between. */
int model_verify_diff(struct model *m, struct vd_store *s, struct vd_target from,
                      struct vd_target to, char *why, size_t len);

#endif
