/* SPDX-License-Identifier: MIT */
/*
 * What the guest is told about its disk: feature bits and config space. Only what is implemented is
 * offered: QEMU 7.2 acknowledges every protocol bit that it is shown, also those that it does not
 * know how to use.
 *
 * A guest flushes only when it believes in a write cache: so there is one, and wce says so. Told to
 * have none (wce = 0, or a driver that cannot flush), every write is durable before it is answered.
 */
#include "vhost/vhost_priv.h"

#include <endian.h>

#define BIT(n) (UINT64_C(1) << (n))

/* Feature of the guest's side that a disk may have. */
uint64_t config_features(struct vhost_conn *c)
{
    uint64_t f = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                 BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_BLK_F_SEG_MAX) |
                 BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_FLUSH) |
                 BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_MQ) | BIT(VHOST_F_LOG_ALL_BIT) |
                 BIT(VHOST_F_PROTOCOL_BIT);
    if (c->read_only)
        return f | BIT(VIRTIO_BLK_F_RO);
    return f | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

void config_read(struct vhost_conn *c, uint32_t off, uint8_t *buf, uint32_t len)
{
    struct vd_disk_info info;
    vd_disk_info(c->disk, &info);
    struct virtio_blk_config config = {
        .capacity = htole64(info.size / VD_SECTOR),
        .seg_max = htole32(VHOST_SEG_MAX),
        .blk_size = htole32(VD_SECTOR),
        .physical_block_exp = VD_BLOCK_SHIFT - 9,
        .min_io_size = htole16(VD_BLOCK / VD_SECTOR),
        .opt_io_size = htole32(VD_BLOCK / VD_SECTOR * VD_CELL_BLOCKS),
        .wce = c->wce,
        .num_queues = htole16(VHOST_QUEUES_MAX),
        .max_discard_sectors = htole32(VHOST_RANGE_SECTORS),
        .max_discard_seg = htole32(VHOST_RANGES_MAX),
        .discard_sector_alignment = htole32(VD_BLOCK / VD_SECTOR),
        .max_write_zeroes_sectors = htole32(VHOST_RANGE_SECTORS),
        .max_write_zeroes_seg = htole32(VHOST_RANGES_MAX),
        .write_zeroes_may_unmap = 1,
    };
    memset(buf, 0, len);
    if (off < sizeof(config))
        memcpy(buf, (uint8_t *)&config + off, VD_MIN(len, (uint32_t)sizeof(config) - off));
}

int config_write(struct vhost_conn *c, uint32_t off, const uint8_t *buf, uint32_t len)
{
    if (off != offsetof(struct virtio_blk_config, wce) || len != 1 || buf[0] > 1)
        return -EINVAL;
    bool flush = c->wce && !buf[0];
    c->wce = buf[0];
    /* What was answered before is as durable as what will be. */
    return flush && !c->read_only ? vd_disk_flush(c->disk) : 0;
}

bool config_write_through(const struct vhost_conn *c)
{
    return !c->wce || !conn_has(c, VIRTIO_BLK_F_FLUSH);
}
