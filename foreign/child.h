/* SPDX-License-Identifier: MIT */
/*
 * A child process: a program of QEMU's that does a part of the work. It dies with us, whatever way
 * we end; it is in a process group of its own, so Ctrl-C reaches us and not it; and what it
 * complains about becomes our error.
 *
 * To be started on a thread that lives as long as the process should: the main one.
 */
#ifndef VD_FOREIGN_CHILD_H
#define VD_FOREIGN_CHILD_H

#include "core/base/error.h"
#include "core/io/fiber.h"

struct vd_child;

#define VD_CHILD_FD 3 /* the first of the descriptors given */

struct vd_child_options {
    const char *const *argv; /* NULL-terminated; [0] is looked for in $PATH. */
    const int *fds;          /* the child has them as 3, 4, ...; they stay the caller's */
    int n_fds;
    const char *package; /* of Debian, that has the program */
    /* What it prints, as it comes; NULL = nowhere. May suspend. */
    void (*output)(void *arg, const char *text, size_t len);
    void *arg;
};
/* argv, fds and their arrays may go when it returns. Error id: no-program no-process. */
int vd_child_start(const struct vd_child_options *opt, struct vd_child **ret, struct vd_error *err);
/* Waits for its end. 0 when it exited with status 0, else -EIO "child-failed" with its words,
 * in which "/proc/self/fd/N" is names[N - 3]. VD_YIELDS */
int vd_child_wait(struct vd_child *c, const char *const *names, int n, struct vd_error *err);
/* Has it ended, or does it within `ns`? VD_YIELDS */
bool vd_child_ended(struct vd_child *c, uint64_t ns);
/* Asks it to end in order, or ends it. */
void vd_child_signal(struct vd_child *c, int signal);
/* Kills it if it still runs, waits for it, frees. Takes NULL. VD_YIELDS */
void vd_child_free(struct vd_child *c);

#endif
