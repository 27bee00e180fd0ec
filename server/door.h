/* SPDX-License-Identifier: MIT */
/* Doors of an owner: by what the volumes can be reached. */
#ifndef VD_SERVER_DOOR_H
#define VD_SERVER_DOOR_H

#include "core/base/error.h"
#include "core/io/fiber.h"

#include <jansson.h>

struct vd_owner;
struct vd_door;

/* Opens an NBD door at `address` (unix:PATH or tcp:HOST:PORT; NULL = in the runtime directory).
 * VD_YIELDS */
int vd_door_nbd(struct vd_owner *o, const char *address, bool read_only, struct vd_door **ret,
                struct vd_error *err);
/* Closes all doors: clients' requests are finished first. VD_YIELDS */
void vd_doors_close(struct vd_owner *o);
/* [{"kind", "address", "uri", "read_only", "clients": [...]}] */
json_t *vd_doors_json(struct vd_owner *o);
/* Who is connected to `volume`, as "ADDRESS, ADDRESS"; "" when nobody is. Returns their number. */
unsigned vd_doors_clients(struct vd_owner *o, const char *volume, char *buf, size_t len);

#endif
