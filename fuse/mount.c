/* SPDX-License-Identifier: MIT */
/*
 * Mounting and unmounting. Root does it itself, others through fusermount3.
 *
 * Everything here blocks, and a path may lead through files that this process serves: it runs on
 * threads of its own (thread.c), or in programs that serve nothing.
 */
#include "core/base/log.h"
#include "fuse/fuse_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* ---- paths ---- */

/* The full path, also where a dead server's mount is: that cannot be looked at itself. */
static char *full_path(const char *path)
{
    char *full = realpath(path, NULL);
    if (full || (errno != ENOTCONN && errno != ECONNABORTED && errno != EIO))
        return full;
    char *copy = strdup(path), *again = strdup(path);
    char *parent = copy && again ? realpath(dirname(copy), NULL) : NULL;
    if (!parent ||
        asprintf(&full, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, basename(again)) < 0)
        full = NULL;
    free(parent);
    free(copy);
    free(again);
    return full;
}

/* mountinfo writes spaces and the like as \ooo. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] && s[2] && s[3]) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
}

enum mounted { NOT_MOUNTED, MOUNTED_OURS, MOUNTED_OTHER };

/* What is mounted on `path`: the last one counts, it lies on top. */
static enum mounted what_is_mounted(const char *path)
{
    enum mounted what = NOT_MOUNTED;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t room = 0;
    while (f && getline(&line, &room, f) > 0) {
        char *point = NULL, *type = NULL;
        char *rest = strstr(line, " - ");
        if (rest && sscanf(line, "%*s %*s %*s %*s %ms", &point) == 1 &&
            sscanf(rest, " - %ms", &type) == 1) {
            unescape(point);
            if (strcmp(point, path) == 0)
                what = strcmp(type, "fuse.vdisk") == 0 ? MOUNTED_OURS : MOUNTED_OTHER;
        }
        free(point);
        free(type);
    }
    free(line);
    if (f)
        fclose(f);
    return what;
}

static bool is_empty(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    if (!d)
        return true; /* who may not look in may still mount there */
    while (readdir(d))
        n++;
    closedir(d);
    return n <= 2;
}

/* ---- before mounting ---- */

/* libfuse looks in its own place first, then in PATH. */
static bool program_exists(const char *name)
{
    const char *path = getenv("PATH");
    char *dirs = NULL, *file = NULL, *save = NULL;
    bool there = false;
    if (asprintf(&dirs, "/usr/bin:%s", path ? path : "") < 0)
        return true; /* no memory: mounting will tell */
    for (char *dir = strtok_r(dirs, ":", &save); dir && !there; dir = strtok_r(NULL, ":", &save)) {
        if (asprintf(&file, "%s/%s", dir, name) < 0)
            break;
        there = access(file, X_OK) == 0;
        free(file);
    }
    free(dirs);
    return there;
}

static int fuse_check(struct vd_error *err)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return vd_fail(err, -ENODEV, "no-fuse",
                       "/dev/fuse is missing: load the kernel module with \"modprobe fuse\"");
    if (fd < 0)
        return vd_fail(err, -errno, "no-fuse", "/dev/fuse cannot be opened: %s", strerror(errno));
    close(fd);
    if (geteuid() != 0 && !program_exists("fusermount3"))
        return vd_fail(err, -ENOENT, "no-fuse",
                       "fusermount3 is missing: install the package fuse3");
    return 0;
}

static int point_check(const char *path, const char *full, struct vd_error *err)
{
    struct stat st;
    if (stat(full, &st) < 0)
        return errno == ENOTCONN || errno == ECONNABORTED
                   ? vd_fail(err, -ENOTCONN, "mountpoint-stale",
                             "%s is what a server that was killed has left: "
                             "\"vdisk umount %s\" cleans it",
                             path, path)
                   : vd_fail(err, -errno, "mountpoint-invalid", "cannot mount on %s: %s", path,
                             strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return vd_fail(err, -ENOTDIR, "mountpoint-invalid", "%s is not a directory", path);
    if (what_is_mounted(full) != NOT_MOUNTED)
        return vd_fail(err, -EBUSY, "mountpoint-invalid", "something is mounted on %s already",
                       path);
    if (!is_empty(full))
        return vd_fail(err, -ENOTEMPTY, "mountpoint-invalid",
                       "%s is not empty: a mount would hide what is in it", path);
    if (geteuid() != 0 && (access(full, W_OK) < 0 || st.st_uid != geteuid()))
        return vd_fail(err, -EACCES, "mountpoint-invalid",
                       "%s is not yours: a directory that you own can be mounted on", path);
    return 0;
}

int fmount_check(const char *path, char **ret, struct vd_error *err)
{
    char *full = full_path(path);
    if (!full)
        return vd_fail(err, -errno, "mountpoint-invalid", "cannot mount on %s: %s", path,
                       strerror(errno));
    int r = point_check(path, full, err);
    if (r == 0)
        r = fuse_check(err);
    if (r < 0) {
        free(full);
        return r;
    }
    *ret = full;
    return 0;
}

int fmount_mount(struct fuse_session *session, const char *path, struct vd_error *err)
{
    if (fuse_session_mount(session, path) == 0)
        return 0;
    return vd_fail(err, -EPERM, "no-fuse",
                   geteuid() == 0
                       ? "mounting on %s was refused by the kernel (no CAP_SYS_ADMIN here?)"
                       : "fusermount3 refused to mount on %s (allow-other needs user_allow_other "
                         "in /etc/fuse.conf)",
                   path);
}

/* ---- unmounting ---- */

/* fusermount3 -u [-z] PATH. */
static int run_fusermount(const char *path, bool lazy)
{
    char *argv[] = {"fusermount3", lazy ? "-uqz" : "-uq", "--", (char *)(uintptr_t)path, NULL};
    posix_spawn_file_actions_t fa;
    pid_t pid;
    int status;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
    int r = posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    if (r != 0)
        return -r;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static int unmount(const char *path, bool lazy)
{
    if (geteuid() == 0)
        return umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0 ? -errno : 0;
    return run_fusermount(path, lazy);
}

void fmount_unmount(const char *path)
{
    if (what_is_mounted(path) != MOUNTED_OURS)
        return;
    /* Pages that programs have mapped and changed. */
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        syncfs(fd);
        close(fd);
    }
    int r = unmount(path, false);
    if (r < 0)
        r = unmount(path, true);
    if (r < 0)
        vd_log(VD_LOG_WARNING, "fuse: unmounting %s: %s", path, strerror(-r));
}

int vd_fuse_umount(const char *mountpoint, struct vd_error *err)
{
    struct stat st;
    char *full = full_path(mountpoint);
    if (!full || what_is_mounted(full) != MOUNTED_OURS) {
        free(full);
        return vd_fail(err, -EINVAL, "not-mounted", "no vdisk pool is mounted on %s", mountpoint);
    }
    bool dead = stat(full, &st) < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
    int r = unmount(full, dead);
    free(full);
    if (r == -EBUSY)
        return vd_fail(err, r, "mount-busy", "%s is in use: programs have files open below it",
                       mountpoint);
    if (r < 0)
        return vd_fail(err, r, "mount-refused", "unmounting %s: %s", mountpoint, strerror(-r));
    return 0;
}
