/* SPDX-License-Identifier: MIT */
/*
 * The two ends of import, export and convert outside a pool: a raw file, device or pipe; an NBD
 * server; an image in a foreign format. What an argument means is decided here once.
 */
#ifndef VD_CLI_ENDS_PRIV_H
#define VD_CLI_ENDS_PRIV_H

#include "cli/cli_priv.h"
#include "core/io/stream.h"
#include "foreign/image.h"

enum cli_end_kind { END_RAW, END_REMOTE, END_IMAGE };

struct cli_end {
    enum cli_end_kind kind;
    const char *text;
    int fd;                        /* RAW: opened; else -1 */
    bool made;                     /* RAW, a target: this file was made here */
    struct vd_remote_uri uri;      /* REMOTE */
    enum vd_format format;         /* IMAGE */
    struct vd_image *img;          /* IMAGE, a source: open */
    struct vd_image_target target; /* IMAGE, a target: nothing is made yet */
};

/* Opens what `text` names as a source. `option` is the one that says its format. Something that
 * looks like an image is never taken for raw, nor for an image, unless the user says which. */
int cli_source_open(struct cli *c, const char *text, const char *option, struct cli_end *ret);
/* The same for what the recorded path, format and trust of an earlier import say. */
int cli_source_reopen(struct cli *c, const char *text, const char *format, bool trust,
                      struct cli_end *ret);
/* What `text` names as a target, as --format, --subformat, --compress and --overwrite say. */
int cli_dest_open(struct cli *c, const char *text, struct cli_end *ret);
void cli_end_done(struct cli_end *e); /* VD_YIELDS */
/* {"address", "export"} of a REMOTE. */
json_t *cli_end_remote(const struct cli_end *e);
/* Bytes of a source as far as they are known here, else 0. */
uint64_t cli_end_size(const struct cli_end *e);

/* The control socket between this process, which has a foreign image open, and a job of the pool's
 * owner; server/transfer_priv.h has what goes over it. */
struct cli_control {
    struct cli *cli;
    struct vd_stream *ours;
    int theirs; /* to be given to the owner */
    /* Of an export: the image being made, on a fiber of its own. */
    const struct cli_end *end;
    bool verify;
    struct vd_image *img;
    uint64_t size; /* of the source */
    struct vd_error err;
    struct vd_group fiber;
};
int cli_control_new(struct cli *c, struct cli_control *ret);
/* Offers the sockets of an open source. VD_YIELDS */
int cli_control_offer(struct cli_control *k, struct cli_end *source);
/* Makes the image that the job will ask for. */
int cli_control_make(struct cli_control *k, const struct cli_end *dest, bool verify);
/* When the call has returned `r`: waits for a job that goes on without it, and returns what became
 * of all, with the real reason in c->err. Frees. VD_YIELDS */
int cli_control_end(struct cli_control *k, int r);

#endif
