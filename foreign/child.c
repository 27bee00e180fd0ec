/* SPDX-License-Identifier: MIT */
/*
 * Child processes.
 *
 * Invariants
 *  1. A child is reaped by its own fiber and by nobody else, and never left behind: the kernel
 * kills it when this process ends.
 *  2. Between fork and exec the child makes only calls that are safe in a process with threads.
 *
 * Waiting and freeing yield.
 */
#include "foreign/child.h"

#include "core/io/readiness.h"
#include "core/io/stream.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 4096
#define NO_PROGRAM 127 /* as shells say it */

struct vd_child {
    pid_t pid;
    struct vd_poll end; /* its pidfd */
    bool running;
    int status; /* of waitpid */
    struct vd_group fibers;
    struct vd_waitq changed;
    struct vd_stream *err_stream, *out_stream;
    char words[WORDS]; /* what it said on standard error */
    size_t n_words;
    char *command; /* argv, joined by blanks, to be taken out of its words */
    char program[40];
    const char *package;
    void (*output)(void *arg, const char *text, size_t len);
    void *arg;
};

/* --- the child's side --- */

static void child_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
}

/* The descriptors get their numbers; those above are closed by exec. */
static int child_fds(const int *fds, int *spare, int n, int out, int errs)
{
    int above = VD_CHILD_FD + n;
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < n; i++)
        if ((spare[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, above)) < 0)
            return -1;
    out = fcntl(out >= 0 ? out : null, F_DUPFD_CLOEXEC, above);
    errs = fcntl(errs, F_DUPFD_CLOEXEC, above);
    if (null < 0 || out < 0 || errs < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 ||
        dup2(errs, 2) < 0)
        return -1;
    for (int i = 0; i < n; i++)
        if (dup2(spare[i], VD_CHILD_FD + i) < 0)
            return -1;
    if (null >= above)
        close(null);
    return 0;
}

static void child_run(const struct vd_child_options *opt, int *spare, int out, int errs,
                      pid_t parent, char **env)
{
    (void)setpgid(0, 0);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
        _exit(1);
    child_signals();
    if (child_fds(opt->fds, spare, opt->n_fds, out, errs) < 0)
        _exit(1);
    execvpe(opt->argv[0], (char *const *)(uintptr_t)opt->argv, env);
    _exit(errno == ENOENT ? NO_PROGRAM : 1);
}

/* --- ours --- */

static void reap_fiber(void *arg)
{
    struct vd_child *c = arg;
    pid_t r = 0;
    while (r == 0) {
        (void)vd_poll_wait(&c->end, POLLIN);
        do
            r = waitpid(c->pid, &c->status, WNOHANG);
        while (r < 0 && errno == EINTR);
    }
    if (r < 0)
        c->status = 1 << 8;
    c->running = false;
    vd_wake_all(&c->changed);
    vd_group_done(&c->fibers);
}

static void words_fiber(void *arg)
{
    struct vd_child *c = arg;
    char buf[512];
    ssize_t n;
    while ((n = vd_stream_read_some(c->err_stream, buf, sizeof(buf))) > 0) {
        size_t keep = VD_MIN((size_t)n, sizeof(c->words) - 1 - c->n_words);
        memcpy(c->words + c->n_words, buf, keep);
        c->n_words += keep;
    }
    vd_group_done(&c->fibers);
}

static void output_fiber(void *arg)
{
    struct vd_child *c = arg;
    char buf[512];
    ssize_t n;
    while ((n = vd_stream_read_some(c->out_stream, buf, sizeof(buf))) > 0)
        c->output(c->arg, buf, (size_t)n);
    vd_group_done(&c->fibers);
}

static int fiber_of(struct vd_child *c, void (*fn)(void *arg))
{
    vd_group_add(&c->fibers);
    int r = vd_fiber_spawn(vd_loop_current(), "child", fn, c);
    if (r < 0)
        vd_group_done(&c->fibers);
    return r;
}

