/* SPDX-License-Identifier: MIT */
/*
 * Threads for calls that block: offloaded functions, and file I/O of the epoll back end. Work is
 * handed in on the loop's thread and comes back to it as a message.
 *
 * Invariants: a thread is started only when work waits and none is idle; signals stay blocked in
 * all of them, they belong to the loop; the pool is freed only when no work is in it.
 */
#include "core/io/loop_priv.h"

#include <signal.h>
#include <stdlib.h>

struct workpool {
    struct vd_loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct vd_list queue; /* struct work, by msg.link */
    unsigned queued, idle, threads, threads_max;
    bool ending;
    pthread_t ids[];
};

static void *worker_main(void *arg)
{
    struct workpool *pool = arg;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct vd_list *it;
        while (!(it = vd_list_pop(&pool->queue)) && !pool->ending) {
            pool->idle++;
            pthread_cond_wait(&pool->more, &pool->lock);
            pool->idle--;
        }
        if (!it)
            break;
        pool->queued--;
        pthread_mutex_unlock(&pool->lock);
        struct work *work = vd_container_of(it, struct work, msg.link);
        work->run(work);
        loop_msg_send(pool->loop, &work->msg);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

struct workpool *workpool_new(struct vd_loop *loop, unsigned threads_max)
{
    struct workpool *pool = calloc(1, sizeof(*pool) + threads_max * sizeof(pool->ids[0]));
    if (!pool)
        return NULL;
    pool->loop = loop;
    pool->threads_max = threads_max;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->more, NULL);
    vd_list_init(&pool->queue);
    return pool;
}

void workpool_free(struct workpool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->ending = true;
    pthread_cond_broadcast(&pool->more);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->threads; i++)
        pthread_join(pool->ids[i], NULL);
    pthread_cond_destroy(&pool->more);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static int worker_start(struct workpool *pool)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&pool->ids[pool->threads], NULL, worker_main, pool);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0)
        pool->threads++;
    return -r;
}

int workpool_submit(struct workpool *pool, struct work *work)
{
    int r = 0;
    pthread_mutex_lock(&pool->lock);
    if (pool->queued >= pool->idle && pool->threads < pool->threads_max)
        r = worker_start(pool);
    if (pool->threads == 0) {
        pthread_mutex_unlock(&pool->lock);
        return r ? r : -EAGAIN;
    }
    vd_list_push(&pool->queue, &work->msg.link);
    pool->queued++;
    pthread_cond_signal(&pool->more);
    pthread_mutex_unlock(&pool->lock);
    return 0;
}
