/* SPDX-License-Identifier: MIT */
/*
 * Image formats of other programs: their names, and what a file looks like. Looking only ever
 * proposes: whoever reads an image says what it is.
 */
#ifndef VD_FOREIGN_FORMAT_H
#define VD_FOREIGN_FORMAT_H

#include "core/base/error.h"

enum vd_format {
    VD_FORMAT_RAW,
    VD_FORMAT_QCOW2,
    VD_FORMAT_VMDK,
    VD_FORMAT_VDI,
    VD_FORMAT_VHDX,
    VD_FORMAT_VPC,
    VD_FORMAT_COUNT
};

const char *vd_format_name(enum vd_format f);
/* False when there is none of that name. */
bool vd_format_find(const char *name, enum vd_format *ret);
/* What the bytes of an open file or block device look like; RAW when like nothing that is known.
 * Blocking, short. */
enum vd_format vd_format_look(int fd);
/* What a file's name ends in says; RAW when nothing. */
enum vd_format vd_format_of_name(const char *path);
/* Variants of a format that can be written, "" ends; the first is the usual one. */
const char *const *vd_format_subformats(enum vd_format f);

#endif
