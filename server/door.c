/* SPDX-License-Identifier: MIT */
/*
 * Doors of an owner. Called on the owner's loop; opening and closing yield.
 */
#include "server/door.h"

#include "core/codec/tls.h"
#include "nbd/nbd.h"
#include "server/owner.h"
#include "server/runtime.h"
#include "server/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

struct vd_door {
    struct vd_list link;
    struct vd_nbd_server *nbd;
    struct vd_tls *tls; /* NULL = in the clear */
    bool read_only;
};

static struct vd_door *door_of(struct vd_list *link)
{
    return vd_container_of(link, struct vd_door, link);
}

/* unix:RUNTIME/<dev>-<ino>.nbd */
static int default_address(struct vd_owner *o, char **ret, struct vd_error *err)
{
    char *dir, *path;
    int r = vd_runtime_dir(true, &dir, err);
    if (r < 0)
        return r;
    path = vd_runtime_path(dir, o->st_dev, o->st_ino, ".nbd");
    if (!path || asprintf(ret, "unix:%s", path) < 0)
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    free(path);
    free(dir);
    return r;
}

static bool is_unix_socket(const char *address)
{
    int domain = 0;
    socklen_t len = sizeof(domain);
    if (strncmp(address, "fd:", 3) != 0)
        return strncmp(address, "unix:", 5) == 0;
    return getsockopt(atoi(address + 3), SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
           domain == AF_UNIX;
}

/* What to do about an address that other machines can reach. */
static int explain_remote(const struct vd_tls *tls, const char *address, struct vd_error *err)
{
    return vd_fail(err, -EPERM, "address-remote",
                   tls ? "%s can be reached from other machines, and anybody there could read and "
                         "write the volumes: put the authority that signs your clients' "
                         "certificates beside the server's as ca-cert.pem, or give --insecure"
                       : "%s can be reached from other machines, and anybody there could read and "
                         "write the volumes: give --tls-cert or --tls-psk, or --insecure",
                   address);
}

static int door_start(struct vd_owner *o, const struct vd_door_nbd *opt, const char *address,
                      struct vd_door *d, struct vd_error *err)
{
    struct vd_tls_files files = {.cert_dir = opt->tls_cert, .psk_file = opt->tls_psk};
    unsigned flags = d->read_only ? VD_NBD_READ_ONLY : 0;
    if (!is_unix_socket(address) && (files.cert_dir || files.psk_file)) {
        int r = vd_tls_load(&files, &d->tls, err);
        if (r < 0)
            return r;
    }
    if (opt->insecure || (d->tls && vd_tls_knows_clients(d->tls)))
        flags |= VD_NBD_REMOTE;
    int r = vd_nbd_start(o->loop, o->store, address, flags, d->tls, &d->nbd, err);
    return r < 0 && err && strcmp(err->id, "address-remote") == 0
               ? explain_remote(d->tls, address, err)
               : r;
}

static void door_free(struct vd_door *d)
{
    if (!d)
        return;
    vd_tls_free(d->tls);
    free(d);
}

int vd_door_nbd(struct vd_owner *o, const struct vd_door_nbd *opt, struct vd_door **ret,
                struct vd_error *err)
{
    char *own = NULL;
    struct vd_door *d = calloc(1, sizeof(*d));
    int r = d ? 0 : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    if (r == 0 && !opt->address)
        r = default_address(o, &own, err);
    if (r == 0) {
        d->read_only = opt->read_only || o->read_only;
        r = door_start(o, opt, own ? own : opt->address, d, err);
    }
    free(own);
    if (r < 0) {
        door_free(d);
        return r;
    }
    vd_list_push(&o->doors, &d->link);
    *ret = d;
    return 0;
}

bool vd_door_tls(const struct vd_door *d)
{
    return d->tls != NULL;
}

void vd_doors_close(struct vd_owner *o)
{
    for (struct vd_list *l; (l = vd_list_pop(&o->doors));) {
        vd_nbd_stop(door_of(l)->nbd);
        door_free(door_of(l));
    }
}

static int add_client(void *arg, const struct vd_nbd_client *c)
{
    json_t *v = json_pack("{s:o, s:o, s:b, s:I, s:I, s:I, s:I, s:i}", "peer", vd_wire_text(c->peer),
                          "export", vd_wire_text(c->export), "read_only", c->read_only, "connected",
                          (json_int_t)c->connected_s, "requests", (json_int_t)c->requests,
                          "read_bytes", (json_int_t)c->read_bytes, "write_bytes",
                          (json_int_t)c->write_bytes, "in_flight", (int)c->in_flight);
    return json_array_append_new(arg, v) < 0 ? -ENOMEM : 0;
}

/* "nbd+unix:///?socket=PATH", "nbd://HOST:PORT", or "nbds://" with TLS. */
static json_t *door_uri(const char *address, bool tls)
{
    char *uri;
    int n;
    if (strncmp(address, "unix:", 5) == 0) {
        char *full = realpath(address + 5, NULL);
        n = asprintf(&uri, "nbd+unix:///?socket=%s", full ? full : address + 5);
        free(full);
    } else {
        n = asprintf(&uri, "%s://%s", tls ? "nbds" : "nbd",
                     strncmp(address, "tcp:", 4) == 0 ? address + 4 : address);
    }
    if (n < 0)
        return NULL;
    json_t *v = vd_wire_text(uri);
    free(uri);
    return v;
}

json_t *vd_doors_json(struct vd_owner *o)
{
    json_t *list = json_array();
    vd_list_each (it, &o->doors) {
        struct vd_door *d = door_of(it);
        json_t *clients = json_array();
        (void)vd_nbd_clients(d->nbd, add_client, clients);
        const char *address = vd_nbd_address(d->nbd);
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:b, s:b, s:o}", "kind", "nbd",
                                              "address", vd_wire_text(address), "uri",
                                              door_uri(address, d->tls), "tls", d->tls != NULL,
                                              "read_only", d->read_only, "clients", clients));
    }
    return list;
}

struct names {
    const char *volume;
    char *buf;
    size_t len, used;
    unsigned n;
};

static int add_name(void *arg, const struct vd_nbd_client *c)
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
        (void)vd_nbd_clients(door_of(it)->nbd, add_name, &s);
    return s.n;
}
