/* SPDX-License-Identifier: MIT */
/*
 * What request handlers share: typed access to arguments, targets, and the handlers themselves.
 * Arguments come from clients and are verified by these functions.
 */
#ifndef VD_SERVER_REQUEST_PRIV_H
#define VD_SERVER_REQUEST_PRIV_H

#include "server/owner.h"
#include "server/wire.h"

#include <stdlib.h>

/* A handler: *ret is an object on success. VD_YIELDS */
typedef int request_fn(struct vd_call *call, json_t **ret, struct vd_error *err);

request_fn request_describe, request_volume_create, request_volume_delete, request_volume_rename,
    request_volume_resize, request_volume_set, request_volume_get;
request_fn request_snapshot_create, request_snapshot_delete, request_snapshot_rename,
    request_snapshot_hold, request_rollback, request_clone;
request_fn request_diff, request_check, request_import, request_export;
request_fn request_stats, request_door_list, request_door_add, request_door_remove;
request_fn request_job_list, request_job_wait, request_job_cancel, request_job_resume;

enum target_need { TARGET_VOLUME, TARGET_SNAPSHOT, TARGET_EITHER };
struct request_target {
    char volume[VD_NAME_MAX + 1];
    char snapshot[VD_NAME_MAX + 1];
    struct vd_target t; /* points into the two above; not to be copied */
};
/* {"volume": NAME or absent, "snapshot": NAME or absent}; a volume left out is the pool's only one.
 * VD_YIELDS */
int request_target(struct vd_call *call, json_t *obj, enum target_need need,
                   struct request_target *ret, struct vd_error *err);
/* The call's own arguments as a target. VD_YIELDS */
int request_own_target(struct vd_call *call, enum target_need need, struct request_target *ret,
                       struct vd_error *err);
/* "VOLUME" or "VOLUME@SNAPSHOT" */
const char *request_target_text(const struct request_target *t, char *buf, size_t len);
#define TARGET_TEXT (2 * VD_NAME_MAX + 2)

/* NULL when absent. */
const char *request_str(struct vd_call *call, const char *key);
int request_need_str(struct vd_call *call, const char *key, const char **ret, struct vd_error *err);
int request_need_u64(struct vd_call *call, const char *key, uint64_t *ret, struct vd_error *err);
bool request_flag(struct vd_call *call, const char *key);
/* Descriptor i of the call, now the caller's to close; -1 when there is none. */
int request_take_fd(struct vd_call *call, int i);
int request_bad(struct vd_error *err, const char *what);

json_t *volume_json(const struct vd_volume_info *v);
json_t *snapshot_json(const struct vd_snapshot_info *s);

/* Imports that an earlier owner left unfinished. */
#define IMPORT_PROPERTY "user.vdisk.import"
/* A volume that is being filled is NAME.import-ID until it is complete. */
/* Appends {"id", "kind", "state": "interrupted", ...} for each to the array. VD_YIELDS */
int imports_left(struct vd_owner *o, json_t *list);
/* The volume of the unfinished import `id`, "" when there is none. VD_YIELDS */
int import_left_find(struct vd_owner *o, unsigned id, char volume[VD_NAME_MAX + 1], json_t **ret,
                     struct vd_error *err);

/* Background work that a command has caused: starts it in the background of a serving owner. */
void settle_kick(struct vd_owner *o);

#endif
