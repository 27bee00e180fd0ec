/* SPDX-License-Identifier: MIT */
/* Commands on volumes and snapshots: each is one request. Yields. */
#include "cli/cli_priv.h"

#include "core/base/text.h"

typedef void print_fn(struct cli *c, const struct cli_pool *p, json_t *result);

/* What `need`s a volume or snapshot name and has none is told so before anything is opened. */
static int get_target(struct cli *c, int i, bool volume, bool snapshot, struct cli_pool *p)
{
    int r = cli_pool_get(c, i, p);
    if (r < 0)
        return r;
    if (volume && !p->ref.volume)
        r = cli_fail(c, -EINVAL, "target-invalid", "the volume is missing: write %s:VOLUME",
                     p->ref.pool);
    else if (snapshot && !p->ref.snapshot)
        r = cli_fail(c, -EINVAL, "target-invalid", "the snapshot is missing: write %s@SNAPSHOT",
                     c->target ? c->target : p->ref.pool);
    else if (!snapshot && p->ref.snapshot)
        r = cli_fail(c, -EINVAL, "target-invalid",
                     "%s is a snapshot where a volume is wanted: leave @%s out", c->target,
                     p->ref.snapshot);
    if (r < 0)
        cli_pool_done(p);
    return r;
}

static int name_arg(struct cli *c, int i, const char *what)
{
    if (vd_name_valid(c->args[i]))
        return 0;
    return cli_fail(c, -EINVAL, "name-invalid",
                    "\"%.127s\" is no %s name: letters, digits, '.', '_' and '-', at most %d, "
                    "beginning with a letter or digit",
                    c->args[i], what, VD_NAME_MAX);
}

/* The request `command` on target 0 with the members of `extra` (taken). */
static int simple(struct cli *c, struct cli_pool *p, const char *command, json_t *extra,
                  print_fn *print)
{
    json_t *args = cli_target_json(p);
    json_object_update(args, extra);
    json_decref(extra);
    int r = cli_call_print(c, p, command, args, print);
    cli_pool_done(p);
    return r;
}

int cli_volume_create(struct cli *c)
{
    struct cli_pool p;
    uint64_t size = 0;
    int r = get_target(c, 0, true, false, &p);
    if (r < 0)
        return r;
    cli_size(c, "size", &size);
    return simple(c, &p, "volume-create", json_pack("{s:I}", "size", (json_int_t)size), NULL);
}

int cli_volume_delete(struct cli *c)
{
    struct cli_pool p;
    int r = get_target(c, 0, true, false, &p);
    if (r < 0)
        return r;
    return simple(c, &p, "volume-delete", json_pack("{s:b}", "recursive", cli_flag(c, "recursive")),
                  NULL);
}

int cli_volume_rename(struct cli *c)
{
    struct cli_pool p;
    int r = name_arg(c, 1, "volume");
    if (r == 0)
        r = get_target(c, 0, false, false, &p);
    return r < 0 ? r : simple(c, &p, "volume-rename", json_pack("{s:s}", "to", c->args[1]), NULL);
}

int cli_volume_resize(struct cli *c)
{
    struct cli_pool p;
    uint64_t size = 0;
    int r = get_target(c, 0, false, false, &p);
    if (r < 0)
        return r;
    cli_size(c, "size", &size);
    return simple(
        c, &p, "volume-resize",
        json_pack("{s:I, s:b}", "size", (json_int_t)size, "shrink", cli_flag(c, "shrink")), NULL);
}

int cli_volume_set(struct cli *c)
{
    struct cli_pool p;
    json_t *props = json_object();
    int r = 0;
    for (int i = 1; i < c->n_args && r == 0; i++) {
        char *eq = strchr(c->args[i], '=');
        if (!eq || eq == c->args[i]) {
            r = cli_fail(c, -EINVAL, "usage", "\"%.100s\" is not PROPERTY=VALUE", c->args[i]);
            break;
        }
        *eq = 0;
        json_t *value = eq[1] ? json_string(eq + 1) : json_null();
        if (!value || json_object_set_new(props, c->args[i], value) < 0)
            r = cli_fail(c, -EINVAL, "property-invalid", "\"%.100s\" is not text in UTF-8",
                         c->args[i]);
        *eq = '=';
    }
    if (r == 0)
        r = get_target(c, 0, false, false, &p);
    if (r < 0) {
        json_decref(props);
        return r;
    }
    return simple(c, &p, "volume-set", json_pack("{s:o}", "properties", props), NULL);
}

