/* SPDX-License-Identifier: MIT */
/*
 * libvdisk: include/vdisk.h over an owner that has a thread and a loop of its own. Calls of the
 * program's threads are posted to that loop, each as a fiber, and waited for.
 *
 * 1. The keeper fiber opens the pool, waits, and closes it; nothing else touches owner and disk
 *    before it says "open" or after it was told to stop.
 */
#include "core/base/watch.h"
#include "server/create.h"
#include "server/names.h"
#include "server/request_priv.h"
#include "server/target.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <vdisk.h>

#define WATCH_MAX_NS UINT64_C(500000) /* a durable write takes no longer where it matters */

struct vdisk {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool opened, failed; /* under the lock */
    struct vd_error err;
    struct vd_loop *loop;
    struct vd_owner *owner;
    struct vd_disk *disk;
    struct vd_waitq stop;
    bool stopping;             /* on the loop's thread */
    atomic_uint requests;      /* under way */
    _Atomic uint64_t watch_ns; /* a guess that all callers share: see watch.h */
    unsigned flags;
    struct vd_target_ref ref;
    char *path;
    struct vd_uuid uuid;
};

static int give_error(struct vdisk_error *to, const struct vd_error *from, int code)
{
    if (to) {
        to->code = code;
        memcpy(to->id, from->id, sizeof(to->id));
        memcpy(to->message, from->message, sizeof(to->message));
    }
    return code;
}

static int no_memory(struct vdisk_error *err)
{
    struct vd_error e;
    return give_error(err, &e, vd_fail(&e, -ENOMEM, "no-memory", "out of memory"));
}

const char *vdisk_version(void)
{
    return VDISK_VERSION;
}

/* --- making --- */

struct create {
    const char *path;
    uint64_t size;
    struct vd_error err;
};

static int create_fiber(void *arg)
{
    struct create *c = arg;
    struct vd_create_options opt = {.volume = "disk", .size = c->size};
    struct vd_uuid uuid;
    bool no_reserve;
    return vd_create(c->path, &opt, &uuid, &no_reserve, &c->err);
}

int vdisk_create(const char *path, uint64_t size, struct vdisk_error *err)
{
    struct create c = {.path = path, .size = size};
    int r = vd_fiber_main(VD_LOOP_AUTO, 0, create_fiber, &c);
    if (r < 0 && !c.err.code)
        vd_fail_at(&c.err, r, "%.200s", path);
    return r < 0 ? give_error(err, &c.err, r) : 0;
}

/* --- opening and closing, on the thread of the disk --- */

