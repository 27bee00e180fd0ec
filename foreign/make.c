/* SPDX-License-Identifier: MIT */
/*
 * Making foreign images: a file without a name, filled by a child, given its name at the end.
 *
 * Invariants
 *  1. Until vd_image_commit nothing of the target's name is touched; where the file system has no
 *     files without names, a hidden one beside it is removed in every ending but a kill.
 *  2. The name is given after the content is durable, so it never stands for half an image.
 *
 * Yields.
 */
#include "foreign/image_priv.h"

#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define TARGET_FD 4 /* in every child; 3 is a socket */
#define TARGET_PATH "/proc/self/fd/4"

bool vd_image_is_sequential(const struct vd_image_target *t)
{
    return t->compress || (t->subformat && strcmp(t->subformat, "streamOptimized") == 0);
}

static bool is_fixed(const struct vd_image_target *t)
{
    return t->subformat && strcmp(t->subformat, "fixed") == 0;
}

/* What qemu-img calls it; NULL = nothing to be said. */
static const char *create_option(const struct vd_image_target *t)
{
    if (t->format == VD_FORMAT_VMDK && vd_image_is_sequential(t))
        return "subformat=streamOptimized";
    if (t->format == VD_FORMAT_VDI && is_fixed(t))
        return "static=on";
    if (t->format == VD_FORMAT_VHDX && is_fixed(t))
        return "subformat=fixed";
    if (t->format == VD_FORMAT_VPC) /* else it rounds the size to cylinders */
        return is_fixed(t) ? "subformat=fixed,force_size=on" : "force_size=on";
    return NULL;
}

/* --- the file --- */

static char *dir_of(const char *path)
{
    char *copy = strdup(path);
    char *dir = copy ? strdup(dirname(copy)) : NULL;
    free(copy);
    return dir;
}

static int open_hidden(struct vd_image *img, const char *dir)
{
    char *copy = strdup(img->target.path);
    int n = copy ? asprintf(&img->temp, "%s/.%s.XXXXXX", dir, basename(copy)) : -1;
    free(copy);
    if (n < 0) {
        img->temp = NULL;
        return -ENOMEM;
    }
    int fd = mkostemp(img->temp, O_CLOEXEC); /* made 0600 */
    if (fd >= 0)
        return fd;
    n = -errno;
    free(img->temp);
    img->temp = NULL;
    return n;
}

static int open_target(struct vd_image *img, struct vd_error *err)
{
    struct stat st;
    const char *path = img->target.path;
    if (stat(path, &st) == 0) {
        if (!img->target.overwrite)
            return vd_fail(err, -EEXIST, "exists-overwrite",
                           "%.200s exists already: say --overwrite to write over it", path);
        img->is_block = S_ISBLK(st.st_mode);
        if (img->is_block && (img->target.format != VD_FORMAT_QCOW2 || img->target.compress))
            return vd_fail(err, -EINVAL, "image-no-file",
                           "%.200s is a block device: only raw and plain qcow2 can be written to "
                           "one",
                           path);
        if (!img->is_block && !S_ISREG(st.st_mode))
            return vd_fail(err, -EINVAL, "image-no-file",
                           "%.200s is no file: only raw can go there", path);
    }
    char *dir = dir_of(path);
    if (!dir)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    img->fd = img->is_block ? open(path, O_RDWR | O_CLOEXEC)
                            : open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int r = img->fd < 0 ? -errno : 0;
    if (!img->is_block && (r == -EOPNOTSUPP || r == -EISDIR || r == -EINVAL))
        r = img->fd = open_hidden(img, dir);
    free(dir);
    if (r >= 0)
        return 0;
    img->fd = -1;
    return vd_fail(err, r, "copy-write", "cannot make %.200s: %s", path, strerror(-r));
}

/* --- the children --- */

