/* SPDX-License-Identifier: MIT */
/*
 * The handshake: greeting, then options until one of them opens an export. Everything that comes
 * in is bounded in length, number and time (the sender watches the clock meanwhile), and read only
 * through a cursor that cannot leave the option's data.
 *
 * Errors that the protocol can express are answered and the client may go on; where it lost the
 * thread (magic, flags, lengths beyond reason) the connection ends with -EPROTO.
 *
 * Runs on the reader fiber; everything here suspends.
 */
#include "nbd/nbd_priv.h"

#include <stdio.h>
#include <stdlib.h>

/* Unread data of one option. */
struct cursor {
    const uint8_t *p;
    size_t left;
};

static bool get_bytes(struct cursor *cur, size_t n, const uint8_t **ret)
{
    if (cur->left < n)
        return false;
    *ret = cur->p;
    cur->p += n;
    cur->left -= n;
    return true;
}

static bool get_u16(struct cursor *cur, uint16_t *ret)
{
    const uint8_t *p;
    if (!get_bytes(cur, 2, &p))
        return false;
    *ret = vd_get_be16(p);
    return true;
}

/* A string: its length in 32 bits, then its bytes. */
static bool get_string(struct cursor *cur, const uint8_t **ret, size_t *len)
{
    const uint8_t *p;
    if (!get_bytes(cur, 4, &p))
        return false;
    *len = vd_get_be32(p);
    return get_bytes(cur, *len, ret);
}

static void put_reply(uint8_t *to, uint32_t option, uint32_t type, size_t len)
{
    vd_put_be64(to, NBD_MAGIC_OPTION_REPLY);
    vd_put_be32(to + 8, option);
    vd_put_be32(to + 12, type);
    vd_put_be32(to + 16, (uint32_t)len);
}

static int reply(struct nbd_conn *c, uint32_t option, uint32_t type, const void *data, size_t len)
{
    uint8_t head[NBD_OPTION_REPLY_LEN];
    struct iovec iov[2] = {{.iov_base = head, .iov_len = sizeof(head)},
                           {.iov_base = (void *)(uintptr_t)data, .iov_len = len}};
    put_reply(head, option, type, len);
    return vd_stream_writev(c->stream, iov, len > 0 ? 2 : 1);
}

static int reply_error(struct nbd_conn *c, uint32_t option, uint32_t type, const char *message)
{
    return reply(c, option, type, message, strlen(message));
}

/* What an export that cannot be opened is answered with. */
static int reply_open_error(struct nbd_conn *c, uint32_t option, int r, const struct vd_error *err)
{
    return reply_error(c, option, r == -ENOENT ? NBD_REP_ERR_UNKNOWN : NBD_REP_ERR_POLICY,
                       err->code != 0 ? err->message : "the export cannot be opened");
}

/* 0 if a name from the client may be looked up; otherwise it has been answered: 1, or an error. */
static int name_check(struct nbd_conn *c, uint32_t option, const uint8_t *name, size_t len)
{
    if (len <= NBD_NAME_LEN_MAX && nbd_utf8_valid(name, len))
        return 0;
    int r = reply_error(c, option, NBD_REP_ERR_INVALID,
                        "an export's name is UTF-8 and at most 4096 bytes long");
    return r < 0 ? r : 1;
}

