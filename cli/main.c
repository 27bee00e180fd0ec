/* SPDX-License-Identifier: MIT */
/*
 * The program vdisk: finds the command, runs it on a fiber, turns what it returns into an exit
 * status. Signals cancel the command; a third one ends the process at once, which the pool survives
 * like any other death.
 */
#include "cli/cli_priv.h"

#include "core/codec/tls.h"
#include "server/wire.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, 0};

static void signal_fiber(void *arg)
{
    struct cli *c = arg;
    for (int n = 1; vd_loop_wait_signal(signals) > 0; n++) {
        if (n >= 3)
            _exit(EXIT_CANCELLED);
        c->cancelled = true;
        if (c->on_signal)
            c->on_signal(c);
        else if (c->client)
            vd_client_cancel(c->client);
    }
}

static int command_fiber(void *arg)
{
    struct cli *c = arg;
    int r = vd_fiber_spawn(vd_loop_current(), "signals", signal_fiber, c);
    if (r < 0)
        cli_fail(c, r, "no-memory", "cannot start: %s", strerror(-r));
    else
        r = c->cmd->run(c);
    cli_progress_end(c);
    if (r < 0) {
        if (c->err.code == 0)
            cli_fail(c, r, "failed", "%s: %s", c->cmd->name, strerror(-r));
        cli_report(c);
        r = cli_exit_status(&c->err);
    }
    c->status = r;
    vd_loop_stop(vd_loop_current());
    return 0;
}

static int run(struct cli *c)
{
    int r = vd_fiber_main(VD_LOOP_AUTO, 0, command_fiber, c);
    if (r < 0) {
        cli_fail(c, r, "no-loop", "cannot start the event loop: %s", strerror(-r));
        cli_report(c);
        return EXIT_FAILED;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "vdisk: the result could not be written: %s\n", strerror(errno));
        return c->status ? c->status : EXIT_FAILED;
    }
    return c->status;
}

/* The parent's half: passes on what has begun, or the child's exit status. */
static int detach_parent(struct cli *c, int fd, pid_t child)
{
    char text[1024];
    size_t used = 0;
    ssize_t n;
    while (used < sizeof(text) - 1 &&
           ((n = read(fd, text + used, sizeof(text) - 1 - used)) > 0 || (n < 0 && errno == EINTR)))
        used += n > 0 ? (size_t)n : 0;
    json_t *job = used ? vd_wire_parse(text, used) : NULL;
    if (!job) {
        int status;
        if (waitpid(child, &status, 0) == child && WIFEXITED(status))
            return WEXITSTATUS(status);
        return EXIT_FAILED;
    }
    if (c->json)
        cli_json(c, json_incref(job));
    else if (json_object_get(job, "job"))
        printf("job %d\n", (int)get_int(json_object_get(job, "job"), "id"));
    json_decref(job);
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

/* The job, or the mount, is a child's, unless the pool is served: then the child just asks for it.
 */
static int run_detached(struct cli *c)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return EXIT_FAILED;
    pid_t child = fork();
    if (child < 0) {
        cli_fail(c, -errno, "no-process", "cannot start a process: %s", strerror(errno));
        cli_report(c);
        return EXIT_FAILED;
    }
    if (child > 0) {
        close(fds[1]);
        return detach_parent(c, fds[0], child);
    }
    close(fds[0]);
    c->detach_fd = fds[1];
    return run(c);
}

static int unknown(int argc, char **argv)
{
    /* The first word may be a group: "vdisk snapshot" tells what there is. */
    size_t n = strlen(argv[0]);
    for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++)
        if (strncmp(cmd->name, argv[0], n) == 0 && cmd->name[n] == ' ') {
            bool help = argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
            if (!help && argc > 1)
                fprintf(stderr,
                        "vdisk: there is no command \"%s %.60s\": see \"vdisk %s --help\"\n",
                        argv[0], argv[1], argv[0]);
            else
                cli_help_group(help ? stdout : stderr, argv[0]);
            return help ? EXIT_OK : EXIT_USAGE;
        }
    fprintf(stderr, "vdisk: there is no command \"%.60s\": see \"vdisk --help\"\n", argv[0]);
    return EXIT_USAGE;
}

static int help(int argc, char **argv)
{
    int words;
    if (argc == 0) {
        cli_help_all(stdout);
        return EXIT_OK;
    }
    if (argv[0][0] == '-')
        return cli_generate(argc, argv);
    const struct cli_command *cmd = cli_find(argc, argv, &words);
    if (!cmd)
        return unknown(argc == 1 ? 2 : argc, argc == 1 ? (char *[]){argv[0], (char *)"-h"} : argv);
    cli_help(stdout, cmd);
    return EXIT_OK;
}

static void prepare(void)
{
    sigset_t set;
    vd_tls_wipe_freed();
    sigemptyset(&set);
    for (const int *s = signals; *s; s++)
        sigaddset(&set, *s);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    /* Never hand out 0, 1 or 2 to a pool's file because the caller closed them. */
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2)
        fd = dup(fd);
    if (fd >= 0)
        close(fd);
    cli_log_begin();
}

int main(int argc, char **argv)
{
    static struct cli c = {.detach_fd = -1};
    int words;
    prepare();
    argc--, argv++;
    if (argc == 0) {
        cli_help_all(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[0], "--version") == 0) {
        puts("vdisk " VDISK_VERSION);
        return EXIT_OK;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)
        return help(0, argv);
    if (strcmp(argv[0], "help") == 0)
        return help(argc - 1, argv + 1);
    c.cmd = cli_find(argc, argv, &words);
    if (!c.cmd)
        return unknown(argc, argv);
    snprintf(c.name, sizeof(c.name), "vdisk %s", c.cmd->name);
    int r = cli_parse(&c, argc - words, argv + words);
    if (cli_flag(&c, "help")) {
        cli_help(stdout, c.cmd);
        return EXIT_OK;
    }
    if (r < 0) {
        cli_report(&c);
        return EXIT_USAGE;
    }
    bool background = (c.cmd->common & CLI_BACKGROUND) && !cli_flag(&c, "foreground");
    return background || cli_flag(&c, "detach") ? run_detached(&c) : run(&c);
}
