/* SPDX-License-Identifier: MIT */
/*
 * crash-sim: runs the crash simulator and prints its table.
 *
 *   crash-sim [--states N] [--seed S] [--jobs J] [--details]     until N states have been judged
 *   crash-sim --all [--seed S]                                  every point of every operation
 *   crash-sim --seed S --case OPERATION:FAULT:POINT:KIND:AGAIN  one case, as a failure names it
 *   crash-sim --history S                                       one random history
 *   crash-sim --until-failure ...                               ends with the first one
 *
 * Work is cut into jobs; each worker is a process, so that a crash of the product is just one more
 * failure with a name. Exit status 0: no failure and no empty cell.
 */
#include "core/base/log.h"
#include "tests/crash/exhaust.h"
#include "tests/crash/random.h"
#include "tests/crash/scenario.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORKERS_MAX 16
#define JOB_LIMIT_S 600 /* real time; only a loop without end takes that long */

struct options {
    uint64_t seed, states, history;
    unsigned jobs;
    bool all, details, one_history, until_failure;
    const char *one_case;
    bool verbose, progress;
};

/* In memory that parent and worker share. */
struct worker {
    struct report report;
    char at[256]; /* what it is doing */
    bool over;
    pid_t pid;
};
static struct worker *workers;
static uint64_t *next_job, *states_done, *failed;

static void worker_at(void *arg, const char *what)
{
    struct worker *wk = arg;
    snprintf(wk->at, sizeof(wk->at), "%s", what);
}

static void worker_failed(void *arg, const char *what, const char *why)
{
    (void)arg;
    __atomic_fetch_add(failed, 1, __ATOMIC_RELAXED);
    printf("FAILED: crash-sim %s\n%s\n\n", what, why);
    fflush(stdout);
}

/* ---- jobs ---- */

/* Per round: each operation's cuts, each operation x fault, and some histories. */
#define JOBS_HISTORIES 28u
static unsigned jobs_per_round(void)
{
    return scenario_count * (1 + COL_COUNT - COL_READ_EIO) + JOBS_HISTORIES;
}

static void run_job(struct worker *wk, const struct options *opt, uint64_t job)
{
    unsigned kinds = 1 + COL_COUNT - COL_READ_EIO;
    uint64_t round = job / jobs_per_round();
    unsigned j = (unsigned)(job % jobs_per_round());
    struct exhaust x = {.seed = opt->seed + round,
                        .limit = opt->all ? 0 : (unsigned)VD_MIN(2 + round * 4, 40u),
                        .report = &wk->report,
                        .only_column = -1,
                        .only_kind = -1,
                        .at = worker_at,
                        .failed = worker_failed,
                        .arg = wk};
    if (j >= scenario_count * kinds) {
        random_history(&x, opt->seed + round * JOBS_HISTORIES + (j - scenario_count * kinds));
        return;
    }
    /* Cheap and dear ones alternate. */
    unsigned row = j % scenario_count, kind = j / scenario_count;
    if (kind == 0)
        exhaust_cuts(&x, row);
    else
        exhaust_faults(&x, row, COL_READ_EIO + kind - 1);
}

static bool enough(const struct options *opt, uint64_t job)
{
    if (opt->until_failure)
        return __atomic_load_n(failed, __ATOMIC_RELAXED) ||
               __atomic_load_n(states_done, __ATOMIC_RELAXED) >= opt->states;
    if (job < jobs_per_round())
        return false; /* the table has to be full */
    return opt->all || __atomic_load_n(states_done, __ATOMIC_RELAXED) >= opt->states;
}

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void worker_main(struct worker *wk, const struct options *opt)
{
    for (;;) {
        uint64_t job = __atomic_fetch_add(next_job, 1, __ATOMIC_RELAXED);
        if (enough(opt, job))
            break;
        uint64_t before = wk->report.states, start = now_ms();
        alarm(JOB_LIMIT_S);
        run_job(wk, opt, job);
        if (opt->progress)
            fprintf(stderr, "job %" PRIu64 ": %" PRIu64 " states in %" PRIu64 " ms, last %s\n", job,
                    wk->report.states - before, now_ms() - start, wk->at);
        __atomic_fetch_add(states_done, wk->report.states - before, __ATOMIC_RELAXED);
        if (wk->report.failures > (opt->until_failure ? 0 : 20))
            break;
    }
    wk->over = true;
}

static void worker_start(struct worker *wk, const struct options *opt)
{
    fflush(stdout);
    wk->over = false;
    pid_t pid = fork();
    if (pid == 0) {
        worker_main(wk, opt);
        fflush(stdout);
        exit(0);
    }
    if (pid < 0)
        abort();
    wk->pid = pid; /* shared memory: the parent's to write */
}

