/* SPDX-License-Identifier: MIT */
/*
 * Directories for sockets and configuration. Blocking but short; called by the client side and once
 * by an owner when it starts. Does not yield.
 *
 * 1. A socket directory is used only when it is ours and closed to others, so nobody can put a
 *    socket of his own where a client looks for its owner.
 */
#include "server/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int no_memory(struct vd_error *err)
{
    return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
}

static bool own_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

/* Without making anything. NULL when out of memory. */
static char *runtime_name(void)
{
    char *dir = NULL;
    const char *set = secure_getenv("VDISK_RUNTIME_DIR");
    if (set && *set)
        return strdup(set);
    if (geteuid() == 0)
        return strdup("/run/vdisk");
    const char *xdg = secure_getenv("XDG_RUNTIME_DIR");
    if (xdg && xdg[0] == '/')
        return asprintf(&dir, "%s/vdisk", xdg) < 0 ? NULL : dir;
    char run[64];
    snprintf(run, sizeof(run), "/run/user/%u", (unsigned)geteuid());
    if (own_dir(run))
        return asprintf(&dir, "%s/vdisk", run) < 0 ? NULL : dir;
    return asprintf(&dir, "/tmp/vdisk-%u", (unsigned)geteuid()) < 0 ? NULL : dir;
}

int vd_runtime_dir(bool make, char **ret, struct vd_error *err)
{
    char *dir = runtime_name();
    if (!dir)
        return no_memory(err);
    if (make && mkdir(dir, 0700) < 0 && errno != EEXIST) {
        int r = vd_fail(err, -errno, "runtime-dir-missing",
                        "cannot make %s for the control socket (%s): set XDG_RUNTIME_DIR to a "
                        "directory of yours",
                        dir, strerror(errno));
        free(dir);
        return r;
    }
    struct stat st;
    if (lstat(dir, &st) == 0 &&
        (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))) {
        int r = vd_fail(err, -EPERM, "runtime-dir-unsafe",
                        "%s must be a directory of yours with mode 0700: set it right or remove it",
                        dir);
        free(dir);
        return r;
    }
    *ret = dir;
    return 0;
}

char *vd_runtime_dir_of(uid_t uid, int i)
{
    char *dir = NULL;
    if (i == 0 && asprintf(&dir, "/run/user/%u/vdisk", (unsigned)uid) >= 0)
        return dir;
    if (i == 1 && asprintf(&dir, "/tmp/vdisk-%u", (unsigned)uid) >= 0)
        return dir;
    return NULL;
}

char *vd_runtime_path(const char *dir, uint64_t dev, uint64_t ino, const char *suffix)
{
    char *path;
    if (asprintf(&path, "%s/%" PRIu64 "-%" PRIu64 "%s", dir, dev, ino, suffix) < 0)
        return NULL;
    return path;
}

int vd_config_dir(char **ret, struct vd_error *err)
{
    char *dir = NULL;
    const char *set = secure_getenv("VDISK_CONFIG_DIR");
    const char *xdg = secure_getenv("XDG_CONFIG_HOME");
    const char *home = secure_getenv("HOME");
    if (set && *set)
        dir = strdup(set);
    else if (geteuid() == 0)
        dir = strdup("/etc/vdisk");
    else if (xdg && xdg[0] == '/')
        dir = asprintf(&dir, "%s/vdisk", xdg) < 0 ? NULL : dir;
    else if (home && home[0] == '/')
        dir = asprintf(&dir, "%s/.config/vdisk", home) < 0 ? NULL : dir;
    else
        return vd_fail(err, -ENOENT, "no-home",
                       "HOME is not set, so there is no place for registered pools: set HOME or "
                       "XDG_CONFIG_HOME, or name the pool by its path");
    if (!dir)
        return no_memory(err);
    *ret = dir;
    return 0;
}
