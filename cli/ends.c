/* SPDX-License-Identifier: MIT */
/*
 * What SOURCE and DEST of import, export and convert are, and opening them with the rights of
 * whoever gave the command.
 *
 * 1. A raw disk never becomes an image, nor an image raw, by what its bytes look like: a guest can
 *    write into a raw disk what looks like an image that refers to other files. So what looks like
 *    one needs a --format.
 *
 * Yields.
 */
#include "cli/ends_priv.h"

#include "server/access.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Standard input or output, under a description of its own where that can be: the flags we set must
 * not change it under the shell. */
static int open_std(int fd, int flags)
{
    char path[32];
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISSOCK(st.st_mode) && !S_ISCHR(st.st_mode)) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        int own = open(path, flags | O_CLOEXEC);
        if (own >= 0)
            return own;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : copy;
}

static int open_stdin(struct cli *c)
{
    if (isatty(STDIN_FILENO))
        return cli_fail(c, -EINVAL, "usage", "standard input is a terminal: give it a pipe");
    int fd = open_std(STDIN_FILENO, O_RDONLY);
    return fd < 0 ? cli_fail(c, fd, "copy-read", "standard input: %s", strerror(-fd)) : fd;
}

static int open_raw_source(struct cli *c, const char *path)
{
    if (strcmp(path, "-") == 0)
        return open_stdin(c);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vd_access_explain(path, false, -errno, &c->err);
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return cli_fail(c, -EISDIR, "is-directory", "%s is a directory", path);
    }
    return fd;
}

/* format NULL = not said; `option` is then named in the error. */
static int source_open(struct cli *c, const char *text, const char *option, const char *format,
                       bool trust, struct cli_end *e)
{
    *e = (struct cli_end){.text = text, .fd = -1};
    if (format && !vd_format_find(format, &e->format))
        return cli_fail(c, -EINVAL, "usage", "there is no format %.40s", format);
    if (vd_remote_is_uri(text)) {
        e->kind = END_REMOTE;
        if (e->format != VD_FORMAT_RAW)
            return cli_fail(c, -EINVAL, "usage", "what an NBD server gives is raw: leave --%s out",
                            option);
        return vd_remote_uri_parse(text, &e->uri, &c->err);
    }
    if (strcmp(text, "-") == 0 && e->format != VD_FORMAT_RAW)
        return cli_fail(c, -EINVAL, "usage", "only a raw disk can come from a pipe");
    /* For images too: this explains best what is in the way of opening it. */
    e->fd = open_raw_source(c, text);
    if (e->fd < 0)
        return e->fd;
    enum vd_format looks = format || !strcmp(text, "-") ? VD_FORMAT_RAW : vd_format_look(e->fd);
    if (looks != VD_FORMAT_RAW)
        return cli_fail(c, -EINVAL, "format-needed",
                        "%s looks like a %s image: say --%s %s, or --%s raw to take it byte by "
                        "byte",
                        text, vd_format_name(looks), option, vd_format_name(looks), option);
    if (e->format == VD_FORMAT_RAW)
        return 0;
    close(e->fd);
    e->fd = -1;
    e->kind = END_IMAGE;
    return vd_image_open(text, e->format, trust, &e->img, &c->err);
}

int cli_source_open(struct cli *c, const char *text, const char *option, struct cli_end *ret)
{
    int r = source_open(c, text, option, cli_text(c, option), cli_flag(c, "trust-source"), ret);
    if (r < 0)
        cli_end_done(ret);
    return r;
}

int cli_source_reopen(struct cli *c, const char *text, const char *format, bool trust,
                      struct cli_end *ret)
{
    int r = source_open(c, text, "format", *format ? format : "raw", trust, ret);
    if (r < 0)
        cli_end_done(ret);
    return r;
}

/* --- targets --- */

static int exists(struct cli *c, const char *path)
{
    return cli_fail(c, -EEXIST, "exists-overwrite",
                    "%s exists already: say --overwrite to write over it", path);
}

static int open_stdout(struct cli *c)
{
    if (isatty(STDOUT_FILENO))
        return cli_fail(c, -EINVAL, "usage", "standard output is a terminal: give it a pipe");
    struct stat out;
    bool file = fstat(STDOUT_FILENO, &out) == 0 && (S_ISREG(out.st_mode) || S_ISBLK(out.st_mode));
    /* A pipe opened for reading too would never tell that its reader has gone. */
    int fd = open_std(STDOUT_FILENO, file ? O_RDWR : O_WRONLY);
    return fd < 0 ? cli_fail(c, fd, "copy-write", "standard output: %s", strerror(-fd)) : fd;
}

