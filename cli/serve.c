/* SPDX-License-Identifier: MIT */
/*
 * vdisk serve: owns the pool, opens doors, and stays until a signal. Yields.
 */
#include "cli/cli_priv.h"

#include "server/owner.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAUSE_NS UINT64_C(20000000)
/* Sockets that systemd hands over (sd_listen_fds(3)). */
#define SOCKETS_FIRST 3
#define SOCKETS_MAX 64

static struct vd_waitq ending;

static void on_signal(struct cli *c)
{
    vd_wake_all(&ending);
}

/* Tells systemd, if it asked. Failing to is nobody's problem. */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(sa.sun_path))
        return;
    memcpy(sa.sun_path, path, strlen(path));
    if (path[0] == '@')
        sa.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&sa, len);
    close(fd);
}

/* Waits for a short command to end, but not for another server. */
int cli_serve_open(struct cli *c, const struct cli_pool *p, struct vd_owner **ret)
{
    struct vd_owner_options opt = {.name = c->name,
                                   .uuid = p->uuid,
                                   .read_only = cli_flag(c, "read-only"),
                                   .serving = true,
                                   .shared = cli_flag(c, "shared"),
                                   .listen = true};
    struct vd_loop *loop = vd_loop_current();
    uint64_t start = vd_loop_now_ns(loop);
    char who[128];
    vd_waitq_init(&ending);
    c->on_signal = on_signal;
    for (;;) {
        int r = vd_owner_open(p->path, &opt, ret, &c->err);
        if (r == 0)
            cli_journal_pool(*(*ret)->pool_name ? (*ret)->pool_name : (*ret)->full_path);
        if (r != -EBUSY && r != -EADDRINUSE)
            return r;
        if (c->cancelled)
            return cli_fail(c, -ECANCELED, "cancelled", "cancelled");
        bool serving = false;
        bool seen = vd_client_owner(p->path, who, sizeof(who), &serving) == 0;
        bool enough = vd_loop_now_ns(loop) - start >= vd_client_patience_ns(&c->err);
        if (seen && (serving || enough))
            return cli_fail(c, -EBUSY, "in-use", "%s is in use by %s", p->path, who);
        if (enough)
            return r;
        vd_fiber_sleep(PAUSE_NS);
    }
}

/* ---- doors ---- */

/* The number of sockets that systemd has handed over, from descriptor 3 on. */
static int sockets_given(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    if (!pid || !fds || strtol(pid, NULL, 10) != (long)getpid())
        return 0;
    long n = strtol(fds, NULL, 10);
    return n < 0 || n > SOCKETS_MAX ? 0 : (int)n;
}

/* The descriptor of the socket that systemd calls `name`; -1 = there is none. */
static int socket_named(const char *name)
{
    const char *p = getenv("LISTEN_FDNAMES");
    size_t len = strlen(name);
    for (int i = 0; p && i < sockets_given(); i++) {
        size_t n = strcspn(p, ":");
        if (n == len && memcmp(p, name, n) == 0)
            return SOCKETS_FIRST + i;
        p = p[n] ? p + n + 1 : NULL;
    }
    return -1;
}

static int open_door(struct cli *c, struct vd_owner *o, const char *kind, const char *address,
                     int *n_tls)
{
    struct vd_door_options opt = {.kind = kind,
                                  .address = address,
                                  .allow_other = cli_flag(c, "allow-other"),
                                  .insecure = cli_flag(c, "insecure"),
                                  .tls_cert = cli_text(c, "tls-cert"),
                                  .tls_psk = cli_text(c, "tls-psk")};
    struct vd_door *door;
    char given[16];
    if (address && strncmp(address, "fd:", 3) == 0 && (address[3] < '0' || address[3] > '9')) {
        int fd = socket_named(address + 3);
        if (fd < 0)
            return cli_fail(c, -EINVAL, "bad-address",
                            "systemd has handed over no socket called \"%s\": see "
                            "FileDescriptorName= in its socket unit",
                            address + 3);
        snprintf(given, sizeof(given), "fd:%d", fd);
        opt.address = given;
    }
    int r = vd_door_open(o, &opt, &door, &c->err);
    if (r == 0)
        *n_tls += vd_door_tls(door);
    return r;
}

