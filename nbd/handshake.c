/* SPDX-License-Identifier: MIT */
/*
 * The handshake: greeting, then options until one of them opens an export. Everything that comes
 * in is bounded in length, number and time (the sender watches the clock meanwhile), and read only
 * through a cursor that cannot leave the option's data.
 *
 * Errors that the protocol can express are answered and the client may go on; where it lost the
 * thread (magic, flags, lengths beyond reason) the connection ends with -EPROTO.
 *
 * A server with TLS answers every option in the clear with "TLS first", and goes over to it between
 * two options, when nothing that came in the clear is left unread.
 *
 * Runs on the reader fiber; everything here suspends.
 */
#include "core/base/log.h"
#include "nbd/nbd_priv.h"

#include <stdio.h>
#include <stdlib.h>

static void export_use(struct nbd_conn *c, struct vd_disk *disk, const char *full)
{
    struct vd_disk_info info;
    vd_disk_info(disk, &info);
    c->disk = disk;
    c->read_only = info.read_only;
    snprintf(c->export, sizeof(c->export), "%s", full);
    nbd_contexts_settle(c, full);
}

/* Returns 1 when the export is open. There is no way to answer a failure but to hang up. */
static int option_export_name(struct nbd_conn *c, const uint8_t *name, size_t len)
{
    char full[NBD_EXPORT_MAX];
    struct vd_disk *disk;
    struct vd_disk_info info;
    uint8_t out[10 + 124] = {0};
    int r = nbd_export_open(c->server, name, len, false, &disk, full, NULL);
    if (r < 0)
        return -ECANCELED;
    vd_disk_info(disk, &info);
    export_use(c, disk, full);
    vd_put_be64(out, info.size);
    vd_put_be16(out + 8, nbd_export_flags(&info, c->structured));
    r = vd_stream_write(c->stream, out, c->no_zeroes ? 10 : sizeof(out));
    return r < 0 ? r : 1;
}

static int list_add(void *arg, const char *full)
{
    return nbd_replies_add(arg, NBD_OPT_LIST, NBD_REP_SERVER, (uint32_t)strlen(full), full);
}

static int option_list(struct nbd_conn *c, size_t len)
{
    struct nbd_replies list = {0};
    if (len > 0)
        return nbd_reply_error(c, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "list takes no data");
    int r = nbd_export_list(c->server, list_add, &list);
    if (r == 0 && list.len > 0)
        r = vd_stream_write(c->stream, list.p, list.len);
    else if (r < 0)
        r = nbd_reply_error(c, NBD_OPT_LIST, NBD_REP_ERR_POLICY, "the exports cannot be listed");
    free(list.p);
    return r < 0 ? r : nbd_reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static int reply_info_text(struct nbd_conn *c, uint32_t option, enum nbd_info type,
                           const char *text)
{
    uint8_t out[2 + NBD_EXPORT_MAX];
    size_t len = VD_MIN(strlen(text), sizeof(out) - 2);
    vd_put_be16(out, (uint16_t)type);
    memcpy(out + 2, text, len);
    return nbd_reply(c, option, NBD_REP_INFO, out, 2 + len);
}

/* What INFO and GO tell of an export; names and descriptions only if asked for. */
static int reply_info(struct nbd_conn *c, uint32_t option, struct vd_disk *disk, const char *full,
                      struct nbd_cursor wanted)
{
    struct vd_disk_info info;
    uint8_t out[14];
    uint16_t type;
    int r;

    vd_disk_info(disk, &info);
    vd_put_be16(out, NBD_INFO_EXPORT);
    vd_put_be64(out + 2, info.size);
    vd_put_be16(out + 10, nbd_export_flags(&info, c->structured));
    r = nbd_reply(c, option, NBD_REP_INFO, out, 12);
    if (r < 0)
        return r;
    vd_put_be16(out, NBD_INFO_BLOCK_SIZE);
    vd_put_be32(out + 2, VD_SECTOR);
    vd_put_be32(out + 6, VD_MAX(info.block_pref, VD_BLOCK));
    vd_put_be32(out + 10, (uint32_t)NBD_REQUEST_MAX);
    r = nbd_reply(c, option, NBD_REP_INFO, out, 14);
    bool name = false, description = false; /* each once, however often it is asked for */
    while (r == 0 && nbd_get_u16(&wanted, &type)) {
        if (type == NBD_INFO_NAME && !name)
            r = reply_info_text(c, option, NBD_INFO_NAME, full);
        else if (type == NBD_INFO_DESCRIPTION && !description)
            r = reply_info_text(c, option, NBD_INFO_DESCRIPTION,
                                strchr(full, '@') ? "vdisk snapshot" : "vdisk volume");
        name |= type == NBD_INFO_NAME;
        description |= type == NBD_INFO_DESCRIPTION;
    }
    return r;
}

/* INFO and GO. Returns 1 when GO has opened the export. */
static int option_info(struct nbd_conn *c, uint32_t option, struct nbd_cursor cur)
{
    const uint8_t *name;
    size_t len;
    uint16_t n;
    char full[NBD_EXPORT_MAX];
    struct vd_disk *disk;
    struct vd_error err = {0};

    if (!nbd_get_string(&cur, &name, &len) || !nbd_get_u16(&cur, &n) || cur.left != 2 * (size_t)n)
        return nbd_reply_error(c, option, NBD_REP_ERR_INVALID, NBD_NO_SENSE);
    int r = nbd_name_check(c, option, name, len);
    if (r != 0)
        return r < 0 ? r : 0;
    r = nbd_export_open(c->server, name, len, false, &disk, full, &err);
    if (r < 0)
        return nbd_reply_open_error(c, option, r, &err);
    /* Opening took its time: `cur` and `name` are still good, for only this fiber reads input. */
    r = reply_info(c, option, disk, full, cur);
    if (r == 0 && option == NBD_OPT_GO)
        export_use(c, disk, full);
    else
        vd_disk_unref(disk);
    if (r == 0)
        r = nbd_reply(c, option, NBD_REP_ACK, NULL, 0);
    return r < 0 ? r : option == NBD_OPT_GO;
}

static int option_structured(struct nbd_conn *c, size_t len)
{
    if (len > 0)
        return nbd_reply_error(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID,
                               "structured reply takes no data");
    c->structured = true;
    return nbd_reply(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
}

/* The way from the clear to TLS. What was settled before is forgotten: anybody on the way could
 * have said it. */
static int option_starttls(struct nbd_conn *c, size_t len)
{
    struct vd_error err = {0};
    if (len > 0)
        return nbd_reply_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "STARTTLS takes no data");
    if (c->secure)
        return nbd_reply_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "TLS is on already");
    if (!c->server->tls)
        return nbd_reply_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY,
                               "this server was started without TLS");