static int run_tool(struct vd_image *img, const char *const *argv, int fd,
                    void (*output)(void *arg, const char *text, size_t len), void *arg,
                    struct vd_error *err)
{
    int fds[] = {fd >= 0 ? fd : img->fd, img->fd};
    const char *names[] = {NULL, img->target.path};
    struct vd_child_options opt = {.argv = argv,
                                   .fds = fds,
                                   .n_fds = VD_ARRAY_SIZE(fds),
                                   .package = TOOL_PACKAGE,
                                   .output = output,
                                   .arg = arg};
    int r = vd_child_start(&opt, &img->child, err);
    if (fd >= 0)
        close(fd);
    if (r < 0)
        return r;
    r = vd_child_wait(img->child, names, VD_ARRAY_SIZE(names), err);
    vd_child_free(img->child);
    img->child = NULL;
    if (img->aborted)
        r = vd_fail(err, -ECANCELED, "cancelled", "cancelled");
    return r;
}

static int run_create(struct vd_image *img, uint64_t size, struct vd_error *err)
{
    char text[24];
    const char *option = create_option(&img->target);
    const char *argv[10] = {TOOL, "create", "-q", "-f", vd_format_name(img->target.format)};
    int n = 5;
    if (option) {
        argv[n++] = "-o";
        argv[n++] = option;
    }
    snprintf(text, sizeof(text), "%" PRIu64, size);
    argv[n++] = TARGET_PATH;
    argv[n] = text;
    return run_tool(img, argv, -1, NULL, NULL, err);
}

/* Formats that lay large clusters side by side are written past the page cache: what would be
 * copied there has to reach the disk before the image gets its name anyhow. The others, with their
 * small tables and sectors, are quicker through it. */
static const char *target_cache(const struct vd_image *img)
{
    if (img->target.format != VD_FORMAT_QCOW2 && img->target.format != VD_FORMAT_VHDX)
        return "";
    return image_can_direct(img->fd) ? "cache.direct=on," : "";
}

static int serve_target(struct vd_image *img, bool writable, struct vd_error *err)
{
    char file[200], node[200];
    const char *cache = target_cache(img);
    const char *names[] = {NULL, img->target.path};
    const char *argv[5 + IMAGE_ARGS_MORE + 1] = {DAEMON, "--blockdev", file, "--blockdev", node};
    /* Flushes are left to us: until its name is given nobody relies on the file. */
    snprintf(file, sizeof(file),
             "driver=%s,node-name=f0,filename=" TARGET_PATH ",%scache.no-flush=on,read-only=%s",
             img->is_block ? "host_device" : "file", cache, writable ? "off" : "on");
    snprintf(node, sizeof(node),
             "driver=%s,node-name=n0,file=f0,discard=unmap,%scache.no-flush=on,read-only=%s",
             vd_format_name(img->target.format), cache, writable ? "off" : "on");
    struct image_args a = {.argv = argv,
                           .n = 5,
                           .fds = &img->fd,
                           .names = names,
                           .n_fds = 1,
                           .writable = writable,
                           .node = "n0"};
    return image_serve(img, &a, err);
}

int vd_image_create(const struct vd_image_target *t, uint64_t size, struct vd_image **ret,
                    struct vd_error *err)
{
    struct vd_image *img = image_new();
    int r = 0;
    if (img) {
        img->target = *t;
        img->target.path = strdup(t->path);
        img->target.subformat = t->subformat ? strdup(t->subformat) : NULL;
    }
    if (!img || !img->target.path || (t->subformat && !img->target.subformat))
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    if (r == 0)
        r = open_target(img, err);
    if (r == 0 && !vd_image_is_sequential(t)) {
        r = run_create(img, size, err);
        if (r == 0)
            r = serve_target(img, true, err);
        if (r == 0 && img->size < size)
            r = vd_fail(err, -EIO, "child-failed", TOOL ": %.200s became too small", t->path);
    }
    if (r < 0) {
        vd_image_free(img);
        return r;
    }
    *ret = img;
    return 0;
}

/* "    (12.34/100%)\r" */
struct percent {
    vd_image_progress_fn *progress;
    void *arg;
    char text[32];
    size_t n;
};

