/* SPDX-License-Identifier: MIT */
/*
 * The image of the store in memory, and the functions of snapshot/snapshot.h that read and write
 * it: a header block with the length, then JSON, then the blocks it counts. Yields in I/O.
 */
#include "tests/server/fake.h"

#include "core/base/text.h"
#include "core/io/loop.h"

#include <stdio.h>
#include <stdlib.h>

#define MAGIC "FAKEPOOL"

struct fake_image {
    uint8_t *bytes;
    size_t len, room;
};

static void append(struct fake_image *m, const void *data, size_t len)
{
    if (m->len + len > m->room) {
        m->room = 2 * (m->len + len) + VD_BLOCK;
        uint8_t *grown = vd_alloc_aligned(m->room);
        if (m->bytes)
            memcpy(grown, m->bytes, m->len);
        free(m->bytes);
        m->bytes = grown;
    }
    memcpy(m->bytes + m->len, data, len);
    m->len += len;
}

static json_t *view_json(const struct view *v)
{
    char uuid[VD_UUID_TEXT];
    json_t *at = json_array();
    vd_uuid_format(&v->uuid, uuid);
    for (uint64_t i = 0; i < fake_count(v->size); i++)
        if (v->blocks[i])
            json_array_append_new(at, json_integer((json_int_t)i));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:b, s:O, s:O, s:o}", "name",
                     v->name, "volume", v->volume ? v->volume->name : "", "uuid", uuid, "from",
                     v->origin_volume, "at", v->origin_snapshot, "size", (json_int_t)v->size,
                     "created", (json_int_t)v->created, "epoch", (json_int_t)v->epoch, "automatic",
                     v->automatic, "read_only", v->read_only, "props", v->props, "holds", v->holds,
                     "blocks", at);
}

static int save(struct fake *f)
{
    struct fake_image m = {0};
    char uuid[VD_UUID_TEXT];
    static uint8_t header[VD_BLOCK];
    json_t *views = json_array();
    vd_list_each (it, &f->views)
        json_array_append_new(views, view_json(fake_view(it)));
    vd_uuid_format(&f->uuid, uuid);
    json_t *v = json_pack("{s:s, s:s, s:I, s:I, s:o}", "name", f->name, "uuid", uuid, "capacity",
                          (json_int_t)f->capacity, "epoch", (json_int_t)f->epoch, "views", views);
    char *text = json_dumps(v, 0);
    uint64_t len = strlen(text);
    json_decref(v);
    memset(header, 0, sizeof(header));
    memcpy(header, MAGIC, 8);
    memcpy(header + 8, &len, sizeof(len));
    append(&m, header, sizeof(header));
    append(&m, text, len);
    free(text);
    memset(header, 0, sizeof(header));
    append(&m, header, VD_ROUND_UP(m.len, VD_BLOCK) - m.len);
    vd_list_each (it, &f->views)
        for (uint64_t i = 0; i < fake_count(fake_view(it)->size); i++)
            if (fake_view(it)->blocks[i])
                append(&m, fake_view(it)->blocks[i]->data, VD_BLOCK);
    int r = vd_dev_allocate(f->dev, 0, m.len);
    if (r == 0 || r == -EOPNOTSUPP)
        r = vd_dev_write(f->dev, 0, m.bytes, m.len);
    if (r == 0)
        r = vd_dev_flush(f->dev);
    free(m.bytes);
    return r;
}

static void view_load(struct fake *f, json_t *j, const uint8_t **data)
{
    const char *volume = json_string_value(json_object_get(j, "volume"));
    struct view *v = fake_view_new(f, *volume ? fake_find(f, volume, NULL) : NULL,
                                   json_string_value(json_object_get(j, "name")),
                                   (uint64_t)json_integer_value(json_object_get(j, "size")));
    json_t *at;
    size_t i;
    vd_uuid_parse(json_string_value(json_object_get(j, "uuid")), &v->uuid);
    snprintf(v->origin_volume, sizeof(v->origin_volume), "%s",
             json_string_value(json_object_get(j, "from")));
    snprintf(v->origin_snapshot, sizeof(v->origin_snapshot), "%s",
             json_string_value(json_object_get(j, "at")));
    v->created = (uint64_t)json_integer_value(json_object_get(j, "created"));
    v->epoch = (uint64_t)json_integer_value(json_object_get(j, "epoch"));
    v->automatic = json_is_true(json_object_get(j, "automatic"));
    v->read_only = json_is_true(json_object_get(j, "read_only"));
    json_object_update(v->props, json_object_get(j, "props"));
    json_object_update(v->holds, json_object_get(j, "holds"));
    json_array_foreach (json_object_get(j, "blocks"), i, at) {
        struct block *b = calloc(1, sizeof(*b));
        b->refs = 1;
        memcpy(b->data, *data, VD_BLOCK);
        *data += VD_BLOCK;
        v->blocks[json_integer_value(at)] = b;
    }
}

