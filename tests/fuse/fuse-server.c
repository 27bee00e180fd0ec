/* SPDX-License-Identifier: MIT */
/*
 * fuse-server POOL MNT [OPTION...]: mounts a pool, for tests of the door with the real engine
 * behind it and nothing else. A pool that does not exist is made.
 *   --volume NAME=BYTES (made unless it is there)   --read-only   --allow-other
 * Prints the mount point when it is mounted, then does what standard input says, a line each, and
 * answers each with "ok" or "error ID: MESSAGE":
 *   create V@S   delete V@S   rollback V@S   clone V@S W   resize V BYTES   rename V W   volume V
 * BYTES write V OFF LEN BYTE (as another door would)   clients   umount MNT   flush The end of the
 * input, SIGTERM or SIGINT stop it; so does an unmount ("ended").
 */
#include "core/base/log.h"
#include "core/io/dev.h"
#include "core/io/loop.h"
#include "core/io/readiness.h"
#include "fuse/fuse.h"
#include "snapshot/snapshot.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

struct args {
    int argc;
    char **argv;
};

static struct vd_store *store;
static struct vd_fuse_server *server;
static struct vd_poll input;
static bool over;

static void print_log(void *arg, enum vd_log_level level, const char *message)
{
    fprintf(stderr, "log: %s\n", message);
}

static void on_end(void *arg)
{
    printf("ended\n");
    over = true;
    vd_poll_kick(&input);
}

static int print_client(void *arg, const struct vd_door_client *c)
{
    printf("client %s %s %s\n", c->export, c->read_only ? "ro" : "rw", c->peer);
    return 0;
}

static struct vd_target target(char *text)
{
    char *at = strchr(text, '@');
    if (at)
        *at = 0;
    return (struct vd_target){.volume = text, .snapshot = at ? at + 1 : NULL};
}

/* As through another door. */
static int write_beside(const char *volume, const char *spec, struct vd_error *err)
{
    static uint8_t buf[VD_MIB(1)];
    uint64_t off;
    size_t len;
    int byte;
    struct vd_disk *disk;
    if (sscanf(spec, "%" SCNu64 " %zu %d", &off, &len, &byte) != 3 || len > sizeof(buf))
        return vd_fail(err, -EINVAL, "usage", "write V OFF LEN BYTE");
    int r = vd_store_open(store, (struct vd_target){.volume = volume}, false, &disk, err);
    if (r < 0)
        return r;
    memset(buf, byte, len);
    r = vd_disk_write(disk, off, buf, len, 0);
    vd_disk_unref(disk);
    return r < 0 ? vd_fail(err, r, "write", "%s", strerror(-r)) : 0;
}

static int command(char *line, struct vd_error *err)
{
    static char what[300], rest[300];
    char verb[16] = "", kept[VD_NAME_MAX + 1];
    what[0] = rest[0] = 0;
    sscanf(line, "%15s %299s %299[^\n]", verb, what, rest);
    if (strcmp(verb, "clients") == 0)
        return vd_fuse_clients(server, print_client, NULL);
    if (strcmp(verb, "flush") == 0)
        return vd_store_flush(store);
    if (strcmp(verb, "write") == 0)
        return write_beside(what, rest, err);
    if (strcmp(verb, "resize") == 0)
        return vd_store_volume_resize(store, what, strtoull(rest, NULL, 10), true, err);
    if (strcmp(verb, "volume") == 0)
        return vd_store_volume_create(store, what, strtoull(rest, NULL, 10), err);
    if (strcmp(verb, "rename") == 0)
        return vd_store_volume_rename(store, what, rest, err);
    struct vd_target t = target(what);
    if (strcmp(verb, "create") == 0)
        return vd_store_snapshot_create(store, &t, 1, err);
    if (strcmp(verb, "delete") == 0 && !t.snapshot)
        return vd_store_volume_delete(store, t.volume, true, err);
    if (strcmp(verb, "delete") == 0)
        return vd_store_snapshot_delete(store, &t, 1, err);
    if (strcmp(verb, "clone") == 0)
        return vd_store_clone(store, t, rest, err);
    if (strcmp(verb, "rollback") == 0)
        return vd_store_rollback(store, t, false, true, kept, err);
    return vd_fail(err, -EINVAL, "usage", "unknown command %s", verb);
}

