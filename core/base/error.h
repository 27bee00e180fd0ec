/* SPDX-License-Identifier: MIT */
/*
 * Errors. The data path returns -errno from a small closed set:
 *   EIO EINVAL ENOSPC ENOMEM EROFS ERANGE ENODEV ECANCELED ETIMEDOUT EUCLEAN EBADMSG EBUSY
 * where EUCLEAN means "a structure from disk is invalid" and EBADMSG "a checksum does not match".
 * The control path adds a struct vd_error, owned by the caller, that says which thing and what to
 * do. Functions set it exactly when they fail; NULL is accepted everywhere.
 */
#ifndef VD_BASE_ERROR_H
#define VD_BASE_ERROR_H

#include "core/base/base.h"

struct vd_error {
    int code;          /* -errno, 0 when unset */
    char id[40];       /* stable, for programs: "volume-not-found" */
    char message[472]; /* one line, for people, without a trailing full stop or newline */
};

/* Fills *err (if not NULL) and returns `code`, so that `return vd_fail(...)` works. */
int vd_fail(struct vd_error *err, int code, const char *id, const char *fmt, ...) VD_PRINTF(4, 5);

/* Puts "what: " before a message that is already set, or makes one from strerror(-code) if none is. */
int vd_fail_at(struct vd_error *err, int code, const char *fmt, ...) VD_PRINTF(3, 4);

#endif
