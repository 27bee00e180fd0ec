/* SPDX-License-Identifier: MIT */
/*
 * Timers: a pairing heap whose nodes belong to their owners, so starting one never allocates.
 * Called by the loop and by everything that waits for time, on the loop's thread; never yields.
 *
 * Invariant: no node fires before one with a smaller (at_ns, seq) that is armed.
 */
#include "core/io/loop_priv.h"

static bool timer_before(const struct loop_timer *a, const struct loop_timer *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

/* Joins two heaps (roots without siblings); either may be NULL. */
static struct loop_timer *meld(struct loop_timer *a, struct loop_timer *b)
{
    if (!a || !b)
        return a ? a : b;
    if (timer_before(b, a)) {
        struct loop_timer *t = a;
        a = b;
        b = t;
    }
    b->prev = a;
    b->next = a->child;
    if (a->child)
        a->child->prev = b;
    a->child = b;
    return a;
}

/* Joins a list of siblings into one heap: in pairs, then from the last to the first. */
static struct loop_timer *meld_siblings(struct loop_timer *first)
{
    struct loop_timer *pairs = NULL;
    while (first) {
        struct loop_timer *a = first, *b = a->next;
        first = b ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b)
            b->next = b->prev = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    struct loop_timer *root = NULL;
    while (pairs) {
        struct loop_timer *next = pairs->next;
        pairs->next = NULL;
        root = meld(root, pairs);
        pairs = next;
    }
    return root;
}

void loop_timer_start(struct vd_loop *loop, struct loop_timer *t, uint64_t at_ns,
                      void (*fn)(struct loop_timer *timer))
{
    t->child = t->next = t->prev = NULL;
    t->at_ns = at_ns;
    t->seq = loop->timer_seq++;
    t->fn = fn;
    t->armed = true;
    loop->timers = meld(loop->timers, t);
}

void loop_timer_stop(struct vd_loop *loop, struct loop_timer *t)
{
    if (!t->armed)
        return;
    t->armed = false;
    struct loop_timer *rest = meld_siblings(t->child);
    t->child = NULL;
    if (loop->timers == t) {
        loop->timers = rest;
        return;
    }
    if (t->prev->child == t)
        t->prev->child = t->next;
    else
        t->prev->next = t->next;
    if (t->next)
        t->next->prev = t->prev;
    loop->timers = meld(loop->timers, rest);
}

uint64_t loop_timer_next_ns(const struct vd_loop *loop)
{
    return loop->timers ? loop->timers->at_ns : LOOP_NEVER;
}
