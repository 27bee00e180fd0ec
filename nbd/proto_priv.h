/* SPDX-License-Identifier: MIT */
/*
 * The NBD protocol's numbers, fixed newstyle. All integers on the wire are big-endian. The
 * protocol's own description is doc/proto.md of the nbd project; names here follow it.
 */
#ifndef VD_NBD_PROTO_PRIV_H
#define VD_NBD_PROTO_PRIV_H

#include "core/base/bytes.h"

/* Handshake. Server: u64 INIT, u64 OPTION, u16 flags. Client: u32 flags, then options, each
 * u64 OPTION, u32 option, u32 length, data; answered by u64 REPLY, u32 option, u32 type, u32
 * length, data. */
#define NBD_MAGIC_INIT UINT64_C(0x4e42444d41474943)
#define NBD_MAGIC_OPTION UINT64_C(0x49484156454f5054)
#define NBD_MAGIC_OPTION_REPLY UINT64_C(0x0003e889045565a9)
#define NBD_OPTION_LEN 16
#define NBD_OPTION_REPLY_LEN 20

enum {
    NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
    NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ERR(n) (UINT32_C(1) << 31 | (n))
enum nbd_reply {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6)
#define NBD_REP_ERR_SHUTDOWN NBD_REP_ERR(7)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9)

enum nbd_info {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

enum {
    NBD_EXPORT_HAS_FLAGS = 1 << 0,
    NBD_EXPORT_READ_ONLY = 1 << 1,
    NBD_EXPORT_SEND_FLUSH = 1 << 2,
    NBD_EXPORT_SEND_FUA = 1 << 3,
    NBD_EXPORT_ROTATIONAL = 1 << 4,
    NBD_EXPORT_SEND_TRIM = 1 << 5,
    NBD_EXPORT_SEND_WRITE_ZEROES = 1 << 6,
    NBD_EXPORT_SEND_DF = 1 << 7,
    NBD_EXPORT_CAN_MULTI_CONN = 1 << 8,
    NBD_EXPORT_SEND_CACHE = 1 << 10,
    NBD_EXPORT_SEND_FAST_ZERO = 1 << 11,
};

/* Requests: u32 REQUEST, u16 flags, u16 type, u64 cookie, u64 offset, u32 length, payload. */
#define NBD_MAGIC_REQUEST UINT32_C(0x25609513)
#define NBD_REQUEST_LEN 28
/* u32 SIMPLE_REPLY, u32 error, u64 cookie, payload. */
#define NBD_MAGIC_SIMPLE_REPLY UINT32_C(0x67446698)
#define NBD_SIMPLE_REPLY_LEN 16
/* u32 CHUNK, u16 flags, u16 type, u64 cookie, u32 length, payload. */
#define NBD_MAGIC_CHUNK UINT32_C(0x668e33ef)
#define NBD_CHUNK_LEN 20

enum nbd_cmd {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
};

enum { NBD_CHUNK_DONE = 1 };
enum nbd_chunk {
    NBD_CHUNK_NONE = 0,
    NBD_CHUNK_OFFSET_DATA = 1,
    NBD_CHUNK_OFFSET_HOLE = 2,
    NBD_CHUNK_BLOCK_STATUS = 5,
    NBD_CHUNK_ERROR = (1 << 15) + 1,
};

/* base:allocation: its number on our connections, and its states. */
#define NBD_ALLOCATION_ID 1u
enum { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 };
/* vdisk:changed-since: contexts are numbered from here; their only state. */
#define NBD_SINCE_ID 2u
enum { NBD_STATE_CHANGED = 1 };

/* Errors as they go over the wire, whatever the host's errno values are. */
enum nbd_error {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

#endif
