/* SPDX-License-Identifier: MIT */
/*
 * Metadata contexts: which there are for an export, and which a client has chosen.
 *
 *   base:allocation             hole and zero, as the protocol defines them
 *   vdisk:changed-since:NAME    bit 0: it differs from what it was at snapshot NAME of the volume
 *
 * Invariants:
 *  1. A chosen snapshot is known by its UUID: one that is renamed is still meant, one that is made
 *     anew under an old name is not.
 *  2. Choosing anew, whatever comes of it, forgets what was chosen before.
 *
 * Runs on the reader fiber; the options suspend.
 */
#include "nbd/nbd_priv.h"

#include <stdio.h>
#include <stdlib.h>

#define ALLOCATION "base:allocation"
#define SINCE "vdisk:changed-since:"
/* Each is compared with each context's name, without suspending. */
#define QUERIES_MAX 256u

/* The queries of an option, checked. */
struct queries {
    uint32_t n;
    struct nbd_cursor cur;
    bool choose; /* SET: only whole names count */
};

/* The answer, as it grows. */
struct answer {
    struct nbd_conn *conn;
    const struct queries *queries;
    uint32_t option;
    struct nbd_replies replies;
    bool too_many;
};

static bool is_text(const uint8_t *p, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(p, text, len) == 0;
}

static bool queries_read(struct nbd_cursor cur, struct queries *ret)
{
    const uint8_t *query;
    size_t len;
    if (!nbd_get_u32(&cur, &ret->n))
        return false;
    ret->cur = cur;
    for (uint32_t i = 0; i < ret->n; i++)
        if (!nbd_get_string(&cur, &query, &len) || len > NBD_NAME_LEN_MAX ||
            !nbd_utf8_valid(query, len))
            return false;
    return cur.left == 0;
}

/* Whether a query means the context of that name; a list's may also name what it begins with. */
static bool is_wanted(const struct queries *qs, const char *name)
{
    struct nbd_cursor cur = qs->cur;
    const uint8_t *query;
    size_t len;
    if (qs->n == 0)
        return !qs->choose; /* no query lists everything, and selects nothing */
    for (uint32_t i = 0; i < qs->n && nbd_get_string(&cur, &query, &len); i++) {
        if (is_text(query, len, name))
            return true;
        bool whole_space =
            len > 0 && query[len - 1] == ':' && strncmp(name, (const char *)query, len) == 0;
        if (!qs->choose && whole_space)
            return true;
    }
    return false;
}

static int answer_add(struct answer *a, uint32_t id, const char *name)
{
    return nbd_replies_add(&a->replies, a->option, NBD_REP_META_CONTEXT, id, name);
}

static int add_since(void *arg, const struct vd_snapshot_info *info)
{
    struct answer *a = arg;
    struct nbd_contexts *chosen = &a->conn->contexts;
    char name[sizeof(SINCE) + VD_NAME_MAX];
    uint32_t id = 0;
    snprintf(name, sizeof(name), SINCE "%s", info->name);
    if (!is_wanted(a->queries, name))
        return 0;
    if (a->queries->choose) {
        if (chosen->n_since == NBD_SINCE_MAX) {
            a->too_many = true;
            return 1;
        }
        id = NBD_SINCE_ID + chosen->n_since;
        chosen->since[chosen->n_since++] = info->uuid;
    }
    return answer_add(a, id, name);
}

static int answer_make(struct answer *a, char *volume)
{
    int r = 0;
    if (is_wanted(a->queries, ALLOCATION)) {
        a->conn->contexts.allocation |= a->queries->choose;
        r = answer_add(a, a->queries->choose ? NBD_ALLOCATION_ID : 0, ALLOCATION);
    }
    char *at = strchr(volume, '@');
    if (at)
        *at = 0;
    return r < 0 ? r : vd_store_snapshots(a->conn->server->store, volume, add_since, a);
}

static int answer_send(struct answer *a, int r)
{
    struct nbd_conn *c = a->conn;
    if (a->too_many)
        return nbd_reply_error(c, a->option, NBD_REP_ERR_TOO_BIG,
                               "at most 16 snapshots can be compared with at a time");
    if (r < 0)
        return nbd_reply_error(c, a->option, NBD_REP_ERR_POLICY, "the contexts cannot be listed");
    r = a->replies.len > 0 ? vd_stream_write(c->stream, a->replies.p, a->replies.len) : 0;
    return r < 0 ? r : nbd_reply(c, a->option, NBD_REP_ACK, NULL, 0);
}

int nbd_option_contexts(struct nbd_conn *c, uint32_t option, struct nbd_cursor cur)
{
    const uint8_t *name;
    size_t len;
    char full[NBD_EXPORT_MAX];
    struct vd_disk *disk;
    struct vd_error err = {0};
    struct queries queries = {.choose = option == NBD_OPT_SET_META_CONTEXT};
    struct answer answer = {.conn = c, .queries = &queries, .option = option};

    if (queries.choose)
        nbd_contexts_forget(c);
    if (!c->structured)
        return nbd_reply_error(c, option, NBD_REP_ERR_INVALID, "structured replies come first");
    if (!nbd_get_string(&cur, &name, &len))
        return nbd_reply_error(c, option, NBD_REP_ERR_INVALID, NBD_NO_SENSE);
    int r = nbd_name_check(c, option, name, len);
    if (r != 0)
        return r < 0 ? r : 0;
    if (!queries_read(cur, &queries))
        return nbd_reply_error(c, option, NBD_REP_ERR_INVALID, NBD_NO_SENSE);
    if (queries.n > QUERIES_MAX)
        return nbd_reply_error(c, option, NBD_REP_ERR_TOO_BIG, "too many queries");
    /* Only to learn whether it is there. */
    r = nbd_export_open(c->server, name, len, true, &disk, full, &err);
    if (r < 0)
        return nbd_reply_open_error(c, option, r, &err);
    vd_disk_unref(disk);
    if (queries.choose)
        snprintf(c->contexts.export, sizeof(c->contexts.export), "%s", full);
    r = answer_make(&answer, full);
    if (r != 0 && queries.choose)
        nbd_contexts_forget(c);
    r = answer_send(&answer, r);
    free(answer.replies.p);
    return r;
}

void nbd_contexts_forget(struct nbd_conn *c)
{
    c->contexts.allocation = false;
    c->contexts.n_since = 0;
}

void nbd_contexts_settle(struct nbd_conn *c, const char *full)
{
    if (!c->structured || strcmp(c->contexts.export, full) != 0)
        nbd_contexts_forget(c);
}
