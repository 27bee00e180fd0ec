/* SPDX-License-Identifier: MIT */
/*
 * The walk over the files of a foreign image.
 *
 * Invariants
 *  1. What is checked is what is used: a file is judged by the real path of its open descriptor,
 *     and the child is given that descriptor.
 *  2. No file is in the graph twice, so a chain ends.
 *
 * Blocking; called on offload threads.
 */
#include "foreign/graph_priv.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int graph_damaged(struct vd_graph *g, int file, const char *what, struct vd_error *err)
{
    return vd_fail(err, -EUCLEAN, "image-damaged", "%.200s is damaged: %s", g->files[file].path,
                   what);
}

int graph_unsupported(struct vd_graph *g, int file, const char *what, struct vd_error *err)
{
    return vd_fail(err, -EOPNOTSUPP, "image-unsupported", "%.200s cannot be read: %s",
                   g->files[file].path, what);
}

int graph_read(struct vd_graph *g, int file, uint64_t off, void *buf, size_t len,
               struct vd_error *err)
{
    size_t done = 0;
    while (done < len && off <= VD_VOLUME_MAX) {
        ssize_t n = pread(g->files[file].fd, (char *)buf + done, len - done, (off_t)(off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vd_fail(err, -errno, "copy-read", "cannot read %.200s: %s", g->files[file].path,
                           strerror(errno));
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return done == len ? 0 : graph_damaged(g, file, "it ends within its own header", err);
}

/* A name out of an image, fit to be shown in one line. */
static const char *shown(const char *name, char buf[160])
{
    snprintf(buf, 160, "%s", name);
    for (char *p = buf; *p; p++)
        if (!isprint((unsigned char)*p))
            *p = '?';
    return buf;
}

int graph_add(struct vd_graph *g, int fd, char *path, struct vd_error *err)
{
    struct stat st, other;
    int r = 0;
    if (!path)
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    else if (fstat(fd, &st) < 0)
        r = vd_fail(err, -errno, "copy-read", "cannot look at %.200s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        r = vd_fail(err, -EINVAL, "not-a-disk", "%.200s is neither a file nor a block device",
                    path);
    else if (g->n_files == VD_GRAPH_FILES)
        r = vd_fail(err, -EOPNOTSUPP, "image-unsupported",
                    "%.200s consists of more than %d files: use qemu-img to make it one",
                    g->files[0].path, VD_GRAPH_FILES);
    for (int i = 0; r == 0 && i < g->n_files; i++)
        if (fstat(g->files[i].fd, &other) == 0 && other.st_dev == st.st_dev &&
            other.st_ino == st.st_ino)
            r = vd_fail(err, -ELOOP, "image-loop", "%.200s refers to itself, through %.200s",
                        g->files[0].path, path);
    if (r < 0) {
        close(fd);
        free(path);
        return r;
    }
    g->files[g->n_files] =
        (struct vd_graph_file){.fd = fd, .path = path, .is_block = S_ISBLK(st.st_mode)};
    return g->n_files++;
}

static char *real_path(int fd)
{
    char link[40];
    char *path = malloc(PATH_MAX);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = path ? readlink(link, path, PATH_MAX - 1) : -1;
    if (n < 0) {
        free(path);
        return NULL;
    }
    path[n] = 0;
    return path;
}

static bool is_inside(const char *dir, const char *path)
{
    size_t n = strlen(dir);
    return strncmp(dir, path, n) == 0 && (path[n] == '/' || strcmp(dir, "/") == 0);
}

static char *dir_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash > path ? strndup(path, (size_t)(slash - path)) : strdup("/");
}

/* "nbd:...", "json:...": a scheme before the first slash. */
static bool has_protocol(const char *name)
{
    size_t n = strcspn(name, ":/");
    return name[n] == ':';
}

static int outside(struct vd_graph *g, int from, const char *name, struct vd_error *err)
{
    char text[160];
    return vd_fail(err, -EPERM, "image-outside",
                   "%.120s refers to %s, outside its own directory: if you trust the image, say "
                   "--trust-source",
                   g->files[from].path, shown(name, text));
}

static int cannot_open(struct vd_graph *g, int from, const char *name, int code,
                       struct vd_error *err)
{
    char text[160];
    return vd_fail(err, code, code == -ENOENT ? "image-incomplete" : "copy-read",
                   "%.120s refers to %s, which cannot be opened: %s", g->files[from].path,
                   shown(name, text), strerror(-code));
}

/* The real path of what `name` in the file `from` means; NULL with errno set. */
static char *resolve(struct vd_graph *g, int from, const char *name)
{
    char *path = NULL;
    char *dir = *name == '/' ? strdup("") : dir_of(g->files[from].path);
    errno = ENOMEM;
    int n = dir ? asprintf(&path, "%s%s%s", dir, *dir ? "/" : "", name) : -1;
    free(dir);
    if (n < 0)
        return NULL;
    char *real = realpath(path, NULL);
    free(path);
    return real;
}

int graph_follow(struct vd_graph *g, int from, const char *name, struct vd_error *err)
{
    char text[160];
    if (!*name)
        return graph_damaged(g, from, "a file that it refers to has no name", err);
    if (has_protocol(name))
        return vd_fail(err, -EPERM, "image-protocol",
                       "%.120s refers to \"%s\", and only plain files are followed",
                       g->files[from].path, shown(name, text));
    /* Before opening, for what lies outside is not even to be touched; and after it, for names can
     * change meanwhile. */
    char *real = resolve(g, from, name);
    if (!real) {
        int code = -errno;
        return !g->trust && *name == '/' && !is_inside(g->dir, name)
                   ? outside(g, from, name, err)
                   : cannot_open(g, from, name, code, err);
    }
    bool good = g->trust || is_inside(g->dir, real);
    int fd = good ? open(real, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    int code = -errno;
    free(real);
    if (!good)
        return outside(g, from, name, err);
    if (fd < 0)
        return cannot_open(g, from, name, code, err);
    char *opened = real_path(fd);
    if (opened && !g->trust && !is_inside(g->dir, opened)) {
        free(opened);
        close(fd);
        return outside(g, from, name, err);
    }
    return graph_add(g, fd, opened, err);
}

/* A differencing VHD has a parent that nobody reads for us. */
static int check_vpc(struct vd_graph *g, int file, struct vd_error *err)
{
    unsigned char footer[512];
    off_t end = lseek(g->files[file].fd, 0, SEEK_END);
    int r = graph_read(g, file, 0, footer, sizeof(footer), err);
    if (r == 0 && memcmp(footer, "conectix", 8) != 0 && end >= 512)
        r = graph_read(g, file, (uint64_t)end - 512, footer, sizeof(footer), err);
    if (r == 0 && footer[63] == 4)
        r = graph_unsupported(g, file, "it is a differencing VHD: merge it with its parent first",
                              err);
    return r;
}

int graph_node(struct vd_graph *g, int file, enum vd_format format, struct vd_error *err)
{
    /* Each node has a file of its own, so there is room. */
    int i = g->n_nodes++, r = 0;
    g->nodes[i] = (struct vd_graph_node){.format = format, .file = file, .data = -1, .backing = -1};
    if (format != VD_FORMAT_RAW && vd_format_look(g->files[file].fd) != format)
        return vd_fail(err, -EINVAL, "image-format", "%.200s is no %s image", g->files[file].path,
                       vd_format_name(format));
    if (format == VD_FORMAT_QCOW2)
        r = graph_qcow2(g, i, err);
    else if (format == VD_FORMAT_VMDK)
        r = graph_vmdk(g, i, err);
    else if (format == VD_FORMAT_VPC)
        r = check_vpc(g, file, err);
    if (r >= 0)
        r = graph_whole(g, file, format, g->nodes[i].data >= 0, err);
    return r < 0 ? r : i;
}

int vd_graph_open(const char *path, enum vd_format format, bool trust, struct vd_graph **ret,
                  struct vd_error *err)
{
    struct vd_graph *g = calloc(1, sizeof(*g));
    if (!g)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    g->trust = trust;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r = fd < 0
                ? vd_fail(err, -errno, "copy-read", "cannot open %.200s: %s", path, strerror(errno))
                : graph_add(g, fd, real_path(fd), err);
    if (r >= 0 && !(g->dir = dir_of(g->files[0].path)))
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    if (r >= 0)
        r = graph_node(g, 0, format, err);
    if (r < 0) {
        vd_graph_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

void vd_graph_free(struct vd_graph *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->n_files; i++) {
        close(g->files[i].fd);
        free(g->files[i].path);
    }
    free(g->dir);
    free(g);
}
