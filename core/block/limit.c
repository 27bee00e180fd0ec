/* SPDX-License-Identifier: MIT */
/*
 * Token buckets, kept as two times: until then what was taken is paid for. A request may go when
 * that is no further ahead of now than the burst, so one of any size goes in the end and the next
 * ones pay for it.
 *
 * Invariants:
 *  1. At most one waiter, the first of the first user, sleeps on the clock; it wakes the next.
 *  2. A user that was served goes to the end, so one with many requests does not starve the others.
 *
 * Called by the choke point of disks (meter.c); only vd_limit_take yields.
 */
#include "core/block/limit.h"

#include "core/base/text.h"

#define SECOND_NS UINT64_C(1000000000)
#define IOPS_MAX UINT64_C(1000000000)
#define BURST_MAX_S 3600u

struct waiter {
    struct vd_list link;
    struct vd_waitq q;
};

/* ---- properties ---- */

static int parse_count(const char *value, uint64_t *ret)
{
    char *end;
    errno = 0;
    uint64_t n = strtoull(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || errno || n == 0 || n > IOPS_MAX)
        return -EINVAL;
    *ret = n;
    return 0;
}

static int parse_time(const char *value, uint64_t *ret)
{
    char *end;
    errno = 0;
    uint64_t n = strtoull(value, &end, 10);
    uint64_t unit = strcmp(end, "s") == 0 ? SECOND_NS : strcmp(end, "ms") == 0 ? 1000000u : 0;
    if (*value < '0' || *value > '9' || errno || !unit || n > BURST_MAX_S * SECOND_NS / unit)
        return -EINVAL;
    *ret = n * unit;
    return 0;
}

int vd_limits_property(struct vd_limits *limits, const char *prop, const char *value,
                       struct vd_error *err)
{
    struct vd_limits spare;
    uint64_t n = 0;
    if (!limits)
        limits = &spare;
    if (strcmp(prop, "limit.iops") == 0) {
        if (value && parse_count(value, &n) < 0)
            return vd_fail(err, -EINVAL, "property-invalid",
                           "limit.iops is a number of requests per second, such as 1000");
        limits->iops = n;
    } else if (strcmp(prop, "limit.bandwidth") == 0) {
        if (value && (vd_size_parse(value, &n, NULL) < 0 || n < VD_BLOCK))
            return vd_fail(err, -EINVAL, "property-invalid",
                           "limit.bandwidth is a size per second, such as 50MiB, and at least 4K");
        limits->bandwidth = n;
    } else if (strcmp(prop, "limit.burst") == 0) {
        n = VD_LIMIT_BURST_NS;
        if (value && parse_time(value, &n) < 0)
            return vd_fail(err, -EINVAL, "property-invalid",
                           "limit.burst is a time of up to an hour, such as 10s or 500ms");
        limits->burst_ns = n;
    } else {
        return -ENOENT;
    }
    return 0;
}

/* ---- the buckets ---- */

void vd_limit_init(struct vd_limit *l)
{
    *l = (struct vd_limit){.limits.burst_ns = VD_LIMIT_BURST_NS};
    vd_list_init(&l->users);
}

void vd_limit_user_init(struct vd_limit_user *u)
{
    *u = (struct vd_limit_user){0};
    vd_list_init(&u->link);
    vd_list_init(&u->waiters);
}

static struct waiter *waiter_of(struct vd_list *link)
{
    return vd_container_of(link, struct waiter, link);
}

static struct vd_limit_user *user_of(struct vd_list *link)
{
    return vd_container_of(link, struct vd_limit_user, link);
}

/* Whose turn it is; NULL when nobody waits. */
static struct waiter *head(struct vd_limit *l)
{
    return vd_list_empty(&l->users) ? NULL : waiter_of(user_of(l->users.next)->waiters.next);
}

static void wake_head(struct vd_limit *l)
{
    struct waiter *w = head(l);
    if (w)
        vd_wake_all(&w->q);
}

static void wake_user(struct vd_limit_user *u)
{
    vd_list_each (it, &u->waiters)
        vd_wake_all(&waiter_of(it)->q);
}

/* When the next request may go. */
static uint64_t ready_ns(const struct vd_limit *l)
{
    uint64_t paid = VD_MAX(l->limits.iops ? l->ops_ns : 0, l->limits.bandwidth ? l->bytes_ns : 0);
    return paid > l->limits.burst_ns ? paid - l->limits.burst_ns : 0;
}

static void charge(struct vd_limit *l, uint64_t now, uint64_t len)
{
    if (l->limits.iops)
        l->ops_ns = VD_MAX(l->ops_ns, now) + SECOND_NS / l->limits.iops;
    if (l->limits.bandwidth)
        l->bytes_ns = VD_MAX(l->bytes_ns, now) +
                      (uint64_t)((__uint128_t)len * SECOND_NS / l->limits.bandwidth);
}

void vd_limit_take(struct vd_limit *l, struct vd_limit_user *u, uint64_t len)
{
    if (!l->on || u->released)
        return;
    struct vd_loop *loop = vd_loop_current();
    uint64_t now = vd_loop_now_ns(loop);
    if (vd_list_empty(&l->users) && ready_ns(l) <= now) {
        charge(l, now, len);
        return;
    }
    struct waiter w;
    vd_waitq_init(&w.q);
    if (vd_list_empty(&u->waiters))
        vd_list_push(&l->users, &u->link);
    vd_list_push(&u->waiters, &w.link);
    while (l->on && !u->released) {
        if (head(l) != &w) {
            vd_wait(&w.q);
            continue;
        }
        now = vd_loop_now_ns(loop);
        uint64_t at = ready_ns(l);
        if (at <= now) {
            charge(l, now, len);
            break;
        }
        (void)vd_wait_for(&w.q, at - now);
    }
    vd_list_remove(&w.link);
    vd_list_remove(&u->link);
    if (!vd_list_empty(&u->waiters))
        vd_list_push(&l->users, &u->link);
    wake_head(l);
}

void vd_limit_set(struct vd_limit *l, const struct vd_limits *limits)
{
    l->limits = *limits;
    l->ops_ns = l->bytes_ns = 0;
    l->on = !l->lifted && (limits->iops || limits->bandwidth);
    if (l->on)
        wake_head(l);
    else
        vd_list_each (it, &l->users)
            wake_user(user_of(it));
}

void vd_limit_release(struct vd_limit *l, struct vd_limit_user *u)
{
    u->released = true;
    wake_user(u);
}

void vd_limit_lift(struct vd_limit *l)
{
    l->lifted = true;
    vd_limit_set(l, &l->limits);
}
