/* SPDX-License-Identifier: MIT */
/*
 * Inside the FUSE door. Names begin with f and a noun (fnode, fdisk, fjob), for fuse_ is libfuse's.
 *
 * Requests are taken from /dev/fuse by one fiber (server.c), which never waits for a disk; each
 * becomes a job (job.c) that a worker fiber runs and answers. Files and directories are nodes
 * (node.c), what is open in the store is an fdisk (disk.c), an open file is an fhandle (file.c).
 */
#ifndef VD_FUSE_FUSE_PRIV_H
#define VD_FUSE_FUSE_PRIV_H

#define FUSE_USE_VERSION 312
#include "core/base/uuid.h"
#include "core/block/disk.h"
#include "core/io/readiness.h"
#include "fuse/fuse.h"

#include <fuse3/fuse_lowlevel.h>
#include <time.h>

/* Largest read or write: what the kernel lets a file system have. */
#define FUSE_DATA_MAX VD_MIB(1)
/* A request is received so that a write's data, which follow two headers, lie on a page. */
#define FUSE_LARGE_LEN (VD_BLOCK + FUSE_DATA_MAX + VD_BLOCK)
#define FUSE_SMALL_LEN VD_KIB(64)
/* Buffers kept for the next request. */
#define FUSE_SMALL_KEEP 128u
#define FUSE_LARGE_KEEP 16u
#define FUSE_WORKERS_MAX 128u
/* No more is received while so much is under way; one request of any size always is. */
#define FUSE_IN_FLIGHT_MAX 512u
#define FUSE_HELD_MAX VD_MIB(64)
#define FUSE_BACKGROUND_MAX 256u
#define FUSE_NODE_BUCKETS 64u
#define FUSE_PARTS_MAX 256u

enum fkind { F_ROOT, F_VOLUME, F_SNAPSHOTS, F_SNAPSHOT, F_PARTITIONS, F_DISK, F_PART };

/* What a node is, apart from its names, which may change: nil where it does not apply. */
struct fkey {
    enum fkind kind;
    unsigned part;
    struct vd_uuid volume, snapshot;
};

/* A file or directory that the kernel knows of, or that we need. Its address is the kernel's
 * number for it, so it stays while either has a hold. */
struct fnode {
    struct vd_list link; /* in its bucket */
    struct fkey key;
    uint64_t ino;
    uint64_t lookups; /* the kernel's holds */
    unsigned refs;    /* ours */
    char volume[VD_NAME_MAX + 1];
    char snapshot[VD_NAME_MAX + 1]; /* "" below the live volume */
    uint64_t start, len;            /* of a partition */
    struct timespec mtime;          /* of the last write through this mount; 0 = none */
    bool cached;                    /* the kernel may have pages of it */
    uint64_t usage, usage_ns;       /* as it was counted last, and when; 0 = never */
};

/* What the store says of a node just now. */
struct finfo {
    uint64_t size;
    uint64_t usage;     /* bytes its view maps */
    uint64_t exclusive; /* bytes that would be freed with it */
    uint64_t created_s;
    unsigned snapshots;
    bool read_only;
};

/* A volume or snapshot that is open in the store, once for reading and once for writing at most. */
struct fdisk {
    struct vd_list link;
    struct vd_fuse_server *server;
    struct vd_disk *disk; /* NULL once it is gone */
    struct vd_disk_watch watch;
    struct vd_uuid volume, snapshot;
    char export[2 * VD_NAME_MAX + 2];
    bool writable;
    bool gone;
    unsigned opens; /* handles */
    unsigned users; /* jobs under way */
    struct vd_list holds;
    unsigned rmw; /* of them read-modify-writes */
    struct vd_waitq released;
    /* For vd_fuse_clients. */
    char peer[40];
    uint64_t connected_s, requests, read_bytes, write_bytes;
};

struct fhandle {
    struct vd_list link;
    unsigned refs;
    struct fnode *node;
    struct fdisk *disk;
    uint64_t start, len; /* of a partition; len 0 = the whole disk, as long as it is */
};

struct fjob {
    struct vd_list link;
    struct vd_fuse_server *server;
    fuse_req_t req;
    void (*run)(struct fjob *j);
    struct fnode *node;
    struct fhandle *h, *to; /* an open file; copy_file_range's second */
    void *buf;              /* small or large */
    size_t buf_len;
    uint8_t *data;
    uint64_t off, len, to_off;
    size_t held;
    int mode, flags; /* of fallocate, lseek, open; what setattr sets */
    struct timespec mtime;
    pid_t pid;
    char name[VD_NAME_MAX + 1];
};

