/* SPDX-License-Identifier: MIT */
/*
 * The command line: one table of commands from which parsing, help, completion and manual pages
 * come, and what the commands share.
 */
#ifndef VD_CLI_CLI_PRIV_H
#define VD_CLI_CLI_PRIV_H

#include "core/base/error.h"
#include "server/client.h"
#include "server/target.h"

#include <jansson.h>
#include <stdio.h>

enum cli_exit {
    EXIT_OK,
    EXIT_FAILED,
    EXIT_USAGE,
    EXIT_NOT_FOUND,
    EXIT_BUSY,
    EXIT_DAMAGE,
    EXIT_NO_SPACE,
    EXIT_CANCELLED,
    EXIT_PERMISSION,
    EXIT_UNSUPPORTED,
    EXIT_COUNT
};

enum cli_type { CLI_FLAG, CLI_TEXT, CLI_SIZE, CLI_NAME, CLI_CHOICE };

struct cli_option {
    const char *name; /* without the dashes; NULL ends an array */
    enum cli_type type;
    const char *meta; /* of the value; a CHOICE's words, separated by '|' */
    const char *help;
    bool required;
    bool repeat;
};

enum cli_arg_kind { ARG_TARGET, ARG_POOL, ARG_FILE, ARG_NAME, ARG_TEXT };
struct cli_arg {
    const char *name; /* NULL ends an array */
    enum cli_arg_kind kind;
    bool optional;
    bool repeat; /* the last one only */
    const char *help;
};

/* Options that several commands have. */
enum cli_common {
    CLI_POOL = 1,     /* --pool PATH: the pool of odd name; the first target is what is left */
    CLI_NO_WAIT = 2,  /* --no-wait */
    CLI_PROGRESS = 4, /* --progress */
    CLI_DETACH = 8,   /* --detach */
    CLI_BACKGROUND = 16, /* goes on in the background, but with its own --foreground */
};

struct cli;
struct cli_command {
    const char *name; /* one or two words */
    const char *summary;
    const char *text; /* paragraphs separated by an empty line */
    const struct cli_arg *args;
    const struct cli_option *options; /* its own; NULL = none */
    unsigned common;
    unsigned exits;              /* bits of enum cli_exit beyond ok, failed and usage */
    const char *const *examples; /* a command, then what it does; NULL ends */
    int (*run)(struct cli *c);   /* an exit status, or -errno with c->err set. VD_YIELDS */
};

extern const struct cli_command cli_commands[]; /* name NULL ends */
extern const struct cli_option cli_common_options[];
/* Whether common option `opt` belongs to `cmd`. */
bool cli_common_applies(const struct cli_command *cmd, const struct cli_option *opt);
const char *cli_exit_text(enum cli_exit e);

struct cli_value {
    const struct cli_option *option;
    const char *text;
    uint64_t size; /* CLI_SIZE */
};

enum cli_progress { PROGRESS_AUTO, PROGRESS_JSON, PROGRESS_NONE };

#define CLI_VALUES_MAX 64

/* One run of a command. */
struct cli {
    const struct cli_command *cmd;
    struct cli_value values[CLI_VALUES_MAX];
    int n_values;
    char **args;
    int n_args;
    bool json;
    enum cli_progress progress;
    char name[64]; /* "vdisk snapshot create" */
    struct vd_error err;
    char *target; /* what the error is about, NULL = the first argument */
    struct vd_client *client;
    void (*on_event)(struct cli *c, json_t *event); /* other than progress */
    void *event_arg;
    bool bar; /* a progress bar is on the terminal */
    uint64_t bar_started_ns;
    int detach_fd; /* -1, or where a detached child tells its parent that it has begun */
    bool cancelled;
    void (*on_signal)(struct cli *c); /* serve: ends by it; NULL = the command is cancelled */
    int status;
};

/* parse.c. Returns 0, or -EINVAL with c->err; what is wrong in the words of the user. */
int cli_parse(struct cli *c, int argc, char **argv);
const struct cli_command *cli_find(int argc, char **argv, int *ret_words);
const char *cli_text(const struct cli *c, const char *option); /* NULL when not given */
bool cli_flag(const struct cli *c, const char *option);
bool cli_size(const struct cli *c, const char *option, uint64_t *ret);

/* help.c */
void cli_usage_line(FILE *out, const struct cli_command *cmd);
void cli_help(FILE *out, const struct cli_command *cmd);
void cli_help_all(FILE *out);
void cli_help_group(FILE *out, const char *word);
/* generate.c: for the build */
int cli_generate(int argc, char **argv);

