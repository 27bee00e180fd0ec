/* SPDX-License-Identifier: MIT */
/* Files of clients' keys: any bytes give keys, or one line that quotes nothing of them. */
#include "core/codec/tls.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>

#define SECRET 8 /* bytes that a message could have only from the file */

static char path[40];
static int file;

static void forget(void)
{
    (void)unlink(path);
}

static void check_error(const struct vd_error *err, int code, const uint8_t *data, size_t size)
{
    size_t len = strlen(err->message);
    fuzz_check(err->code == code && err->id[0] && len);
    for (size_t i = 0; i < len; i++)
        fuzz_check((unsigned char)err->message[i] >= ' ' && err->message[i] != 0x7f);
    /* After the path; behind a colon keys begin. */
    const uint8_t *colon = size ? memchr(data, ':', size) : NULL;
    if (colon && (size_t)(data + size - colon) > SECRET)
        fuzz_check(!memmem(err->message, len, colon, SECRET + 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vd_tls *tls;
    struct vd_error err = {0};
    if (!*path) {
        (void)snprintf(path, sizeof(path), "%s/fuzz-keys-XXXXXX", fuzz_tmp());
        file = mkostemp(path, O_CLOEXEC);
        fuzz_check(file >= 0 && atexit(forget) == 0);
    }
    fuzz_check(ftruncate(file, 0) == 0);
    fuzz_check(pwrite(file, data, size, 0) == (ssize_t)size);
    const struct vd_tls_files files = {.psk_file = path};
    int r = vd_tls_load(&files, &tls, &err);
    if (r < 0) {
        check_error(&err, r, data, size);
        return 0;
    }
    fuzz_check(size > 32 && vd_tls_knows_clients(tls));
    vd_tls_free(tls);
    return 0;
}
