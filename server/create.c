/* SPDX-License-Identifier: MIT */
/*
 * Making pools.
 *
 * 1. An existing path is refused unless asked for, and one that holds anything unless forced.
 * 2. On failure a file that was made is removed; one that was there stays, if perhaps overwritten.
 *
 * Called by cli/; yields.
 */
#include "server/create.h"

#include "core/base/hash.h"
#include "core/base/text.h"
#include "server/access.h"
#include "snapshot/snapshot.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK VD_KIB(128) /* of each end is looked at for other people's data */

static const struct signature {
    const char *name;
    unsigned off, len;
    const char *bytes;
} signatures[] = {
    {"a GPT partition table", 512, 8, "EFI PART"},
    {"an ext2, ext3 or ext4 file system", 0x438, 2, "\x53\xef"},
    {"an XFS file system", 0, 4, "XFSB"},
    {"a btrfs file system", 0x10040, 8, "_BHRfS_M"},
    {"a LUKS volume", 0, 6, "LUKS\xba\xbe"},
    {"an LVM physical volume", 512, 8, "LABELONE"},
    {"swap space", 4086, 10, "SWAPSPACE2"},
    {"a qcow2 image", 0, 4, "QFI\xfb"},
    {"a boot sector or partition table", 510, 2, "\x55\xaa"},
};

/* What is on the device, NULL when both ends are zero. */
static const char *look(struct vd_dev *dev, char *buf, int *ret_error)
{
    struct vd_dev_info info;
    struct vd_identity id;
    vd_dev_info(dev, &info);
    uint64_t head = VD_ROUND_DOWN(VD_MIN(LOOK, info.size), VD_BLOCK);
    *ret_error = 0;
    if (info.size == 0)
        return NULL;
    if (vd_pool_identify(dev, &id, NULL) == 0)
        return "a vdisk pool";
    memset(buf, 0, LOOK);
    int r = head ? vd_dev_read(dev, 0, buf, head) : 0;
    if (r < 0) {
        *ret_error = r;
        return NULL;
    }
    for (size_t i = 0; i < VD_ARRAY_SIZE(signatures); i++)
        if (memcmp(buf + signatures[i].off, signatures[i].bytes, signatures[i].len) == 0)
            return signatures[i].name;
    if (head && !vd_is_zero(buf, head))
        return "data";
    if (head < LOOK) /* a file with an end that is not a whole block, or nothing else */
        return info.size % VD_BLOCK ? "data" : NULL;
    r = vd_dev_read(dev, VD_ROUND_DOWN(info.size, VD_BLOCK) - LOOK, buf, LOOK);
    if (r < 0) {
        *ret_error = r;
        return NULL;
    }
    return vd_is_zero(buf, LOOK) ? NULL : "data";
}

static int check_empty(const char *path, struct vd_dev *dev, struct vd_error *err)
{
    int r;
    char *buf = vd_alloc_aligned(LOOK);
    if (!buf)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    const char *found = look(dev, buf, &r);
    if (found)
        r = vd_fail(err, -EBUSY, "holds-data", "%s holds %s, which would be lost", path, found);
    else if (r < 0)
        vd_fail(err, r, "read-failed", "cannot read %s: %s", path, strerror(-r));
    free(buf);
    return r;
}

/* The new name itself must survive a crash. */
static int sync_parent(const char *path, struct vd_error *err)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int r = fd < 0 || fsync(fd) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    /* Some file systems have no fsync of directories; then there is nothing more to be had. */
    if (r < 0 && r != -EINVAL && r != -EACCES)
        return vd_fail(err, r, "sync-failed", "cannot make %s durable: %s", path, strerror(-r));
    return 0;
}

static int fill(struct vd_dev *dev, const struct vd_create_options *opt, struct vd_uuid *ret_uuid,
                bool *ret_no_reserve, struct vd_error *err)
{
    struct vd_format_options format = {
        .name = opt->pool_name, .capacity = opt->capacity, .size_hint = opt->size};
    struct vd_store *store;
    struct vd_store_info info;
    int r = vd_pool_format(&dev, 1, &format, ret_no_reserve, err);
    if (r < 0) {
        vd_dev_close(dev);
        return r;
    }
    r = vd_store_attach(&dev, 1, 0, &store, err);
    if (r < 0)
        return r;
    r = vd_store_info(store, &info);
    if (r < 0)
        vd_fail(err, r, "pool-failed", "the new pool is unusable: %s", strerror(-r));
    else if (opt->volume)
        r = vd_store_volume_create(store, opt->volume, opt->size, err);
    struct vd_error why = {0};
    int r2 = vd_store_detach(store, &why);
    if (r == 0 && r2 < 0) {
        r = r2;
        if (err)
            *err = why;
    }
    if (r == 0)
        *ret_uuid = info.uuid;
    return r;
}

int vd_create(const char *path, const struct vd_create_options *opt, struct vd_uuid *ret_uuid,
              bool *ret_no_reserve, struct vd_error *err)
{
    struct vd_dev *dev;
    struct stat st;
    bool made = false;
    int r = -ENOENT;
    *ret_no_reserve = false;
    if (opt->existing && stat(path, &st) == 0) {
        r = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)
                ? vd_dev_open(path, 0, &dev, err)
                : vd_fail(err, -EINVAL, "no-device", "%s is neither a file nor a block device",
                          path);
        if (r == -EBUSY || r == -EINVAL)
            return r;
        if (r < 0)
            return vd_access_explain(path, true, r, err);
        r = opt->force ? 0 : check_empty(path, dev, err);
        if (r < 0) {
            vd_dev_close(dev);
            return r;
        }
    } else {
        if (lstat(path, &st) == 0)
            return vd_fail(err, -EEXIST, "exists", "%s exists already", path);
        r = vd_dev_open(path, VD_DEV_CREATE, &dev, err);
        if (r < 0)
            return vd_access_explain(path, true, r, err);
        made = true;
    }
    r = fill(dev, opt, ret_uuid, ret_no_reserve, err);
    if (r == 0 && made)
        r = sync_parent(path, err);
    if (r < 0 && made)
        unlink(path);
    return r;
}