/* Results and errors; result.c. */
int cli_fail(struct cli *c, int code, const char *id, const char *fmt, ...) VD_PRINTF(4, 5);
int cli_exit_status(const struct vd_error *err);
/* Prints {"schema": ..., members of `result`}; takes the reference. */
void cli_json(struct cli *c, json_t *result);
void cli_report(struct cli *c);
const char *cli_schema(const struct cli_command *cmd, char *buf, size_t len);

/* Where a target's pool is; pool.c. */
struct cli_pool {
    struct vd_target_ref ref;
    struct vd_uuid uuid; /* nil unless registered */
    char *path;          /* of the first device */
};
/* Parses argument `i` (which may be absent when --pool is given) and looks up a registered name. */
int cli_pool_get(struct cli *c, int i, struct cli_pool *ret);
void cli_pool_done(struct cli_pool *p);
bool cli_same_pool(const struct cli_pool *a, const struct cli_pool *b);
/* {"volume", "snapshot"} of a target, as far as given. */
json_t *cli_target_json(const struct cli_pool *p);
/* Runs a request. `args` is taken. */
int cli_call(struct cli *c, const struct cli_pool *p, const char *command, json_t *args, int fd,
             json_t **ret);
/* cli_call, then the result as JSON or through `print`. */
int cli_call_print(struct cli *c, const struct cli_pool *p, const char *command, json_t *args,
                   void (*print)(struct cli *c, const struct cli_pool *p, json_t *result));

/* cli_call for jobs, which may be detached: by the time it returns a detached child has nobody to
 * talk to. */
int cli_job_call(struct cli *c, const struct cli_pool *p, const char *command, json_t *args, int fd,
                 json_t **ret);

struct cli_end;
/* The same for a job that reads `source` (ends_priv.h). */
int cli_job_from(struct cli *c, const struct cli_pool *p, const char *command, json_t *args,
                 struct cli_end *source, json_t **ret);

/* serve.c: becomes the owner; waits for a signal, and with_doors also for the last door's end. */
struct vd_owner;
int cli_serve_open(struct cli *c, const struct cli_pool *p, struct vd_owner **ret);
void cli_serve_wait(struct cli *c, struct vd_owner *o, bool with_doors);
/* cmd_copy.c: a detached child's work has begun: `text` is for its parent; lets go of the terminal.
 */
void cli_detached(struct cli *c, const char *text);

/* journal.c: sets the sink for log lines; what pool they are about, once that is known. */
void cli_log_begin(void);
void cli_journal_pool(const char *pool);
/* Standard error is gone: the journal gets the lines, where there is one. */
void cli_log_background(void);

/* cmd_door.c: the full path of what need not be there, but its directory has to be; NULL if that is
 * not. Does not look at the last part: what is mounted there may not answer. Free with free(). */
char *cli_full_path(const char *path);
/* Whether the option is one that names a door. */
bool cli_is_door(const struct cli_value *v);

/* progress.c */
void cli_progress_event(struct cli *c, json_t *event);
void cli_progress_end(struct cli *c);

/* Human output; table.c. */
#define TABLE_COLUMNS 10
struct cli_table {
    const char *heads[TABLE_COLUMNS]; /* a head that begins with '>' is right-aligned */
    int n_columns;
    char **cells;
    int n_rows, room;
};
void table_init(struct cli_table *t, const char *const *heads, int n);
void table_cell(struct cli_table *t, int column, const char *fmt, ...) VD_PRINTF(3, 4);
void table_row(struct cli_table *t);              /* begins a row */
void table_print(struct cli_table *t, FILE *out); /* and frees */
/* "1.5 GiB", "2026-11-22 12:00"; in static buffers of which eight are used in turn. */
const char *human_size(json_int_t bytes);
const char *human_time(json_int_t seconds);
const char *get_str(json_t *o, const char *key); /* "" when absent */
json_int_t get_int(json_t *o, const char *key);
bool get_bool(json_t *o, const char *key);

/* The commands. */
typedef int cli_run(struct cli *c);
cli_run cli_create, cli_pool_create, cli_pool_list, cli_pool_attach, cli_pool_detach;
cli_run cli_ls, cli_info, cli_tree, cli_du;
cli_run cli_volume_create, cli_volume_delete, cli_volume_rename, cli_volume_resize, cli_volume_set,
    cli_volume_get;
cli_run cli_snapshot_create, cli_snapshot_list, cli_snapshot_delete, cli_snapshot_rename,
    cli_snapshot_hold, cli_snapshot_release;
cli_run cli_rollback, cli_clone, cli_diff, cli_import, cli_export, cli_convert, cli_check,
    cli_serve;
cli_run cli_mount, cli_umount;
cli_run cli_door_add, cli_door_remove, cli_door_list, cli_top;
cli_run cli_job_list, cli_job_wait, cli_job_cancel, cli_job_resume;

#endif
