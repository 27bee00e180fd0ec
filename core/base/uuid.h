/* SPDX-License-Identifier: MIT */
/* RFC 9562 UUIDs, version 4. */
#ifndef VD_BASE_UUID_H
#define VD_BASE_UUID_H

#include "core/base/rng.h"

struct vd_uuid {
    uint8_t b[16];
};
#define VD_UUID_TEXT 37 /* with the terminating NUL */

void vd_uuid_new(struct vd_uuid *ret, struct vd_rng *rng);
void vd_uuid_format(const struct vd_uuid *u, char text[VD_UUID_TEXT]);
bool vd_uuid_parse(const char *text, struct vd_uuid *ret);
bool vd_uuid_equal(const struct vd_uuid *a, const struct vd_uuid *b);
bool vd_uuid_is_nil(const struct vd_uuid *u);

#endif
