/* SPDX-License-Identifier: MIT */
/* Streams and listeners, on the back end named by the first argument. */
#include "core/io/stream.h"
#include "tests/io/run.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct vd_group group;
static char unix_address[64];

static void pair(struct vd_stream **a, struct vd_stream **b)
{
    int fds[2];
    CHECK_IS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    CHECK_IS(vd_stream_new(fds[0], a), 0);
    CHECK_IS(vd_stream_new(fds[1], b), 0);
}

static void grouped(void (*fn)(void *arg), void *arg)
{
    vd_group_add(&group);
    spawn(fn, arg);
}

/* ---- bytes ---- */

struct bulk {
    struct vd_stream *stream;
    uint8_t *bytes;
    size_t len;
};

static void bulk_write(void *arg)
{
    struct bulk *b = arg;
    struct iovec iov[100];
    size_t at = 0;
    int n = 0;
    iov[n++] = (struct iovec){b->bytes, 0}; /* an empty piece is not the end */
    for (; n < 99; n++) {
        iov[n] = (struct iovec){b->bytes + at, (size_t)n * 997};
        at += iov[n].iov_len;
    }
    iov[n++] = (struct iovec){b->bytes + at, b->len - at};
    CHECK_IS(vd_stream_writev(b->stream, iov, n), 0);
    vd_group_done(&group);
}

static void bulk_through(struct vd_stream *in, struct vd_stream *out)
{
    size_t len = VD_MIB(6) + 17;
    struct vd_rng rng;
    struct bulk b = {.stream = in, .bytes = malloc(len), .len = len};
    uint8_t *got = calloc(1, len);
    vd_rng_seed(&rng, 1);
    vd_rng_fill(&rng, b.bytes, len);
    grouped(bulk_write, &b);
    size_t half = len / 3;
    CHECK_IS(vd_stream_read(out, got, half), 0);
    while (half < len) {
        ssize_t n = vd_stream_read_some(out, got + half, len - half);
        CHECK(n > 0);
        half += (size_t)n;
    }
    CHECK(memcmp(got, b.bytes, len) == 0);
    vd_group_wait(&group);
    free(got);
    free(b.bytes);
}

static int bytes_body(void *arg)
{
    (void)arg;
    struct vd_stream *a, *b;
    int fds[2];
    uint8_t byte;
    vd_group_init(&group);
    pair(&a, &b);
    bulk_through(a, b);
    bulk_through(b, a);
    CHECK_IS(vd_stream_read(a, &byte, 0), 0);
    CHECK_IS(vd_stream_write(b, "xy", 2), 0);
    vd_stream_close(b);
    CHECK_IS(vd_stream_read(a, &byte, 1), 0);
    uint8_t two[2];
    CHECK_IS(vd_stream_read(a, two, 2), -ECONNRESET); /* one byte, then the end */
    CHECK_IS(vd_stream_read(a, two, 2), -ENODATA);
    CHECK_IS(vd_stream_read_some(a, two, 2), 0);
    CHECK_IS(vd_stream_write(a, two, 2), -ECONNRESET); /* and no SIGPIPE */
    vd_stream_close(a);
    vd_stream_close(NULL);

    CHECK_IS(pipe2(fds, O_CLOEXEC), 0);
    CHECK_IS(vd_stream_new(fds[0], &a), 0);
    CHECK_IS(vd_stream_new(fds[1], &b), 0);
    bulk_through(b, a);
    vd_stream_close(b);
    CHECK_IS(vd_stream_read(a, &byte, 1), -ENODATA);
    vd_stream_close(a);
    return 0;
}

static void all_bytes_arrive_in_order_until_the_end(void **state)
{
    (void)state;
    run(bytes_body);
}

/* ---- both ways at once ---- */

static void ping(void *arg)
{
    uint32_t x;
    for (uint32_t i = 0; i < 500; i++) {
        CHECK_IS(vd_stream_write(arg, &i, sizeof(i)), 0);
        CHECK_IS(vd_stream_read(arg, &x, sizeof(x)), 0);
        CHECK_IS(x, i + 1);
    }
    vd_group_done(&group);
}

static void pong(void *arg)
{
    uint32_t x;
    while (vd_stream_read(arg, &x, sizeof(x)) == 0) {
        x++;
        CHECK_IS(vd_stream_write(arg, &x, sizeof(x)), 0);
    }
    vd_stream_close(arg);
    vd_group_done(&group);
}

