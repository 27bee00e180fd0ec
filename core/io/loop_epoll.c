/* SPDX-License-Identifier: MIT */
#include "core/io/loop_priv.h"
static int epoll_init(struct vd_loop *loop)
{
    (void)loop;
    return -ENOSYS;
}
const struct loop_ops loop_epoll_ops = {.name = "epoll", .init = epoll_init};
