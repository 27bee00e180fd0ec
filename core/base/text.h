/* SPDX-License-Identifier: MIT */
/* Sizes and names as people type them, and buffers as the kernel wants them. */
#ifndef VD_BASE_TEXT_H
#define VD_BASE_TEXT_H

#include "core/base/error.h"

/* "512", "4K", "1.5G", "8 MiB" -> bytes. K M G T P E are powers of 1024, with or without iB or B.
 * -EINVAL with a message otherwise, -ERANGE beyond 2^63. */
int vd_size_parse(const char *text, uint64_t *ret, struct vd_error *err);
/* "1.5 GiB". Returns `buf`. */
char *vd_size_format(uint64_t bytes, char *buf, size_t len);
/* True for [A-Za-z0-9][A-Za-z0-9._-]{0,126}. */
bool vd_name_valid(const char *name);

/* Zeroed-or-not memory aligned to VD_BLOCK for O_DIRECT; NULL when there is none. Free with free(). */
void *vd_alloc_aligned(size_t len);
/* The same for megabytes of it, in huge pages where the host has them: a transfer from there is few
 * pieces of memory to a device, and so stays one transfer. */
void *vd_alloc_large(size_t len);

#endif
