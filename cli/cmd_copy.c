/* SPDX-License-Identifier: MIT */
/*
 * import and export: open the file or pipe here, with the rights of whoever gave the command, and
 * hand the descriptor to the owner. Yields.
 *
 * 1. A file that was made here is removed again when the command fails.
 */
#include "cli/cli_priv.h"

#include "server/access.h"
#include "server/create.h"
#include "server/wire.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Tells the parent of a detached child that the job runs, and lets go of the terminal. */
static void on_event(struct cli *c, json_t *event)
{
    if (strcmp(get_str(event, "event"), "detached") != 0 || c->detach_fd < 0)
        return;
    json_t *v = json_pack("{s:O}", "job", json_object_get(event, "job"));
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    if (text && write(c->detach_fd, text, strlen(text)) < 0)
        c->cancelled = true; /* the parent has gone: nobody will know the number */
    free(text);
    json_decref(v);
    close(c->detach_fd);
    c->detach_fd = -1;
    (void)setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        (void)dup2(null, fd);
}

int cli_job_call(struct cli *c, const struct cli_pool *p, const char *command, json_t *args, int fd,
                 json_t **ret)
{
    c->on_event = on_event;
    return cli_call(c, p, command, args, fd, ret);
}

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

static int open_source(struct cli *c, const char *path)
{
    if (strcmp(path, "-") == 0) {
        if (isatty(STDIN_FILENO))
            return cli_fail(c, -EINVAL, "usage", "standard input is a terminal: give it a pipe");
        int fd = open_std(STDIN_FILENO, O_RDONLY);
        return fd < 0 ? cli_fail(c, fd, "copy-read", "standard input: %s", strerror(-fd)) : fd;
    }
    c->target = c->args[0];
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

/* Where a later resume finds the source; "" for pipes. */
static json_t *source_json(const char *path)
{
    char *real = strcmp(path, "-") ? realpath(path, NULL) : NULL;
    json_t *v = vd_wire_text(real ? real : "");
    free(real);
    return v;
}

/* A pool file for the import: made without a volume. */
static int make_pool(struct cli *c, const struct cli_pool *p, int source)
{
    struct vd_create_options opt = {0};
    struct vd_uuid uuid;
    bool no_reserve;
    off_t size = lseek(source, 0, SEEK_END);
    opt.size = size > 0 ? (uint64_t)size : 0;
    cli_size(c, "capacity", &opt.capacity);
    return vd_create(p->path, &opt, &uuid, &no_reserve, &c->err);
}

static int import_to(struct cli *c, const struct cli_pool *p, int source)
{
    struct stat st;
    bool made = p->ref.kind == VD_POOL_PATH && lstat(p->path, &st) < 0 && errno == ENOENT;
    const char *volume = p->ref.volume ? p->ref.volume : "disk";
    int r = 0;
    if (made) {
        r = make_pool(c, p, source);
        if (r < 0)
            return r;
    } else if (!p->ref.volume) {
        c->target = c->args[1];
        return cli_fail(c, -EEXIST, "exists-name-volume",
                        "%s exists: name a volume, as %s:VOLUME, or a file that does not", p->path,
                        p->ref.pool);
    } else if (cli_text(c, "capacity")) {
        return cli_fail(c, -EINVAL, "usage", "--capacity is for a file that is made");
    }
    json_t *result,
        *args = json_pack("{s:s, s:o, s:b}", "volume", volume, "source", source_json(c->args[0]),
                          "overwrite", cli_flag(c, "overwrite"));
    r = cli_job_call(c, p, "import", args, source, &result);
    if (r < 0 && made) {
        /* Removed only while it is still what was made: an empty pool, or an interrupted import. */
        struct vd_error err = c->err;
        if (!(r == -ECANCELED && c->detach_fd < 0 && cli_flag(c, "detach")))
            unlink(p->path);
        c->err = err;
    }
    if (r < 0)
        return r;
    if (c->json && !cli_flag(c, "detach"))
        cli_json(c, json_incref(result));
    json_decref(result);
    return 0;
}

int cli_import(struct cli *c)
{
    struct cli_pool p;
    int r = cli_pool_get(c, 1, &p);
    if (r < 0)
        return r;
    if (p.ref.snapshot)
        r = cli_fail(c, -EINVAL, "target-invalid", "an import makes a volume: leave @%s out",
                     p.ref.snapshot);
    if (r == 0)
        r = open_source(c, c->args[0]);
    if (r >= 0) {
        int source = r;
        r = import_to(c, &p, source);
        close(source);
    }
    cli_pool_done(&p);
    return r;
}

static int open_dest(struct cli *c, const char *path, bool *ret_made)
{
    if (strcmp(path, "-") == 0) {
        if (isatty(STDOUT_FILENO))
            return cli_fail(c, -EINVAL, "usage", "standard output is a terminal: give it a pipe");
        struct stat out;
        bool file =
            fstat(STDOUT_FILENO, &out) == 0 && (S_ISREG(out.st_mode) || S_ISBLK(out.st_mode));
        /* A pipe opened for reading too would never tell that its reader has gone. */
        int fd = open_std(STDOUT_FILENO, file ? O_RDWR : O_WRONLY);
        return fd < 0 ? cli_fail(c, fd, "copy-write", "standard output: %s", strerror(-fd)) : fd;
    }
    c->target = c->args[1];
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
            return cli_fail(c, -EEXIST, "exists-overwrite",
                            "%s exists already: say --overwrite to write over it", path);
        else
            fd = open(path, O_RDWR | O_CLOEXEC);
    }
    return fd < 0 ? vd_access_explain(path, true, -errno, &c->err) : fd;
}

int cli_export(struct cli *c)
{
    struct cli_pool p;
    json_t *result;
    bool made = false;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    if (c->json && strcmp(c->args[1], "-") == 0)
        r = cli_fail(c, -EINVAL, "usage",
                     "--json and the exported data cannot share standard output");
    int dest = r < 0 ? r : open_dest(c, c->args[1], &made);
    if (dest < 0) {
        cli_pool_done(&p);
        return dest;
    }
    c->target = c->args[0];
    r = cli_job_call(c, &p, "export", cli_target_json(&p), dest, &result);
    close(dest);
    if (r < 0 && made)
        unlink(c->args[1]);
    cli_pool_done(&p);
    if (r < 0)
        return r;
    if (c->json && !cli_flag(c, "detach"))
        cli_json(c, json_incref(result));
    json_decref(result);
    return 0;
}
