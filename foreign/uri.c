/* SPDX-License-Identifier: MIT */
/* NBD URIs, as far as vdisk connects to them. Pure but for the current directory; does not yield.
 */
#include "foreign/remote.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PORT "10809"

bool vd_remote_is_uri(const char *text)
{
    static const char *const schemes[] = {"nbd://", "nbd+unix://", "nbds://", "nbds+unix://"};
    for (size_t i = 0; i < VD_ARRAY_SIZE(schemes); i++)
        if (strncmp(text, schemes[i], strlen(schemes[i])) == 0)
            return true;
    return false;
}

/* A copy of [text, end) with %XX decoded; NULL for what cannot be decoded, or out of memory. */
static char *decode(const char *text, const char *end)
{
    char *to = malloc((size_t)(end - text) + 1), *at = to;
    if (!to)
        return NULL;
    for (; text < end; text++) {
        if (*text != '%') {
            *at++ = *text;
            continue;
        }
        if (end - text < 3 || !isxdigit((unsigned char)text[1]) ||
            !isxdigit((unsigned char)text[2])) {
            free(to);
            return NULL;
        }
        char hex[3] = {text[1], text[2], 0};
        *at = (char)strtol(hex, NULL, 16);
        if (*at++ == 0) {
            free(to);
            return NULL;
        }
        text += 2;
    }
    *at = 0;
    return to;
}

static int unix_address(const char *query, char **ret)
{
    const char *key = "socket=", *at = query;
    while (*at && strncmp(at, key, strlen(key)) != 0) {
        at += strcspn(at, "&");
        at += *at == '&';
    }
    if (!*at)
        return -EINVAL;
    at += strlen(key);
    char *path = decode(at, at + strcspn(at, "&"));
    char *cwd = path && *path != '/' ? getcwd(NULL, 0) : NULL;
    int n = path && *path ? asprintf(ret, "unix:%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path) : -1;
    free(path);
    free(cwd);
    return n < 0 ? -EINVAL : 0;
}

static int tcp_address(const char *host, const char *end, char **ret)
{
    char *text = decode(host, end);
    int n = -1;
    if (text && *text) {
        const char *bracket = strrchr(text, ']'), *colon = strrchr(text, ':');
        bool port = colon && (!bracket || colon > bracket);
        n = asprintf(ret, "tcp:%s%s%s", text, port ? "" : ":", port ? "" : PORT);
    }
    free(text);
    return n < 0 ? -EINVAL : 0;
}

int vd_remote_uri_parse(const char *text, struct vd_remote_uri *ret, struct vd_error *err)
{
    struct vd_remote_uri u = {0};
    if (strncmp(text, "nbds", 4) == 0)
        return vd_fail(err, -EOPNOTSUPP, "remote-unsupported",
                       "%.200s: NBD with TLS is not supported here: use nbd:// or nbd+unix://",
                       text);
    bool is_unix = strncmp(text, "nbd+unix:", 9) == 0;
    const char *host = strstr(text, "//") + 2;
    const char *slash = host + strcspn(host, "/?");
    const char *query = slash + strcspn(slash, "?");
    int r;
    if (is_unix)
        r = slash == host && *query ? unix_address(query + 1, &u.address) : -EINVAL;
    else
        r = *query ? -EINVAL : tcp_address(host, slash, &u.address);
    if (r == 0) {
        u.export = decode(slash + (*slash == '/'), query);
        r = u.export ? 0 : -EINVAL;
    }
    if (r < 0) {
        vd_remote_uri_done(&u);
        return vd_fail(err, r, "bad-uri",
                       "%.200s is not understood: nbd://HOST[:PORT][/EXPORT] or "
                       "nbd+unix:///[EXPORT]?socket=PATH",
                       text);
    }
    *ret = u;
    return 0;
}

void vd_remote_uri_done(struct vd_remote_uri *u)
{
    free(u->address);
    free(u->export);
    *u = (struct vd_remote_uri){0};
}
