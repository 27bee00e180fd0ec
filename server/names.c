/* SPDX-License-Identifier: MIT */
/*
 * pools.json: {"pools": {NAME: {"uuid": TEXT, "devices": [PATH...]}}}.
 *
 * 1. The file is replaced whole by rename after fsync, so a reader sees the old or the new one.
 * 2. Changes are made under a lock on pools.json.lock, so two commands do not lose each other's.
 */
#include "server/names.h"

#include "core/base/text.h"
#include "server/access.h"
#include "server/runtime.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int path_in(const char *dir, const char *file, char **ret, struct vd_error *err)
{
    if (asprintf(ret, "%s/%s", dir, file) < 0)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    return 0;
}

static int names_load(const char *dir, json_t **ret, struct vd_error *err)
{
    char *path;
    int r = path_in(dir, "pools.json", &path, err);
    if (r < 0)
        return r;
    json_error_t why;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        *ret = json_pack("{s:{}}", "pools");
        r = *ret ? 0 : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    } else if (fd < 0) {
        r = vd_access_explain(path, false, -errno, err);
    } else {
        json_t *root = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
        if (!json_is_object(json_object_get(root, "pools"))) {
            json_decref(root);
            r = vd_fail(err, -EUCLEAN, "names-damaged",
                        "%s is damaged (line %d): set it right, or remove it and attach the pools "
                        "again",
                        path, root ? 1 : why.line);
        } else {
            *ret = root;
        }
    }
    if (fd >= 0)
        close(fd);
    free(path);
    return r;
}

static int names_write(const char *dir, const char *path, json_t *root, struct vd_error *err)
{
    char *tmp;
    if (asprintf(&tmp, "%s.%d", path, (int)getpid()) < 0)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = 0;
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        r = vd_access_explain(tmp, true, -errno, err);
        free(tmp);
        return r;
    }
    if (json_dumpfd(root, fd, JSON_INDENT(2) | JSON_SORT_KEYS) < 0 || write(fd, "\n", 1) != 1 ||
        fsync(fd) < 0 || rename(tmp, path) < 0) {
        r = vd_fail(err, errno ? -errno : -EIO, "names-not-written", "cannot write %s: %s", path,
                    strerror(errno ? errno : EIO));
        unlink(tmp);
    }
    close(fd);
    if (r == 0) {
        int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd >= 0) {
            fsync(dirfd);
            close(dirfd);
        }
    }
    free(tmp);
    return r;
}

/* mkdir -p of the configuration directory's last two components. */
static int config_make(const char *dir, struct vd_error *err)
{
    char *parent = strdup(dir);
    if (!parent)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    char *slash = strrchr(parent, '/');
    if (slash && slash != parent) {
        *slash = 0;
        (void)mkdir(parent, 0755); /* the next mkdir tells if that mattered */
    }
    free(parent);
    if (mkdir(dir, 0755) < 0 && errno != EEXIST)
        return vd_access_explain(dir, true, -errno, err);
    return 0;
}

typedef int names_edit(json_t *pools, const void *arg, struct vd_error *err);

static int names_change(names_edit *edit, const void *arg, struct vd_error *err)
{
    char *dir = NULL, *lock = NULL, *path = NULL;
    json_t *root = NULL;
    int fd = -1;
    int r = vd_config_dir(&dir, err);
    if (r == 0)
        r = config_make(dir, err);
    if (r == 0)
        r = path_in(dir, "pools.json.lock", &lock, err);
    if (r == 0)
        r = path_in(dir, "pools.json", &path, err);
    if (r == 0) {
        fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
            r = vd_access_explain(lock, true, -errno, err);
        else if (flock(fd, LOCK_EX) < 0)
            r = vd_fail(err, -errno, "names-not-locked", "%s: %s", lock, strerror(errno));
    }
    if (r == 0)
        r = names_load(dir, &root, err);
    if (r == 0)
        r = edit(json_object_get(root, "pools"), arg, err);
    if (r == 0)
        r = names_write(dir, path, root, err);
    json_decref(root);
    if (fd >= 0)
        close(fd);
    free(path);
    free(lock);
    free(dir);
    return r;
}

static int load(json_t **ret, struct vd_error *err)
{
    char *dir;
    int r = vd_config_dir(&dir, err);
    if (r < 0)
        return r;
    r = names_load(dir, ret, err);
    free(dir);
    return r;
}