static char *join(const char *const *argv)
{
    size_t len = 1;
    for (int i = 0; argv[i]; i++)
        len += strlen(argv[i]) + 1;
    char *text = malloc(len), *at = text;
    for (int i = 0; text && argv[i]; i++)
        at = stpcpy(stpcpy(at, i ? " " : ""), argv[i]);
    return text;
}

/* Both ends of a pipe of which ours becomes a stream. */
static int pipe_stream(struct vd_stream **ret, int *ret_fd)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    int r = vd_stream_new(fds[0], ret);
    if (r < 0) {
        close(fds[0]);
        close(fds[1]);
        return r;
    }
    *ret_fd = fds[1];
    return 0;
}

/* Ours, and that what the daemon takes for each request, a mebibyte and more, is kept for the next
 * instead of being given back to the kernel, which would have to clear it each time: a tenth of the
 * time of an export. The array is the caller's, the strings are not. */
static char **child_env(void)
{
    static char keep[] = "MALLOC_MMAP_THRESHOLD_=67108864";
    static char grow[] = "MALLOC_TRIM_THRESHOLD_=268435456";
    size_t n = 0;
    while (environ[n])
        n++;
    char **env = calloc(n + 3, sizeof(*env));
    if (env) {
        memcpy(env, environ, n * sizeof(*env));
        env[n] = keep;
        env[n + 1] = grow;
    }
    return env;
}

static int child_fork(struct vd_child *c, const struct vd_child_options *opt, int out, int errs)
{
    pid_t parent = getpid();
    int *spare = calloc((size_t)opt->n_fds + 1, sizeof(*spare));
    char **env = child_env();
    if (!spare || !env) {
        free(spare);
        free(env);
        return -ENOMEM;
    }
    c->pid = fork();
    if (c->pid == 0)
        child_run(opt, spare, out, errs, parent, env);
    int r = c->pid < 0 ? -errno : 0;
    free(spare);
    free(env);
    if (r < 0)
        return r;
    int fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (fd < 0) {
        r = -errno;
        (void)kill(c->pid, SIGKILL);
        (void)waitpid(c->pid, NULL, 0);
        return r;
    }
    vd_poll_init(&c->end, fd);
    c->running = true;
    return 0;
}

