/* SPDX-License-Identifier: MIT */
/*
 * Requests about doors of an owner that stays: list, open, close. Paths in them are absolute, since
 * the client's directory is not the owner's. Yields.
 */
#include "server/request_priv.h"

#include <stdio.h>

static int need_serving(struct vd_call *call, struct vd_error *err)
{
    if (call->owner->serving)
        return 0;
    return vd_fail(err, -ENOENT, "not-served", "%s is not being served, so it has no doors",
                   call->owner->path);
}

/* {} */
int request_door_list(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    int r = need_serving(call, err);
    if (r == 0)
        *ret = json_pack("{s:o}", "doors", vd_doors_json(call->owner));
    return r;
}

/* {"kind", "address"?, "read_only", "insecure", "tls_cert"?, "tls_psk"?} */
int request_door_add(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    struct vd_door_options opt = {.address = request_str(call, "address"),
                                  .read_only = request_flag(call, "read_only"),
                                  .allow_other = request_flag(call, "allow_other"),
                                  .insecure = request_flag(call, "insecure"),
                                  .tls_cert = request_str(call, "tls_cert"),
                                  .tls_psk = request_str(call, "tls_psk")};
    struct vd_door *door;
    int r = need_serving(call, err);
    if (r == 0)
        r = request_need_str(call, "kind", &opt.kind, err);
    /* Descriptors are those of the owner: no client knows what they are. */
    if (r == 0 && opt.address && strncmp(opt.address, "fd:", 3) == 0)
        r = vd_fail(err, -EINVAL, "bad-address",
                    "'%s' is not an address: unix:PATH or tcp:HOST:PORT", opt.address);
    if (r == 0)
        r = vd_door_open(call->owner, &opt, &door, err);
    if (r == 0)
        *ret = json_pack("{s:o}", "door", vd_door_json(door));
    return r;
}

/* {"address"} */
int request_door_remove(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    const char *address;
    int r = need_serving(call, err);
    if (r == 0)
        r = request_need_str(call, "address", &address, err);
    if (r < 0)
        return r;
    struct vd_door *door = vd_door_find(call->owner, address);
    if (!door)
        return vd_fail(err, -ENOENT, "door-not-found", "%s has no door %s: see \"vdisk door list\"",
                       call->owner->path, address);
    *ret = json_pack("{s:o}", "removed", vd_door_json(door));
    vd_door_close(door);
    return 0;
}