/* One entry out of the file, checked. The strings stay the JSON's. */
static int entry_get(const char *name, json_t *value, struct vd_uuid *uuid, const char **devices,
                     int *n, struct vd_error *err)
{
    json_t *list = json_object_get(value, "devices");
    const char *text = json_string_value(json_object_get(value, "uuid"));
    size_t count = json_array_size(list);
    bool good = text && vd_uuid_parse(text, uuid) && count > 0 && count <= VD_POOL_DEVICES_MAX;
    for (size_t i = 0; good && i < count; i++) {
        devices[i] = json_string_value(json_array_get(list, i));
        good = devices[i] != NULL;
    }
    if (!good)
        return vd_fail(err, -EUCLEAN, "names-damaged",
                       "the entry of \"%.127s\" in pools.json is damaged: detach it and attach it "
                       "again",
                       name);
    *n = (int)count;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int vd_names_list(vd_pool_entry_fn *fn, void *arg, struct vd_error *err)
{
    json_t *root, *value;
    int r = load(&root, err);
    if (r < 0)
        return r;
    json_t *pools = json_object_get(root, "pools");
    const char *name;
    const char **names = calloc(json_object_size(pools) + 1, sizeof(*names));
    size_t n = 0;
    if (!names)
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    else
        json_object_foreach (pools, name, value)
            names[n++] = name;
    if (n)
        qsort(names, n, sizeof(*names), by_name);
    for (size_t i = 0; i < n && r == 0; i++) {
        const char *devices[VD_POOL_DEVICES_MAX];
        struct vd_pool_entry e = {.name = names[i], .devices = devices};
        r = entry_get(names[i], json_object_get(pools, names[i]), &e.uuid, devices, &e.n_devices,
                      err);
        if (r == 0)
            r = fn(arg, &e);
    }
    free(names);
    json_decref(root);
    return r;
}

void vd_names_free(char **devices)
{
    for (int i = 0; devices && devices[i]; i++)
        free(devices[i]);
    free(devices);
}

int vd_names_find(const char *name, struct vd_uuid *ret_uuid, char ***ret_devices,
                  struct vd_error *err)
{
    json_t *root;
    int r = load(&root, err);
    if (r < 0)
        return r;
    const char *devices[VD_POOL_DEVICES_MAX];
    struct vd_uuid uuid;
    int n = 0;
    json_t *value = json_object_get(json_object_get(root, "pools"), name);
    if (!value)
        r = vd_fail(err, -ENOENT, "pool-not-registered",
                    "no pool is registered as \"%.127s\"; a file of that name is written ./%.127s",
                    name, name);
    else
        r = entry_get(name, value, &uuid, devices, &n, err);
    char **copies = r == 0 ? calloc((size_t)n + 1, sizeof(*copies)) : NULL;
    for (int i = 0; copies && i < n; i++) {
        copies[i] = strdup(devices[i]);
        if (!copies[i]) {
            vd_names_free(copies);
            copies = NULL;
        }
    }
    json_decref(root);
    if (r < 0)
        return r;
    if (!copies)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    *ret_uuid = uuid;
    *ret_devices = copies;
    return 0;
}

static int edit_add(json_t *pools, const void *arg, struct vd_error *err)
{
    const struct vd_pool_entry *e = arg;
    char uuid[VD_UUID_TEXT];
    vd_uuid_format(&e->uuid, uuid);
    json_t *old = json_object_get(pools, e->name);
    const char *old_uuid = json_string_value(json_object_get(old, "uuid"));
    if (old && (!old_uuid || strcmp(old_uuid, uuid) != 0))
        return vd_fail(err, -EEXIST, "pool-registered",
                       "another pool is registered as \"%s\": detach it first, or give this one "
                       "another name",
                       e->name);
    json_t *list = json_array();
    for (int i = 0; i < e->n_devices; i++)
        json_array_append_new(list, json_string(e->devices[i]));
    json_t *value = json_pack("{s:s, s:o}", "uuid", uuid, "devices", list);
    if (!value || json_array_size(list) != (size_t)e->n_devices ||
        json_object_set_new(pools, e->name, value) < 0)
        return vd_fail(err, -EINVAL, "names-not-written",
                       "a device path of \"%s\" is not UTF-8 and cannot be registered", e->name);
    return 0;
}

int vd_names_add(const struct vd_pool_entry *entry, struct vd_error *err)
{
    if (!vd_name_valid(entry->name) || strchr(entry->name, '.'))
        return vd_fail(
            err, -EINVAL, "name-invalid",
            "\"%.127s\" is no name for a pool: letters, digits, '_' and '-', at most %d, "
            "beginning with a letter or digit",
            entry->name, VD_NAME_MAX);
    return names_change(edit_add, entry, err);
}

static int edit_remove(json_t *pools, const void *arg, struct vd_error *err)
{
    if (json_object_del(pools, arg) < 0)
        return vd_fail(err, -ENOENT, "pool-not-registered", "no pool is registered as \"%.127s\"",
                       (const char *)arg);
    return 0;
}

int vd_names_remove(const char *name, struct vd_error *err)
{
    return names_change(edit_remove, name, err);
}