static int ping_body(void *arg)
{
    (void)arg;
    struct vd_stream *a[8], *b[8];
    struct vd_group pings;
    vd_group_init(&pings);
    vd_group_init(&group);
    for (int i = 0; i < 8; i++) {
        pair(&a[i], &b[i]);
        grouped(ping, a[i]);
        grouped(pong, b[i]);
    }
    while (group.pending > 8)
        vd_fiber_sleep(1000000);
    for (int i = 0; i < 8; i++)
        vd_stream_close(a[i]);
    vd_group_wait(&group);
    return 0;
}

static void questions_get_their_answers(void **state)
{
    (void)state;
    run(ping_body);
}

/* ---- cancelling ---- */

static void read_cancelled(void *arg)
{
    char c;
    CHECK_IS(vd_stream_read(arg, &c, 1), -ECANCELED);
    vd_group_done(&group);
}

static void write_cancelled(void *arg)
{
    char *bytes = calloc(1, VD_MIB(8)); /* more than the socket takes */
    CHECK_IS(vd_stream_write(arg, bytes, VD_MIB(8)), -ECANCELED);
    free(bytes);
    vd_group_done(&group);
}

static int cancel_body(void *arg)
{
    (void)arg;
    struct vd_stream *a, *b;
    int fds[2];
    char c;
    vd_group_init(&group);
    for (int settle = 0; settle < 3;
         settle++) { /* cancelled before and after it reached the kernel */
        pair(&a, &b);
        grouped(read_cancelled, a);
        grouped(write_cancelled, a);
        for (int i = 0; i < settle; i++)
            vd_fiber_yield();
        if (settle == 2)
            vd_fiber_sleep(2000000);
        vd_stream_shutdown(a);
        vd_stream_shutdown(a);
        vd_group_wait(&group);
        CHECK_IS(vd_stream_read(a, &c, 1), -ECANCELED);
        CHECK_IS(vd_stream_write(a, "x", 1), -ECANCELED);
        vd_stream_close(a);
        vd_stream_close(b);
    }
    CHECK_IS(pipe2(fds, O_CLOEXEC), 0);
    CHECK_IS(vd_stream_new(fds[0], &a), 0);
    grouped(read_cancelled, a);
    vd_fiber_sleep(1000000);
    vd_stream_shutdown(a);
    vd_group_wait(&group);
    vd_stream_close(a);
    close(fds[1]);
    return 0;
}

static void shutdown_cancels_present_and_future_calls(void **state)
{
    (void)state;
    run(cancel_body);
}

/* ---- descriptors ---- */

static void fds_receive(void *arg)
{
    int fds[3], n = 3;
    char text[8] = "";
    CHECK_IS(vd_stream_recv_fds(arg, text, sizeof(text), fds, &n), 3);
    CHECK_IS(n, 2);
    CHECK(strcmp(text, "fds") == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        CHECK_IS(write(fds[i], "!", 1), 1);
        close(fds[i]);
    }
    n = 0; /* unwanted ones do not leak */
    CHECK_IS(vd_stream_recv_fds(arg, text, sizeof(text), fds, &n), 1);
    CHECK_IS(n, 0);
    n = 3;
    CHECK_IS(vd_stream_recv_fds(arg, text, sizeof(text), fds, &n), 0);
    vd_group_done(&group);
}

static int fds_body(void *arg)
{
    (void)arg;
    struct vd_stream *a, *b;
    int pipes[2], other[2];
    char c;
    uid_t uid;
    gid_t gid;
    pid_t pid;
    vd_group_init(&group);
    pair(&a, &b);
    CHECK_IS(vd_stream_peer(a, &uid, &gid, &pid), 0);
    CHECK(uid == getuid() && gid == getgid() && pid == getpid());
    CHECK_IS(pipe2(pipes, O_CLOEXEC), 0);
    CHECK_IS(pipe2(other, O_CLOEXEC), 0);
    grouped(fds_receive, b);
    vd_fiber_yield();
    int send[2] = {pipes[1], other[1]};
    CHECK_IS(vd_stream_send_fds(a, "fds", 3, send, 2), 0);
    close(pipes[1]);
    vd_fiber_sleep(1000000);
    CHECK_IS(vd_stream_send_fds(a, "x", 1, &other[1], 1), 0);
    close(other[1]);
    vd_stream_close(a);
    vd_group_wait(&group);
    CHECK_IS(read(pipes[0], &c, 1), 1);
    CHECK_IS(read(pipes[0], &c, 1), 0); /* the other end is closed everywhere */
    CHECK_IS(read(other[0], &c, 1), 1);
    CHECK_IS(read(other[0], &c, 1), 0);
    close(pipes[0]);
    close(other[0]);
    vd_stream_close(b);
    return 0;
}

static void descriptors_travel_and_none_leaks(void **state)
{
    (void)state;
    run(fds_body);
}

/* ---- listeners ---- */

