/* SPDX-License-Identifier: MIT */
/*
 * Foreign images as a child serves them: the graph of block nodes that it is told to make, its
 * socket, its end.
 *
 * Invariants
 *  1. Every file node has a descriptor of ours, and every format node says what is below it, also
 *     that nothing is: nothing is left to be probed or to be opened by a name in an image.
 *  2. The listening socket loses its name before the child starts; only the connections that we
 *     have made reach it.
 *
 * Everything that starts or waits yields.
 */
#include "foreign/image_priv.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PROBE 1 /* a connection of our own, to see that the child serves */

struct vd_image *image_new(void)
{
    struct vd_image *img = calloc(1, sizeof(*img));
    if (img)
        img->fd = -1;
    return img;
}

int image_names(const struct vd_image *img, const char **ret, int max)
{
    int n = 0;
    ret[n++] = NULL; /* the socket */
    if (img->fd >= 0)
        ret[n++] = img->target.path;
    for (int i = 0; img->graph && i < img->graph->n_files && n < max; i++)
        ret[n++] = img->graph->files[i].path;
    return n;
}

bool image_can_direct(int fd)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (again >= 0)
        close(again);
    return again >= 0;
}

/* --- sockets --- */

static int connect_all(const struct sockaddr_un *un, int *fds, int n)
{
    for (int i = 0; i < n; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        /* The backlog takes it: no accept is needed for it to succeed. */
        if (fds[i] < 0 || connect(fds[i], (const struct sockaddr *)un, sizeof(*un)) < 0) {
            int r = -errno;
            for (; i >= 0; i--)
                if (fds[i] >= 0)
                    close(fds[i]);
            return r;
        }
    }
    return 0;
}

/* A listening socket without a name, and n connections to it. */
static int private_sockets(int *ret_listen, int *fds, int n, struct vd_error *err)
{
    const char *tmp = getenv("TMPDIR");
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    char dir[64] = "/tmp/vdisk-XXXXXX";
    int r = 0, fd = -1;
    if (tmp && *tmp == '/' && strlen(tmp) < sizeof(dir) - 16)
        snprintf(dir, sizeof(dir), "%.40s/vdisk-XXXXXX", tmp);
    if (!mkdtemp(dir)) /* made 0700 */
        return vd_fail(err, -errno, "no-socket", "cannot make a directory like %s: %s", dir,
                       strerror(errno));
    snprintf(un.sun_path, sizeof(un.sun_path), "%s/s", dir);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&un, sizeof(un)) < 0 || listen(fd, 16) < 0)
        r = -errno;
    if (r == 0)
        r = connect_all(&un, fds, n);
    (void)unlink(un.sun_path);
    (void)rmdir(dir);
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        return vd_fail(err, r, "no-socket", "cannot make a socket: %s", strerror(-r));
    }
    *ret_listen = fd;
    return 0;
}

/* --- the daemon --- */

/* Asks the child for the size, which it tells when all its images are open. `fd` is taken over. */
static int first_look(struct vd_image *img, int fd, bool writable, struct vd_error *err)
{
    struct vd_remote_options opt = {
        .fds = &fd, .n_fds = 1, .export = VD_IMAGE_EXPORT, .read_only = !writable};
    struct vd_disk *d;
    struct vd_disk_info info;
    int r = vd_remote_new(&opt, &d, err);
    if (r < 0)
        return r;
    r = vd_remote_connect(d, err);
    vd_disk_info(d, &info);
    img->size = info.size;
    vd_disk_unref(d);
    return r;
}