/* Those that were asked for. If the volumes can be reached by none of them: those that systemd has
 * made; else an NBD door in the runtime directory. */
static int open_doors(struct cli *c, struct vd_owner *o)
{
    int n = 0, n_tls = 0, r = 0;
    for (int i = 0; i < c->n_values && r == 0; i++) {
        const char *kind = c->values[i].option->name;
        if (!cli_is_door(&c->values[i]))
            continue;
        n += strcmp(kind, "metrics") != 0;
        c->target = (char *)(uintptr_t)c->values[i].text;
        r = open_door(c, o, kind, c->values[i].text, &n_tls);
    }
    int given = n == 0 ? sockets_given() : 0;
    for (int i = 0; i < given && r == 0; i++) {
        char address[16];
        snprintf(address, sizeof(address), "fd:%d", SOCKETS_FIRST + i);
        r = open_door(c, o, "nbd", address, &n_tls);
    }
    if (n == 0 && given == 0 && r == 0)
        r = open_door(c, o, "nbd", NULL, &n_tls);
    if (r == 0 && n_tls == 0 && (cli_text(c, "tls-cert") || cli_text(c, "tls-psk")))
        r = cli_fail(c, -EINVAL, "usage",
                     "TLS is for TCP, and there is no TCP door: add --nbd tcp:HOST:PORT, or leave "
                     "--tls-cert and --tls-psk out");
    /* They are ours alone. */
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return r;
}

static void print_ready(struct cli *c, struct vd_owner *o)
{
    json_t *doors = vd_doors_json(o), *d;
    size_t i;
    if (c->json) {
        char schema[40];
        json_t *v =
            json_pack("{s:s, s:s, s:i, s:O}", "schema", cli_schema(c->cmd, schema, sizeof(schema)),
                      "event", "ready", "pid", (int)getpid(), "doors", doors);
        char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
        if (text)
            puts(text);
        free(text);
        json_decref(v);
    } else {
        json_array_foreach (doors, i, d)
            printf("ready: %s\n", get_str(d, "uri"));
    }
    fflush(stdout);
    json_decref(doors);
}

/* How often systemd wants to hear that the loop turns; 0 = it does not (sd_watchdog_enabled(3)). */
static uint64_t watchdog_ns(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!usec || (pid && strtol(pid, NULL, 10) != (long)getpid()))
        return 0;
    return strtoull(usec, NULL, 10) * 1000 / 2;
}

/* The owner's last door has closed: nobody can reach it. */
static void on_door_closed(struct vd_owner *o)
{
    if (vd_list_empty(&o->doors))
        vd_wake_all(&ending);
}

void cli_serve_wait(struct cli *c, struct vd_owner *o, bool with_doors)
{
    uint64_t every_ns = watchdog_ns();
    if (with_doors)
        o->on_door_closed = on_door_closed;
    while (!c->cancelled && !(with_doors && vd_list_empty(&o->doors))) {
        if (every_ns == 0) {
            vd_wait(&ending);
        } else {
            notify("WATCHDOG=1");
            (void)vd_wait_for(&ending, every_ns);
        }
    }
}

int cli_serve(struct cli *c)
{
    struct cli_pool p;
    struct vd_owner *o;
    int r = cli_pool_get(c, 0, &p);
    if (r < 0)
        return r;
    if (p.ref.volume || p.ref.snapshot)
        r = cli_fail(c, -EINVAL, "target-invalid",
                     "a pool is served as a whole: leave the volume and snapshot out");
    if (r == 0)
        r = cli_serve_open(c, &p, &o);
    cli_pool_done(&p);
    if (r < 0)
        return r;
    r = open_doors(c, o);
    if (r == 0 && !c->cancelled) {
        print_ready(c, o);
        notify("READY=1");
    }
    if (r == 0)
        cli_serve_wait(c, o, false);
    notify("STOPPING=1");
    struct vd_error why = {0};
    int r2 = vd_owner_close(o, true, &why);
    if (r == 0 && r2 < 0) {
        r = r2;
        c->err = why;
    }
    return r;
}
