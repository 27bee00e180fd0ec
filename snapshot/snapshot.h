/* SPDX-License-Identifier: MIT */
/*
 * Making, opening and checking pools: what server/ and libvdisk call to get a struct vd_store
 * (core/block/store.h). Everything else is asked through that.
 */
#ifndef VD_SNAPSHOT_SNAPSHOT_H
#define VD_SNAPSHOT_SNAPSHOT_H

#include "core/block/store.h"
#include "core/io/dev.h"

struct vd_format_options {
    const char *name;    /* pool name; NULL = "" (a plain one-file image) */
    uint64_t capacity;   /* bytes the pool may take; 0 = as the host gives (file), all (device) */
    uint64_t size_hint;  /* expected bytes of volumes: sizes chunks and tables; 0 = unknown */
    uint32_t chunk_size; /* 0 = chosen by size: 1-32 MiB, power of two */
};
/* Writes a new empty pool onto n open devices (one, in this format version). Everything durable on
 * return. *ret_no_reserve is set when the host cannot reserve space (P4 is best effort). */
int vd_pool_format(struct vd_dev *const *devs, int n, const struct vd_format_options *opt,
                   bool *ret_no_reserve, struct vd_error *err);

enum { VD_ATTACH_RDONLY = 1 /* replays in memory, writes nothing */ };
/* Opens a pool on open devices, which it takes over in any case; replays the log. -ENODEV
 * "not-a-pool", -EPROTONOSUPPORT "unsupported-feature" (names it), -EUCLEAN "damaged". */
int vd_store_attach(struct vd_dev **devs, int n, unsigned flags, struct vd_store **ret,
                    struct vd_error *err);
/* Checkpoints and closes; every disk must have been closed. Frees the store whatever it returns. */
int vd_store_detach(struct vd_store *s, struct vd_error *err);
/* Frees everything as a crash would: no checkpoint, no flush. For tests. */
void vd_store_abandon(struct vd_store *s);

/* What the label of a device says, without locks or replay. */
struct vd_identity {
    struct vd_uuid pool_uuid, dev_uuid;
    char pool_name[VD_NAME_MAX + 1];
    unsigned dev_index, dev_count;
};
int vd_pool_identify(struct vd_dev *dev, struct vd_identity *ret, struct vd_error *err);

/* Checks structures of a store attached read-only (or live, between writes): labels, roots, tables,
 * every node of every tree and its second copy, counts against a full walk, log and echoes; with
 * data, every stored block. Each finding is one line through fn. Never writes. Returns 0 when sound,
 * -EUCLEAN when something was found, other -errno when it could not be done. */
struct vd_check_report {
    uint64_t nodes, runs, blocks_checked, errors, repaired_copies; /* a bad copy beside a good one */
};
typedef void vd_check_fn(void *arg, const char *finding);
int vd_store_check(struct vd_store *s, bool data, vd_check_fn *fn, void *arg, const bool *cancel,
                   struct vd_check_report *ret, struct vd_error *err);

#endif
