/* SPDX-License-Identifier: MIT */
/* Shared by the codecs: segment references and the zero bytes that the format asks for. */
#ifndef VD_FORMAT_FORMAT_PRIV_H
#define VD_FORMAT_FORMAT_PRIV_H

#include "format/format.h"

/* What encoders write: anything that a decoder would refuse is the caller's mistake. */
void segref_encode(const struct vd_segref *s, struct od_segref *d);
/* -EUCLEAN unless the reference makes sense; its device numbers are the pool's to check. */
int segref_decode(const struct od_segref *s, struct vd_segref *ret);
/* For places that may name no segment: all bytes zero gives an empty reference. */
bool bytes_zero(const void *p, size_t len);

/* The successors of a log segment; those that are none are zero bytes. */
void logrefs_encode(const struct vd_logref s[OD_LOG_NEXT], struct od_logref d[OD_LOG_NEXT]);
int logrefs_decode(const struct od_logref s[OD_LOG_NEXT], struct vd_logref ret[OD_LOG_NEXT]);

static inline struct od_addr addr_encode(struct vd_addr a)
{
    return (struct od_addr){vd_le32(a.seg), vd_le32(a.sector)};
}
static inline struct vd_addr addr_decode(struct od_addr a)
{
    return (struct vd_addr){vd_get32(a.seg), vd_get32(a.sector)};
}
/* `blocks` blocks of 4 KiB at `a` start on a block and lie inside the longest possible segment. */
static inline bool addr_valid(struct vd_addr a, uint64_t blocks)
{
    return a.sector % VD_SECTORS_PER_BLOCK == 0 && a.sector < OD_SEG_SECTORS_MAX &&
           blocks <= (OD_SEG_SECTORS_MAX - a.sector) / VD_SECTORS_PER_BLOCK;
}

#endif
