/* SPDX-License-Identifier: MIT */
/* Fibers and what they wait on, on the back end named by the first argument. */
#include "tests/io/run.h"

#include "core/io/readiness.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char trace[256];

static void note(char c)
{
    size_t n = strlen(trace);
    CHECK(n + 1 < sizeof(trace));
    trace[n] = c;
    trace[n + 1] = 0;
}

static void trace_is(const char *wanted)
{
    if (strcmp(trace, wanted) != 0)
        fprintf(stderr, "trace is \"%s\", not \"%s\"\n", trace, wanted);
    CHECK(strcmp(trace, wanted) == 0);
}

/* ---- order ---- */

static void note_yield_note(void *arg)
{
    note(*(char *)arg);
    vd_fiber_yield();
    note(*(char *)arg);
}

static int yield_body(void *arg)
{
    (void)arg;
    trace[0] = 0;
    spawn(note_yield_note, "a");
    spawn(note_yield_note, "b");
    note('1');
    vd_fiber_yield();
    note('2');
    vd_fiber_yield();
    note('3');
    trace_is("1ab2ab3");
    return 0;
}

static void a_yield_lets_all_others_go_first(void **state)
{
    (void)state;
    run(yield_body);
}

/* ---- suspend and wake ---- */

static struct vd_fiber *sleeper;

static void waker(void *arg)
{
    (void)arg;
    note('w');
    vd_fiber_wake(sleeper);
    vd_fiber_wake(sleeper); /* on top of the first: says nothing new */
}

static int wake_body(void *arg)
{
    (void)arg;
    trace[0] = 0;
    sleeper = vd_fiber_current();
    vd_fiber_wake(sleeper);
    vd_fiber_suspend(); /* returns at once */
    note('1');
    spawn(waker, NULL);
    vd_fiber_suspend();
    note('2');
    spawn(waker, NULL);
    vd_fiber_suspend(); /* is not cut short by what was left of the last */
    note('3');
    trace_is("1w2w3");
    return 0;
}

static void a_wake_is_neither_lost_nor_counted_twice(void **state)
{
    (void)state;
    run(wake_body);
}

/* ---- queues ---- */

static struct vd_waitq queue;

static void queue_waiter(void *arg)
{
    vd_wait(&queue);
    note(*(char *)arg);
}

static int queue_body(void *arg)
{
    (void)arg;
    trace[0] = 0;
    vd_waitq_init(&queue);
    CHECK(vd_waitq_empty(&queue));
    spawn(queue_waiter, "a");
    spawn(queue_waiter, "b");
    spawn(queue_waiter, "c");
    vd_fiber_yield();
    CHECK(!vd_waitq_empty(&queue));
    vd_wake_one(&queue);
    vd_fiber_yield();
    note('1');
    vd_wake_all(&queue);
    CHECK(vd_waitq_empty(&queue));
    vd_wake_one(&queue); /* nobody there: nothing happens */
    vd_fiber_yield();
    trace_is("a1bc");
    return 0;
}

static void a_queue_is_first_in_first_out(void **state)
{
    (void)state;
    run(queue_body);
}

static void timed_waiter(void *arg)
{
    *(int *)arg = vd_wait_for(&queue, UINT64_C(3600000000000));
}

static int timed_body(void *arg)
{
    (void)arg;
    int result = 1;
    uint64_t began = vd_loop_now_ns(vd_loop_current());
    vd_waitq_init(&queue);
    CHECK_IS(vd_wait_for(&queue, 2000000), -ETIMEDOUT);
    CHECK(vd_loop_now_ns(vd_loop_current()) - began >= 2000000);
    CHECK(vd_waitq_empty(&queue));
    spawn(timed_waiter, &result);
    vd_fiber_yield();
    vd_wake_one(&queue);
    vd_fiber_yield();
    CHECK_IS(result, 0); /* and its timer is gone: the loop does not stay for the hour */
    CHECK_IS(vd_wait_for(&queue, 0), -ETIMEDOUT);
    return 0;
}

static void a_timed_wait_tells_waking_from_time(void **state)
{
    (void)state;
    run(timed_body);
}

/* ---- mutual exclusion ---- */

static struct vd_fmutex mutex;
static int inside;

