/* SPDX-License-Identifier: MIT */
/*
 * Filling in struct vd_error. Called by everything on the control path; never yields, never
 * allocates. Invariant: `message` is one line, whatever text was handed in.
 */
#include "core/base/error.h"

#include <stdarg.h>
#include <stdio.h>

/* A file name or a peer may carry anything; a message stays on one line of printable text. */
static void message_clean(char *text)
{
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

int vd_fail(struct vd_error *err, int code, const char *id, const char *fmt, ...)
{
    if (!err)
        return code;
    /* An argument may point into *err, so the text is made beside it. */
    char text[sizeof(err->message)];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    message_clean(text);
    (void)snprintf(err->id, sizeof(err->id), "%s", id);
    memcpy(err->message, text, sizeof(text));
    err->code = code;
    return code;
}

int vd_fail_at(struct vd_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char what[sizeof(err->message)], old[sizeof(err->message)];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    message_clean(what);
    if (err->code) {
        memcpy(old, err->message, sizeof(old));
    } else {
        char buf[128];
        (void)snprintf(old, sizeof(old), "%s", strerror_r(-code, buf, sizeof(buf)));
        (void)snprintf(err->id, sizeof(err->id), "system-error");
    }
    old[sizeof(old) - 1] = 0;
    size_t room = sizeof(err->message) - 1, n = strlen(what);
    memcpy(err->message, what, n);
    size_t glue = VD_MIN(room - n, (size_t)2);
    memcpy(err->message + n, ": ", glue);
    n += glue;
    size_t rest = VD_MIN(room - n, strlen(old));
    memcpy(err->message + n, old, rest);
    err->message[n + rest] = 0;
    err->code = code;
    return code;
}
