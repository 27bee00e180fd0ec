/* SPDX-License-Identifier: MIT */
/*
 * vhost-memory-server DIR [OPTION...]: serves disks by vhost-user-blk without a store behind, for
 * tests of the door with real clients and for measuring it.
 *   --volume NAME=BYTES (in memory)   --raw NAME=FILE (a file that exists)
 *   --read-only   --shuffle   --fail OFF:LEN (EIO there)   --stats (counters on stderr at the end)
 * Prints DIR on standard output when it listens. SIGUSR1 doubles the first volume's size, SIGUSR2
 * tells the clients of the first volume that it is gone, SIGTERM and SIGINT stop it.
 */
#include "core/base/log.h"
#include "core/io/loop.h"
#include "tests/nbd/fake_store.h"
#include "vhost/vhost.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct args {
    int argc;
    char **argv;
};

static void print_log(void *arg, enum vd_log_level level, const char *message)
{
    fprintf(stderr, "log: %s\n", message);
}

/* "NAME=VALUE" */
static char *value_of(char *text)
{
    char *eq = strchr(text, '=');
    if (eq)
        *eq++ = 0;
    return eq;
}

static int raw_add(struct fake_store *fs, char *text)
{
    struct vd_error err = {0};
    char *path = value_of(text);
    struct fake_volume *v = path ? fake_volume_add(fs, text, 512) : NULL;
    int fd = v ? open(path, O_RDWR | O_CLOEXEC | O_DIRECT) : -1;
    struct vd_disk *disk;
    if (fd < 0 || vd_disk_raw(fd, false, &disk, &err) < 0) {
        fprintf(stderr, "vhost-memory-server: %s: %s\n", path ? path : text,
                err.message[0] ? err.message : strerror(errno));
        return 0;
    }
    vd_disk_unref(v->memory);
    v->memory = disk;
    return 2;
}

/* One option with its value, if it has one; the number of words used, 0 = not understood. */
static int option(struct fake_store *fs, unsigned *flags, bool *stats, char *name, char *value)
{
    if (strcmp(name, "--read-only") == 0) {
        *flags |= VD_VHOST_READ_ONLY;
    } else if (strcmp(name, "--shuffle") == 0) {
        fs->shuffle = true;
    } else if (strcmp(name, "--stats") == 0) {
        *stats = true;
    } else if (value && strcmp(name, "--volume") == 0) {
        char *size = value_of(value);
        return size && fake_volume_add(fs, value, strtoull(size, NULL, 10)) ? 2 : 0;
    } else if (value && strcmp(name, "--raw") == 0) {
        return raw_add(fs, value);
    } else if (value && strcmp(name, "--fail") == 0) {
        fs->fail = -EIO;
        return sscanf(value, "%" SCNu64 ":%" SCNu64, &fs->fail_off, &fs->fail_len) == 2 ? 2 : 0;
    } else {
        return 0;
    }
    return 1;
}

static void print_stats(struct fake_store *fs)
{
    struct vd_loop_stats stats;
    vd_loop_stats(vd_loop_current(), &stats);
    for (unsigned i = 0; i < fs->n_volumes; i++) {
        struct fake_volume *v = &fs->volumes[i];
        fprintf(stderr, "%s: reads %u writes %u (FUA %u) zeroes %u discards %u flushes %u\n",
                v->name, v->reads, v->writes, v->fua_writes, v->zeroes, v->discards, v->flushes);
    }
    fprintf(stderr, "%s: wakeups %" PRIu64 " switches %" PRIu64 " deepest stack %" PRIu64 "\n",
            vd_loop_backend_name(vd_loop_current()), stats.wakeups, stats.switches,
            stats.stack_high_water);
}

static void wait_for_end(struct fake_store *fs)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, 0};
    for (;;) {
        struct vd_disk_info info;
        int sig = vd_loop_wait_signal(signals);
        if (sig != SIGUSR1 && sig != SIGUSR2)
            return;
        if (sig == SIGUSR2) {
            fake_notify(&fs->volumes[0], VD_DISK_GONE);
            continue;
        }
        vd_disk_info(fs->volumes[0].memory, &info);
        fake_resize(&fs->volumes[0], 2 * info.size);
    }
}

static int serve(void *arg)
{
    struct args *args = arg;
    static struct fake_store fs;
    struct vd_vhost_server *server;
    struct vd_error err = {0};
    unsigned flags = 0;
    bool stats = false;

    fake_store_init(&fs);
    for (int i = 2, used; i < args->argc; i += used) {
        used = option(&fs, &flags, &stats, args->argv[i],
                      i + 1 < args->argc ? args->argv[i + 1] : NULL);
        if (used == 0) {
            fprintf(stderr, "vhost-memory-server: %s cannot be done\n", args->argv[i]);
            return 2;
        }
    }
    int r = vd_vhost_start(vd_loop_current(), &fs.store, args->argv[1], flags, &server, &err);
    if (r < 0) {
        fprintf(stderr, "vhost-memory-server: %s\n", err.message);
        return 1;
    }
    printf("%s\n", vd_vhost_dir(server));
    fflush(stdout);
    wait_for_end(&fs);
    vd_vhost_stop(server);
    if (stats)
        print_stats(&fs);
    fake_store_done(&fs);
    return 0;
}

int main(int argc, char **argv)
{
    struct args args = {.argc = argc, .argv = argv};
    sigset_t set;
    vd_log_set_sink(print_log, NULL, VD_LOG_WARNING);
    if (argc < 2) {
        fprintf(stderr, "usage: vhost-memory-server DIR [OPTION...]\n");
        return 2;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int r = vd_fiber_main(VD_LOOP_AUTO, 0, serve, &args);
    if (r < 0)
        fprintf(stderr, "vhost-memory-server: %s\n", strerror(-r));
    return r < 0 ? 1 : r;
}