static void export_use(struct nbd_conn *c, struct vd_disk *disk, const char *full)
{
    struct vd_disk_info info;
    vd_disk_info(disk, &info);
    c->disk = disk;
    c->read_only = info.read_only;
    snprintf(c->export, sizeof(c->export), "%s", full);
    /* Contexts were chosen for one export: they do not go along to another. */
    c->allocation = c->allocation && c->structured && strcmp(c->meta_export, full) == 0;
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

struct list_reply {
    uint8_t *p;
    size_t len, cap;
};

static int list_add(void *arg, const char *full)
{
    struct list_reply *list = arg;
    size_t len = strlen(full), need = list->len + NBD_OPTION_REPLY_LEN + 4 + len;
    if (need > list->cap) {
        size_t cap = VD_MAX(2 * list->cap, VD_MAX(need, VD_KIB(4)));
        uint8_t *p = realloc(list->p, cap);
        if (!p)
            return -ENOMEM;
        list->p = p;
        list->cap = cap;
    }
    put_reply(list->p + list->len, NBD_OPT_LIST, NBD_REP_SERVER, 4 + len);
    vd_put_be32(list->p + list->len + NBD_OPTION_REPLY_LEN, (uint32_t)len);
    memcpy(list->p + list->len + NBD_OPTION_REPLY_LEN + 4, full, len);
    list->len = need;
    return 0;
}

static int option_list(struct nbd_conn *c, size_t len)
{
    struct list_reply list = {0};
    if (len > 0)
        return reply_error(c, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "list takes no data");
    int r = nbd_export_list(c->server, list_add, &list);
    if (r == 0 && list.len > 0)
        r = vd_stream_write(c->stream, list.p, list.len);
    else if (r < 0)
        r = reply_error(c, NBD_OPT_LIST, NBD_REP_ERR_POLICY, "the exports cannot be listed");
    free(list.p);
    return r < 0 ? r : reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static int reply_info_text(struct nbd_conn *c, uint32_t option, enum nbd_info type,
                           const char *text)
{
    uint8_t out[2 + NBD_EXPORT_MAX];
    size_t len = VD_MIN(strlen(text), sizeof(out) - 2);
    vd_put_be16(out, (uint16_t)type);
    memcpy(out + 2, text, len);
    return reply(c, option, NBD_REP_INFO, out, 2 + len);
}

/* What INFO and GO tell of an export; names and descriptions only if asked for. */
static int reply_info(struct nbd_conn *c, uint32_t option, struct vd_disk *disk, const char *full,
                      struct cursor wanted)
{
    struct vd_disk_info info;
    uint8_t out[14];
    uint16_t type;
    int r;

    vd_disk_info(disk, &info);
    vd_put_be16(out, NBD_INFO_EXPORT);
    vd_put_be64(out + 2, info.size);
    vd_put_be16(out + 10, nbd_export_flags(&info, c->structured));
    r = reply(c, option, NBD_REP_INFO, out, 12);
    if (r < 0)
        return r;
    vd_put_be16(out, NBD_INFO_BLOCK_SIZE);
    vd_put_be32(out + 2, VD_SECTOR);
    vd_put_be32(out + 6, VD_MAX(info.block_pref, VD_BLOCK));
    vd_put_be32(out + 10, (uint32_t)NBD_REQUEST_MAX);
    r = reply(c, option, NBD_REP_INFO, out, 14);
    bool name = false, description = false; /* each once, however often it is asked for */
    while (r == 0 && get_u16(&wanted, &type)) {
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
static int option_info(struct nbd_conn *c, uint32_t option, struct cursor cur)
{
    const uint8_t *name;
    size_t len;
    uint16_t n;
    char full[NBD_EXPORT_MAX];
    struct vd_disk *disk;
    struct vd_error err = {0};

    if (!get_string(&cur, &name, &len) || !get_u16(&cur, &n) || cur.left != 2 * (size_t)n)
        return reply_error(c, option, NBD_REP_ERR_INVALID, "the option's data make no sense");
    int r = name_check(c, option, name, len);
    if (r != 0)
        return r < 0 ? r : 0;
    r = nbd_export_open(c->server, name, len, false, &disk, full, &err);
    if (r < 0)
        return reply_open_error(c, option, r, &err);
    /* Opening took its time: `cur` and `name` are still good, for only this fiber reads input. */
    r = reply_info(c, option, disk, full, cur);
    if (r == 0 && option == NBD_OPT_GO)
        export_use(c, disk, full);
    else
        vd_disk_unref(disk);
    if (r == 0)
        r = reply(c, option, NBD_REP_ACK, NULL, 0);
    return r < 0 ? r : option == NBD_OPT_GO;
}

static bool is_text(const uint8_t *p, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(p, text, len) == 0;
}

static int reply_context(struct nbd_conn *c, uint32_t option)
{
    static const char name[] = "base:allocation";
    uint8_t out[4 + sizeof(name) - 1];
    vd_put_be32(out, option == NBD_OPT_SET_META_CONTEXT ? NBD_ALLOCATION_ID : 0);
    memcpy(out + 4, name, sizeof(name) - 1);
    return reply(c, option, NBD_REP_META_CONTEXT, out, sizeof(out));
}

/* Goes through the queries: 1 if base:allocation is meant by one, 0 if not, -EINVAL. */
static int queries_read(struct cursor cur, uint32_t option)
{
    const uint8_t *p, *query;
    size_t len;
    if (!get_bytes(&cur, 4, &p))
        return -EINVAL;
    uint32_t n = vd_get_be32(p);
    /* No query lists everything, and selects nothing. */
    bool meant = n == 0 && option == NBD_OPT_LIST_META_CONTEXT;
    for (uint32_t i = 0; i < n; i++) {
        if (!get_string(&cur, &query, &len) || len > NBD_NAME_LEN_MAX ||
            !nbd_utf8_valid(query, len))
            return -EINVAL;
        if (is_text(query, len, "base:allocation") ||
            (option == NBD_OPT_LIST_META_CONTEXT && is_text(query, len, "base:")))
            meant = true;
    }
    return cur.left > 0 ? -EINVAL : meant;
}

static int option_meta_context(struct nbd_conn *c, uint32_t option, struct cursor cur)
{
    const uint8_t *name;
    size_t len;
    char full[NBD_EXPORT_MAX];
    struct vd_disk *disk;
    struct vd_error err = {0};

    /* Whatever comes of it, what was chosen before is gone. */
    if (option == NBD_OPT_SET_META_CONTEXT)
        c->allocation = false;
    if (!c->structured)
        return reply_error(c, option, NBD_REP_ERR_INVALID, "structured replies come first");
    if (!get_string(&cur, &name, &len))
        return reply_error(c, option, NBD_REP_ERR_INVALID, "the option's data make no sense");
    int r = name_check(c, option, name, len);
    if (r != 0)
        return r < 0 ? r : 0;
    int meant = queries_read(cur, option);
    if (meant < 0)
        return reply_error(c, option, NBD_REP_ERR_INVALID, "the option's data make no sense");
    /* Only to learn whether it is there. */
    r = nbd_export_open(c->server, name, len, true, &disk, full, &err);
    if (r < 0)
        return reply_open_error(c, option, r, &err);
    vd_disk_unref(disk);
    if (meant && option == NBD_OPT_SET_META_CONTEXT) {
        c->allocation = true;
        snprintf(c->meta_export, sizeof(c->meta_export), "%s", full);
    }
    r = meant ? reply_context(c, option) : 0;
    return r < 0 ? r : reply(c, option, NBD_REP_ACK, NULL, 0);
}

static int option_structured(struct nbd_conn *c, size_t len)
{
    if (len > 0)
        return reply_error(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID,
                           "structured reply takes no data");
    c->structured = true;
    return reply(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
}

/* 1 = an export is open, 0 = go on, or an error that ends the connection. */
static int option_run(struct nbd_conn *c, uint32_t option, const uint8_t *data, size_t len)
{
    struct cursor cur = {.p = data, .left = len};
    int r;
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        return option_export_name(c, data, len);
    case NBD_OPT_ABORT:
        r = reply(c, option, NBD_REP_ACK, NULL, 0);
        return r < 0 ? r : -ENODATA;
    case NBD_OPT_LIST:
        return option_list(c, len);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return option_info(c, option, cur);
    case NBD_OPT_STRUCTURED_REPLY:
        return option_structured(c, len);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return option_meta_context(c, option, cur);
    default:
        return reply_error(c, option, NBD_REP_ERR_UNSUP, "this option is not known here");
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
            reply_error(c, option, NBD_REP_ERR_TOO_BIG, "the option is longer than 32 KiB");
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
