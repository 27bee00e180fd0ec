/* SPDX-License-Identifier: MIT */
/*
 * import and export: open the other end here, with the rights of whoever gave the command, and hand
 * it to the owner of the pool. Yields.
 *
 * 1. A file that was made here is removed again when the command fails.
 */
#include "cli/ends_priv.h"

#include "server/create.h"
#include "server/wire.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void cli_detached(struct cli *c, const char *text)
{
    if (c->detach_fd < 0)
        return;
    if (write(c->detach_fd, text, strlen(text)) < 0)
        c->cancelled = true; /* the parent has gone: nobody will know */
    close(c->detach_fd);
    c->detach_fd = -1;
    (void)setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        (void)dup2(null, fd);
}

/* Tells the parent of a detached child that the job runs. */
static void on_event(struct cli *c, json_t *event)
{
    if (strcmp(get_str(event, "event"), "detached") != 0)
        return;
    json_t *v = json_pack("{s:O}", "job", json_object_get(event, "job"));
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    if (text)
        cli_detached(c, text);
    free(text);
    json_decref(v);
}

int cli_job_call(struct cli *c, const struct cli_pool *p, const char *command, json_t *args, int fd,
                 json_t **ret)
{
    c->on_event = on_event;
    return cli_call(c, p, command, args, fd, ret);
}

/* Where a later resume finds the source; "" for pipes. */
static json_t *source_json(const struct cli_end *source)
{
    if (source->kind == END_REMOTE)
        return vd_wire_text(source->text);
    char *real = strcmp(source->text, "-") ? realpath(source->text, NULL) : NULL;
    json_t *v = vd_wire_text(real ? real : "");
    free(real);
    return v;
}

/* Runs `command`, a job that reads `source`. */
int cli_job_from(struct cli *c, const struct cli_pool *p, const char *command, json_t *args,
                 struct cli_end *source, json_t **ret)
{
    struct cli_control k;
    if (source->kind == END_RAW)
        return cli_job_call(c, p, command, args, source->fd, ret);
    if (source->kind == END_REMOTE) {
        json_object_set_new(args, "remote", cli_end_remote(source));
        return cli_job_call(c, p, command, args, -1, ret);
    }
    json_object_set_new(args, "foreign", json_true());
    int r = cli_control_new(c, &k);
    if (r == 0)
        r = cli_control_offer(&k, source);
    if (r == 0)
        r = cli_job_call(c, p, command, args, k.theirs, ret);
    else
        json_decref(args);
    if (r < 0 && !c->cancelled)
        vd_image_explain(source->img, &c->err);
    return cli_control_end(&k, r);
}

/* A pool file for the import: made without a volume. */
static int make_pool(struct cli *c, const struct cli_pool *p, const struct cli_end *source)
{
    struct vd_create_options opt = {.size = cli_end_size(source)};
    struct vd_uuid uuid;
    bool no_reserve;
    cli_size(c, "capacity", &opt.capacity);
    return vd_create(p->path, &opt, &uuid, &no_reserve, &c->err);
}

static json_t *import_args(struct cli *c, const char *volume, const struct cli_end *source)
{
    json_t *args =
        json_pack("{s:s, s:o, s:b, s:b}", "volume", volume, "source", source_json(source),
                  "overwrite", cli_flag(c, "overwrite"), "verify", cli_flag(c, "verify"));
    if (args && source->kind == END_IMAGE) {
        json_object_set_new(args, "format", json_string(vd_format_name(source->format)));
        json_object_set_new(args, "trust", json_boolean(cli_flag(c, "trust-source")));
    }
    return args;
}

static int import_to(struct cli *c, const struct cli_pool *p, struct cli_end *source)
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
    json_t *result;
    r = cli_job_from(c, p, "import", import_args(c, volume, source), source, &result);
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
    struct cli_end source;
    int r = cli_pool_get(c, 1, &p);
    if (r < 0)
        return r;
    if (p.ref.snapshot)
        r = cli_fail(c, -EINVAL, "target-invalid", "an import makes a volume: leave @%s out",
                     p.ref.snapshot);
    if (r == 0) {
        c->target = c->args[0];
        r = cli_source_open(c, c->args[0], "format", &source);
    }
    if (r == 0) {
        r = import_to(c, &p, &source);
        cli_end_done(&source);
    }
    cli_pool_done(&p);
    return r;
}

/* --- export --- */

static int export_image(struct cli *c, const struct cli_pool *p, json_t *args,
                        const struct cli_end *dest, json_t **ret)
{
    struct cli_control k;
    json_object_set_new(args, "foreign", json_true());
    int r = cli_control_new(c, &k);
    if (r == 0)
        r = cli_control_make(&k, dest, cli_flag(c, "verify"));
    if (r == 0)
        r = cli_job_call(c, p, "export", args, k.theirs, ret);
    else
        json_decref(args);
    if (r < 0 && !c->cancelled && k.img)
        vd_image_explain(k.img, &c->err);
    return cli_control_end(&k, r);
}

static int export_to(struct cli *c, const struct cli_pool *p, const struct cli_end *dest,
                     json_t **ret)
{
    json_t *args = cli_target_json(p);
    if (cli_flag(c, "verify"))
        json_object_set_new(args, "verify", json_true());
    if (dest->kind == END_IMAGE)
        return export_image(c, p, args, dest, ret);
    if (dest->kind == END_REMOTE)
        json_object_set_new(args, "remote", cli_end_remote(dest));
    int r = cli_job_call(c, p, "export", args, dest->fd, ret);
    if (r < 0 && dest->made)
        unlink(dest->text);
    return r;
}

int cli_export(struct cli *c)
{
    struct cli_pool p;
    struct cli_end dest;
    json_t *result;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    if (c->json && strcmp(c->args[1], "-") == 0)
        r = cli_fail(c, -EINVAL, "usage",
                     "--json and the exported data cannot share standard output");
    if (r == 0) {
        c->target = c->args[1];
        r = cli_dest_open(c, c->args[1], &dest);
    }
    if (r < 0) {
        cli_pool_done(&p);
        return r;
    }
    c->target = c->args[0];
    r = export_to(c, &p, &dest, &result);
    cli_end_done(&dest);
    cli_pool_done(&p);
    if (r < 0)
        return r;
    if (c->json && !cli_flag(c, "detach"))
        cli_json(c, json_incref(result));
    json_decref(result);
    return 0;
}
