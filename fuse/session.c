/* SPDX-License-Identifier: MIT */
/*
 * The libfuse session, and what it does not know of: features of kernels that are newer than it.
 * It reads and writes /dev/fuse through two functions of ours, which look at one request, the
 * first (FUSE_INIT): what the kernel offers there, and what we answer.
 *
 * Functions of the receiving fiber; nothing yields.
 */
#include "core/base/log.h"
#include "fuse/fuse_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Of newer kernels' headers: files that bypass the page cache can be mapped all the same. */
#define INIT_DIRECT_IO_ALLOW_MMAP (UINT64_C(1) << 36)
/* We take away set-user-ID bits on writes, for no file here has any: without it the kernel asks for
 * an attribute before every write. */
#define INIT_WANTED (INIT_DIRECT_IO_ALLOW_MMAP | (uint64_t)FUSE_HANDLE_KILLPRIV_V2)

static ssize_t receive(int fd, void *buf, size_t len, void *arg)
{
    struct vd_fuse_server *s = arg;
    size_t room = FUSE_LARGE_LEN - VD_BLOCK;
    ssize_t n = read(fd, buf, VD_MIN(len, room));
    const struct fuse_in_header *in = buf;
    const struct fuse_init_in *init = (const void *)(in + 1);
    if (n < (ssize_t)sizeof(*in) || in->opcode != FUSE_INIT)
        return n;
    s->init_unique = in->unique;
    s->init_offered = 0;
    if (n >= (ssize_t)(sizeof(*in) + offsetof(struct fuse_init_in, flags2)))
        s->init_offered = init->flags;
    if ((init->flags & FUSE_INIT_EXT) && n >= (ssize_t)(sizeof(*in) + sizeof(*init)))
        s->init_offered |= (uint64_t)init->flags2 << 32;
    return n;
}

static void init_extend(struct vd_fuse_server *s, struct fuse_init_out *out)
{
    uint64_t want = s->init_offered & INIT_WANTED;
    out->flags |= (uint32_t)want;
    if (want >> 32) {
        out->flags |= FUSE_INIT_EXT;
        out->flags2 |= (uint32_t)(want >> 32);
    }
}

static ssize_t answer(int fd, struct iovec *iov, int count, void *arg)
{
    struct vd_fuse_server *s = arg;
    const struct fuse_out_header *head = iov[0].iov_base;
    if (s->init_unique > 0 && head->unique == s->init_unique) {
        struct fuse_init_out out;
        s->init_unique = 0;
        if (count == 2 && head->error == 0 && iov[1].iov_len == sizeof(out)) {
            memcpy(&out, iov[1].iov_base, sizeof(out));
            init_extend(s, &out);
            struct iovec extended[2] = {iov[0], {&out, sizeof(out)}};
            return writev(fd, extended, 2);
        }
    }
    return writev(fd, iov, count);
}

static void log_line(enum fuse_log_level level, const char *fmt, va_list args)
{
    char line[300];
    vsnprintf(line, sizeof(line), fmt, args);
    line[strcspn(line, "\n")] = 0;
    vd_log(level <= FUSE_LOG_ERR ? VD_LOG_WARNING : VD_LOG_DEBUG, "fuse: %s", line);
}

int fsession_new(struct vd_fuse_server *s, struct vd_error *err)
{
    char options[160];
    snprintf(options, sizeof(options), "-ofsname=vdisk,subtype=vdisk,default_permissions%s%s",
             s->flags & VD_FUSE_READ_ONLY ? ",ro" : "",
             s->flags & VD_FUSE_ALLOW_OTHER ? ",allow_other" : "");
    char *argv[] = {"vdisk", options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, argv);
    fuse_set_log_func(log_line);
    s->session = fuse_session_new(&args, &fops, sizeof(fops), s);
    fuse_opt_free_args(&args);
    return s->session ? 0 : vd_fail(err, -ENOMEM, "no-memory", "not enough memory for a mount");
}

int fsession_tune(struct vd_fuse_server *s)
{
    static const struct fuse_custom_io io = {.read = receive, .writev = answer};
    int fd = fuse_session_fd(s->session);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    /* When memory is short the kernel writes pages to us: what we allocate for that must not wait
     * for such a write. Only the privileged may ask for it; for others the kernel's own limits on
     * dirty pages of FUSE have to do. */
    (void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    return fuse_session_custom_io(s->session, &io, fd);
}