/* One value alone is printed bare, for scripts. */
static int print_properties(struct cli *c, json_t *props)
{
    const char *key;
    json_t *value;
    if (c->n_args == 2) {
        puts(get_str(props, c->args[1]));
        return 0;
    }
    if (c->n_args > 2) {
        for (int i = 1; i < c->n_args; i++)
            printf("%s=%s\n", c->args[i], get_str(props, c->args[i]));
        return 0;
    }
    json_object_foreach (props, key, value)
        printf("%s=%s\n", key, json_string_value(value));
    return 0;
}

int cli_volume_get(struct cli *c)
{
    struct cli_pool p;
    json_t *result;
    int r = get_target(c, 0, false, false, &p);
    if (r < 0)
        return r;
    r = cli_call(c, &p, "volume-get", cli_target_json(&p), -1, &result);
    cli_pool_done(&p);
    if (r < 0)
        return r;
    json_t *props = json_object_get(result, "properties");
    for (int i = 1; i < c->n_args && r == 0; i++)
        if (!json_object_get(props, c->args[i]))
            r = cli_fail(c, -ENOENT, "property-not-set", "the property %.100s is not set",
                         c->args[i]);
    if (r == 0 && c->json)
        cli_json(c, json_incref(result));
    else if (r == 0)
        print_properties(c, props);
    json_decref(result);
    return r;
}

/* All arguments are snapshots of one pool: one atomic request. */
static int many(struct cli *c, const char *command)
{
    struct cli_pool first = {0}, p;
    json_t *targets = json_array();
    int r = 0;
    for (int i = 0; i < c->n_args && r == 0; i++) {
        r = get_target(c, i, false, true, &p);
        if (r < 0)
            break;
        if (i > 0 && !cli_same_pool(&first, &p))
            r = cli_fail(c, -EINVAL, "usage",
                         "%.200s is in another pool than %.200s: give one command for each pool",
                         c->args[i], c->args[0]);
        json_array_append_new(targets, cli_target_json(&p));
        if (i == 0)
            first = p;
        else
            cli_pool_done(&p);
    }
    if (r == 0)
        r = cli_call_print(c, &first, command, json_pack("{s:o}", "targets", targets), NULL);
    else
        json_decref(targets);
    cli_pool_done(&first);
    return r;
}

int cli_snapshot_create(struct cli *c)
{
    return many(c, "snapshot-create");
}

int cli_snapshot_delete(struct cli *c)
{
    return many(c, "snapshot-delete");
}

int cli_snapshot_rename(struct cli *c)
{
    struct cli_pool p;
    int r = name_arg(c, 1, "snapshot");
    if (r == 0)
        r = get_target(c, 0, false, true, &p);
    return r < 0 ? r : simple(c, &p, "snapshot-rename", json_pack("{s:s}", "to", c->args[1]), NULL);
}

static int hold(struct cli *c, bool release)
{
    struct cli_pool p;
    int r = name_arg(c, 1, "hold");
    if (r == 0)
        r = get_target(c, 0, false, true, &p);
    return r < 0 ? r
                 : simple(c, &p, "snapshot-hold",
                          json_pack("{s:s, s:b}", "tag", c->args[1], "release", release), NULL);
}

int cli_snapshot_hold(struct cli *c)
{
    return hold(c, false);
}

int cli_snapshot_release(struct cli *c)
{
    return hold(c, true);
}

static void print_rollback(struct cli *c, const struct cli_pool *p, json_t *result)
{
    if (*get_str(result, "kept"))
        printf("The state before is kept as %s@%s.\n", get_str(result, "volume"),
               get_str(result, "kept"));
}

int cli_rollback(struct cli *c)
{
    struct cli_pool p;
    int r = get_target(c, 0, false, true, &p);
    return r < 0 ? r
                 : simple(c, &p, "rollback",
                          json_pack("{s:b, s:b}", "discard", cli_flag(c, "discard-current"),
                                    "force", cli_flag(c, "force")),
                          print_rollback);
}

int cli_clone(struct cli *c)
{
    struct cli_pool p;
    int r = name_arg(c, 1, "volume");
    if (r == 0)
        r = cli_pool_get(c, 0, &p);
    return r < 0 ? r : simple(c, &p, "clone", json_pack("{s:s}", "to", c->args[1]), NULL);
}
