/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing a pool as its owner. States: open -> closing -> gone; in closing no request
 * begins. The order of closing: listener, sessions, jobs, doors, store; so nothing uses the store
 * when it is detached. Called by the client side (one-shot) and by serve; yields.
 */
#include "server/owner.h"

#include "core/base/log.h"
#include "server/access.h"
#include "server/idle_priv.h"
#include "server/request_priv.h"
#include "server/runtime.h"
#include "server/session_priv.h"
#include "server/settle_priv.h"
#include "snapshot/snapshot.h"

#include <stdlib.h>
#include <sys/stat.h>

static void owner_free(struct vd_owner *o)
{
    vd_jobs_free(o);
    vd_gate_free(o->gate);
    vd_gates_free(o->gates);
    free(o->name);
    free(o->path);
    free(o->full_path);
    free(o);
}

static struct vd_owner *owner_new(const char *path, const struct vd_owner_options *opt)
{
    struct vd_owner *o = calloc(1, sizeof(*o));
    if (!o)
        return NULL;
    o->loop = vd_loop_current();
    o->read_only = opt->read_only;
    o->serving = opt->serving;
    o->next_job = 1;
    vd_list_init(&o->sessions);
    vd_list_init(&o->jobs);
    vd_list_init(&o->doors);
    vd_group_init(&o->session_group);
    vd_group_init(&o->job_group);
    vd_group_init(&o->door_group);
    vd_waitq_init(&o->settle);
    vd_waitq_init(&o->idle);
    o->name = strdup(opt->name);
    o->path = strdup(path);
    o->full_path = realpath(path, NULL);
    if (!o->full_path)
        o->full_path = strdup(path);
    if (o->name && o->path && o->full_path)
        return o;
    owner_free(o);
    return NULL;
}

/* The path was given for a certain pool: it must be that one. */
static int check_uuid(const struct vd_owner *o, struct vd_dev *dev, const struct vd_uuid *want,
                      struct vd_error *err)
{
    struct vd_identity id;
    if (vd_uuid_is_nil(want))
        return 0;
    int r = vd_pool_identify(dev, &id, err);
    if (r < 0)
        return r;
    if (vd_uuid_equal(&id.pool_uuid, want))
        return 0;
    char is[VD_UUID_TEXT], wanted[VD_UUID_TEXT];
    vd_uuid_format(&id.pool_uuid, is);
    vd_uuid_format(want, wanted);
    return vd_fail(err, -ENODEV, "wrong-pool",
                   "%s holds pool %s, but %s is registered: attach it again, or give the path",
                   o->path, is, wanted);
}

static void volumes_changed(void *arg)
{
    vd_doors_refresh(arg);
}

static int owner_gates(struct vd_owner *o, struct vd_error *err)
{
    int r = vd_gates_new(o->pool, volumes_changed, o, &o->gates);
    if (r == 0)
        r = vd_gate_new(o->gates, NULL, &o->gate);
    if (r < 0)
        return vd_fail(err, r, "no-memory", "out of memory");
    o->store = vd_gate_store(o->gate);
    return 0;
}

static int owner_attach(struct vd_owner *o, const struct vd_uuid *want, struct vd_error *err)
{
    struct vd_dev *dev;
    struct vd_dev_info di;
    struct stat st;
    int r = stat(o->path, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : 0;
    if (r == 0)
        r = vd_dev_open(o->path, o->read_only ? VD_DEV_RDONLY : 0, &dev, err);
    if (r == -EBUSY)
        return r;
    if (r < 0)
        return vd_access_explain(o->path, !o->read_only, r, err);
    vd_dev_info(dev, &di);
    o->st_dev = di.st_dev;
    o->st_ino = di.st_ino;
    r = check_uuid(o, dev, want, err);
    if (r < 0) {
        vd_dev_close(dev);
        return r;
    }
    r = vd_store_attach(&dev, 1, o->read_only ? VD_ATTACH_RDONLY : 0, &o->pool, err);
    if (r < 0) {
        if (err && !strstr(err->message, o->path))
            vd_fail_at(err, err->code ? err->code : r, "%s", o->path);
        return r;
    }
    struct vd_store_info info;
    r = owner_gates(o, err);
    if (r == 0) {
        r = vd_store_info(o->store, &info);
        if (r < 0)
            vd_fail(err, r, "pool-failed", "%s: %s", o->path, strerror(-r));
    }
    if (r < 0) {
        (void)vd_store_detach(o->pool, NULL);
        return r;
    }
    memcpy(o->pool_name, info.name, sizeof(o->pool_name));
    o->uuid = info.uuid;
    return 0;
}

static int owner_listen(struct vd_owner *o, struct vd_error *err)
{
    char *dir = NULL, *path = NULL, *address = NULL;
    int r = vd_runtime_dir(true, &dir, err);
    if (r == 0 && (!(path = vd_runtime_path(dir, o->st_dev, o->st_ino, ".sock")) ||
                   asprintf(&address, "unix:%s", path) < 0))
        r = vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    if (r == 0)
        r = vd_listen(address, &o->listener, err);
    if (r == 0) {
        r = sessions_start(o, err);
        if (r < 0)
            vd_listener_close(o->listener);
    }
    if (r < 0)
        o->listener = NULL;
    free(address);
    free(path);
    free(dir);
    return r;
}

int vd_owner_open(const char *path, const struct vd_owner_options *opt, struct vd_owner **ret,
                  struct vd_error *err)
{
    struct vd_owner *o = owner_new(path, opt);
    if (!o)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    int r = owner_attach(o, &opt->uuid, err);
    if (r < 0) {
        owner_free(o);
        return r;
    }
    if (opt->listen) {
        struct vd_error why = {0};
        r = owner_listen(o, &why);
        /* A server must be reachable. A short command goes on; others wait for its end instead. */
        if (r < 0 && opt->serving && !(r == -EADDRINUSE && o->read_only)) {
            if (err)
                *err = why;
            (void)vd_store_detach(o->pool, NULL);
            owner_free(o);
            return r;
        }
        if (r < 0)
            vd_log(VD_LOG_DEBUG, "no control socket: %s", why.message);
    }
    if (opt->serving && !opt->read_only)
        (void)settle_start(o); /* without it the work is done by the next command */
    if (opt->serving)
        (void)idle_start(o);
    vd_gates_share(o->gates, opt->shared);
    *ret = o;
    return 0;
}

int vd_owner_close(struct vd_owner *o, bool cut, struct vd_error *err)
{
    o->closing = true;
    o->cutting = cut;
    if (o->listener)
        vd_listener_close(o->listener);
    settle_kick(o);
    idle_kick(o);
    if (cut)
        vd_jobs_interrupt(o);
    sessions_stop(o, cut);
    vd_group_wait(&o->job_group);
    vd_doors_close(o);
    int r = vd_store_detach(o->pool, err);
    owner_free(o);
    return r;
}
