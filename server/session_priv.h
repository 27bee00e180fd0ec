/* SPDX-License-Identifier: MIT */
/* Connections of clients to an owner. */
#ifndef VD_SERVER_SESSION_PRIV_H
#define VD_SERVER_SESSION_PRIV_H

#include "server/owner.h"

/* Starts to accept; the listener is the owner's. */
int sessions_start(struct vd_owner *o, struct vd_error *err);
/* No new ones; those without a request are sent away. `cut` cancels the others' requests. Waits
 * until all have ended. VD_YIELDS */
void sessions_stop(struct vd_owner *o, bool cut);

#endif
