/* SPDX-License-Identifier: MIT */
/*
 * What all options of the handshake share: a cursor that cannot leave an option's data, and
 * replies. Runs on the reader fiber; replies suspend.
 */
#include "nbd/nbd_priv.h"

#include <stdlib.h>

bool nbd_get_bytes(struct nbd_cursor *cur, size_t n, const uint8_t **ret)
{
    if (cur->left < n)
        return false;
    *ret = cur->p;
    cur->p += n;
    cur->left -= n;
    return true;
}

bool nbd_get_u16(struct nbd_cursor *cur, uint16_t *ret)
{
    const uint8_t *p;
    if (!nbd_get_bytes(cur, 2, &p))
        return false;
    *ret = vd_get_be16(p);
    return true;
}

bool nbd_get_u32(struct nbd_cursor *cur, uint32_t *ret)
{
    const uint8_t *p;
    if (!nbd_get_bytes(cur, 4, &p))
        return false;
    *ret = vd_get_be32(p);
    return true;
}

bool nbd_get_string(struct nbd_cursor *cur, const uint8_t **ret, size_t *len)
{
    uint32_t n;
    if (!nbd_get_u32(cur, &n) || !nbd_get_bytes(cur, n, ret))
        return false;
    *len = n;
    return true;
}

void nbd_put_reply(uint8_t *to, uint32_t option, uint32_t type, size_t len)
{
    vd_put_be64(to, NBD_MAGIC_OPTION_REPLY);
    vd_put_be32(to + 8, option);
    vd_put_be32(to + 12, type);
    vd_put_be32(to + 16, (uint32_t)len);
}

int nbd_replies_add(struct nbd_replies *rs, uint32_t option, uint32_t type, uint32_t word,
                    const char *name)
{
    size_t len = strlen(name), need = rs->len + NBD_OPTION_REPLY_LEN + 4 + len;
    if (need > rs->room) {
        size_t room = VD_MAX(2 * rs->room, VD_MAX(need, VD_KIB(4)));
        uint8_t *p = realloc(rs->p, room);
        if (!p)
            return -ENOMEM;
        rs->p = p;
        rs->room = room;
    }
    uint8_t *to = rs->p + rs->len;
    nbd_put_reply(to, option, type, 4 + len);
    vd_put_be32(to + NBD_OPTION_REPLY_LEN, word);
    memcpy(to + NBD_OPTION_REPLY_LEN + 4, name, len);
    rs->len = need;
    return 0;
}

int nbd_reply(struct nbd_conn *c, uint32_t option, uint32_t type, const void *data, size_t len)
{
    uint8_t head[NBD_OPTION_REPLY_LEN];
    struct iovec iov[2] = {{.iov_base = head, .iov_len = sizeof(head)},
                           {.iov_base = (void *)(uintptr_t)data, .iov_len = len}};
    nbd_put_reply(head, option, type, len);
    return vd_stream_writev(c->stream, iov, len > 0 ? 2 : 1);
}

int nbd_reply_error(struct nbd_conn *c, uint32_t option, uint32_t type, const char *message)
{
    return nbd_reply(c, option, type, message, strlen(message));
}

int nbd_reply_open_error(struct nbd_conn *c, uint32_t option, int r, const struct vd_error *err)
{
    return nbd_reply_error(c, option, r == -ENOENT ? NBD_REP_ERR_UNKNOWN : NBD_REP_ERR_POLICY,
                           err->code != 0 ? err->message : "the export cannot be opened");
}

int nbd_name_check(struct nbd_conn *c, uint32_t option, const uint8_t *name, size_t len)
{
    if (len <= NBD_NAME_LEN_MAX && nbd_utf8_valid(name, len))
        return 0;
    int r = nbd_reply_error(c, option, NBD_REP_ERR_INVALID,
                            "an export's name is UTF-8 and at most 4096 bytes long");
    return r < 0 ? r : 1;
}
