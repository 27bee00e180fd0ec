/* SPDX-License-Identifier: MIT */
/*
 * vdisk mount and umount. A mount is a FUSE door: of the pool's owner, if there is one that stays,
 * or of one that lives as long as the mount. Yields.
 */
#include "cli/cli_priv.h"

#include "core/base/log.h"
#include "fuse/fuse.h"
#include "server/owner.h"

#include <stdlib.h>
#include <unistd.h>

/* Has begun, if a parent waits for that. */
static void begun(struct cli *c, const char *where)
{
    json_t *v = json_pack("{s:s}", "mounted", where);
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    if (text && c->detach_fd >= 0) {
        cli_detached(c, text);
        cli_log_background();
        if (chdir("/") < 0) /* where it was started is not to be kept from being unmounted */
            vd_log(VD_LOG_DEBUG, "cannot leave the working directory: %s", strerror(errno));
    } else if (text && c->json) {
        cli_json(c, json_incref(v));
        fflush(stdout);
    }
    free(text);
    json_decref(v);
}

/* By the owner that serves the pool. */
static int ask_owner(struct cli *c, const struct cli_pool *p, const char *where)
{
    int detach_fd = c->detach_fd;
    json_t *result;
    c->detach_fd = -1; /* it is no job */
    int r =
        cli_call(c, p, "door-add",
                 json_pack("{s:s, s:s, s:b, s:b}", "kind", "fuse", "address", where, "read_only",
                           cli_flag(c, "read-only"), "allow_other", cli_flag(c, "allow-other")),
                 -1, &result);
    c->detach_fd = detach_fd;
    if (r == 0)
        json_decref(result);
    return r;
}

static int own(struct cli *c, const struct cli_pool *p, const char *where)
{
    struct vd_door_options opt = {.kind = "fuse",
                                  .address = where,
                                  .read_only = cli_flag(c, "read-only"),
                                  .allow_other = cli_flag(c, "allow-other")};
    struct vd_owner *o;
    struct vd_door *door;
    struct vd_error why = {0};
    int r = cli_serve_open(c, p, &o);
    if (r < 0)
        return r;
    r = vd_door_open(o, &opt, &door, &c->err);
    if (r == 0) {
        begun(c, where);
        cli_serve_wait(c, o, true);
    }
    int r2 = vd_owner_close(o, true, &why);
    if (r == 0 && r2 < 0) {
        c->err = why;
        r = r2;
    }
    return r;
}

int cli_mount(struct cli *c)
{
    struct cli_pool p;
    char who[128];
    bool serving = false;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    if (p.ref.volume || p.ref.snapshot)
        r = cli_fail(c, -EINVAL, "target-invalid",
                     "a pool is mounted as a whole: leave the volume and snapshot out");
    const char *given = c->args[c->n_args - 1];
    char *where = cli_full_path(given);
    if (r == 0 && !where)
        r = cli_fail(c, -ENOENT, "mountpoint-invalid", "%s does not exist: make the directory",
                     given);
    if (r == 0 && vd_client_owner(p.path, who, sizeof(who), &serving) == 0 && serving) {
        r = ask_owner(c, &p, where);
        if (r == 0)
            begun(c, where);
    } else if (r == 0) {
        r = own(c, &p, where);
    }
    free(where);
    cli_pool_done(&p);
    return r;
}

/* ---- umount ---- */

struct search {
    struct cli *cli;
    const char *where;
    char *path; /* of the pool whose owner has the mount */
    json_t *paths;
};

static void add_path(void *arg, json_t *hello)
{
    struct search *s = arg;
    if (get_bool(hello, "serving"))
        json_array_append(s->paths, json_object_get(hello, "path"));
}

/* Whether an owner has a door there; *ret is then its pool's path. VD_YIELDS */
static bool find_mount(struct cli *c, const char *where, char **ret)
{
    struct search s = {.cli = c, .where = where, .paths = json_array()};
    json_t *path, *door, *result;
    size_t i, k;
    *ret = NULL;
    (void)vd_client_owners(add_path, &s, NULL);
    json_array_foreach (s.paths, i, path) {
        struct cli_pool p = {.path = (char *)(uintptr_t)json_string_value(path)};
        if (*ret || cli_call(c, &p, "door-list", json_object(), -1, &result) < 0)
            continue;
        json_array_foreach (json_object_get(result, "doors"), k, door)
            if (!*ret && strcmp(get_str(door, "kind"), "fuse") == 0 &&
                strcmp(get_str(door, "address"), where) == 0)
                *ret = strdup(json_string_value(path));
        json_decref(result);
    }
    json_decref(s.paths);
    c->err = (struct vd_error){0}; /* an owner that has just ended is no error */
    return *ret != NULL;
}

static int unmount(void *arg)
{
    struct search *s = arg;
    return vd_fuse_umount(s->where, &s->cli->err);
}

int cli_umount(struct cli *c)
{
    char *where = cli_full_path(c->args[0]), *path;
    if (!where)
        return cli_fail(c, -ENOENT, "mountpoint-invalid", "%s does not exist", c->args[0]);
    int r;
    if (find_mount(c, where, &path)) {
        struct cli_pool p = {.path = path};
        r = cli_call_print(c, &p, "door-remove", json_pack("{s:s}", "address", where), NULL);
    } else {
        struct search s = {.cli = c, .where = where};
        r = vd_offload(unmount, &s);
        if (r == 0 && c->json)
            cli_json(c, json_pack("{s:s}", "unmounted", where));
    }
    free(path);
    free(where);
    return r;
}
