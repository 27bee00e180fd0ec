/* SPDX-License-Identifier: MIT */
/* Doors of an owner: by what the volumes can be reached. */
#ifndef VD_SERVER_DOOR_H
#define VD_SERVER_DOOR_H

#include "core/base/error.h"
#include "core/io/fiber.h"

#include <jansson.h>

struct vd_owner;
struct vd_door;

struct vd_door_options {
    const char *kind; /* "nbd", "vhost", "fuse", "metrics": see vd_door_kinds */
    /* Where: for nbd unix:PATH, tcp:HOST:PORT or fd:N, NULL = in the runtime directory; for metrics
     * unix:PATH or tcp:HOST:PORT; for vhost the directory of its sockets; for fuse where to mount.
     */
    const char *address;
    bool read_only;
    bool allow_other; /* fuse: not only this user */
    bool insecure; /* other machines may connect, though they need not prove who they are */
    /* NBD with TLS, for all but unix sockets, which only their owner can open anyway: see struct
     * vd_tls_files. Both NULL = none. */
    const char *tls_cert, *tls_psk;
};
/* The kinds there are; NULL-terminated. */
const char *const *vd_door_kinds(void);
/* Opens a door. -EPERM "address-remote" for an address that other machines can reach where nothing
 * shows who they are; -EEXIST "door-exists" where that door is open already. VD_YIELDS */
int vd_door_open(struct vd_owner *o, const struct vd_door_options *opt, struct vd_door **ret,
                 struct vd_error *err);
/* NULL when there is none. `address` as vd_doors_json has it, or with the full path; a path will do
 * for unix:PATH. */
struct vd_door *vd_door_find(struct vd_owner *o, const char *address);
/* {"kind", "address", "uri", "tls", "read_only", "clients": [...]} */
json_t *vd_door_json(const struct vd_door *d);
/* Whether its clients have to use TLS. */
bool vd_door_tls(const struct vd_door *d);
/* Finishes its clients' requests and closes it. VD_YIELDS */
void vd_door_close(struct vd_door *d);
/* Closes all doors. VD_YIELDS */
void vd_doors_close(struct vd_owner *o);
/* Volumes have come or gone: doors that show them follow. VD_YIELDS */
void vd_doors_refresh(struct vd_owner *o);
/* Gives back memory that doors keep for later. */
void vd_doors_trim(struct vd_owner *o);
/* [vd_door_json] */
json_t *vd_doors_json(struct vd_owner *o);
/* Who is connected to `volume`, as "ADDRESS, ADDRESS"; "" when nobody is. Returns their number. */
unsigned vd_doors_clients(struct vd_owner *o, const char *volume, char *buf, size_t len);
/* How many clients there are, of all doors. */
unsigned vd_doors_count(struct vd_owner *o);

#endif