static void mutex_user(void *arg)
{
    for (int i = 0; i < 3; i++) {
        vd_fmutex_lock(&mutex);
        CHECK_IS(inside++, 0);
        note(*(char *)arg);
        vd_fiber_yield();
        vd_fiber_yield();
        inside--;
        vd_fmutex_unlock(&mutex);
    }
}

static int mutex_body(void *arg)
{
    (void)arg;
    trace[0] = 0;
    vd_fmutex_init(&mutex);
    spawn(mutex_user, "a");
    spawn(mutex_user, "b");
    spawn(mutex_user, "c");
    while (strlen(trace) < 9)
        vd_fiber_yield();
    trace_is("abcabcabc");
    return 0;
}

static void a_mutex_excludes_and_takes_turns(void **state)
{
    (void)state;
    run(mutex_body);
}

/* ---- groups and time ---- */

static struct vd_group group;
static uint64_t last_deadline;

static void random_sleeper(void *arg)
{
    struct vd_loop *loop = vd_loop_current();
    (void)arg;
    for (int i = 0; i < 5; i++) {
        uint64_t ns = vd_rng_below(vd_loop_rng(loop), 3000000);
        uint64_t deadline = vd_loop_now_ns(loop) + ns;
        if (vd_rng_below(vd_loop_rng(loop), 3) == 0) {
            (void)vd_wait_for(&queue, ns);
        } else {
            vd_fiber_sleep(ns);
            CHECK(vd_loop_now_ns(loop) >= deadline);
        }
        if (vd_rng_below(vd_loop_rng(loop), 3) == 0)
            vd_wake_one(&queue); /* stops a timer in the middle of the heap */
    }
    vd_group_done(&group);
}

static int group_body(void *arg)
{
    (void)arg;
    vd_group_init(&group);
    vd_waitq_init(&queue);
    vd_group_wait(&group); /* empty: returns at once */
    for (int i = 0; i < 200; i++) {
        vd_group_add(&group);
        spawn(random_sleeper, NULL);
    }
    vd_group_wait(&group);
    CHECK_IS(group.pending, 0);
    CHECK(vd_waitq_empty(&queue));
    return 0;
}

static void a_group_waits_for_all_and_no_sleep_is_short(void **state)
{
    (void)state;
    run(group_body);
}

static void ordered_sleeper(void *arg)
{
    uint64_t deadline = (uint64_t)(uintptr_t)arg;
    uint64_t now = vd_loop_now_ns(vd_loop_current());
    vd_fiber_sleep(deadline > now ? deadline - now : 0);
    CHECK(deadline >= last_deadline);
    last_deadline = deadline;
    vd_group_done(&group);
}

static int order_body(void *arg)
{
    (void)arg;
    struct vd_loop *loop = vd_loop_current();
    uint64_t base = vd_loop_now_ns(loop) + 20000000;
    last_deadline = 0;
    vd_group_init(&group);
    for (int i = 0; i < 300; i++) {
        vd_group_add(&group);
        spawn(ordered_sleeper, (void *)(uintptr_t)(base + i * 7919 % 300 * 10000));
    }
    vd_group_wait(&group);
    return 0;
}

static void sleeps_end_in_the_order_of_their_deadlines(void **state)
{
    (void)state;
    if (run_backend == VD_LOOP_SIM) /* elsewhere "now" moves between two looks at it */
        run(order_body);
}

static int idle_body(void *arg)
{
    (void)arg;
    struct vd_loop_stats before, after;
    vd_fiber_sleep(1000000);
    vd_loop_stats(vd_loop_current(), &before);
    vd_fiber_sleep(30000000);
    vd_loop_stats(vd_loop_current(), &after);
    CHECK(after.wakeups - before.wakeups <= 3);
    return 0;
}

static void an_idle_loop_sleeps(void **state)
{
    (void)state;
    run(idle_body);
}

/* ---- stacks ---- */

static void nothing(void *arg)
{
    (*(unsigned *)arg)++;
}

static int many_body(void *arg)
{
    (void)arg;
    unsigned count = 0;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 400; i++) /* more than the cache of stacks holds */
            spawn(nothing, &count);
        vd_fiber_yield();
    }
    CHECK_IS(count, 20 * 400);
    return 0;
}