static void commands(void)
{
    static char line[1024];
    size_t have = 0;
    while (!over) {
        if (vd_poll_wait(&input, POLLIN) <= 0)
            continue;
        ssize_t n = read(0, line + have, sizeof(line) - 1 - have);
        if (n <= 0)
            return;
        have += (size_t)n;
        line[have] = 0;
        for (char *nl; (nl = strchr(line, '\n'));) {
            struct vd_error err = {0};
            *nl = 0;
            int r = command(line, &err);
            if (r < 0)
                printf("error %s: %s\n", err.id[0] ? err.id : strerror(-r), err.message);
            else
                printf("ok\n");
            fflush(stdout);
            have -= (size_t)(nl + 1 - line);
            memmove(line, nl + 1, have + 1);
        }
    }
}

static void wait_for_signal(void *arg)
{
    static const int signals[] = {SIGTERM, SIGINT, 0};
    if (vd_loop_wait_signal(signals) > 0) {
        over = true;
        vd_poll_kick(&input);
    }
}

static int store_open(const char *path, struct vd_error *err)
{
    struct vd_dev *dev;
    bool no_reserve;
    bool there = access(path, F_OK) == 0;
    int r = vd_dev_open(path, there ? 0 : VD_DEV_CREATE, &dev, err);
    if (r == 0 && !there)
        r = vd_pool_format(&dev, 1, &(struct vd_format_options){0}, &no_reserve, err);
    return r == 0 ? vd_store_attach(&dev, 1, 0, &store, err) : r;
}

static int option(struct args *args, int *i, unsigned *flags, struct vd_error *err)
{
    const char *name = args->argv[*i];
    struct vd_volume_info info;
    if (strcmp(name, "--read-only") == 0) {
        *flags |= VD_FUSE_READ_ONLY;
    } else if (strcmp(name, "--allow-other") == 0) {
        *flags |= VD_FUSE_ALLOW_OTHER;
    } else if (strcmp(name, "--volume") == 0 && *i + 1 < args->argc) {
        char *value = args->argv[++*i], *eq = strchr(value, '=');
        if (!eq)
            return vd_fail(err, -EINVAL, "usage", "--volume NAME=BYTES");
        *eq = 0;
        if (vd_store_volume(store, value, &info, NULL) == 0)
            return 0;
        return vd_store_volume_create(store, value, strtoull(eq + 1, NULL, 10), err);
    } else {
        return vd_fail(err, -EINVAL, "usage", "%s is not understood", name);
    }
    return 0;
}

static int serve(void *arg)
{
    struct args *args = arg;
    struct vd_error err = {0};
    unsigned flags = 0;
    int r = store_open(args->argv[1], &err);
    for (int i = 3; r == 0 && i < args->argc; i++)
        r = option(args, &i, &flags, &err);
    if (r == 0)
        r = vd_fuse_start(vd_loop_current(), store, args->argv[2], flags, &server, &err);
    if (r < 0) {
        printf("error %s: %s\n", err.id, err.message);
        if (store)
            vd_store_detach(store, NULL);
        return 1;
    }
    vd_poll_init(&input, 0);
    vd_fuse_on_end(server, on_end, NULL);
    printf("%s\n", vd_fuse_mountpoint(server));
    fflush(stdout);
    vd_fiber_spawn(vd_loop_current(), "signals", wait_for_signal, NULL);
    commands();
    vd_poll_done(&input);
    vd_fuse_stop(server);
    r = vd_store_detach(store, &err);
    if (r < 0)
        printf("error %s: %s\n", err.id, err.message);
    fflush(stdout);
    vd_loop_stop(vd_loop_current());
    return r < 0;
}

int main(int argc, char **argv)
{
    struct args args = {.argc = argc, .argv = argv};
    sigset_t set;
    vd_log_set_sink(print_log, NULL, VD_LOG_WARNING);
    if (argc == 3 && strcmp(argv[1], "--umount") == 0) {
        struct vd_error err = {0};
        if (vd_fuse_umount(argv[2], &err) < 0) {
            printf("error %s: %s\n", err.id, err.message);
            return 1;
        }
        return 0;
    }
    if (argc < 3) {
        fprintf(stderr, "usage: fuse-server POOL MNT [OPTION...]\n");
        return 2;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int r = vd_fiber_main(VD_LOOP_AUTO, 0, serve, &args);
    if (r < 0)
        fprintf(stderr, "fuse-server: %s\n", strerror(-r));
    return r < 0 ? 1 : r;
}
