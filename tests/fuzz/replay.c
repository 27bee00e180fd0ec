/* SPDX-License-Identifier: MIT */
/* Runs a fuzz target over files and the files in directories: the corpora as ordinary tests. Each
 * input is also run cut short, in a buffer of just its size. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

static unsigned inputs;

static int run_file(const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) < 0)
        return -errno;
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size + 1);
    if (!data || fread(data, 1, size, f) != size)
        return -EIO;
    fclose(f);
    for (size_t len = size;; len /= 2) {
        uint8_t *exact = malloc(len ? len : 1);
        if (!exact)
            return -ENOMEM;
        memcpy(exact, data, len);
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
        if (len == 0)
            break;
    }
    free(data);
    inputs++;
    return 0;
}

static int run_path(const char *path)
{
    struct stat st;
    int r = 0;

    if (stat(path, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return run_file(path);
    DIR *d = opendir(path);
    if (!d)
        return -errno;
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        char *file;
        if (asprintf(&file, "%s/%s", path, e->d_name) < 0)
            abort();
        r = run_path(file);
        free(file);
    }
    closedir(d);
    return r;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int r = run_path(argv[i]);
        if (r < 0) {
            fprintf(stderr, "%s: %s\n", argv[i], strerror(-r));
            return 1;
        }
    }
    printf("%u inputs\n", inputs);
    return inputs ? 0 : 1;
}
