/* SPDX-License-Identifier: MIT */
/* Doors of an owner: by what the volumes can be reached. */
#ifndef VD_SERVER_DOOR_H
#define VD_SERVER_DOOR_H

#include "core/base/error.h"
#include "core/io/fiber.h"

#include <jansson.h>

struct vd_owner;
struct vd_door;

struct vd_door_nbd {
    const char *address; /* unix:PATH, tcp:HOST:PORT or fd:N; NULL = in the runtime directory */
    bool read_only;
    bool insecure; /* other machines may connect, though they need not prove who they are */
    /* TLS, for all but unix sockets, which only their owner can open anyway: see struct
     * vd_tls_files. Both NULL = none. */
    const char *tls_cert, *tls_psk;
};
/* Opens an NBD door. -EPERM "address-remote" for an address that other machines can reach where
 * nothing shows who they are. VD_YIELDS */
int vd_door_nbd(struct vd_owner *o, const struct vd_door_nbd *opt, struct vd_door **ret,
                struct vd_error *err);
/* Whether its clients have to use TLS. */
bool vd_door_tls(const struct vd_door *d);
/* Closes all doors: clients' requests are finished first. VD_YIELDS */
void vd_doors_close(struct vd_owner *o);
/* [{"kind", "address", "uri", "tls", "read_only", "clients": [...]}] */
json_t *vd_doors_json(struct vd_owner *o);
/* Who is connected to `volume`, as "ADDRESS, ADDRESS"; "" when nobody is. Returns their number. */
unsigned vd_doors_clients(struct vd_owner *o, const char *volume, char *buf, size_t len);

#endif
