/* SPDX-License-Identifier: MIT */
/*
 * The requests as libfuse hands them over, on the receiving fiber: each becomes a job. Nothing here
 * yields, and what needs no disk is answered at once.
 */
#include "fuse/fuse_priv.h"

#include <linux/fuse.h>

static struct vd_fuse_server *server_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static void op_init(void *arg, struct fuse_conn_info *conn)
{
    const unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                          FUSE_CAP_EXPLICIT_INVAL_DATA;
    /* Times that change are no sign that somebody else has written: watches tell of that. And what
     * a program was told is written has to be with us. */
    const unsigned never = FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE |
                           FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                           FUSE_CAP_SPLICE_MOVE;
    conn->want = (conn->want | (conn->capable & want)) & ~never;
    conn->max_write = FUSE_DATA_MAX;
    conn->max_background = FUSE_BACKGROUND_MAX;
    conn->congestion_threshold = FUSE_BACKGROUND_MAX;
}

static void named(fuse_req_t req, fuse_ino_t parent, const char *name, void (*run)(struct fjob *j))
{
    size_t len = strlen(name);
    if (len > VD_NAME_MAX) {
        fuse_reply_err(req, ENAMETOOLONG);
        return;
    }
    struct fjob *j = fjob_new(req, parent, NULL, run);
    if (!j)
        return;
    memcpy(j->name, name, len + 1);
    fjob_push(j, 0);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    named(req, parent, name, fdir_lookup);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    named(req, parent, name, fdir_mkdir);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    named(req, parent, name, fdir_rmdir);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
    fnode_forget(server_of(req), ino, n);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        fnode_forget(server_of(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, NULL, fattr_get);
    if (j)
        fjob_push(j, 0);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, fi, fattr_set);
    if (!j)
        return;
    j->flags = to_set;
    j->mode = (int)attr->st_mode;
    j->len = (uint64_t)attr->st_size;
    j->mtime = attr->st_mtim;
    fjob_push(j, 0);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, NULL, fdir_open);
    if (j)
        fjob_push(j, 0);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    fdir_read(req, fi->fh, size, off);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fdir_release(fi->fh);
    fuse_reply_err(req, 0);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, NULL, ffile_open);
    if (!j)
        return;
    j->flags = fi->flags;
    fjob_push(j, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, fi, ffile_release);
    if (j)
        fjob_push(j, 0);
}

/* What close() waits for: every write has been answered already. */
static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, fi, ffile_read);
    if (!j)
        return;
    j->off = (uint64_t)off;
    j->len = size;
    fjob_push(j, size);
}

/* Little is copied; much is kept where it was received, and the next request gets a new buffer. */
static bool take_data(struct fjob *j, const char *data, size_t len)
{
    struct vd_fuse_server *s = j->server;
    if (len <= FUSE_SMALL_LEN) {
        j->buf_len = FUSE_SMALL_LEN;
        j->buf = fbuf_get(s, j->buf_len);
        if (!j->buf)
            return false;
        j->data = j->buf;
        memcpy(j->data, data, len);
        return true;
    }
    j->buf_len = FUSE_LARGE_LEN;
    j->buf = s->received;
    s->received = NULL;
    j->data = (uint8_t *)(uintptr_t)data;
    return true;
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, fi, ffile_write);
    if (!j)
        return;
    j->off = (uint64_t)off;
    j->len = size;
    if (!take_data(j, data, size)) {
        j->server->in_flight++; /* as if it had been pushed */
        fjob_done(j, -ENOMEM);
        return;
    }
    fjob_push(j, size);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, fi, ffile_fsync);
    if (j)
        fjob_push(j, 0);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                         struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, fi, fspace_allocate);
    if (!j)
        return;
    j->mode = mode;
    j->off = (uint64_t)off;
    j->len = (uint64_t)len;
    fjob_push(j, 0);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
                     struct fuse_file_info *fi)
{
    struct fjob *j = fjob_new(req, ino, fi, fspace_seek);
    if (!j)
        return;
    j->mode = whence;
    j->off = (uint64_t)off;
    fjob_push(j, 0);
}

static void op_copy_file_range(fuse_req_t req, fuse_ino_t ino, off_t off, struct fuse_file_info *fi,
                               fuse_ino_t to_ino, off_t to_off, struct fuse_file_info *to_fi,
                               size_t len, int flags)
{
    struct fjob *j = fjob_new(req, ino, fi, fspace_copy);
    if (!j)
        return;
    j->to = (struct fhandle *)(uintptr_t)to_fi->fh;
    j->to->refs++;
    j->off = (uint64_t)off;
    j->to_off = (uint64_t)to_off;
    j->len = len;
    fjob_push(j, FUSE_DATA_MAX);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct fjob *j = fjob_new(req, ino, NULL, fattr_statfs);
    if (j)
        fjob_push(j, 0);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    /* The kernel asks for security.* and system.* often. */
    if (strncmp(name, "user.vdisk.", 11) != 0 || strlen(name) > VD_NAME_MAX) {
        fuse_reply_err(req, ENODATA);
        return;
    }
    struct fjob *j = fjob_new(req, ino, NULL, fattr_xattr_get);
    if (!j)
        return;
    strcpy(j->name, name);
    j->len = size;
    fjob_push(j, 0);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct fjob *j = fjob_new(req, ino, NULL, fattr_xattr_list);
    if (!j)
        return;
    j->len = size;
    fjob_push(j, 0);
}

/* What there is comes and goes with volumes, snapshots and partition tables only. */
static void op_refuse_name(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, EPERM);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    fuse_reply_err(req, EPERM);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to,
                      const char *to_name, unsigned flags)
{
    fuse_reply_err(req, EPERM);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, EPERM);
}

static void op_symlink(fuse_req_t req, const char *to, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, EPERM);
}

const struct fuse_lowlevel_ops fops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_refuse_name,
    .rmdir = op_rmdir,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .release = op_release,
    .fsync = op_fsync,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .releasedir = op_releasedir,
    .statfs = op_statfs,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .fallocate = op_fallocate,
    .copy_file_range = op_copy_file_range,
    .lseek = op_lseek,
};
