/* SPDX-License-Identifier: MIT */
/*
 * Commands that make and register pools. They work on devices that nobody owns yet, or only on the
 * registered names. Yields.
 */
#include "cli/cli_priv.h"

#include "core/base/text.h"
#include "core/io/dev.h"
#include "server/access.h"
#include "server/create.h"
#include "server/names.h"
#include "server/wire.h"
#include "snapshot/snapshot.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

static void note_no_reserve(struct cli *c, bool no_reserve)
{
    if (no_reserve && !c->json)
        fprintf(stderr,
                "vdisk: note: the file system cannot reserve space: when it is full, the pool "
                "may refuse more than new writes\n");
}

int cli_create(struct cli *c)
{
    struct vd_create_options opt = {.volume = cli_text(c, "volume")};
    struct vd_uuid uuid;
    char text[VD_UUID_TEXT];
    bool no_reserve;
    if (!opt.volume)
        opt.volume = "disk";
    cli_size(c, "size", &opt.size);
    cli_size(c, "capacity", &opt.capacity);
    int r = vd_create(c->args[0], &opt, &uuid, &no_reserve, &c->err);
    if (r < 0)
        return r;
    vd_uuid_format(&uuid, text);
    note_no_reserve(c, no_reserve);
    if (c->json)
        cli_json(c, json_pack("{s:o, s:s, s:s, s:I, s:b}", "path", vd_wire_text(c->args[0]), "uuid",
                              text, "volume", opt.volume, "size", (json_int_t)opt.size, "reserve",
                              !no_reserve));
    return 0;
}

static int register_pool(struct cli *c, const char *name, const struct vd_uuid *uuid,
                         const char *device)
{
    char *path = realpath(device, NULL);
    if (!path)
        return vd_access_explain(device, false, -errno, &c->err);
    const char *devices[] = {path};
    struct vd_pool_entry e = {name, *uuid, devices, 1};
    int r = vd_names_add(&e, &c->err);
    free(path);
    return r;
}

static int refuse_taken(struct cli *c, const char *name)
{
    struct vd_uuid uuid;
    char **devices;
    if (!vd_name_valid(name) || strchr(name, '.'))
        return cli_fail(
            c, -EINVAL, "name-invalid",
            "\"%.127s\" is no name for a pool: letters, digits, '_' and '-', at most %d, "
            "beginning with a letter or digit",
            name, VD_NAME_MAX);
    int r = vd_names_find(name, &uuid, &devices, NULL);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return vd_names_find(name, &uuid, &devices, &c->err);
    vd_names_free(devices);
    return cli_fail(c, -EEXIST, "pool-registered",
                    "a pool is registered as \"%s\": detach it first, or choose another name",
                    name);
}

int cli_pool_create(struct cli *c)
{
    const char *name = c->args[0], *device = c->args[1];
    struct vd_create_options opt = {
        .pool_name = name, .existing = true, .force = cli_flag(c, "force")};
    struct vd_uuid uuid;
    char text[VD_UUID_TEXT];
    bool no_reserve, there = access(device, F_OK) == 0;
    cli_size(c, "capacity", &opt.capacity);
    int r = refuse_taken(c, name);
    if (r < 0)
        return r;
    c->target = c->args[1];
    r = vd_create(device, &opt, &uuid, &no_reserve, &c->err);
    if (r < 0)
        return r;
    r = register_pool(c, name, &uuid, device);
    if (r < 0) {
        if (!there)
            unlink(device);
        return r;
    }
    note_no_reserve(c, no_reserve);
    vd_uuid_format(&uuid, text);
    if (c->json)
        cli_json(c, json_pack("{s:s, s:s, s:[o], s:b}", "name", name, "uuid", text, "devices",
                              vd_wire_text(device), "reserve", !no_reserve));
    return 0;
}

static int add_pool(void *arg, const struct vd_pool_entry *e)
{
    char uuid[VD_UUID_TEXT];
    json_t *devices = json_array();
    for (int i = 0; i < e->n_devices; i++)
        json_array_append_new(devices, vd_wire_text(e->devices[i]));
    vd_uuid_format(&e->uuid, uuid);
    return json_array_append_new(arg, json_pack("{s:s, s:s, s:o}", "name", e->name, "uuid", uuid,
                                                "devices", devices)) < 0
               ? -ENOMEM
               : 0;
}

int cli_pool_list(struct cli *c)
{
    json_t *list = json_array(), *p;
    size_t i;
    int r = vd_names_list(add_pool, list, &c->err);
    if (r < 0) {
        json_decref(list);
        return r;
    }
    if (c->json) {
        cli_json(c, json_pack("{s:o}", "pools", list));
        return 0;
    }
    struct cli_table t;
    table_init(&t, (const char *[]){"NAME", "UUID", "DEVICE"}, 3);
    json_array_foreach (list, i, p) {
        table_row(&t);
        table_cell(&t, 0, "%s", get_str(p, "name"));
        table_cell(&t, 1, "%s", get_str(p, "uuid"));
        table_cell(&t, 2, "%s",
                   json_string_value(json_array_get(json_object_get(p, "devices"), 0)));
    }
    if (t.n_rows)
        table_print(&t, stdout);
    json_decref(list);
    return 0;
}

int cli_pool_attach(struct cli *c)
{
    struct vd_dev *dev;
    struct vd_identity id;
    const char *device = c->args[0];
    char text[VD_UUID_TEXT];
    if (access(device, F_OK) < 0)
        return vd_access_explain(device, false, -errno, &c->err);
    /* Its label is read without a lock: the pool may be served meanwhile. */
    int r = vd_dev_open(device, VD_DEV_RDONLY | VD_DEV_NO_LOCK, &dev, &c->err);
    if (r < 0)
        return vd_access_explain(device, false, r, &c->err);
    r = vd_pool_identify(dev, &id, &c->err);
    vd_dev_close(dev);
    if (r < 0 && strstr(c->err.message, device))
        return r;
    if (r < 0)
        return vd_fail_at(&c->err, c->err.code ? c->err.code : r, "%.200s", device);
    const char *name = c->n_args > 1 ? c->args[1] : id.pool_name;
    if (!*name)
        return cli_fail(c, -EINVAL, "usage",
                        "the pool on %.200s has no name of its own: give one after the device",
                        device);
    r = register_pool(c, name, &id.pool_uuid, device);
    if (r < 0)
        return r;
    vd_uuid_format(&id.pool_uuid, text);
    if (c->json)
        cli_json(c, json_pack("{s:s, s:s, s:[o]}", "name", name, "uuid", text, "devices",
                              vd_wire_text(device)));
    return 0;
}

int cli_pool_detach(struct cli *c)
{
    int r = vd_names_remove(c->args[0], &c->err);
    if (r == 0 && c->json)
        cli_json(c, json_pack("{s:s}", "name", c->args[0]));
    return r;
}
