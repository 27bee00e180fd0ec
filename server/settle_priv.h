/* SPDX-License-Identifier: MIT */
/* Background work of a serving owner. */
#ifndef VD_SERVER_SETTLE_PRIV_H
#define VD_SERVER_SETTLE_PRIV_H

#include "server/owner.h"

/* Starts to look after it; ends by itself when the owner is closing (settle_kick hurries that). */
int settle_start(struct vd_owner *o);

#endif
