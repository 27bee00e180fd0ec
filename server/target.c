/* SPDX-License-Identifier: MIT */
/*
 * The TARGET grammar. Pure: no I/O, does not yield. Called by cli/ for every argument that names
 * something in a pool.
 */
#include "server/target.h"

#include "core/base/text.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const schemes[] = {"rbd:", "nbd+unix:", "nbd:"};

static size_t scheme_len(const char *text)
{
    for (size_t i = 0; i < VD_ARRAY_SIZE(schemes); i++) {
        size_t n = strlen(schemes[i]);
        if (strncmp(text, schemes[i], n) == 0)
            return n;
    }
    return 0;
}

static int name_check(const char *what, const char *name, struct vd_error *err)
{
    if (vd_name_valid(name))
        return 0;
    return vd_fail(err, -EINVAL, "name-invalid",
                   "\"%.140s\" is no %s name: letters, digits, '.', '_' and '-', at most %d, "
                   "beginning with a letter or digit",
                   name, what, VD_NAME_MAX);
}

/* Cuts "[VOLUME][@SNAPSHOT]" apart in place; `tail` is where '@' and ':' count. */
static int split(char *text, char *tail, bool colon_first, struct vd_target_ref *t,
                 struct vd_error *err)
{
    char *at = strrchr(tail, '@');
    if (at) {
        *at = 0;
        int r = name_check("snapshot", at + 1, err);
        if (r < 0)
            return r;
        t->snapshot = strdup(at + 1);
        if (!t->snapshot)
            return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    char *volume = NULL;
    if (colon_first) {
        volume = text + (*text == ':');
        if (volume == text && !*volume)
            volume = NULL;
    } else {
        char *colon = strrchr(tail, ':');
        if (colon) {
            *colon = 0;
            volume = colon + 1;
        }
    }
    if (volume) {
        int r = name_check("volume", volume, err);
        if (r < 0)
            return r;
        t->volume = strdup(volume);
        if (!t->volume)
            return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    return 0;
}

static int parse(char *text, const char *pool_path, struct vd_target_ref *t, struct vd_error *err)
{
    if (pool_path) {
        if (!*pool_path)
            return vd_fail(err, -EINVAL, "target-invalid", "--pool is empty");
        t->kind = scheme_len(pool_path) ? VD_POOL_URI : VD_POOL_PATH;
        t->pool = strdup(pool_path);
        if (!t->pool)
            return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
        return text ? split(text, text, true, t, err) : 0;
    }
    size_t skip = scheme_len(text);
    char *tail = text + skip;
    char *slash = strrchr(tail, '/');
    if (slash)
        tail = slash + 1;
    int r = split(text, tail, false, t, err);
    if (r < 0)
        return r;
    if (!text[skip])
        return vd_fail(err, -EINVAL, "target-invalid",
                       "the pool is missing: a target is POOL[:VOLUME][@SNAPSHOT]");
    if (skip)
        t->kind = VD_POOL_URI;
    else
        t->kind = strpbrk(text, "/.") ? VD_POOL_PATH : VD_POOL_NAME;
    if (t->kind == VD_POOL_NAME && !vd_name_valid(text))
        return name_check("pool", text, err);
    t->pool = strdup(text);
    return t->pool ? 0 : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
}

int vd_target_parse(const char *text, const char *pool_path, struct vd_target_ref *ret,
                    struct vd_error *err)
{
    struct vd_target_ref t = {0};
    char *copy = NULL;
    if (text) {
        copy = strdup(text);
        if (!copy)
            return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    } else if (!pool_path) {
        return vd_fail(err, -EINVAL, "target-invalid", "no target is given");
    }
    int r = parse(copy, pool_path, &t, err);
    free(copy);
    if (r < 0) {
        vd_target_done(&t);
        return r;
    }
    *ret = t;
    return 0;
}

void vd_target_done(struct vd_target_ref *t)
{
    free(t->pool);
    free(t->volume);
    free(t->snapshot);
    memset(t, 0, sizeof(*t));
}

char *vd_target_text(const struct vd_target_ref *t)
{
    char *text;
    if (asprintf(&text, "%s%s%s%s%s", t->pool, t->volume ? ":" : "", t->volume ? t->volume : "",
                 t->snapshot ? "@" : "", t->snapshot ? t->snapshot : "") < 0)
        return NULL;
    return text;
}
