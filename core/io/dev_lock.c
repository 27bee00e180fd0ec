/* SPDX-License-Identifier: MIT */
/*
 * Open file description locks: they belong to the open file, so they are safe with threads, are not
 * lost when some other descriptor of the file is closed, and go with the process. The kernel does
 * not say who holds one, so the holder is looked for in /proc. Runs on an offload thread.
 */
#include "core/io/dev_lock.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct holder {
    long pid;
    char comm[32];
};

/* True if /proc/PID/fdinfo/FD shows a lock. */
static bool fd_has_lock(int fdinfo_dir, const char *name)
{
    int fd = openat(fdinfo_dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    char text[1024];
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, "\nlock:") != NULL;
}

/* Whether a process has the file open under a lock. */
static bool process_holds(int proc, const char *pid, const struct stat *file, int own_fd)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "%.20s/fd", pid);
    int fd_dir = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    (void)snprintf(path, sizeof(path), "%.20s/fdinfo", pid);
    int info_dir = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd_dir >= 0 ? fdopendir(fd_dir) : NULL;
    bool found = false;
    if (!d && fd_dir >= 0)
        close(fd_dir);
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        struct stat st;
        bool own = atol(pid) == (long)getpid() && atoi(e->d_name) == own_fd;
        if (e->d_name[0] == '.' || own || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        if (st.st_dev == file->st_dev && st.st_ino == file->st_ino)
            found = fd_has_lock(info_dir, e->d_name);
    }
    if (d)
        closedir(d);
    if (info_dir >= 0)
        close(info_dir);
    return found;
}

static void comm_read(int proc, const char *pid, char *comm, size_t len)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "%.20s/comm", pid);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, comm, len - 1);
    if (fd >= 0)
        close(fd);
    comm[n > 0 ? n : 0] = 0;
    comm[strcspn(comm, "\n")] = 0;
}

/* Best effort: other users' processes cannot be looked into without privilege. */
static bool holder_find(int fd, struct holder *ret)
{
    struct stat file;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = proc >= 0 && fstat(fd, &file) == 0 ? fdopendir(proc) : NULL;
    bool found = false;
    if (!d && proc >= 0)
        close(proc);
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9' ||
            !process_holds(dirfd(d), e->d_name, &file, fd))
            continue;
        found = true;
        ret->pid = atol(e->d_name);
        comm_read(dirfd(d), e->d_name, ret->comm, sizeof(ret->comm));
    }
    if (d)
        closedir(d);
    return found;
}

int dev_lock_take(int fd, bool exclusive, const char *path, struct vd_error *err)
{
#ifdef VD_PLANT_LOCK_SKIPPED
    return 0;
#endif
    struct flock fl = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    int r;
    do
        r = fcntl(fd, F_OFD_SETLK, &fl);
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return 0;
    if (errno != EAGAIN && errno != EACCES)
        return vd_fail(err, -errno, "lock-failed", "%s: cannot be locked: %s", path,
                       strerrordesc_np(errno));
    struct holder h = {0};
    if (holder_find(fd, &h))
        return vd_fail(err, -EBUSY, "in-use", "%s is in use by process %ld (%s)", path, h.pid,
                       h.comm);
    return vd_fail(err, -EBUSY, "in-use", "%s is in use by another process", path);
}