static void on_output(void *arg, const char *text, size_t len)
{
    struct percent *p = arg;
    for (; len > 0; text++, len--) {
        if (*text == '(')
            p->n = 0;
        else if (p->n + 1 < sizeof(p->text))
            p->text[p->n++] = *text;
        p->text[p->n] = 0;
        if (*text == '/' && p->progress)
            p->progress(p->arg, strtod(p->text, NULL) / 100);
    }
}

int vd_image_fill(struct vd_image *img, int fd, const char *name, vd_image_progress_fn *progress,
                  void *arg, struct vd_error *err)
{
    struct percent p = {.progress = progress, .arg = arg};
    char *source;
    const char *option = create_option(&img->target);
    const char *argv[14] = {TOOL, "convert", "-p", "-O", vd_format_name(img->target.format)};
    int n = 5;
    if (img->target.compress)
        argv[n++] = "-c";
    if (option) {
        argv[n++] = "-o";
        argv[n++] = option;
    }
    if (asprintf(&source,
                 "driver=raw,file.driver=nbd,file.server.type=fd,file.server.str=3,file.export=%s",
                 name) < 0) {
        close(fd);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    argv[n++] = "--image-opts";
    argv[n++] = source;
    argv[n] = TARGET_PATH;
    int r = run_tool(img, argv, fd, on_output, &p, err);
    free(source);
    return r;
}

int vd_image_reopen(struct vd_image *img, struct vd_error *err)
{
    return serve_target(img, false, err);
}

/* --- the end --- */

static int sync_run(void *arg)
{
    struct vd_image *img = arg;
    return fsync(img->fd) < 0 ? -errno : 0;
}

/* Gives the file its name; what had it before goes in the same moment. */
static int name_run(void *arg)
{
    struct vd_image *img = arg;
    char from[40];
    const char *path = img->target.path;
    int r = 0;
    snprintf(from, sizeof(from), "/proc/self/fd/%d", img->fd);
    if (!img->temp) {
        if (linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0)
            return 0;
        if (errno != EEXIST || !img->target.overwrite)
            return -errno;
        char *dir = dir_of(path);
        /* A name that is free is as good as any: only its owner could take it meanwhile. */
        int fd = dir ? open_hidden(img, dir) : -ENOMEM;
        free(dir);
        if (fd < 0)
            return fd;
        close(fd);
        if (unlink(img->temp) < 0 ||
            linkat(AT_FDCWD, from, AT_FDCWD, img->temp, AT_SYMLINK_FOLLOW) < 0)
            return -errno;
    }
    if (img->target.overwrite)
        r = rename(img->temp, path);
    else
        r = renameat2(AT_FDCWD, img->temp, AT_FDCWD, path, RENAME_NOREPLACE);
    if (r < 0)
        return -errno;
    free(img->temp);
    img->temp = NULL;
    return 0;
}

static int sync_dir_run(void *arg)
{
    struct vd_image *img = arg;
    char *dir = dir_of(img->target.path);
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd); /* some file systems have none for directories */
        close(fd);
    }
    free(dir);
    return 0;
}

int vd_image_commit(struct vd_image *img, struct vd_error *err)
{
    const char *names[] = {NULL, img->target.path};
    int r = 0;
    if (img->child) {
        vd_child_signal(img->child, SIGTERM);
        r = vd_child_wait(img->child, names, VD_ARRAY_SIZE(names), err);
    }
    if (r < 0)
        return img->aborted ? vd_fail(err, -ECANCELED, "cancelled", "cancelled") : r;
    r = vd_offload(sync_run, img);
    if (r == 0 && !img->is_block)
        r = vd_offload(name_run, img);
    if (r == -EEXIST)
        return vd_fail(err, r, "exists-overwrite",
                       "%.200s has come into being meanwhile: say --overwrite to write over it",
                       img->target.path);
    if (r < 0)
        return vd_fail(err, r, "copy-write", "cannot complete %.200s: %s", img->target.path,
                       strerror(-r));
    if (!img->is_block)
        (void)vd_offload(sync_dir_run, img);
    return 0;
}
