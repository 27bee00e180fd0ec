/* SPDX-License-Identifier: MIT */
/*
 * Frames of the control socket. What arrives is verified before it is used: length, then nesting,
 * then JSON, then that it is an object. Used by both ends; send and receive yield.
 */
#include "server/wire.h"

#include "core/base/bytes.h"

#include <stdlib.h>
#include <unistd.h>

static const char magic[4] = {'V', 'D', 'C', '1'};
#define HEADER 8

int vd_wire_send(struct vd_stream *s, json_t *frame, const int *fds, int nfds)
{
    char *text = frame ? json_dumps(frame, JSON_COMPACT) : NULL;
    json_decref(frame);
    if (!text)
        return -ENOMEM;
    size_t len = strlen(text);
    uint8_t header[HEADER];
    int r = -EMSGSIZE;
    if (len <= VD_WIRE_REPLY_MAX) {
        memcpy(header, magic, sizeof(magic));
        vd_put_be32(header + 4, (uint32_t)len);
        if (nfds > 0) {
            r = vd_stream_send_fds(s, header, HEADER, fds, nfds);
            if (r >= 0)
                r = vd_stream_write(s, text, len);
        } else {
            struct iovec iov[2] = {{header, HEADER}, {text, len}};
            r = vd_stream_writev(s, iov, 2);
        }
    }
    free(text);
    return r < 0 ? r : 0;
}

static void close_all(int *fds, int n)
{
    for (int i = 0; i < n; i++)
        close(fds[i]);
}

/* The header of a frame, with whatever descriptors came along. */
static int recv_header(struct vd_stream *s, uint8_t *header, int *fds, int *nfds)
{
    *nfds = VD_WIRE_FDS;
    ssize_t n = vd_stream_recv_fds(s, header, HEADER, fds, nfds);
    if (n <= 0) {
        *nfds = 0;
        return n < 0 ? (int)n : -ENODATA;
    }
    if ((size_t)n < HEADER) {
        int r = vd_stream_read(s, header + n, HEADER - (size_t)n);
        if (r < 0) {
            close_all(fds, *nfds);
            *nfds = 0;
            return r;
        }
    }
    return 0;
}

int vd_wire_recv(struct vd_stream *s, size_t max, json_t **ret, int *fds, int *nfds)
{
    uint8_t header[HEADER];
    int got[VD_WIRE_FDS], n;
    int r = recv_header(s, header, got, &n);
    if (r < 0)
        return r;
    size_t len = vd_get_be32(header + 4);
    char *text = NULL;
    json_t *frame = NULL;
    if (memcmp(header, magic, sizeof(magic)) != 0 || len > max)
        r = -EPROTO;
    if (r == 0 && !(text = malloc(len + 1)))
        r = -ENOMEM;
    if (r == 0)
        r = vd_stream_read(s, text, len);
    if (r >= 0 && !(frame = vd_wire_parse(text, len)))
        r = -EPROTO;
    free(text);
    if (r < 0 || !fds) {
        close_all(got, n);
        n = 0;
    }
    if (r < 0)
        return r;
    if (fds) {
        memcpy(fds, got, sizeof(got));
        *nfds = n;
    }
    *ret = frame;
    return 0;
}

/* Nesting deeper than allowed? Counts brackets outside strings; malformed text is the parser's. */
static bool too_deep(const char *text, size_t len)
{
    unsigned depth = 0;
    bool string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                string = false;
        } else if (c == '"') {
            string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > VD_WIRE_DEPTH_MAX)
                return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

json_t *vd_wire_parse(const char *text, size_t len)
{
    if (too_deep(text, len))
        return NULL;
    json_error_t why;
    json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (json_is_object(v))
        return v;
    json_decref(v);
    return NULL;
}

/* Bytes of the UTF-8 character at p, 0 when it is none; only the shape is judged, jansson judges
 * the rest. */
static size_t utf8_len(const unsigned char *p)
{
    size_t n = *p < 0x80             ? 1
               : (*p & 0xe0) == 0xc0 ? 2
               : (*p & 0xf0) == 0xe0 ? 3
               : (*p & 0xf8) == 0xf0 ? 4
                                     : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

json_t *vd_wire_text(const char *text)
{
    json_t *v = json_string(text);
    if (v)
        return v;
    char *copy = strdup(text);
    if (!copy)
        return NULL;
    for (unsigned char *p = (unsigned char *)copy; *p;) {
        size_t n = utf8_len(p);
        json_t *one = n ? json_stringn((char *)p, n) : NULL;
        if (!one) {
            *p = '?';
            n = 1;
        }
        json_decref(one);
        p += n;
    }
    v = json_string(copy);
    free(copy);
    return v;
}

json_t *vd_wire_error(const struct vd_error *err)
{
    return json_pack("{s:i, s:o, s:o}", "errno", err->code, "id", vd_wire_text(err->id), "message",
                     vd_wire_text(err->message));
}

int vd_wire_error_get(json_t *obj, struct vd_error *err)
{
    const char *id = json_string_value(json_object_get(obj, "id"));
    const char *message = json_string_value(json_object_get(obj, "message"));
    json_int_t code = json_integer_value(json_object_get(obj, "errno"));
    if (code >= 0 || code < -4095 || !id || !message)
        return vd_fail(err, -EPROTO, "protocol", "the owner's answer is not understood");
    return vd_fail(err, (int)code, id, "%s", message);
}
