/* SPDX-License-Identifier: MIT */
/*
 * Explains why a path could not be opened. Walks the components with the rights of this process;
 * only looks, changes nothing. Called on failures of the client side; does not yield.
 */
#include "server/access.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* The owner's name, or its number when nobody knows it. */
static const char *owner_name(uid_t uid, char *buf, size_t len)
{
    struct passwd *pw = getpwuid(uid);
    if (pw)
        snprintf(buf, len, "%.*s", 60, pw->pw_name);
    else
        snprintf(buf, len, "uid %u", (unsigned)uid);
    return buf;
}

static int denied(const char *what, const char *path, int code, struct vd_error *err)
{
    struct stat st;
    char owner[64], me[64];
    owner_name(geteuid(), me, sizeof(me));
    if (stat(path, &st) < 0)
        return vd_fail(err, code, "access-denied", "%s cannot %s %s: %s", me, what, path,
                       strerror(-code));
    return vd_fail(err, code, "access-denied",
                   "%s cannot %s %s, which belongs to %s (mode %04o): ask %s for access, or run "
                   "this as %s",
                   me, what, path, owner_name(st.st_uid, owner, sizeof(owner)),
                   (unsigned)st.st_mode & 07777, owner, owner);
}

/* The first directory on the way to `path` that cannot be entered or is none, cut out of `copy`;
 * NULL when all can be. *ret_code tells why. */
static const char *walk(char *copy, int *ret_code)
{
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        struct stat st;
        if (stat(copy, &st) < 0) {
            *ret_code = -errno;
            return copy;
        }
        if (!S_ISDIR(st.st_mode)) {
            *ret_code = -ENOTDIR;
            return copy;
        }
        if (faccessat(AT_FDCWD, copy, X_OK, AT_EACCESS) < 0) {
            *ret_code = -errno;
            return copy;
        }
        *p = '/';
    }
    return NULL;
}

static int explain_final(const char *path, bool writing, int code, struct vd_error *err)
{
    switch (-code) {
    case ENOENT:
        return vd_fail(err, code, "not-found", "%s does not exist", path);
    case EEXIST:
        return vd_fail(err, code, "exists", "%s exists already", path);
    case EISDIR:
        return vd_fail(err, code, "is-directory", "%s is a directory", path);
    case EROFS:
        return vd_fail(err, code, "read-only", "%s is on a read-only file system", path);
    case EACCES:
    case EPERM:
        break;
    default:
        return vd_fail(err, code, "open-failed", "%s: %s", path, strerror(-code));
    }
    struct stat st;
    if (stat(path, &st) < 0 && errno == ENOENT) {
        /* Making it was refused: its directory is in the way. */
        char *dir = strdup(path);
        char *slash = dir ? strrchr(dir, '/') : NULL;
        if (slash)
            slash[slash == dir] = 0;
        denied("write in", slash ? dir : ".", code, err);
        free(dir);
        return code;
    }
    return denied(writing ? "write" : "read", path, code, err);
}

int vd_access_explain(const char *path, bool writing, int code, struct vd_error *err)
{
    char *copy = strdup(path);
    int why = 0;
    const char *at = copy && *copy ? walk(copy, &why) : NULL;
    if (!at || (why != -EACCES && why != -ENOENT && why != -ENOTDIR && why != -ELOOP))
        explain_final(path, writing, code, err);
    else if (why == -EACCES)
        denied("enter", at, code, err);
    else if (why == -ENOENT)
        vd_fail(err, code, "not-found", "the directory %s does not exist", at);
    else
        vd_fail(err, code, "open-failed", "%s: %s", at, strerror(-why));
    free(copy);
    return code;
}