static void stacks_are_reused_and_freed(void **state)
{
    (void)state;
    run(many_body);
}

__attribute__((noinline)) static void use_stack(size_t len)
{
    volatile char *p = __builtin_alloca(len);
    for (size_t i = 0; i < len; i += 512)
        p[i] = 1;
    p[0] = 1;
}

static void deep(void *arg)
{
    use_stack(*(size_t *)arg);
}

static int high_water_body(void *arg)
{
    (void)arg;
    struct vd_loop_stats stats;
    size_t len = 30000;
    vd_loop_stats(vd_loop_current(), &stats);
    CHECK(stats.stack_high_water > 0 && stats.stack_high_water < 20000);
    spawn(deep, &len);
    vd_fiber_yield();
    vd_loop_stats(vd_loop_current(), &stats);
    CHECK(stats.stack_high_water >= 30000 && stats.stack_high_water < 60000);
    return 0;
}

static void the_deepest_stack_is_known(void **state)
{
    (void)state;
    run(high_water_body);
}

/* Whether the page below the stack that `local` is on may not be touched, says the kernel. */
static bool guarded(const void *local)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[256], perms[8];
    uintptr_t from, to, below_to = 0;
    bool below_none = false, found = false;
    CHECK(maps);
    while (!found && fgets(line, sizeof(line), maps)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &from, &to, perms) != 3)
            continue;
        if ((uintptr_t)local >= from && (uintptr_t)local < to)
            found = below_none && below_to == from;
        below_none = strncmp(perms, "---", 3) == 0;
        below_to = to;
    }
    fclose(maps);
    return found;
}

static int overflow_body(void *arg)
{
    (void)arg;
    char local = 0;
    if (!guarded(&local))
        return 0;
    size_t len = VD_FIBER_STACK * 8 + 100; /* sanitized builds have larger stacks */
    deep(&len);
    return 0;
}

static void an_overflow_hits_the_guard(void **state)
{
    (void)state;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)!freopen("/dev/null", "w", stderr);
        signal(SIGSEGV, SIG_DFL);
        (void)vd_fiber_main(run_backend, 1, overflow_body, NULL);
        _exit(0);
    }
    int status;
    CHECK_IS(waitpid(pid, &status, 0), pid);
    CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
}

/* ---- other threads ---- */

static int offloaded(void *arg)
{
    *(pthread_t *)arg = pthread_self();
    return 42;
}

static void offload_user(void *arg)
{
    (void)arg;
    pthread_t where;
    CHECK_IS(vd_offload(offloaded, &where), 42);
    CHECK(!pthread_equal(where, pthread_self()) == (run_backend != VD_LOOP_SIM));
    vd_group_done(&group);
}

static int offload_body(void *arg)
{
    (void)arg;
    for (int i = 0; i < 50; i++) { /* one by one: each must end the loop's sleep */
        pthread_t where;
        CHECK_IS(vd_offload(offloaded, &where), 42);
    }
    vd_group_init(&group);
    for (int i = 0; i < 100; i++) {
        vd_group_add(&group);
        spawn(offload_user, NULL);
    }
    vd_group_wait(&group);
    return 0;
}

static void offloaded_work_runs_elsewhere_and_comes_back(void **state)
{
    (void)state;
    run(offload_body);
}

static unsigned posts;
static pthread_t loop_thread;

static void posted(void *arg)
{
    (void)arg;
    CHECK(pthread_equal(loop_thread, pthread_self()));
    CHECK(vd_fiber_current());
    posts++;
    vd_wake_all(&queue);
}

static void *poster(void *loop)
{
    for (int i = 0; i < 500; i++)
        CHECK_IS(vd_loop_post(loop, posted, NULL), 0);
    return NULL;
}

static int post_body(void *arg)
{
    (void)arg;
    pthread_t threads[3];
    loop_thread = pthread_self();
    posts = 0;
    vd_waitq_init(&queue);
    if (run_backend == VD_LOOP_SIM) { /* only this thread, or the run could not repeat */
        (void)poster(vd_loop_current());
        while (posts < 500)
            vd_wait(&queue);
        return 0;
    }
    for (int i = 0; i < 3; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, poster, vd_loop_current()), 0);
    while (posts < 1500)
        vd_wait(&queue);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