static void tell(struct vdisk *d, bool failed)
{
    pthread_mutex_lock(&d->lock);
    d->opened = true;
    d->failed = failed;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static int open_disk(struct vdisk *d)
{
    bool read_only = (d->flags & VDISK_READ_ONLY) || d->ref.snapshot;
    struct vd_owner_options opt = {.name = "libvdisk",
                                   .uuid = d->uuid,
                                   .read_only = d->flags & VDISK_READ_ONLY,
                                   .serving = true,
                                   .listen = true};
    struct request_target t;
    int r = vd_owner_open(d->path, &opt, &d->owner, &d->err);
    if (r < 0)
        return r;
    struct vd_call call = {.owner = d->owner};
    json_t *target = json_object();
    if (d->ref.volume)
        json_object_set_new(target, "volume", json_string(d->ref.volume));
    if (d->ref.snapshot)
        json_object_set_new(target, "snapshot", json_string(d->ref.snapshot));
    r = request_target(&call, target, TARGET_EITHER, &t, &d->err);
    json_decref(target);
    if (r == 0)
        r = vd_store_open(d->owner->store, t.t, read_only, &d->disk, &d->err);
    if (r < 0)
        (void)vd_owner_close(d->owner, true, NULL);
    return r;
}

static int keeper_fiber(void *arg)
{
    struct vdisk *d = arg;
    d->loop = vd_loop_current();
    vd_waitq_init(&d->stop);
    int r = open_disk(d);
    tell(d, r < 0);
    if (r < 0)
        return r;
    while (!d->stopping)
        vd_wait(&d->stop);
    vd_disk_unref(d->disk);
    r = vd_owner_close(d->owner, true, &d->err);
    return r;
}

static void *disk_thread(void *arg)
{
    struct vdisk *d = arg;
    int r = vd_fiber_main(VD_LOOP_AUTO, 0, keeper_fiber, d);
    if (r < 0 && !d->err.code)
        vd_fail_at(&d->err, r, "%.200s", d->path);
    if (r < 0)
        d->err.code = r;
    if (!d->opened) /* the loop itself could not be had */
        tell(d, true);
    return NULL;
}

static int start_thread(struct vdisk *d)
{
    /* Signals are the program's: none is to be delivered to this thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = -pthread_create(&d->thread, NULL, disk_thread, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

static void disk_free(struct vdisk *d)
{
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    vd_target_done(&d->ref);
    free(d->path);
    free(d);
}

static int find_path(struct vdisk *d, struct vd_error *err)
{
    if (d->ref.kind == VD_POOL_URI)
        return vd_fail(err, -EOPNOTSUPP, "unsupported-device",
                       "%s: pools on network devices are not supported", d->ref.pool);
    if (d->ref.kind == VD_POOL_NAME) {
        char **devices;
        int r = vd_names_find(d->ref.pool, &d->uuid, &devices, err);
        if (r < 0)
            return r;
        d->path = strdup(devices[0]);
        vd_names_free(devices);
    } else {
        d->path = strdup(d->ref.pool);
    }
    return d->path ? 0 : vd_fail(err, -ENOMEM, "no-memory", "out of memory");
}

int vdisk_open(const char *target, unsigned flags, struct vdisk **ret, struct vdisk_error *err)
{
    struct vd_error why = {0};
    struct vdisk *d = calloc(1, sizeof(*d));
    if (!d)
        return no_memory(err);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->flags = flags;
    int r = vd_target_parse(target, NULL, &d->ref, &why);
    if (r == 0)
        r = find_path(d, &why);
    if (r == 0 && (r = start_thread(d)) < 0)
        vd_fail(&why, r, "no-thread", "cannot start a thread: %s", strerror(-r));
    if (r == 0) {
        pthread_mutex_lock(&d->lock);
        while (!d->opened)
            pthread_cond_wait(&d->changed, &d->lock);
        bool failed = d->failed;
        pthread_mutex_unlock(&d->lock);
        if (failed) {
            pthread_join(d->thread, NULL);
            why = d->err;
            r = why.code;
        }
    }
    if (r < 0) {
        disk_free(d);
        return give_error(err, &why, r);
    }
    *ret = d;
    return 0;
}

static void stop_posted(void *arg)
{
    struct vdisk *d = arg;
    d->stopping = true;
    vd_wake_all(&d->stop);
}

int vdisk_close(struct vdisk *d, struct vdisk_error *err)
{
    /* Posting fails only for want of memory, and then for a moment: the disk must not stay open. */
    while (vd_loop_post(d->loop, stop_posted, d) < 0)
        sched_yield();
    pthread_join(d->thread, NULL);
    int r = d->err.code;
    if (r < 0)
        give_error(err, &d->err, r);
    disk_free(d);
    return r;
}

/* --- requests --- */

enum request_kind {
    REQUEST_READ,
    REQUEST_WRITE,
    REQUEST_ZERO,
    REQUEST_DISCARD,
    REQUEST_FLUSH,
    REQUEST_INFO
};
struct request {
    struct vdisk *d;
    enum request_kind kind;
    void *buf;
    uint64_t len, off;
    unsigned flags;
    int res;
    struct vd_disk_info info;
    sem_t done;
};

static int request_run(struct request *q)
{
    switch (q->kind) {
    case REQUEST_READ:
        return vd_disk_read(q->d->disk, q->off, q->buf, q->len);
    case REQUEST_WRITE:
        return vd_disk_write(q->d->disk, q->off, q->buf, q->len, q->flags);
    case REQUEST_ZERO:
        return vd_disk_zero(q->d->disk, q->off, q->len, 0);
    case REQUEST_DISCARD:
        return vd_disk_discard(q->d->disk, q->off, q->len, 0);
    case REQUEST_FLUSH:
        return vd_disk_flush(q->d->disk);
    case REQUEST_INFO:
        vd_disk_info(q->d->disk, &q->info);
        return 0;
    }
    return -EINVAL;
}

static void request_posted(void *arg)
{
    struct request *q = arg;
    q->res = request_run(q);
    sem_post(&q->done); /* from here on q is its caller's again */
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* A caller that is alone watches before it sleeps. The processor is everybody else's at each look:
 * the disk's own thread may be waiting for just this one. */
static void request_await(struct request *q)
{
    struct vdisk *d = q->d;
    uint64_t start = now_ns(), now = start, end = start + d->watch_ns;
    bool done = false;
    while (now < end && d->requests == 1 && !(done = sem_trywait(&q->done) == 0)) {
        sched_yield();
        now = now_ns();
    }
    while (!done)
        done = sem_wait(&q->done) == 0; /* or a signal's handler ran */
    d->watch_ns = vd_watch_learn(d->watch_ns, now_ns() - start, WATCH_MAX_NS);
}

static int request_wait(struct request *q)
{
    struct vdisk *d = q->d;
    sem_init(&q->done, 0, 0);
    atomic_fetch_add(&d->requests, 1);
    int r = vd_loop_post(d->loop, request_posted, q);
    if (r == 0)
        request_await(q);
    atomic_fetch_sub(&d->requests, 1);
    sem_destroy(&q->done);
    return r < 0 ? r : q->res;
}

uint64_t vdisk_size(struct vdisk *d)
{
    struct request q = {.d = d, .kind = REQUEST_INFO};
    return request_wait(&q) < 0 ? 0 : q.info.size;
}

int vdisk_is_read_only(struct vdisk *d)
{
    struct request q = {.d = d, .kind = REQUEST_INFO};
    return request_wait(&q) < 0 || q.info.read_only;
}

int vdisk_pread(struct vdisk *d, void *buf, size_t len, uint64_t off)
{
    struct request q = {.d = d, .kind = REQUEST_READ, .buf = buf, .len = len, .off = off};
    return request_wait(&q);
}

int vdisk_pwrite(struct vdisk *d, const void *buf, size_t len, uint64_t off)
{
    struct request q = {
        .d = d, .kind = REQUEST_WRITE, .buf = (void *)(uintptr_t)buf, .len = len, .off = off};
    return request_wait(&q);
}

int vdisk_pwrite_fua(struct vdisk *d, const void *buf, size_t len, uint64_t off)
{
    struct request q = {.d = d,
                        .kind = REQUEST_WRITE,
                        .buf = (void *)(uintptr_t)buf,
                        .len = len,
                        .off = off,
                        .flags = VD_DISK_FUA};
    return request_wait(&q);
}

int vdisk_zero(struct vdisk *d, uint64_t len, uint64_t off)
{
    struct request q = {.d = d, .kind = REQUEST_ZERO, .len = len, .off = off};
    return request_wait(&q);
}

int vdisk_discard(struct vdisk *d, uint64_t len, uint64_t off)
{
    struct request q = {.d = d, .kind = REQUEST_DISCARD, .len = len, .off = off};
    return request_wait(&q);
}

int vdisk_flush(struct vdisk *d)
{
    struct request q = {.d = d, .kind = REQUEST_FLUSH};
    return request_wait(&q);
}
