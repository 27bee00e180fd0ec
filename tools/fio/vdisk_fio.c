/* SPDX-License-Identifier: MIT */
/*
 * An engine for fio over libvdisk: what the store does without a socket and a second process.
 *
 *     fio --ioengine=external:build/tools/fio/vdisk_fio.so --target=disk.vdk --thread ...
 *
 * A request is a call that blocks, so fio's iodepth counts for nothing: --numjobs=N keeps N under
 * way. With --sync=1 a write is durable before it counts as done.
 *
 * 1. A pool has one owner: all jobs of a target share one handle, opened by the first and closed by
 *    the last, under the lock. Jobs must therefore be threads.
 *
 * fio calls this from the threads of its jobs; the headers are those of fio's source, which is
 * named by -Dfio_source (Debian has no package of them).
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <vdisk.h>

#include "fio.h"
#include "optgroup.h"

struct engine_options {
    void *pad; /* fio takes offset 0 for "no option" */
    char *target;
};

static struct fio_option options[] = {
    {
        .name = "target",
        .lname = "vdisk target",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct engine_options, target),
        .help = "POOL[:VOLUME][@SNAPSHOT]",
        .category = FIO_OPT_C_ENGINE,
        .group = FIO_OPT_G_INVALID,
    },
    {.name = NULL},
};

struct shared {
    struct shared *next;
    char *target;
    struct vdisk *disk;
    unsigned users;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct shared *all;

static struct shared *shared_find(const char *target)
{
    struct shared *s = all;
    while (s && strcmp(s->target, target) != 0)
        s = s->next;
    return s;
}

static struct shared *shared_open(const char *target)
{
    struct vdisk_error err;
    struct shared *s = calloc(1, sizeof(*s));
    if (!s || !(s->target = strdup(target))) {
        log_err("vdisk: out of memory\n");
        free(s);
        return NULL;
    }
    if (vdisk_open(target, 0, &s->disk, &err) < 0) {
        log_err("vdisk: %s\n", err.message);
        free(s->target);
        free(s);
        return NULL;
    }
    s->next = all;
    all = s;
    return s;
}

static struct shared *shared_get(const char *target)
{
    pthread_mutex_lock(&lock);
    struct shared *s = shared_find(target);
    if (!s)
        s = shared_open(target);
    if (s)
        s->users++;
    pthread_mutex_unlock(&lock);
    return s;
}

static void shared_put(struct shared *s)
{
    struct vdisk_error err;
    pthread_mutex_lock(&lock);
    if (--s->users == 0) {
        struct shared **at = &all;
        while (*at != s)
            at = &(*at)->next;
        *at = s->next;
        if (vdisk_close(s->disk, &err) < 0)
            log_err("vdisk: %s\n", err.message);
        free(s->target);
        free(s);
    }
    pthread_mutex_unlock(&lock);
}

/* In the main thread: the size of the target, as of a file that fio may use. */
static int engine_setup(struct thread_data *td)
{
    struct engine_options *o = td->eo;
    if (!o->target || !td->o.use_thread) {
        log_err("vdisk: --target names what to open, and --thread is needed\n");
        return 1;
    }
    if (!td->files_index) {
        add_file(td, "vdisk", 0, 0);
        td->o.nr_files = 1;
        td->o.open_files++;
    }
    struct shared *s = shared_get(o->target);
    if (!s)
        return 1;
    td->files[0]->real_file_size = vdisk_size(s->disk);
    shared_put(s);
    return 0;
}

static int engine_init(struct thread_data *td)
{
    struct engine_options *o = td->eo;
    td->io_ops_data = shared_get(o->target);
    return td->io_ops_data ? 0 : 1;
}

static void engine_cleanup(struct thread_data *td)
{
    if (td->io_ops_data)
        shared_put(td->io_ops_data);
    td->io_ops_data = NULL;
}

static enum fio_q_status engine_queue(struct thread_data *td, struct io_u *io_u)
{
    struct shared *s = td->io_ops_data;
    int r = -EOPNOTSUPP;
    fio_ro_check(td, io_u);
    if (io_u->ddir == DDIR_READ)
        r = vdisk_pread(s->disk, io_u->xfer_buf, io_u->xfer_buflen, io_u->offset);
    else if (io_u->ddir == DDIR_WRITE)
        r = (td->o.sync_io ? vdisk_pwrite_fua : vdisk_pwrite)(s->disk, io_u->xfer_buf,
                                                              io_u->xfer_buflen, io_u->offset);
    else if (io_u->ddir == DDIR_TRIM)
        r = vdisk_discard(s->disk, io_u->xfer_buflen, io_u->offset);
    else if (ddir_sync(io_u->ddir))
        r = vdisk_flush(s->disk);
    io_u->error = r < 0 ? (unsigned)-r : 0;
    return FIO_Q_COMPLETED;
}

static int engine_open_file(struct thread_data *td, struct fio_file *f)
{
    return 0;
}

static int engine_invalidate(struct thread_data *td, struct fio_file *f)
{
    return 0;
}

/* fio looks for this name. */
__attribute__((visibility("default"))) struct ioengine_ops ioengine;
struct ioengine_ops ioengine = {
    .name = "vdisk",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_SYNCIO | FIO_DISKLESSIO | FIO_NOEXTEND | FIO_NODISKUTIL,
    .setup = engine_setup,
    .init = engine_init,
    .cleanup = engine_cleanup,
    .queue = engine_queue,
    .open_file = engine_open_file,
    .invalidate = engine_invalidate,
    .options = options,
    .option_struct_size = sizeof(struct engine_options),
};