static int open_raw_dest(struct cli *c, const char *path, bool *ret_made)
{
    if (strcmp(path, "-") == 0)
        return open_stdout(c);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) {
        *ret_made = true;
        return fd;
    }
    struct stat st;
    if (errno == EEXIST && stat(path, &st) == 0) {
        /* Pipes are there to be written to. */
        if (S_ISFIFO(st.st_mode))
            fd = open(path, O_WRONLY | O_CLOEXEC);
        else if (!cli_flag(c, "overwrite"))
            return exists(c, path);
        else
            fd = open(path, O_RDWR | O_CLOEXEC);
    }
    return fd < 0 ? vd_access_explain(path, true, -errno, &c->err) : fd;
}

static int check_variant(struct cli *c, struct vd_image_target *t)
{
    const char *const *known = vd_format_subformats(t->format);
    const char *const *at = known;
    if (t->compress && t->format != VD_FORMAT_QCOW2)
        return cli_fail(c, -EINVAL, "usage", "--compress is for qcow2%s",
                        t->format == VD_FORMAT_VMDK ? ": say --subformat streamOptimized" : "");
    if (!t->subformat)
        return 0;
    while (**at && strcmp(*at, t->subformat) != 0)
        at++;
    if (**at)
        return 0;
    if (!**known)
        return cli_fail(c, -EINVAL, "usage", "%s has no subformats", vd_format_name(t->format));
    return cli_fail(c, -EINVAL, "usage", "--subformat: \"%.40s\" is not one of %s|%s", t->subformat,
                    known[0], known[1]);
}

static int image_dest(struct cli *c, struct cli_end *e)
{
    struct stat st;
    e->kind = END_IMAGE;
    e->target = (struct vd_image_target){.path = e->text,
                                         .format = e->format,
                                         .subformat = cli_text(c, "subformat"),
                                         .compress = cli_flag(c, "compress"),
                                         .overwrite = cli_flag(c, "overwrite")};
    int r = check_variant(c, &e->target);
    if (r < 0)
        return r;
    if (strcmp(e->text, "-") == 0)
        return cli_fail(c, -EINVAL, "usage", "only a raw disk can go into a pipe");
    if (stat(e->text, &st) == 0)
        return e->target.overwrite ? 0 : exists(c, e->text);
    /* What would be in the way of making it is said before anything is copied. */
    int fd = open(e->text, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return vd_access_explain(e->text, true, -errno, &c->err);
    close(fd);
    unlink(e->text);
    return 0;
}

static int dest_open(struct cli *c, const char *text, struct cli_end *e)
{
    const char *format = cli_text(c, "format");
    *e = (struct cli_end){.text = text, .fd = -1};
    if (format)
        (void)vd_format_find(format, &e->format); /* one of the choices */
    if (vd_remote_is_uri(text)) {
        e->kind = END_REMOTE;
        if (e->format != VD_FORMAT_RAW)
            return cli_fail(c, -EINVAL, "usage",
                            "what an NBD server gets is raw: leave --format "
                            "out");
        return vd_remote_uri_parse(text, &e->uri, &c->err);
    }
    enum vd_format named = format ? VD_FORMAT_RAW : vd_format_of_name(text);
    if (named != VD_FORMAT_RAW)
        return cli_fail(c, -EINVAL, "format-needed",
                        "%s is named like a %s image: say --format %s, or --format raw", text,
                        vd_format_name(named), vd_format_name(named));
    if (e->format != VD_FORMAT_RAW)
        return image_dest(c, e);
    if (cli_flag(c, "compress") || cli_text(c, "subformat"))
        return cli_fail(c, -EINVAL, "usage", "--compress and --subformat are not for raw");
    e->fd = open_raw_dest(c, text, &e->made);
    return e->fd < 0 ? e->fd : 0;
}

int cli_dest_open(struct cli *c, const char *text, struct cli_end *ret)
{
    int r = dest_open(c, text, ret);
    if (r < 0)
        cli_end_done(ret);
    return r;
}

void cli_end_done(struct cli_end *e)
{
    vd_image_free(e->img);
    vd_remote_uri_done(&e->uri);
    if (e->fd >= 0)
        close(e->fd);
    e->img = NULL;
    e->fd = -1;
}

json_t *cli_end_remote(const struct cli_end *e)
{
    return json_pack("{s:s, s:s}", "address", e->uri.address, "export", e->uri.export);
}

uint64_t cli_end_size(const struct cli_end *e)
{
    off_t size = e->fd >= 0 ? lseek(e->fd, 0, SEEK_END) : 0;
    if (e->img)
        return vd_image_size(e->img);
    return size > 0 ? (uint64_t)size : 0;
}
