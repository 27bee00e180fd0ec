/* SPDX-License-Identifier: MIT */
/*
 * From a target to the path of its pool, and requests to whoever owns that. Calls yield.
 */
#include "cli/cli_priv.h"

#include "server/names.h"

#include <limits.h>
#include <stdlib.h>

int cli_pool_get(struct cli *c, int i, struct cli_pool *ret)
{
    const char *text = i < c->n_args ? c->args[i] : NULL;
    memset(ret, 0, sizeof(*ret));
    if (text)
        c->target = c->args[i];
    int r = vd_target_parse(text, cli_text(c, "pool"), &ret->ref, &c->err);
    if (r < 0)
        return r;
    if (ret->ref.kind == VD_POOL_URI)
        r = cli_fail(c, -EOPNOTSUPP, "unsupported-device",
                     "%s: pools on network devices are not supported by this vdisk", ret->ref.pool);
    if (r == 0 && ret->ref.kind == VD_POOL_NAME) {
        char **devices;
        r = vd_names_find(ret->ref.pool, &ret->uuid, &devices, &c->err);
        if (r == 0) {
            ret->path = devices[0];
            devices[0] = NULL;
            for (int k = 1; devices[k]; k++)
                free(devices[k]);
            free(devices);
        }
    } else if (r == 0) {
        ret->path = strdup(ret->ref.pool);
        if (!ret->path)
            r = cli_fail(c, -ENOMEM, "no-memory", "out of memory");
    }
    if (r < 0)
        cli_pool_done(ret);
    return r;
}

void cli_pool_done(struct cli_pool *p)
{
    vd_target_done(&p->ref);
    free(p->path);
    p->path = NULL;
}

bool cli_same_pool(const struct cli_pool *a, const struct cli_pool *b)
{
    if (strcmp(a->path, b->path) == 0)
        return true;
    char *ra = realpath(a->path, NULL), *rb = realpath(b->path, NULL);
    bool same = ra && rb && strcmp(ra, rb) == 0;
    free(ra);
    free(rb);
    return same;
}

json_t *cli_target_json(const struct cli_pool *p)
{
    json_t *v = json_object();
    if (p->ref.volume)
        json_object_set_new(v, "volume", json_string(p->ref.volume));
    if (p->ref.snapshot)
        json_object_set_new(v, "snapshot", json_string(p->ref.snapshot));
    return v;
}

static void on_event(void *arg, json_t *event)
{
    cli_progress_event(arg, event);
}

int cli_call(struct cli *c, const struct cli_pool *p, const char *command, json_t *args, int fd,
             json_t **ret)
{
    struct vd_client_options opt = {
        .name = c->name, .no_wait = cli_flag(c, "no-wait"), .event = on_event, .arg = c};
    struct vd_client *client = c->cancelled ? NULL : vd_client_new(&opt);
    if (!client) {
        json_decref(args);
        return c->cancelled ? cli_fail(c, -ECANCELED, "cancelled", "cancelled")
                            : cli_fail(c, -ENOMEM, "no-memory", "out of memory");
    }
    if (c->detach_fd >= 0 || cli_flag(c, "detach"))
        json_object_set_new(args, "detach", json_true());
    c->client = client;
    int r = vd_client_call(client, p->path, &p->uuid, command, args, &fd, fd >= 0 ? 1 : 0, ret,
                           &c->err);
    c->client = NULL;
    vd_client_free(client);
    cli_progress_end(c);
    return r;
}

int cli_call_print(struct cli *c, const struct cli_pool *p, const char *command, json_t *args,
                   void (*print)(struct cli *c, const struct cli_pool *p, json_t *result))
{
    json_t *result;
    int r = cli_call(c, p, command, args, -1, &result);
    if (r < 0)
        return r;
    if (c->json) {
        cli_json(c, result);
        return 0;
    }
    if (print)
        print(c, p, result);
    json_decref(result);
    return 0;
}
