/* SPDX-License-Identifier: MIT */
/*
 * Signals as something a fiber waits for. A descriptor is made for each wait: a signal that comes
 * in between stays pending, since the program blocks it. Yields.
 */
#include "core/io/loop_priv.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct signal_wait {
    struct vd_list link;
    struct loop_op op;
};

void loop_signals_cancel(struct vd_loop *loop)
{
    vd_list_each (it, &loop->signal_waits) {
        loop_op_cancel(loop, &vd_container_of(it, struct signal_wait, link)->op);
    }
}

int vd_loop_wait_signal(const int *signals)
{
    struct vd_loop *loop = vd_loop_current();
    sigset_t set;
    sigemptyset(&set);
    for (; *signals; signals++)
        if (sigaddset(&set, *signals) < 0)
            return -EINVAL;
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;

    struct signalfd_siginfo info;
    int r = 0;
    while (r == 0) {
        struct signal_wait wait = {.op = {.kind = OP_POLL, .fd = fd, .flags = POLLIN}};
        if (loop->stopped) {
            r = -ECANCELED;
            break;
        }
        vd_list_push(&loop->signal_waits, &wait.link);
        r = loop_op_run(loop, &wait.op);
        vd_list_remove(&wait.link);
        if (r < 0)
            break;
        /* Another waiter may have been quicker: then wait again. */
        ssize_t n = read(fd, &info, sizeof(info));
        r = n == (ssize_t)sizeof(info) ? (int)info.ssi_signo
            : n < 0 && errno != EAGAIN ? -errno
                                       : 0;
    }
    loop_fd_forget(loop, fd);
    close(fd);
    return r;
}