static void posts_from_other_threads_all_arrive(void **state)
{
    (void)state;
    run(post_body);
}

static unsigned answered;
static sem_t answer;

static void answering(void *arg)
{
    (void)arg;
    sem_post(&answer);
    if (++answered == 3000)
        vd_wake_all(&queue);
}

static uint64_t clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* Each time another while later: the loop is at work, watches, is about to sleep, sleeps. */
static void *asker(void *loop)
{
    for (unsigned i = 0; i < 3000; i++) {
        CHECK_IS(vd_loop_post(loop, answering, NULL), 0);
        CHECK_IS(sem_wait(&answer), 0);
        for (uint64_t end = clock_ns() + i * 7919 % 400000; clock_ns() < end;)
            ;
    }
    return NULL;
}

static int asked_body(void *arg)
{
    (void)arg;
    pthread_t thread;
    answered = 0;
    vd_waitq_init(&queue);
    if (run_backend == VD_LOOP_SIM)
        return 0;
    sem_init(&answer, 0, 0);
    CHECK_IS(pthread_create(&thread, NULL, asker, vd_loop_current()), 0);
    while (answered < 3000)
        vd_wait(&queue);
    pthread_join(thread, NULL);
    return 0;
}

static void a_post_that_meets_the_loop_falling_asleep_wakes_it(void **state)
{
    (void)state;
    run(asked_body);
}

static void a_post_that_comes_too_late_is_dropped(void **state)
{
    (void)state;
    struct vd_loop *loop;
    CHECK_IS(vd_loop_new(run_backend, 1, &loop), 0);
    CHECK_IS(vd_loop_run(loop), 0);
    CHECK_IS(vd_loop_post(loop, posted, NULL), 0);
    vd_loop_free(loop);
}

static void *loop_runner(void *loop)
{
    CHECK_IS(vd_loop_run(loop), 0);
    return NULL;
}

static void a_loop_can_move_to_the_thread_that_runs_it(void **state)
{
    (void)state;
    struct vd_loop *loop;
    unsigned count = 0;
    pthread_t thread;
    CHECK_IS(vd_loop_new(run_backend, 1, &loop), 0);
    CHECK_IS(vd_fiber_spawn(loop, "test", nothing, &count), 0);
    CHECK_IS(pthread_create(&thread, NULL, loop_runner, loop), 0);
    pthread_join(thread, NULL);
    CHECK_IS(count, 1);
    vd_loop_free(loop);
}

/* ---- signals and stopping ---- */

static void signal_waiter(void *arg)
{
    static const int set[] = {SIGUSR2, 0};
    *(int *)arg = vd_loop_wait_signal(set);
}

static int signal_body(void *arg)
{
    (void)arg;
    static const int set[] = {SIGUSR1, SIGTERM, 0};
    CHECK_IS(kill(getpid(), SIGTERM), 0); /* before anyone waits: it stays pending */
    CHECK_IS(vd_loop_wait_signal(set), SIGTERM);
    CHECK_IS(kill(getpid(), SIGUSR1), 0);
    CHECK_IS(vd_loop_wait_signal(set), SIGUSR1);
    return 0;
}

static void signals_arrive_one_by_one(void **state)
{
    (void)state;
    run(signal_body);
}

static void stopper(void *arg)
{
    (void)arg;
    vd_fiber_yield();
    vd_loop_stop(vd_loop_current());
}

static void forever(void *arg)
{
    vd_wait(arg);
    posts = 77;
}

static void a_stop_leaves_and_ends_waits_for_signals(void **state)
{
    (void)state;
    struct vd_loop *loop;
    int result = 0;
    posts = 0;
    vd_waitq_init(&queue);
    CHECK_IS(vd_loop_new(run_backend, 1, &loop), 0);
    CHECK_IS(vd_fiber_spawn(loop, "signals", signal_waiter, &result), 0);
    CHECK_IS(vd_fiber_spawn(loop, "stop", stopper, NULL), 0);
    CHECK_IS(vd_fiber_spawn(loop, "forever", forever, &queue), 0);
    CHECK_IS(vd_loop_run(loop), 0);
    CHECK_IS(posts, 0);
    if (result == 0 && run_backend != VD_LOOP_SIM) /* it may need one more turn */
        CHECK(vd_fiber_spawn(loop, "stop", stopper, NULL) == 0 && vd_loop_run(loop) == 0);
    CHECK_IS(result, -ECANCELED);
    vd_loop_free(loop); /* drops the one that is left */
}