/* A worker that died says so, and another goes on with the next job. */
static void workers_run(const struct options *opt)
{
    unsigned alive = opt->jobs;
    for (unsigned i = 0; i < opt->jobs; i++)
        worker_start(&workers[i], opt);
    while (alive) {
        int status;
        pid_t pid = wait(&status);
        for (unsigned i = 0; i < opt->jobs; i++) {
            struct worker *wk = &workers[i];
            if (wk->pid != pid)
                continue;
            alive--;
            if (wk->over && status == 0)
                continue;
            printf("DIED (%s %d): crash-sim %s\n\n", WIFSIGNALED(status) ? "signal" : "status",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), wk->at);
            wk->report.failures++;
            __atomic_fetch_add(failed, 1, __ATOMIC_RELAXED);
            if (wk->report.failures < 20 && !opt->until_failure) {
                worker_start(wk, opt);
                alive++;
            }
        }
    }
}

/* ---- one case ---- */

static int run_case(const struct options *opt)
{
    char name[64], column[32];
    unsigned long long point;
    unsigned kind, again;
    if (sscanf(opt->one_case, "%63[^:]:%31[^:]:%llu:%u:%u", name, column, &point, &kind, &again) !=
        5)
        return 2;
    struct exhaust x = {.seed = opt->seed,
                        .report = &workers[0].report,
                        .only_point = (int64_t)point,
                        .only_kind = kind,
                        .only_again = again,
                        .at = worker_at,
                        .failed = worker_failed,
                        .arg = &workers[0]};
    for (unsigned row = 0; row < scenario_count; row++)
        for (unsigned c = 0; c < COL_COUNT; c++) {
            if (strcmp(scenarios[row].name, name) || strcmp(column_name[c], column))
                continue;
            x.only_column = (int)c;
            if (c < COL_READ_EIO)
                exhaust_cuts(&x, row);
            else
                exhaust_faults(&x, row, c);
        }
    const struct report *r = &workers[0].report;
    printf("%" PRIu64 " states, %" PRIu64 " failures\n", r->states, r->failures);
    return r->failures || !r->states;
}

static void log_line(void *arg, enum vd_log_level level, const char *message)
{
    (void)arg;
    fprintf(stderr, "[%d] %s\n", level, message);
}

static int usage(void)
{
    fputs("usage: crash-sim [--states N] [--seed S] [--jobs J] [--all] [--details] [--progress]\n"
          "                 [--until-failure] [--verbose] [--case "
          "OPERATION:FAULT:POINT:KIND:AGAIN] [--history S]\n",
          stderr);
    return 2;
}

static bool parse(int argc, char **argv, struct options *o)
{
    *o = (struct options){.seed = 1, .states = 1000, .jobs = 2};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--all") == 0)
            o->all = true;
        else if (strcmp(a, "--until-failure") == 0)
            o->until_failure = true;
        else if (strcmp(a, "--details") == 0)
            o->details = true;
        else if (strcmp(a, "--progress") == 0)
            o->progress = true;
        else if (strcmp(a, "--verbose") == 0)
            o->verbose = true;
        else if (!v)
            return false;
        else if (strcmp(a, "--states") == 0)
            o->states = strtoull(argv[++i], NULL, 0);
        else if (strcmp(a, "--seed") == 0)
            o->seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(a, "--jobs") == 0)
            o->jobs = (unsigned)strtoul(argv[++i], NULL, 0);
        else if (strcmp(a, "--case") == 0)
            o->one_case = argv[++i];
        else if (strcmp(a, "--history") == 0) {
            o->one_history = true;
            o->history = strtoull(argv[++i], NULL, 0);
        } else
            return false;
    }
    return o->jobs >= 1 && o->jobs <= WORKERS_MAX;
}

int main(int argc, char **argv)
{
    struct options opt;
    if (!parse(argc, argv, &opt))
        return usage();
    /* A state opens and closes pools all the time: their buffers need not go back to the kernel. */
    (void)mallopt(M_MMAP_THRESHOLD, 64 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 256 << 20);
    size_t len = sizeof(struct worker) * WORKERS_MAX + 4096;
    void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED)
        return 1;
    next_job = mem;
    states_done = next_job + 1;
    failed = next_job + 2;
    workers = (struct worker *)((char *)mem + 4096);
    if (opt.verbose)
        vd_log_set_sink(log_line, NULL, VD_LOG_DEBUG);
    if (opt.one_case)
        return run_case(&opt);
    if (opt.one_history) {
        struct exhaust x = {.report = &workers[0].report,
                            .at = worker_at,
                            .failed = worker_failed,
                            .arg = &workers[0]};
        random_history(&x, opt.history);
        printf("%" PRIu64 " states, %" PRIu64 " failures\n", x.report->states, x.report->failures);
        return x.report->failures != 0;
    }
    workers_run(&opt);
    static struct report all;
    const char *rows[REPORT_ROWS];
    for (unsigned i = 0; i < opt.jobs; i++)
        report_add(&all, &workers[i].report);
    for (unsigned i = 0; i < scenario_count; i++)
        rows[i] = scenarios[i].name;
    unsigned empty = report_print(&all, rows, scenario_count, opt.details);
    return all.failures || (empty && !opt.until_failure);
}
