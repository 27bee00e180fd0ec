/* SPDX-License-Identifier: MIT */
/*
 * Doors of an owner: the list of them, and what all kinds have in common. A door has a gate of its
 * own, through which it sees the store.
 *
 * 1. A door is in the list from when it is open until somebody closes it, who takes it out first;
 * so it is closed once.
 *
 * Called on the owner's loop; opening, closing and refreshing yield.
 */
#include "core/base/log.h"
#include "core/codec/tls.h"
#include "server/door_priv.h"
#include "server/runtime.h"
#include "server/wire.h"

#include <stdio.h>
#include <stdlib.h>

static const struct door_kind *const kinds[] = {&door_nbd, &door_vhost, &door_fuse, &door_metrics};

static struct vd_door *door_of(struct vd_list *link)
{
    return vd_container_of(link, struct vd_door, link);
}

const char *const *vd_door_kinds(void)
{
    static const char *names[VD_ARRAY_SIZE(kinds) + 1];
    for (size_t i = 0; i < VD_ARRAY_SIZE(kinds); i++)
        names[i] = kinds[i]->name;
    return names;
}

static const struct door_kind *kind_find(const char *name)
{
    for (size_t i = 0; i < VD_ARRAY_SIZE(kinds); i++)
        if (strcmp(kinds[i]->name, name) == 0)
            return kinds[i];
    return NULL;
}

/* "unix:PATH" or a path with the full path, or the address as it is. NULL when out of memory. */
static char *full_address(const struct vd_door *d)
{
    const char *address = d->kind->address(d);
    const char *scheme = strncmp(address, "unix:", 5) == 0 ? "unix:" : "";
    if (d->kind->mounts || strncmp(address, "tcp:", 4) == 0 || strncmp(address, "fd:", 3) == 0)
        return strdup(address);
    char *path = realpath(address + strlen(scheme), NULL), *full;
    int n = asprintf(&full, "%s%s", scheme, path ? path : address + strlen(scheme));
    free(path);
    return n < 0 ? NULL : full;
}

/* unix:RUNTIME/<dev>-<ino>SUFFIX */
static int default_address(struct vd_owner *o, const char *suffix, char **ret, struct vd_error *err)
{
    char *dir, *path;
    int r = vd_runtime_dir(true, &dir, err);
    if (r < 0)
        return r;
    path = vd_runtime_path(dir, o->st_dev, o->st_ino, suffix);
    if (!path || asprintf(ret, "unix:%s", path) < 0)
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    free(path);
    free(dir);
    return r;
}

/* ---- opening and closing ---- */

static void door_free(struct vd_door *d)
{
    if (!d)
        return;
    vd_tls_free(d->tls);
    vd_gate_free(d->gate);
    free(d->full);
    free(d);
}

static struct vd_door *door_new(struct vd_owner *o, const struct door_kind *kind, bool read_only)
{
    struct vd_door *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->owner = o;
    d->kind = kind;
    d->read_only = read_only || o->read_only;
    vd_list_init(&d->link);
    vd_waitq_init(&d->idle);
    if (vd_gate_new(o->gates, kind->name, &d->gate) == 0)
        return d;
    free(d);
    return NULL;
}

/* What errors about busy volumes call it, and what it is found by. */
static int name_door(struct vd_door *d)
{
    char *name;
    if (asprintf(&name, "%s %s", d->kind->name, d->kind->address(d)) < 0)
        return -ENOMEM;
    int r = vd_gate_rename(d->gate, name);
    free(name);
    d->full = full_address(d);
    return d->full ? r : -ENOMEM;
}

static int door_start(struct vd_door *d, const struct vd_door_options *opt, struct vd_error *err)
{
    struct vd_owner *o = d->owner;
    struct vd_door_options use = *opt;
    char *own = NULL;
    int r = 0;
    if (!use.address && !d->kind->default_suffix)
        r = vd_fail(err, -EINVAL, "bad-address", "a door for %s needs an address", d->kind->name);
    else if (!use.address)
        r = default_address(o, d->kind->default_suffix, &own, err);
    if (own)
        use.address = own;
    if (r == 0 && vd_door_find(o, use.address))
        r = vd_fail(err, -EEXIST, "door-exists", "there is a door at %s already", use.address);
    if (r == 0)
        r = d->kind->start(d, &use, err);
    free(own);
    return r;
}

int vd_door_open(struct vd_owner *o, const struct vd_door_options *opt, struct vd_door **ret,
                 struct vd_error *err)
{
    const struct door_kind *kind = kind_find(opt->kind);
    if (!kind)
        return vd_fail(err, -EINVAL, "bad-door", "there are no doors of the kind \"%.40s\"",
                       opt->kind);
    struct vd_door *d = door_new(o, kind, opt->read_only);
    if (!d)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = door_start(d, opt, err);
    if (r < 0) {
        door_free(d);
        return r;
    }
    /* The owner may have begun to end meanwhile, and has closed what was in the list. */
    r = name_door(d);
    if (r < 0 || o->closing) {
        d->kind->stop(d);
        door_free(d);
        return o->closing ? vd_fail(err, -EBUSY, "owner-closing", "the owner is about to end")
                          : vd_fail(err, r, "no-memory", "out of memory");
    }
    vd_list_push(&o->doors, &d->link);
    *ret = d;
    return 0;
}