int image_serve(struct vd_image *img, const struct image_args *a, struct vd_error *err)
{
    int fds[VD_GRAPH_FILES + 1], socks[VD_REMOTE_LINKS + PROBE];
    char export[120];
    int n = a->n;
    int r = private_sockets(&fds[0], socks, VD_REMOTE_LINKS + PROBE, err);
    if (r < 0)
        return r;
    memcpy(fds + 1, a->fds, sizeof(*fds) * (size_t)a->n_fds);
    snprintf(export, sizeof(export), "type=nbd,id=e0,node-name=%s,name=%s,writable=%s", a->node,
             VD_IMAGE_EXPORT, a->writable ? "on" : "off");
    a->argv[n++] = "--nbd-server";
    a->argv[n++] = "addr.type=fd,addr.str=3";
    a->argv[n++] = "--export";
    a->argv[n++] = export;
    a->argv[n] = NULL;
    struct vd_child_options opt = {
        .argv = a->argv, .fds = fds, .n_fds = a->n_fds + 1, .package = DAEMON_PACKAGE};
    r = vd_child_start(&opt, &img->child, err);
    close(fds[0]);
    for (int i = 0; i < VD_REMOTE_LINKS; i++)
        img->fds[i] = socks[i];
    img->n_fds = VD_REMOTE_LINKS;
    if (r < 0) {
        close(socks[VD_REMOTE_LINKS]);
        return r;
    }
    r = first_look(img, socks[VD_REMOTE_LINKS], a->writable, err);
    if (r == -EIO) {
        /* It has hung up, so it has ended or is about to. */
        r = vd_child_wait(img->child, a->names, a->n_fds + 1, err);
        if (r == 0)
            r = vd_fail(err, -EIO, "child-failed", DAEMON ": it ended at once");
    }
    return r;
}

/* --- reading --- */

struct open_call {
    const char *path;
    enum vd_format format;
    bool trust;
    struct vd_graph *graph;
    struct vd_error err;
};

static int open_run(void *arg)
{
    struct open_call *c = arg;
    return vd_graph_open(c->path, c->format, c->trust, &c->graph, &c->err);
}

/* Past the page cache where that is quicker: with clusters that follow one another, read in large
 * pieces. What has small grains or looks at a sector map before each block is quicker through it.
 */
static bool reads_direct(const struct vd_graph *g, int file)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const struct vd_graph_node *node = &g->nodes[i];
        bool large = node->format == VD_FORMAT_QCOW2 || node->format == VD_FORMAT_VDI ||
                     node->format == VD_FORMAT_VHDX;
        if ((node->file == file || node->data == file) && !large)
            return false;
    }
    return image_can_direct(g->files[file].fd);
}

static char *file_arg(const struct vd_graph *g, int i)
{
    char *text;
    int n = asprintf(&text,
                     "{\"driver\":\"%s\",\"node-name\":\"f%d\",\"filename\":\"/proc/self/fd/%d\","
                     "\"read-only\":true,\"auto-read-only\":false,\"cache\":{\"direct\":%s}}",
                     g->files[i].is_block ? "host_device" : "file", i, VD_GRAPH_FIRST_FD + i,
                     reads_direct(g, i) ? "true" : "false");
    return n < 0 ? NULL : text;
}

static char *node_arg(const struct vd_graph *g, int i)
{
    const struct vd_graph_node *node = &g->nodes[i];
    char backing[40] = "", data[40] = "", *text;
    bool cow = node->format == VD_FORMAT_QCOW2 || node->format == VD_FORMAT_VMDK;
    if (cow && node->backing < 0)
        snprintf(backing, sizeof(backing), ",\"backing\":null");
    else if (cow)
        snprintf(backing, sizeof(backing), ",\"backing\":\"n%d\"", node->backing);
    if (node->data >= 0)
        snprintf(data, sizeof(data), ",\"data-file\":\"f%d\"", node->data);
    int n = asprintf(&text,
                     "{\"driver\":\"%s\",\"node-name\":\"n%d\",\"file\":\"f%d\","
                     "\"read-only\":true%s%s}",
                     vd_format_name(node->format), i, node->file, data, backing);
    return n < 0 ? NULL : text;
}

/* Every file that a node reads by itself; those of a VMDK's own descriptor it opens by number. */
static bool is_node_file(const struct vd_graph *g, int file)
{
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].file == file || g->nodes[i].data == file)
            return true;
    return false;
}