#ifndef VD_PLANT_NBD_INJECTION
    /* Whatever came in the clear behind the option would be taken for what was said under TLS. */
    if (c->pos < c->end)
        return -EPROTO;
#endif
    int r = nbd_reply(c, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    if (r < 0)
        return r;
    c->structured = false;
    nbd_contexts_forget(c);
    r = vd_stream_tls_accept(c->stream, c->server->tls, &err);
    if (r < 0) {
        if (r != -ECANCELED)
            vd_log(VD_LOG_WARNING, "nbd: %s: TLS failed: %s", c->peer, err.message);
        return r == -ECANCELED ? r : -ECONNRESET;
    }
    c->secure = true;
    const char *who = vd_stream_tls_peer(c->stream);
    size_t used = strlen(c->peer);
    if (*who)
        snprintf(c->peer + used, sizeof(c->peer) - used, " (%s)", who);
    return 0;
}

/* In the clear, a server with TLS says nothing but that: not what exports there are, nor which
 * options it knows. */
static int refuse_clear(struct nbd_conn *c, uint32_t option)
{
    if (option == NBD_OPT_EXPORT_NAME)
        return -EPROTO; /* it has no answer for errors */
    return nbd_reply_error(c, option, NBD_REP_ERR_TLS_REQD, "this server wants TLS first");
}

/* 1 = an export is open, 0 = go on, or an error that ends the connection. */
static int option_run(struct nbd_conn *c, uint32_t option, const uint8_t *data, size_t len)
{
    struct nbd_cursor cur = {.p = data, .left = len};
    int r;
    bool clear = c->server->tls && !c->secure;
#ifdef VD_PLANT_NBD_LIST_IN_CLEAR
    clear = clear && option != NBD_OPT_LIST;
#endif
    if (clear && option != NBD_OPT_STARTTLS && option != NBD_OPT_ABORT)
        return refuse_clear(c, option);
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        return option_export_name(c, data, len);
    case NBD_OPT_ABORT:
        r = nbd_reply(c, option, NBD_REP_ACK, NULL, 0);
        return r < 0 ? r : -ENODATA;
    case NBD_OPT_LIST:
        return option_list(c, len);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return option_info(c, option, cur);
    case NBD_OPT_STARTTLS:
        return option_starttls(c, len);
    case NBD_OPT_STRUCTURED_REPLY:
        return option_structured(c, len);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return nbd_option_contexts(c, option, cur);
    default:
        return nbd_reply_error(c, option, NBD_REP_ERR_UNSUP, "this option is not known here");
    }
}

static int greet(struct nbd_conn *c, bool *fixed)
{
    uint8_t out[18];
    vd_put_be64(out, NBD_MAGIC_INIT);
    vd_put_be64(out + 8, NBD_MAGIC_OPTION);
    vd_put_be16(out + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    int r = vd_stream_write(c->stream, out, sizeof(out));
    if (r == 0)
        r = nbd_fill(c, 4);
    if (r < 0)
        return r;
    uint32_t flags = vd_get_be32(c->in + c->pos);
    c->pos += 4;
    if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
        return -EPROTO;
    *fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
    c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    return 0;
}

/* Reads one option and runs it: 1 = an export is open, 0 = go on. */
static int option_next(struct nbd_conn *c, bool fixed)
{
    int r = nbd_fill(c, NBD_OPTION_LEN);
    if (r < 0)
        return r;
    const uint8_t *p = c->in + c->pos;
    uint32_t option = vd_get_be32(p + 8), len = vd_get_be32(p + 12);
    if (vd_get_be64(p) != NBD_MAGIC_OPTION || (!fixed && option != NBD_OPT_EXPORT_NAME))
        return -EPROTO;
    c->pos += NBD_OPTION_LEN;
    if (len > NBD_OPTION_MAX) {
        if (option != NBD_OPT_EXPORT_NAME)
            nbd_reply_error(c, option, NBD_REP_ERR_TOO_BIG, "the option is longer than 32 KiB");
        return -EPROTO;
    }
    r = nbd_fill(c, len);
    if (r < 0)
        return r == -ENODATA ? -ECONNRESET : r;
    const uint8_t *data = c->in + c->pos;
    c->pos += len;
    return option_run(c, option, data, len);
}

int nbd_handshake(struct nbd_conn *c)
{
    bool fixed;
    int r = greet(c, &fixed);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < NBD_OPTIONS_MAX; i++) {
        r = option_next(c, fixed);
        if (r != 0)
            return r < 0 ? r : 0;
        if (c->server->stopping)
            return -ECANCELED;
    }
    return -EPROTO;
}