static void accept_loop(void *arg)
{
    struct vd_stream *s;
    int r;
    while ((r = vd_accept(arg, &s)) == 0)
        grouped(pong, s);
    CHECK_IS(r, -ECANCELED);
    vd_group_done(&group);
}

static void connect_and_ask(const char *address)
{
    struct vd_listener *l;
    struct vd_error err = {0};
    struct vd_stream *s[5];
    CHECK_IS(vd_listen(address, &l, &err), 0);
    grouped(accept_loop, l);
    for (int i = 0; i < 5; i++) {
        uint32_t x = 7;
        CHECK_IS(vd_connect(vd_listener_address(l), &s[i], &err), 0);
        CHECK_IS(vd_stream_write(s[i], &x, sizeof(x)), 0);
        CHECK_IS(vd_stream_read(s[i], &x, sizeof(x)), 0);
        CHECK_IS(x, 8);
    }
    char copy[400];
    (void)snprintf(copy, sizeof(copy), "%s", vd_listener_address(l));
    vd_listener_close(l);
    for (int i = 0; i < 5; i++)
        vd_stream_close(s[i]);
    vd_group_wait(&group);
    CHECK(vd_connect(copy, &s[0], &err) < 0);
    CHECK(strcmp(err.id, "connect-failed") == 0);
}

static int listen_body(void *arg)
{
    (void)arg;
    vd_group_init(&group);
    connect_and_ask(unix_address);
    connect_and_ask("tcp:127.0.0.1:0");
    if (access("/etc/hosts", R_OK) == 0) /* a root fresh from debootstrap knows no names */
        connect_and_ask("tcp:localhost:0");
    return 0;
}

static void listeners_accept_until_closed(void **state)
{
    (void)state;
    run(listen_body);
}

static int socket_file_body(void *arg)
{
    (void)arg;
    const char *file = unix_address + strlen("unix:");
    struct vd_listener *l, *other;
    struct vd_error err = {0};
    struct stat st;
    CHECK_IS(vd_listen(unix_address, &l, &err), 0);
    CHECK(stat(file, &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 0777) == 0600);
    CHECK_IS(vd_listen(unix_address, &other, &err), -EADDRINUSE);
    CHECK(strcmp(err.id, "address-in-use") == 0);

    /* Somebody has put another one in its place: that one is not ours to remove. */
    CHECK_IS(unlink(file), 0);
    CHECK_IS(vd_listen(unix_address, &other, &err), 0);
    vd_listener_close(l);
    CHECK_IS(stat(file, &st), 0);
    vd_listener_close(other);
    CHECK(stat(file, &st) < 0 && errno == ENOENT);

    /* Left over by one that died: replaced. A file that is no socket: never. */
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path, file, strlen(file) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_IS(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    close(fd);
    CHECK_IS(vd_listen(unix_address, &l, &err), 0);
    vd_listener_close(l);
    fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    CHECK_IS(vd_listen(unix_address, &l, &err), -EADDRINUSE);
    CHECK_IS(unlink(file), 0);
    return 0;
}

static void socket_files_are_private_and_tidied(void **state)
{
    (void)state;
    run(socket_file_body);
}

static int bad_body(void *arg)
{
    (void)arg;
    static const char *const bad[] = {"",        "unix:",   "tcp:",         "tcp:host",
                                      "tcp::1",  "tcp:h:",  "tcp:h:123456", "tcp:h:70000",
                                      "tcp:h:x", "udp:h:1", "/tmp/x"};
    struct vd_error err = {0};
    struct vd_listener *l;
    struct vd_stream *s;
    char longest[200];
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++) {
        CHECK_IS(vd_listen(bad[i], &l, &err), -EINVAL);
        CHECK_IS(vd_connect(bad[i], &s, &err), -EINVAL);
        CHECK(strcmp(err.id, "bad-address") == 0);
    }
    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "unix:", 5);
    longest[sizeof(longest) - 1] = 0;
    CHECK_IS(vd_listen(longest, &l, &err), -ENAMETOOLONG);
    CHECK_IS(vd_connect("unix:/nonexistent/socket", &s, &err), -ENOENT);
    return 0;
}

static void bad_addresses_are_refused(void **state)
{
    (void)state;
    run(bad_body);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    run_args(argc, argv);
    (void)snprintf(unix_address, sizeof(unix_address), "unix:test-stream-%d.sock", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_bytes_arrive_in_order_until_the_end),
        cmocka_unit_test(questions_get_their_answers),
        cmocka_unit_test(shutdown_cancels_present_and_future_calls),
        cmocka_unit_test(descriptors_travel_and_none_leaks),
        cmocka_unit_test(listeners_accept_until_closed),
        cmocka_unit_test(socket_files_are_private_and_tidied),
        cmocka_unit_test(bad_addresses_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
