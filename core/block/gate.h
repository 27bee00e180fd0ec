/* SPDX-License-Identifier: MIT */
/*
 * A store as its users see it: each door of an owner has a gate, a store of its own that passes
 * everything on. What is opened through gates is metered, and kept to its volume's limits
 * (properties limit.*); and a volume that is being written through one door is not opened for
 * writing through another, unless that is allowed. Everything on the store's loop.
 */
#ifndef VD_BLOCK_GATE_H
#define VD_BLOCK_GATE_H

#include "core/block/meter.h"
#include "core/block/store.h"

struct vd_gates;
struct vd_gate;

/* `below` must outlive it. Volumes come and go, or get other names: then `changed` is called, which
 * may suspend. -ENOMEM. */
int vd_gates_new(struct vd_store *below, void (*changed)(void *arg), void *arg,
                 struct vd_gates **ret);
/* Takes NULL. All gates are gone, and all disks opened through them. */
void vd_gates_free(struct vd_gates *g);
/* Several doors may write one volume. */
void vd_gates_share(struct vd_gates *g, bool shared);
bool vd_gates_shared(const struct vd_gates *g);
/* No limit holds anybody back from now on. */
void vd_gates_lift(struct vd_gates *g);
/* What volume `volume` has done since somebody opened it first; NULL = nobody has. */
const struct vd_meter *vd_gates_meter(const struct vd_gates *g, const struct vd_uuid *volume);
/* Requests that have come through all gates. */
uint64_t vd_gates_requests(const struct vd_gates *g);

/* `name` is what an error calls it: "nbd unix:/run/s". With name NULL one for the owner's own use,
 * through which opening is not metered and hinders nobody. */
int vd_gate_new(struct vd_gates *g, const char *name, struct vd_gate **ret);
void vd_gate_free(struct vd_gate *gate); /* takes NULL; nothing is open through it */
struct vd_store *vd_gate_store(struct vd_gate *gate);
/* -ENOMEM. The name may be known only later. */
int vd_gate_rename(struct vd_gate *gate, const char *name);
/* Requests that came through it wait for no limit any more: the door closes. */
void vd_gate_release(struct vd_gate *gate);

#endif
