/* SPDX-License-Identifier: MIT */
/*
 * NBD doors: nbd/ behind the table of doors, with TLS where clients come through TCP. Called by
 * door.c; starting and stopping yield.
 */
#include "core/codec/tls.h"
#include "nbd/nbd.h"
#include "server/door_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

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

static int nbd_start(struct vd_door *d, const struct vd_door_options *opt, struct vd_error *err)
{
    struct vd_tls_files files = {.cert_dir = opt->tls_cert, .psk_file = opt->tls_psk};
    unsigned flags = d->read_only ? VD_NBD_READ_ONLY : 0;
    struct vd_nbd_server *server;
    if (!is_unix_socket(opt->address) && (files.cert_dir || files.psk_file)) {
        int r = vd_tls_load(&files, &d->tls, err);
        if (r < 0)
            return r;
    }
    if (opt->insecure || (d->tls && vd_tls_knows_clients(d->tls)))
        flags |= VD_NBD_REMOTE;
    int r = vd_nbd_start(d->owner->loop, vd_gate_store(d->gate), opt->address, flags, d->tls,
                         &server, err);
    if (r < 0 && err && strcmp(err->id, "address-remote") == 0)
        return explain_remote(d->tls, opt->address, err);
    if (r == 0)
        d->server = server;
    return r;
}

static void nbd_stop(struct vd_door *d)
{
    vd_nbd_stop(d->server);
}

static const char *nbd_address(const struct vd_door *d)
{
    return vd_nbd_address(d->server);
}

/* "nbd+unix:///?socket=PATH", "nbd://HOST:PORT", or "nbds://" with TLS. */
static char *nbd_uri(const struct vd_door *d)
{
    char *uri;
    int n;
    if (strncmp(d->full, "unix:", 5) == 0)
        n = asprintf(&uri, "nbd+unix:///?socket=%s", d->full + 5);
    else
        n = asprintf(&uri, "%s://%s", d->tls ? "nbds" : "nbd",
                     strncmp(d->full, "tcp:", 4) == 0 ? d->full + 4 : d->full);
    return n < 0 ? NULL : uri;
}

static int nbd_clients(const struct vd_door *d, vd_door_client_fn *fn, void *arg)
{
    return vd_nbd_clients(d->server, fn, arg);
}

static void nbd_trim(struct vd_door *d)
{
    vd_nbd_trim(d->server);
}

const struct door_kind door_nbd = {
    .name = "nbd",
    .start = nbd_start,
    .stop = nbd_stop,
    .address = nbd_address,
    .uri = nbd_uri,
    .clients = nbd_clients,
    .trim = nbd_trim,
    .default_suffix = ".nbd",
};
