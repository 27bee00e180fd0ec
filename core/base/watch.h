/* SPDX-License-Identifier: MIT */
/*
 * How long to watch for an event, awake, before sleeping until it comes: a sleep and a wake are
 * dear where what is waited for takes little longer itself. Learned: an event that came soon,
 * watched for or not, doubles the time; a long sleep halves it, to nothing. So who waits for the
 * idle takes no processor time.
 */
#ifndef VD_BASE_WATCH_H
#define VD_BASE_WATCH_H

#include "core/base/base.h"

#define VD_WATCH_MIN_NS UINT64_C(3000)

/* `most`: what is never worth watching longer for. Returns how long to watch the next time. */
static inline uint64_t vd_watch_learn(uint64_t watch_ns, uint64_t waited_ns, uint64_t most)
{
    if (waited_ns <= most)
        return VD_MIN(VD_MAX(watch_ns * 2, VD_WATCH_MIN_NS), most);
    return watch_ns / 2 < VD_WATCH_MIN_NS ? 0 : watch_ns / 2;
}

#endif
