/* SPDX-License-Identifier: MIT */
/*
 * The control protocol: frames of JSON over a unix stream socket, one request per connection.
 *
 *   owner  -> client   {"hello": {"protocol": 1, "pid", "name", "pool", "uuid", "read_only"}}
 *   client -> owner    {"command": NAME, "args": {...}}      with up to VD_WIRE_FDS descriptors
 *   owner  -> client   {"event": {...}} any number of times, then exactly one of
 *                      {"result": {...}}, {"error": {"errno", "id", "message"}}, {"retry": true,
 * "read_only": bool} client -> owner    {"cancel": true} at any time after the request; hanging up
 * means the same
 *
 * A frame is "VDC1", a 32-bit big-endian length, and that many bytes of JSON. Descriptors ride on
 * the frame header. Retry means: nothing was done, the owner is about to end or does not take this
 * (read_only: and never will).
 */
#ifndef VD_SERVER_WIRE_H
#define VD_SERVER_WIRE_H

#include "core/base/error.h"
#include "core/io/stream.h"

#include <jansson.h>

#define VD_WIRE_PROTOCOL 1
#define VD_WIRE_FDS 4
#define VD_WIRE_REQUEST_MAX VD_MIB(1)
#define VD_WIRE_REPLY_MAX VD_MIB(64)
#define VD_WIRE_DEPTH_MAX 16 /* of nested arrays and objects: parsing recurses on a small stack */

/* Sends `frame` (its reference is taken, also on failure) with nfds descriptors, which stay the
 * caller's. -errno. VD_YIELDS */
int vd_wire_send(struct vd_stream *s, json_t *frame, const int *fds, int nfds);
/* Receives one frame of at most `max` bytes: a JSON object. Descriptors go to fds[VD_WIRE_FDS] and
 * are the caller's; fds NULL closes any that come. -EPROTO for anything else than a good frame,
 * -ENODATA at the end of the stream. VD_YIELDS */
int vd_wire_recv(struct vd_stream *s, size_t max, json_t **ret, int *fds, int *nfds);

/* Parses JSON text of bounded depth into an object; NULL when it is anything else. */
json_t *vd_wire_parse(const char *text, size_t len);
/* A JSON string from text that need not be UTF-8: what is not is shown as '?'. */
json_t *vd_wire_text(const char *text);
json_t *vd_wire_error(const struct vd_error *err);
/* Fills *err from the object of an error frame and returns its code. */
int vd_wire_error_get(json_t *obj, struct vd_error *err);

#endif
