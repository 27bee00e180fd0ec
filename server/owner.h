/* SPDX-License-Identifier: MIT */
/*
 * The owner of a pool: the one process that has its devices locked. It holds the store, listens on
 * the control socket, runs requests (its own and those of clients), jobs and doors. An owner lives
 * on one loop and all its calls are made there.
 */
#ifndef VD_SERVER_OWNER_H
#define VD_SERVER_OWNER_H

#include "core/block/gate.h"
#include "core/io/stream.h"
#include "server/door.h"
#include "server/job.h"

#include <jansson.h>

#define VD_CALL_FDS 4

struct vd_owner_options {
    const char *name;    /* what this process calls itself: "vdisk serve" */
    struct vd_uuid uuid; /* the pool expected; nil = any */
    bool read_only;      /* shared lock, writes nothing */
    bool serving;        /* stays until told to end: takes every request, settles by itself */
    bool shared;         /* several doors may write one volume */
    bool listen;         /* others may send requests */
};

struct vd_owner {
    struct vd_loop *loop;
    struct vd_store *pool;  /* as it was attached */
    struct vd_gates *gates; /* of the doors, over that */
    struct vd_gate *gate;   /* the owner's own */
    struct vd_store *store; /* what that gives: to be used for everything */
    char *name;
    char *path; /* of the first device, as given */
    char *full_path;
    uint64_t st_dev, st_ino;
    bool read_only, serving;
    bool closing;    /* takes no more requests; those it took may still begin jobs */
    bool cutting;    /* nor that */
    bool takes_jobs; /* a one-shot owner that runs a job itself takes others' jobs too */
    struct vd_listener *listener;
    struct vd_list sessions;
    struct vd_group session_group;
    struct vd_list jobs;
    struct vd_group job_group;
    unsigned next_job;
    struct vd_list doors;
    uint64_t volume_changes; /* how often volumes came, went or changed their names */
    struct vd_group door_group; /* those being closed */
    void (*on_door_closed)(struct vd_owner *o); /* set by whoever serves, or NULL */
    struct vd_waitq settle; /* wakes the fiber that looks after background work */
    bool settling;
    struct vd_waitq idle; /* wakes the fiber that lets go of memory */
    char pool_name[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
};

/* One request on its way through an owner. */
struct vd_call {
    struct vd_owner *owner;
    json_t *args;         /* borrowed */
    int fds[VD_CALL_FDS]; /* -1 once a handler has taken it */
    int nfds;
    /* Tells the client something; takes the reference. 0 or -errno when nobody listens. VD_YIELDS
     */
    int (*emit)(void *arg, json_t *event);
    void *arg;
    bool cancelled;
    struct vd_waitq *wake; /* woken when `cancelled` is set; the running job's queue, or NULL */
};

/* Opens `path` and what it is a member of. -EBUSY "in-use" when somebody else has it. VD_YIELDS */
int vd_owner_open(const char *path, const struct vd_owner_options *opt, struct vd_owner **ret,
                  struct vd_error *err);
/* Ends it in order: no new requests, running ones and jobs finished (`cut`: cancelled, held over
 * where they can be resumed), doors drained, pool closed. Frees it whatever it returns. VD_YIELDS
 */
int vd_owner_close(struct vd_owner *o, bool cut, struct vd_error *err);

/* Runs `command`. *ret is an object, the caller's. Descriptors not taken are closed. VD_YIELDS */
int vd_call_run(struct vd_call *call, const char *command, json_t **ret, struct vd_error *err);
void vd_call_cancel(struct vd_call *call);
enum vd_command_flags {
    VD_COMMAND_WRITES = 1, /* needs the pool writable */
    VD_COMMAND_JOB = 2,    /* may take long */
    VD_COMMAND_OWNER =
        4, /* about the owner: asks it if there is one, even where the lock is shared */
};
/* Flags of a command, -ENOENT for one that is not known. */
int vd_command_flags(const char *command);

#endif