static void the_environment_chooses_the_back_end(void **state)
{
    (void)state;
    struct vd_loop *loop;
    setenv("VDISK_LOOP", "epoll", 1);
    CHECK_IS(vd_loop_new(VD_LOOP_AUTO, 0, &loop), 0);
    CHECK_IS(vd_loop_backend(loop), VD_LOOP_EPOLL);
    vd_loop_free(loop);
    unsetenv("VDISK_LOOP");
    CHECK_IS(vd_loop_new(VD_LOOP_AUTO, 0, &loop), 0);
    CHECK(vd_loop_backend(loop) != VD_LOOP_SIM);
    vd_loop_free(loop);
}

/* ---- readiness ---- */

static struct vd_poll ready_poll;
static int ready_events; /* -1 while it waits */

static void wait_until_ready(void *arg)
{
    (void)arg;
    ready_events = vd_poll_wait(&ready_poll, POLLIN);
}

/* The data is gone again before the loop hears of it: as when a reader was quicker than the wake.
 */
static int readiness_body(void *arg)
{
    int fds[2];
    char c = 'x';
    (void)arg;
    CHECK_IS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    vd_poll_init(&ready_poll, fds[0]);
    ready_events = -1;
    spawn(wait_until_ready, NULL);
    vd_fiber_sleep(5000000);
    for (int i = 0; i < 3; i++) {
        CHECK_IS(write(fds[1], &c, 1), 1);
        CHECK_IS(recv(fds[0], &c, 1, MSG_DONTWAIT), 1);
        vd_fiber_sleep(5000000);
        CHECK_IS(ready_events, -1);
    }
    CHECK_IS(write(fds[1], &c, 1), 1);
    vd_fiber_sleep(5000000);
    CHECK_IS(ready_events, POLLIN);
    ready_events = -1;
    CHECK_IS(recv(fds[0], &c, 1, MSG_DONTWAIT), 1);
    spawn(wait_until_ready, NULL);
    vd_fiber_yield();
    vd_poll_kick(&ready_poll);
    vd_fiber_sleep(5000000);
    CHECK_IS(ready_events, 0);
    vd_poll_done(&ready_poll);
    close(fds[0]);
    close(fds[1]);
    return 0;
}

static void nothing_is_called_ready_that_is_not(void **state)
{
    (void)state;
    run(readiness_body);
}

int main(int argc, char **argv)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    run_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_yield_lets_all_others_go_first),
        cmocka_unit_test(a_wake_is_neither_lost_nor_counted_twice),
        cmocka_unit_test(a_queue_is_first_in_first_out),
        cmocka_unit_test(a_timed_wait_tells_waking_from_time),
        cmocka_unit_test(a_mutex_excludes_and_takes_turns),
        cmocka_unit_test(a_group_waits_for_all_and_no_sleep_is_short),
        cmocka_unit_test(sleeps_end_in_the_order_of_their_deadlines),
        cmocka_unit_test(an_idle_loop_sleeps),
        cmocka_unit_test(stacks_are_reused_and_freed),
        cmocka_unit_test(the_deepest_stack_is_known),
        cmocka_unit_test(an_overflow_hits_the_guard),
        cmocka_unit_test(offloaded_work_runs_elsewhere_and_comes_back),
        cmocka_unit_test(posts_from_other_threads_all_arrive),
        cmocka_unit_test(a_post_that_meets_the_loop_falling_asleep_wakes_it),
        cmocka_unit_test(a_post_that_comes_too_late_is_dropped),
        cmocka_unit_test(a_loop_can_move_to_the_thread_that_runs_it),
        cmocka_unit_test(signals_arrive_one_by_one),
        cmocka_unit_test(a_stop_leaves_and_ends_waits_for_signals),
        cmocka_unit_test(nothing_is_called_ready_that_is_not),
        cmocka_unit_test(the_environment_chooses_the_back_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