static int load(struct fake *f, struct vd_error *err)
{
    struct vd_dev_info di;
    vd_dev_info(f->dev, &di);
    size_t size = VD_ROUND_DOWN(di.size, VD_BLOCK);
    uint8_t *all = vd_alloc_aligned(size);
    uint64_t len = 0;
    int r = size ? vd_dev_read(f->dev, 0, all, size) : 0;
    if (r == 0 && (!size || memcmp(all, MAGIC, 8) != 0))
        r = vd_fail(err, -ENODEV, "not-a-pool", "this is no vdisk pool");
    if (r == 0)
        memcpy(&len, all + 8, sizeof(len));
    json_t *v = r == 0 ? json_loadb((char *)all + VD_BLOCK, len, 0, NULL) : NULL, *one;
    if (r == 0 && !v)
        r = vd_fail(err, -EUCLEAN, "damaged", "the pool is damaged");
    if (r == 0) {
        const uint8_t *data = all + VD_ROUND_UP(VD_BLOCK + len, VD_BLOCK);
        size_t i;
        snprintf(f->name, sizeof(f->name), "%s", json_string_value(json_object_get(v, "name")));
        vd_uuid_parse(json_string_value(json_object_get(v, "uuid")), &f->uuid);
        f->capacity = (uint64_t)json_integer_value(json_object_get(v, "capacity"));
        f->epoch = (uint64_t)json_integer_value(json_object_get(v, "epoch"));
        json_array_foreach (json_object_get(v, "views"), i, one)
            view_load(f, one, &data);
    }
    json_decref(v);
    free(all);
    return r;
}

static struct fake *fake_new(struct vd_dev *dev)
{
    struct fake *f = calloc(1, sizeof(*f));
    f->store.ops = &fake_ops;
    f->dev = dev;
    f->epoch = 1;
    vd_list_init(&f->views);
    return f;
}

static void fake_free(struct fake *f)
{
    while (!vd_list_empty(&f->views))
        fake_view_free(fake_view(f->views.prev));
    free(f);
}

int vd_pool_format(struct vd_dev *const *devs, int n, const struct vd_format_options *opt,
                   bool *ret_no_reserve, struct vd_error *err)
{
    struct fake *f = fake_new(devs[0]);
    snprintf(f->name, sizeof(f->name), "%s", opt->name ? opt->name : "");
    f->capacity = opt->capacity;
    vd_uuid_new(&f->uuid, vd_loop_rng(vd_loop_current()));
    *ret_no_reserve = false;
    int r = save(f);
    fake_free(f);
    return r < 0 ? vd_fail(err, r, "write-failed", "%s", strerror(-r)) : 0;
}

int vd_store_attach(struct vd_dev **devs, int n, unsigned flags, struct vd_store **ret,
                    struct vd_error *err)
{
    struct fake *f = fake_new(devs[0]);
    f->read_only = flags & VD_ATTACH_RDONLY;
    int r = load(f, err);
    if (r < 0) {
        vd_dev_close(f->dev);
        fake_free(f);
        return r;
    }
    *ret = &f->store;
    return 0;
}

int vd_store_detach(struct vd_store *s, struct vd_error *err)
{
    struct fake *f = fake_of(s);
    int r = f->read_only ? 0 : save(f);
    vd_dev_close(f->dev);
    fake_free(f);
    return r < 0 ? vd_fail(err, r, "write-failed", "%s", strerror(-r)) : 0;
}

void vd_store_abandon(struct vd_store *s)
{
    vd_dev_close(fake_of(s)->dev);
    fake_free(fake_of(s));
}

int vd_pool_identify(struct vd_dev *dev, struct vd_identity *ret, struct vd_error *err)
{
    struct fake *f = fake_new(dev);
    int r = load(f, err);
    if (r == 0) {
        *ret = (struct vd_identity){.pool_uuid = f->uuid, .dev_count = 1};
        memcpy(ret->pool_name, f->name, sizeof(ret->pool_name));
    }
    fake_free(f);
    return r;
}

int vd_store_check(struct vd_store *s, bool data, vd_check_fn *fn, void *arg, const bool *cancel,
                   struct vd_check_report *ret, struct vd_error *err)
{
    vd_list_each (it, &fake_of(s)->views)
        ret->runs++;
    return 0;
}