struct fworker {
    struct vd_list link;
    struct vd_fuse_server *server;
    struct vd_fiber *fiber;
    struct fjob *job;
};

struct vd_fuse_server {
    struct vd_loop *loop;
    struct vd_store *store;
    unsigned flags;
    char *mountpoint;
    struct fuse_session *session;
    bool mounted, ended, stopping, closing;
    struct vd_poll poll;
    uint64_t init_unique;  /* the request that begins a session, until it is answered */
    uint64_t init_offered; /* what the kernel can do */
    void (*end_fn)(void *arg);
    void *end_arg;
    uid_t uid;
    gid_t gid;
    mode_t mask; /* permissions that nobody gets */
    uint64_t start_s;
    struct fnode root;
    struct vd_list nodes[FUSE_NODE_BUCKETS];
    struct vd_list disks, handles, listings;
    struct vd_list work, idle, free_jobs;
    unsigned n_workers, n_free_jobs;
    unsigned in_flight;
    size_t held;
    struct vd_waitq room_q;
    void *received; /* large: the buffer that requests are received in */
    void *small, *large;
    unsigned n_small, n_large;
    struct vd_list stale; /* struct fstale */
    unsigned n_stale;
    struct vd_waitq stale_q;
    struct vd_group fibers;
};

/* thread.c: runs fn(arg) where it may be held up until this server has answered. VD_YIELDS */
int fthread_run(int (*fn)(void *arg), void *arg);

/* mount.c: everything here may block, for paths may lead through mounts that we serve ourselves. */
/* The full path, when something can be mounted there; to be freed. */
int fmount_check(const char *path, char **ret, struct vd_error *err);
int fmount_mount(struct fuse_session *session, const char *path, struct vd_error *err);
/* Writes back what the kernel holds of the files, and unmounts, lazily where it must. */
void fmount_unmount(const char *path);

/* session.c: what libfuse does not know of the kernel's newer features. */
int fsession_new(struct vd_fuse_server *s, struct vd_error *err);
int fsession_tune(struct vd_fuse_server *s);

/* job.c */
int fworkers_start(struct vd_fuse_server *s);
void fworkers_stop(struct vd_fuse_server *s);
void *fbuf_get(struct vd_fuse_server *s, size_t len);
void fbuf_put(struct vd_fuse_server *s, void *buf, size_t len);
void fjobs_free(struct vd_fuse_server *s);
/* A job for a request, with holds on what it names; NULL: it was answered with ENOMEM. */
struct fjob *fjob_new(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                      void (*run)(struct fjob *j));
/* `held` bytes of memory will be needed for it. */
void fjob_push(struct fjob *j, size_t held);
void fjob_buf_free(struct fjob *j);
/* After it was answered. Takes back its holds, which may close a disk. VD_YIELDS */
void fjob_free(struct fjob *j);
/* Answers and frees it: 0 or -errno. VD_YIELDS */
void fjob_done(struct fjob *j, int r);
/* What a program gets for our -errno. */
int fuse_errno(int r);

/* ops.c: the requests, as libfuse hands them over. */
extern const struct fuse_lowlevel_ops fops;

/* node.c */
void fnodes_init(struct vd_fuse_server *s);
void fnodes_free(struct vd_fuse_server *s);
struct fnode *fnode_of(struct vd_fuse_server *s, fuse_ino_t ino);
fuse_ino_t fnode_id(const struct fnode *n);
void fnode_ref(struct fnode *n);
void fnode_unref(struct fnode *n);
void fnode_forget(struct vd_fuse_server *s, fuse_ino_t ino, uint64_t n);
struct fnode *fnode_find(struct vd_fuse_server *s, const struct fkey *key);
/* With a hold. NULL = no memory. */
struct fnode *fnode_get(struct vd_fuse_server *s, const struct fkey *key, const char *volume,
                        const char *snapshot);
uint64_t fnode_ino(const struct fkey *key);
static inline bool fnode_is_file(const struct fnode *n)
{
    return n->key.kind == F_DISK || n->key.kind == F_PART;
}

