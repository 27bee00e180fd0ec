/* SPDX-License-Identifier: MIT */
/*
 * Properties of volumes: "read-only" is a flag of the volume, the others are text: "comment",
 * "user.*", and "limit.*", which doors keep to.
 * As control.c: under the control mutex, through a transaction.
 */
#include "core/base/text.h"
#include "core/block/limit.h"
#include "snapshot/store_priv.h"

#define VALUE_MAX 1024

static struct snap_store *store_of(struct vd_store *st)
{
    return vd_container_of(st, struct snap_store, store);
}

static const struct property *property_named(const struct volume *v, const char *prop)
{
    vd_list_each (it, &v->properties) {
        const struct property *p = vd_container_of(it, struct property, link);
        if (strcmp(p->name, prop) == 0)
            return p;
    }
    return NULL;
}

static int text_check(const char *prop, const char *value, struct vd_error *err)
{
    bool user = strncmp(prop, "user.", 5) == 0 && vd_name_valid(prop + 5) && vd_name_valid(prop);
    int limit = vd_limits_property(NULL, prop, value, err);
    if (limit != -ENOENT)
        return limit;
    if (!user && strcmp(prop, "comment") != 0)
        return vd_fail(err, -EINVAL, "property-invalid",
                       "there is no property \"%.130s\": use read-only, limit.iops, "
                       "limit.bandwidth, limit.burst, comment or user.NAME",
                       prop);
    if (value && strlen(value) > VALUE_MAX)
        return vd_fail(err, -EINVAL, "property-invalid", "a property's value has at most %d bytes",
                       VALUE_MAX);
    return 0;
}

static void text_set(struct txn *t, const struct volume *v, const char *prop, const char *value)
{
    const struct property *p = property_named(v, prop);
    uint64_t n = p ? p->n : v->next_property;

    if (!value) {
        if (p) {
            txn_del(t, CATALOG_PROPERTY, v->id, 2 * n + 1);
            txn_del(t, CATALOG_PROPERTY, v->id, 2 * n);
        }
        return;
    }
    if (!p)
        txn_put(t, CATALOG_PROPERTY, v->id, 2 * n, prop, (uint16_t)strlen(prop));
    txn_put(t, CATALOG_PROPERTY, v->id, 2 * n + 1, value, (uint16_t)strlen(value));
}

static int read_only_set(struct txn *t, const struct volume *v, const char *value,
                         struct vd_error *err)
{
    bool on = value && strcmp(value, "on") == 0;
    if (value && !on && strcmp(value, "off") != 0)
        return vd_fail(err, -EINVAL, "property-invalid", "read-only is \"on\" or \"off\"");
    struct volume_rec rec = v->rec;
    rec.flags &= ~(uint32_t)CATALOG_VOLUME_READ_ONLY;
    rec.flags |= on ? CATALOG_VOLUME_READ_ONLY : 0;
    if (rec.flags != v->rec.flags)
        txn_volume(t, v->id, &rec);
    return 0;
}

int op_prop_set(struct vd_store *st, const char *volume, const char *prop, const char *value,
                struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct txn t;

    vd_fmutex_lock(&s->control);
    int r = writable(s, err);
    struct volume *v = r == 0 ? find_volume(s, volume, err) : NULL;
    if (r == 0 && !v)
        r = -ENOENT;
    if (r == 0) {
        txn_init(&t, s);
        if (strcmp(prop, "read-only") == 0) {
            r = read_only_set(&t, v, value, err);
        } else {
            r = text_check(prop, value, err);
            if (r == 0)
                text_set(&t, v, prop, value);
        }
        if (r == 0 && (t.count || t.err))
            r = txn_commit(&t, 0, err);
        else
            txn_drop(&t);
    }
    vd_fmutex_unlock(&s->control);
    return r;
}

int op_props(struct vd_store *st, const char *volume, vd_prop_fn *fn, void *arg,
             struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct volume *v = find_volume(s, volume, err);
    if (!v)
        return -ENOENT;
    int r = fn(arg, "read-only", v->rec.flags & CATALOG_VOLUME_READ_ONLY ? "on" : "off");
    vd_list_each (it, &v->properties) {
        const struct property *p = vd_container_of(it, struct property, link);
        if (r == 0)
            r = fn(arg, p->name, p->value);
    }
    return r;
}
