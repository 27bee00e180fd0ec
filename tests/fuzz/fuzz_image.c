/* SPDX-License-Identifier: MIT */
/*
 * Images of other programs: what they say of themselves, the files they refer to, and whether they
 * are whole. The first byte chooses the format, the next two say how much of the end of the input
 * is a second file, "b", which the first may refer to; of a VHDX the first is what lies behind its
 * first tables. Whatever they hold: refused with one line, or a graph of files of their own
 * directory.
 */
#include "foreign/graph.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define HEAD 3

static char dir[32];
static int file[2];

static void forget(void)
{
    char path[64];
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof(path), "%s/%c", dir, "ab"[i]);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

/* Two files in a directory of their own, in memory; they live as long as the process. */
static void prepare(void)
{
    char path[64];
    (void)snprintf(dir, sizeof(dir), "%s/fuzz-image-XXXXXX", fuzz_tmp());
    fuzz_check(mkdtemp(dir) && atexit(forget) == 0);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof(path), "%s/%c", dir, "ab"[i]);
        file[i] = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        fuzz_check(file[i] >= 0);
    }
}

static void put(int fd, enum vd_format format, const uint8_t *data, size_t size)
{
    bool vhdx = format == VD_FORMAT_VHDX;
    fuzz_check(ftruncate(fd, 0) == 0);
    if (vhdx)
        fuzz_check(ftruncate(fd, VD_KIB(384)) == 0 && pwrite(fd, "vhdxfile", 8, 0) == 8);
    fuzz_check(pwrite(fd, data, size, vhdx ? (off_t)VD_KIB(192) : 0) == (ssize_t)size);
}

static void check_graph(const struct vd_graph *g)
{
    size_t len = strlen(dir);
    fuzz_check(g->n_files > 0 && g->n_files <= VD_GRAPH_FILES);
    fuzz_check(g->n_nodes > 0 && g->n_nodes <= g->n_files);
    for (int i = 0; i < g->n_files; i++) {
        const char *path = g->files[i].path;
        fuzz_check(strncmp(path, dir, len) == 0 && path[len] == '/');
        fuzz_check(fcntl(g->files[i].fd, F_GETFD) == FD_CLOEXEC);
    }
    for (int i = 0; i < g->n_nodes; i++) {
        const struct vd_graph_node *n = &g->nodes[i];
        fuzz_check(n->format < VD_FORMAT_COUNT && n->file >= 0 && n->file < g->n_files);
        fuzz_check(n->data >= -1 && n->data < g->n_files);
        fuzz_check(n->backing == -1 || (n->backing > i && n->backing < g->n_nodes));
    }
}

static void check_error(const struct vd_error *err, int code)
{
    fuzz_check(err->code == code && err->id[0] && err->message[0]);
    for (const char *p = err->message; *p; p++)
        fuzz_check((unsigned char)*p >= ' ' && (unsigned char)*p != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct vd_graph *g;
    struct vd_error err = {0};
    if (size < HEAD)
        return 0;
    if (!*dir)
        prepare();
    enum vd_format format = data[0] % VD_FORMAT_COUNT;
    size_t second = VD_MIN((size_t)data[1] << 8 | data[2], size - HEAD);
    put(file[0], format, data + HEAD, size - HEAD - second);
    put(file[1], VD_FORMAT_RAW, data + size - second, second);
    (void)vd_format_look(file[0]);
    (void)snprintf(path, sizeof(path), "%s/a", dir);
    int r = vd_graph_open(path, format, false, &g, &err);
    if (r < 0) {
        check_error(&err, r);
        return 0;
    }
    check_graph(g);
    vd_graph_free(g);
    return 0;
}