/* --blockdev for each file and each node, from the bottom up; the strings are the caller's. */
static int graph_args(const struct vd_graph *g, const char **argv, int n)
{
    for (int i = 0; i < g->n_files; i++) {
        if (!is_node_file(g, i))
            continue;
        argv[n++] = "--blockdev";
        if (!(argv[n] = file_arg(g, i)))
            return -ENOMEM;
        n++;
    }
    for (int i = g->n_nodes; i-- > 0;) { /* a node comes after the one that refers to it */
        argv[n++] = "--blockdev";
        if (!(argv[n] = node_arg(g, i)))
            return -ENOMEM;
        n++;
    }
    return n;
}

/* The number of words is 2 per file and node, and what image_serve adds. */
static int serve_graph(struct vd_image *img, struct vd_error *err)
{
    struct vd_graph *g = img->graph;
    size_t room = (size_t)(g->n_files + g->n_nodes) * 2 + 1 + IMAGE_ARGS_MORE + 1;
    const char **argv = calloc(room, sizeof(*argv));
    const char **names = calloc(VD_GRAPH_FILES + 2, sizeof(*names));
    int *fds = calloc(VD_GRAPH_FILES, sizeof(*fds));
    int n = -ENOMEM, r = vd_fail(NULL, -ENOMEM, "no-memory", "out of memory");
    if (argv && names && fds) {
        argv[0] = DAEMON;
        n = graph_args(g, argv, 1);
    }
    if (n > 0) {
        for (int i = 0; i < g->n_files; i++)
            fds[i] = g->files[i].fd;
        (void)image_names(img, names, VD_GRAPH_FILES + 2);
        struct image_args a = {
            .argv = argv, .n = n, .fds = fds, .names = names, .n_fds = g->n_files, .node = "n0"};
        r = image_serve(img, &a, err);
    } else {
        vd_fail(err, r, "no-memory", "out of memory");
    }
    for (size_t i = 2; argv && i < room && argv[i]; i += 2)
        if (n < 0 || i < (size_t)n)
            free((void *)(uintptr_t)argv[i]);
    free(argv);
    free(names);
    free(fds);
    return r;
}

int vd_image_open(const char *path, enum vd_format format, bool trust, struct vd_image **ret,
                  struct vd_error *err)
{
    struct open_call call = {.path = path, .format = format, .trust = trust};
    struct vd_image *img = image_new();
    if (!img)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = vd_offload(open_run, &call);
    img->graph = call.graph;
    if (r < 0 && err)
        *err = call.err;
    if (r == 0)
        r = serve_graph(img, err);
    if (r == 0 && img->size == 0)
        r = vd_fail(err, -EINVAL, "source-empty", "the source is empty");
    if (r < 0) {
        vd_image_free(img);
        return r;
    }
    *ret = img;
    return 0;
}

uint64_t vd_image_size(const struct vd_image *img)
{
    return img->size;
}

int vd_image_sockets(struct vd_image *img, int fds[VD_REMOTE_LINKS])
{
    int n = img->n_fds;
    memcpy(fds, img->fds, sizeof(*fds) * (size_t)n);
    img->n_fds = 0;
    return n;
}

/* A child that ends closes its connections first. */
#define END_NS UINT64_C(300000000)

void vd_image_explain(struct vd_image *img, struct vd_error *err)
{
    const char *names[3];
    struct vd_error why;
    if (img->aborted || !img->child || !vd_child_ended(img->child, END_NS))
        return;
    int n = image_names(img, names, VD_ARRAY_SIZE(names));
    if (vd_child_wait(img->child, names, n, &why) < 0)
        *err = why;
    else
        (void)vd_fail(err, -EIO, "child-failed",
                      "qemu-storage-daemon: it ended before its work was done: was it told to?");
}

void vd_image_abort(struct vd_image *img)
{
    img->aborted = true;
    if (img->child)
        vd_child_signal(img->child, SIGKILL);
}

void vd_image_free(struct vd_image *img)
{
    if (!img)
        return;
    for (int i = 0; i < img->n_fds; i++)
        close(img->fds[i]);
    vd_child_free(img->child);
    vd_graph_free(img->graph);
    if (img->fd >= 0)
        close(img->fd);
    if (img->temp)
        (void)unlink(img->temp);
    free(img->temp);
    free((void *)(uintptr_t)img->target.path);
    free((void *)(uintptr_t)img->target.subformat);
    free(img);
}
