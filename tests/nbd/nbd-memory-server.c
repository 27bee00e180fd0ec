/* SPDX-License-Identifier: MIT */
/*
 * nbd-memory-server ADDRESS [OPTION...]: serves memory disks, for tests of the door with real
 * clients and for measuring it without a store behind.
 *   --volume NAME=BYTES   --snapshot VOLUME@NAME (of the volume as it is: empty, or --fill)
 *   --fill (volumes so far hold a pattern: each 8 bytes are their offset, little-endian)
 *   --tls-cert DIR   --tls-psk FILE   --remote (others than this machine may connect)
 *   --read-only   --shuffle   --fail OFF:LEN (EIO there)   --stats (counters on stderr at the end)
 * Prints the address on standard output when it listens. SIGUSR1 doubles the first volume's size,
 * SIGUSR2 tells the clients of the first volume that it is gone, SIGTERM and SIGINT stop it.
 */
#include "core/base/log.h"
#include "core/codec/tls.h"
#include "core/io/loop.h"
#include "nbd/nbd.h"
#include "tests/nbd/fake_store.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct args {
    int argc;
    char **argv;
};

static int fill(struct fake_volume *v)
{
    struct vd_disk_info info;
    uint64_t buf[64];
    vd_disk_info(v->memory, &info);
    for (uint64_t off = 0; off < info.size; off += sizeof(buf)) {
        for (size_t i = 0; i < VD_ARRAY_SIZE(buf); i++)
            buf[i] = htole64(off + 8 * i);
        int r = vd_disk_write(v->memory, off, buf, sizeof(buf), 0);
        if (r < 0)
            return r;
    }
    return 0;
}

static void print_log(void *arg, enum vd_log_level level, const char *message)
{
    fprintf(stderr, "log: %s\n", message);
}

static struct fake_volume *volume_find(struct fake_store *fs, const char *name)
{
    for (unsigned i = 0; i < fs->n_volumes; i++)
        if (strcmp(fs->volumes[i].name, name) == 0)
            return &fs->volumes[i];
    return NULL;
}

/* One option with its value, if it has one; the number of words used, 0 = not understood. */
static int option(struct fake_store *fs, unsigned *flags, bool *stats, struct vd_tls_files *files,
                  char *name, char *value)
{
    if (value && strcmp(name, "--tls-cert") == 0) {
        files->cert_dir = value;
        return 2;
    }
    if (value && strcmp(name, "--tls-psk") == 0) {
        files->psk_file = value;
        return 2;
    }
    if (strcmp(name, "--remote") == 0) {
        *flags |= VD_NBD_REMOTE;
    } else if (strcmp(name, "--read-only") == 0) {
        *flags |= VD_NBD_READ_ONLY;
    } else if (strcmp(name, "--shuffle") == 0) {
        fs->shuffle = true;
    } else if (strcmp(name, "--stats") == 0) {
        *stats = true;
    } else if (strcmp(name, "--fill") == 0) {
        for (unsigned i = 0; i < fs->n_volumes; i++)
            if (fill(&fs->volumes[i]) < 0)
                return 0;
    } else if (value && strcmp(name, "--volume") == 0) {
        char *eq = strchr(value, '=');
        if (!eq)
            return 0;
        *eq = 0;
        return fake_volume_add(fs, value, strtoull(eq + 1, NULL, 10)) ? 2 : 0;
    } else if (value && strcmp(name, "--snapshot") == 0) {
        char *at = strchr(value, '@');
        if (!at)
            return 0;
        *at = 0;
        struct fake_volume *v = volume_find(fs, value);
        return v && fake_snapshot_add(fs, v, at + 1) ? 2 : 0;
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
    struct vd_nbd_server *server;
    struct vd_error err = {0};
    struct vd_tls_files files = {0};
    struct vd_tls *tls = NULL;
    unsigned flags = 0;
    bool stats = false;

    fake_store_init(&fs);
    for (int i = 2, used; i < args->argc; i += used) {
        used = option(&fs, &flags, &stats, &files, args->argv[i],
                      i + 1 < args->argc ? args->argv[i + 1] : NULL);
        if (used == 0) {
            fprintf(stderr, "nbd-memory-server: %s cannot be done\n", args->argv[i]);
            return 2;
        }
    }
    int r = files.cert_dir || files.psk_file ? vd_tls_load(&files, &tls, &err) : 0;
    if (r == 0)
        r = vd_nbd_start(vd_loop_current(), &fs.store, args->argv[1], flags, tls, &server, &err);
    if (r < 0) {
        fprintf(stderr, "nbd-memory-server: %s\n", err.message);
        vd_tls_free(tls);
        return 1;
    }
    printf("%s\n", vd_nbd_address(server));
    fflush(stdout);
    wait_for_end(&fs);
    vd_nbd_stop(server);
    vd_tls_free(tls);
    if (stats)
        print_stats(&fs);
    fake_store_done(&fs);
    return 0;
}

int main(int argc, char **argv)
{
    struct args args = {.argc = argc, .argv = argv};
    sigset_t set;
    vd_tls_wipe_freed();
    vd_log_set_sink(print_log, NULL, VD_LOG_WARNING);
    if (argc < 2) {
        fprintf(stderr, "usage: nbd-memory-server ADDRESS [OPTION...]\n");
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
        fprintf(stderr, "nbd-memory-server: %s\n", strerror(-r));
    return r < 0 ? 1 : r;
}