void vd_door_close(struct vd_door *d)
{
    struct vd_owner *o = d->owner;
    vd_group_add(&o->door_group);
    vd_list_remove(&d->link);
    vd_gate_release(d->gate);
    while (d->busy)
        vd_wait(&d->idle);
    d->kind->stop(d);
    door_free(d);
    vd_group_done(&o->door_group);
    if (o->on_door_closed)
        o->on_door_closed(o);
}

void vd_doors_close(struct vd_owner *o)
{
    vd_gates_lift(o->gates);
    while (!vd_list_empty(&o->doors))
        vd_door_close(door_of(o->doors.next));
    vd_group_wait(&o->door_group);
}

/* ---- about them ---- */

bool vd_door_tls(const struct vd_door *d)
{
    return d->tls != NULL;
}

struct vd_door *vd_door_find(struct vd_owner *o, const char *address)
{
    vd_list_each (it, &o->doors) {
        struct vd_door *d = door_of(it);
        if (strcmp(d->full, address) == 0 || strcmp(d->kind->address(d), address) == 0 ||
            (strncmp(d->full, "unix:", 5) == 0 && strcmp(d->full + 5, address) == 0))
            return d;
    }
    return NULL;
}

static void door_refresh(struct vd_door *d)
{
    struct vd_error err = {0};
    d->busy++;
    if (d->kind->refresh(d, &err) < 0)
        vd_log(VD_LOG_WARNING, "door %s %s: %s", d->kind->name, d->kind->address(d), err.message);
    if (--d->busy == 0)
        vd_wake_all(&d->idle);
}

/* The next that has not been refreshed since the change `change`; NULL = all have. */
static struct vd_door *door_stale(struct vd_owner *o, uint64_t change)
{
    vd_list_each (it, &o->doors)
        if (door_of(it)->kind->refresh && door_of(it)->refreshed < change)
            return door_of(it);
    return NULL;
}

/* Doors may be opened and closed meanwhile, so the list is looked at afresh each time. */
void vd_doors_refresh(struct vd_owner *o)
{
    uint64_t change = ++o->volume_changes;
    for (struct vd_door *d; (d = door_stale(o, change));) {
        d->refreshed = change;
        door_refresh(d);
    }
}

void vd_doors_trim(struct vd_owner *o)
{
    vd_list_each (it, &o->doors)
        if (door_of(it)->kind->trim)
            door_of(it)->kind->trim(door_of(it));
}

static int add_client(void *arg, const struct vd_door_client *c)
{
    json_t *v = json_pack("{s:o, s:o, s:b, s:I, s:I, s:I, s:I, s:i}", "peer", vd_wire_text(c->peer),
                          "export", vd_wire_text(c->export), "read_only", c->read_only, "connected",
                          (json_int_t)c->connected_s, "requests", (json_int_t)c->requests,
                          "read_bytes", (json_int_t)c->read_bytes, "write_bytes",
                          (json_int_t)c->write_bytes, "in_flight", (int)c->in_flight);
    return json_array_append_new(arg, v) < 0 ? -ENOMEM : 0;
}

json_t *vd_door_json(const struct vd_door *d)
{
    json_t *clients = json_array();
    char *uri = d->kind->uri(d);
    if (d->kind->clients)
        (void)d->kind->clients(d, add_client, clients);
    json_t *v = json_pack("{s:s, s:o, s:o, s:b, s:b, s:o}", "kind", d->kind->name, "address",
                          vd_wire_text(d->kind->address(d)), "uri", vd_wire_text(uri ? uri : ""),
                          "tls", d->tls != NULL, "read_only", d->read_only, "clients", clients);
    free(uri);
    return v;
}

json_t *vd_doors_json(struct vd_owner *o)
{
    json_t *list = json_array();
    vd_list_each (it, &o->doors)
        json_array_append_new(list, vd_door_json(door_of(it)));
    return list;
}

struct names {
    const char *volume;
    char *buf;
    size_t len, used;
    unsigned n;
};

static int add_name(void *arg, const struct vd_door_client *c)
{
    struct names *s = arg;
    /* "" is the only volume of its pool, or a client that has not chosen yet. */
    if (*c->export && strcmp(c->export, s->volume) != 0)
        return 0;
    s->n++;
    int n = snprintf(s->buf + s->used, s->len - s->used, "%s%s", s->used ? "; " : "", c->peer);
    s->used = VD_MIN(s->len - 1, s->used + (n > 0 ? (size_t)n : 0));
    return 0;
}

unsigned vd_doors_clients(struct vd_owner *o, const char *volume, char *buf, size_t len)
{
    struct names s = {.volume = volume, .buf = buf, .len = len};
    *buf = 0;
    vd_list_each (it, &o->doors)
        if (door_of(it)->kind->clients)
            (void)door_of(it)->kind->clients(door_of(it), add_name, &s);
    return s.n;
}

static int count_client(void *arg, const struct vd_door_client *c)
{
    ++*(unsigned *)arg;
    return 0;
}

unsigned vd_doors_count(struct vd_owner *o)
{
    unsigned n = 0;
    vd_list_each (it, &o->doors)
        if (door_of(it)->kind->clients)
            (void)door_of(it)->kind->clients(door_of(it), count_client, &n);
    return n;
}
