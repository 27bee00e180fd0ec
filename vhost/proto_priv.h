/* SPDX-License-Identifier: MIT */
/*
 * Messages of vhost-user as they lie in the socket: native integers, both ends being on one
 * machine. QEMU's docs/interop/vhost-user.rst has the meaning. What virtio itself defines comes
 * from the kernel's headers.
 */
#ifndef VD_VHOST_PROTO_PRIV_H
#define VD_VHOST_PROTO_PRIV_H

#include "core/base/base.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

enum vhost_request {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_LOG_BASE = 6,
    VHOST_SET_LOG_FD = 7,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_SET_BACKEND_REQ_FD = 21,
    VHOST_GET_CONFIG = 24,
    VHOST_SET_CONFIG = 25,
    VHOST_GET_INFLIGHT_FD = 31,
    VHOST_SET_INFLIGHT_FD = 32,
    VHOST_GET_MAX_MEM_SLOTS = 36,
    VHOST_ADD_MEM_REG = 37,
    VHOST_REM_MEM_REG = 38,
};

/* What the back end sends on the channel of its own. */
enum { VHOST_BACKEND_CONFIG_CHANGE = 2 };

enum {
    VHOST_FLAG_VERSION = 1,
    VHOST_FLAG_VERSION_MASK = 3,
    VHOST_FLAG_REPLY = 4,
    VHOST_FLAG_NEED_REPLY = 8
};

enum vhost_protocol_feature {
    VHOST_PROTOCOL_MQ = 0,
    VHOST_PROTOCOL_LOG_SHMFD = 1,
    VHOST_PROTOCOL_REPLY_ACK = 3,
    VHOST_PROTOCOL_BACKEND_REQ = 5,
    VHOST_PROTOCOL_CONFIG = 9,
    VHOST_PROTOCOL_INFLIGHT_SHMFD = 12,
    VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS = 15,
};

/* Among the virtio features. */
enum { VHOST_F_LOG_ALL_BIT = 26, VHOST_F_PROTOCOL_BIT = 30 };

#define VHOST_TABLE_REGIONS 8u /* in one SET_MEM_TABLE */
#define VHOST_CONFIG_MAX 256u  /* bytes of config space in a message */

struct vhost_header {
    uint32_t request, flags, size;
};

struct vhost_state {
    uint32_t index, num;
};

enum { VHOST_ADDR_LOG = 1 };
struct vhost_addr {
    uint32_t index, flags;
    uint64_t desc, used, avail; /* as the client sees its memory */
    uint64_t log;               /* of the used ring, as the guest sees it */
};

struct vhost_mem_region {
    uint64_t guest_addr, size, user_addr, mmap_off;
};

struct vhost_mem_table {
    uint32_t n, padding;
    struct vhost_mem_region region[VHOST_TABLE_REGIONS];
};

struct vhost_mem_one {
    uint64_t padding;
    struct vhost_mem_region region;
};

struct vhost_log_base {
    uint64_t size, off;
};

struct vhost_config {
    uint32_t off, size, flags;
    uint8_t data[VHOST_CONFIG_MAX];
};

/* 20 bytes, and 4 of padding that QEMU sends along and others do not. */
struct vhost_inflight_desc {
    uint64_t size, off;
    uint16_t queues, queue_size;
};
#define VHOST_INFLIGHT_LEN 20u

/* In VHOST_SET_VRING_KICK and its like. */
enum { VHOST_VRING_IDX_MASK = 0xff, VHOST_VRING_NOFD = 0x100 };

union vhost_payload {
    uint64_t u64;
    struct vhost_state state;
    struct vhost_addr addr;
    struct vhost_mem_table table;
    struct vhost_mem_one one;
    struct vhost_log_base log;
    struct vhost_config config;
    struct vhost_inflight_desc inflight;
};

/* What survives us, in memory that the client keeps: which descriptors were taken. One area per
 * ring, each aligned to VHOST_INFLIGHT_ALIGN. */
#define VHOST_INFLIGHT_ALIGN 64u
#define VHOST_INFLIGHT_VERSION 1u
struct vhost_desc_state {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;
    uint64_t counter;
};
struct vhost_inflight_area {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct vhost_desc_state desc[];
};

_Static_assert(sizeof(struct vhost_header) == 12, "as on the wire");
_Static_assert(sizeof(struct vhost_addr) == 40, "as on the wire");
_Static_assert(sizeof(struct vhost_mem_table) == 8 + 8 * 32, "as on the wire");
_Static_assert(sizeof(struct vhost_desc_state) == 16, "as the document has it");
_Static_assert(offsetof(struct vhost_inflight_area, desc) == 16, "as the document has it");

#endif