/* attr.c */
/* -ENOENT when the volume or snapshot is gone, or another one has its name. VD_YIELDS */
int finfo_get(struct vd_fuse_server *s, const struct fnode *n, struct finfo *ret);
void finfo_stat(struct vd_fuse_server *s, const struct fnode *n, const struct finfo *info,
                struct stat *ret);
void fattr_get(struct fjob *j);
void fattr_set(struct fjob *j);
void fattr_statfs(struct fjob *j);
void fattr_xattr_get(struct fjob *j);
void fattr_xattr_list(struct fjob *j);

/* dir.c */
void fdir_lookup(struct fjob *j);
void fdir_mkdir(struct fjob *j);
void fdir_rmdir(struct fjob *j);
void fdir_open(struct fjob *j);
/* A directory's entries as they were when it was opened; `handle` is what fdir_open made. */
void fdir_read(fuse_req_t req, uint64_t handle, size_t size, off_t off);
void fdir_release(uint64_t handle);
void fdirs_free(struct vd_fuse_server *s);

/* part.c */
struct fpart {
    unsigned number;
    uint64_t start, len; /* bytes, inside the disk */
};
/* To be freed; *n of them, at most FUSE_PARTS_MAX. VD_YIELDS */
int fpart_read(struct vd_disk *disk, struct fpart **ret, unsigned *n);
/* The same for a node below the volume or snapshot. VD_YIELDS */
int fpart_list(struct vd_fuse_server *s, const struct fnode *n, struct fpart **ret, unsigned *cnt);

/* disk.c */
/* Opens it, or takes the one that is open. VD_YIELDS */
int fdisk_open(struct vd_fuse_server *s, const struct fnode *n, bool writable, pid_t pid, uid_t uid,
               struct fdisk **ret);
void fdisk_close(struct fdisk *d); /* VD_YIELDS */
/* Around every use: -ENODEV once it is gone. */
int fdisk_enter(struct fdisk *d);
void fdisk_leave(struct fdisk *d); /* VD_YIELDS */
uint64_t fdisk_size(const struct fdisk *d);
/* Any offset and length inside the disk. VD_YIELDS */
int fdisk_read(struct fdisk *d, uint64_t off, void *buf, size_t len);
int fdisk_write(struct fdisk *d, uint64_t off, const void *buf, size_t len);
int fdisk_zero(struct fdisk *d, uint64_t off, uint64_t len, unsigned flags);
/* Are there others of this volume or snapshot? Then the kernel's pages are up to date. */
bool fdisk_is_open(struct vd_fuse_server *s, const struct fnode *n);

/* file.c */
void ffile_open(struct fjob *j);
void ffile_release(struct fjob *j);
void ffile_read(struct fjob *j);
void ffile_write(struct fjob *j);
void ffile_fsync(struct fjob *j);
void fhandle_unref(struct fhandle *h); /* VD_YIELDS */
/* Those that the kernel will not release any more: there is no connection. VD_YIELDS */
void fhandles_free(struct vd_fuse_server *s);
/* Where the file's byte `off` lies on the disk, and how much of `len` is inside the file. */
uint64_t fhandle_clip(const struct fhandle *h, uint64_t off, uint64_t *len);
uint64_t fhandle_size(const struct fhandle *h);
/* To be called for every change, before it is answered: the job is finished by it, with `r`, or
 * with `count` bytes that were written. VD_YIELDS */
void ffile_changed(struct fjob *j, const struct fhandle *h, uint64_t off, uint64_t len, int r,
                   size_t count);

/* space.c */
void fspace_allocate(struct fjob *j);
void fspace_seek(struct fjob *j);
void fspace_copy(struct fjob *j);

/* stale.c: pages and attributes in the kernel that are no longer true. */
int fstale_start(struct vd_fuse_server *s);
/* The kernel drops [off, off + len) of the node (len 0: to the end, and its attributes). With a
 * job: it is answered after that, with `count` bytes written, or 0 if `count` is 0. */
void fstale_push(struct fnode *n, struct vd_fuse_server *s, uint64_t off, uint64_t len,
                 struct fjob *j, size_t count);
/* All of a volume's or snapshot's files. */
void fstale_disk(struct fdisk *d);
/* Waits until there are none and takes no more. VD_YIELDS */
void fstale_stop(struct vd_fuse_server *s);

#endif