int vd_child_start(const struct vd_child_options *opt, struct vd_child **ret, struct vd_error *err)
{
    int out = -1, errs = -1;
    struct vd_child *c = calloc(1, sizeof(*c));
    if (!c)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    vd_group_init(&c->fibers);
    vd_waitq_init(&c->changed);
    c->end.fd = -1;
    c->package = opt->package;
    c->output = opt->output;
    c->arg = opt->arg;
    snprintf(c->program, sizeof(c->program), "%s", opt->argv[0]);
    c->command = join(opt->argv);
    int r = c->command ? pipe_stream(&c->err_stream, &errs) : -ENOMEM;
    if (r == 0 && opt->output)
        r = pipe_stream(&c->out_stream, &out);
    if (r == 0)
        r = child_fork(c, opt, out, errs);
    if (errs >= 0)
        close(errs);
    if (out >= 0)
        close(out);
    if (r == 0) {
        r = fiber_of(c, reap_fiber);
        if (r < 0) { /* nobody would notice its end */
            (void)kill(c->pid, SIGKILL);
            (void)waitpid(c->pid, NULL, 0);
            c->running = false;
        }
    }
    if (r == 0)
        r = fiber_of(c, words_fiber);
    if (r == 0 && opt->output)
        r = fiber_of(c, output_fiber);
    if (r < 0) {
        vd_fail(err, r, "no-process", "cannot start %s: %s", c->program, strerror(-r));
        vd_child_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

bool vd_child_ended(struct vd_child *c, uint64_t ns)
{
    if (c->running)
        (void)vd_wait_for(&c->changed, ns);
    return !c->running;
}

void vd_child_signal(struct vd_child *c, int signal)
{
    if (c->running)
        (void)kill(c->pid, signal);
}

/* --- its words --- */

/* Takes `what` out of the text wherever it stands. */
static void take_out(char *text, const char *what, size_t len)
{
    for (char *at; len && (at = memmem(text, strlen(text), what, len));)
        memmove(at, at + len, strlen(at + len) + 1);
}

/* Programs name the argument they complain about: "--blockdev ARG: ". */
static void take_out_arguments(char *text, const char *command)
{
    for (const char *at = strstr(command, " --"); at; at = strstr(at + 1, " --")) {
        char arg[1024];
        const char *end = strstr(at + 1, " --");
        size_t len = end ? (size_t)(end - at - 1) : strlen(at + 1);
        if (len + 3 > sizeof(arg))
            continue;
        int n = snprintf(arg, sizeof(arg), "%.*s: ", (int)len, at + 1);
        take_out(text, arg, (size_t)n);
    }
}

/* Says the names of our files instead of the numbers that the child has for them. */
static void put_names(const char *text, const char *const *names, int n, char *to, size_t len)
{
    static const char prefix[] = "/proc/self/fd/";
    size_t used = 0;
    while (*text && used + 1 < len) {
        char *end;
        long fd = -1;
        if (strncmp(text, prefix, sizeof(prefix) - 1) == 0)
            fd = strtol(text + sizeof(prefix) - 1, &end, 10);
        if (fd >= VD_CHILD_FD && fd < VD_CHILD_FD + n && names[fd - VD_CHILD_FD]) {
            int w = snprintf(to + used, len - used, "%s", names[fd - VD_CHILD_FD]);
            used = VD_MIN(used + (size_t)w, len - 1);
            text = end;
        } else {
            to[used++] = (unsigned char)*text < ' ' ? ' ' : *text;
            text++;
        }
    }
    to[used] = 0;
}

static int explain(struct vd_child *c, const char *const *names, int n, struct vd_error *err)
{
    char prefix[48], text[400];
    if (WIFEXITED(c->status) && WEXITSTATUS(c->status) == NO_PROGRAM && !c->n_words)
        return vd_fail(err, -EOPNOTSUPP, "no-program",
                       "%s is not installed, which image formats need: install the package %s",
                       c->program, c->package);
    c->words[c->n_words] = 0;
    int len = snprintf(prefix, sizeof(prefix), "%s: ", c->program);
    /* The first line is the reason, and a hint may follow it; other errors only follow from it. */
    char *second = strchr(c->words, '\n');
    if (second && (!second[1] || strncmp(second + 1, prefix, (size_t)len) == 0))
        *second = 0;
    else if (second)
        second[1 + strcspn(second + 1, "\n")] = 0;
    take_out(c->words, prefix, (size_t)len);
    take_out_arguments(c->words, c->command);
    put_names(c->words, names, n, text, sizeof(text));
    if (!*text && WIFSIGNALED(c->status))
        snprintf(text, sizeof(text), "it was killed by signal %d", WTERMSIG(c->status));
    return vd_fail(err, -EIO, "child-failed", "%s: %s", c->program,
                   *text ? text : "it failed without saying why");
}

int vd_child_wait(struct vd_child *c, const char *const *names, int n, struct vd_error *err)
{
    while (c->running)
        vd_wait(&c->changed);
    vd_group_wait(&c->fibers); /* its last words */
    if (WIFEXITED(c->status) && WEXITSTATUS(c->status) == 0)
        return 0;
    return explain(c, names, n, err);
}

void vd_child_free(struct vd_child *c)
{
    if (!c)
        return;
    vd_child_signal(c, SIGKILL);
    vd_group_wait(&c->fibers);
    vd_stream_close(c->err_stream);
    vd_stream_close(c->out_stream);
    if (c->end.fd >= 0) {
        vd_poll_done(&c->end);
        close(c->end.fd);
    }
    free(c->command);
    free(c);
}
