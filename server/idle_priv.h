/* SPDX-License-Identifier: MIT */
/* The fiber that lets go of memory while an owner has nothing to do. */
#ifndef VD_SERVER_IDLE_PRIV_H
#define VD_SERVER_IDLE_PRIV_H

#include "server/owner.h"

/* -ENOMEM: without it memory is kept, which does no harm. */
int idle_start(struct vd_owner *o);
/* The owner is closing. */
void idle_kick(struct vd_owner *o);

#endif
