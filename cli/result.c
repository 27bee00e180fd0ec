/* SPDX-License-Identifier: MIT */
/*
 * How a command ends: its exit status, its result as JSON, its error as one line. Prints.
 */
#include "cli/cli_priv.h"

#include "server/wire.h"

#include <stdarg.h>
#include <stdlib.h>

int cli_fail(struct cli *c, int code, const char *id, const char *fmt, ...)
{
    char text[sizeof(c->err.message)];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return vd_fail(&c->err, code, id, "%s", text);
}

int cli_exit_status(const struct vd_error *err)
{
    static const struct {
        int code;
        enum cli_exit status;
    } map[] = {

        {-ENOENT, EXIT_NOT_FOUND},       {-EBUSY, EXIT_BUSY},
        {-EUCLEAN, EXIT_DAMAGE},         {-EBADMSG, EXIT_DAMAGE},
        {-ENOSPC, EXIT_NO_SPACE},        {-EDQUOT, EXIT_NO_SPACE},
        {-ECANCELED, EXIT_CANCELLED},    {-EACCES, EXIT_PERMISSION},
        {-EPERM, EXIT_PERMISSION},       {-EPROTONOSUPPORT, EXIT_UNSUPPORTED},
        {-EOPNOTSUPP, EXIT_UNSUPPORTED},
    };
    static const char *const usage[] = {
        "usage",        "name-invalid",     "size-invalid",     "bad-size",      "target-invalid",
        "target-twice", "volume-ambiguous", "property-invalid", "format-needed", "bad-uri"};
    for (size_t i = 0; i < VD_ARRAY_SIZE(usage); i++)
        if (strcmp(err->id, usage[i]) == 0)
            return EXIT_USAGE;
    if (strcmp(err->id, "served-read-only") == 0)
        return EXIT_BUSY;
    for (size_t i = 0; i < VD_ARRAY_SIZE(map); i++)
        if (err->code == map[i].code)
            return map[i].status;
    return EXIT_FAILED;
}

/* What to do about an error; where the message says it already there is no entry. */
static const char *advice(const char *id)
{
    static const struct {
        const char *id, *text;
    } all[] = {
        {"volume-not-found", "\"vdisk ls POOL\" lists the volumes"},
        {"snapshot-not-found", "\"vdisk snapshot list POOL\" lists the snapshots"},
        {"job-not-found", "\"vdisk job list POOL\" lists the jobs"},
        {"not-served", "\"vdisk serve POOL\" serves it"},
        {"volume-exists", "choose another name, or delete it first"},
        {"snapshot-exists", "choose another name, or delete it first"},
        {"snapshot-held", "release its holds first"},
        {"no-space", "delete volumes or snapshots, or give the pool more room"},
        {"exists", "choose another name, or remove it first"},
        {"holds-data", "say --force to overwrite it"},
        {"served-read-only", "stop that, or serve it without --read-only"},
        {"in-use", "wait until that ends, or stop it"},
        {"not-a-pool", "\"vdisk create\" and \"vdisk pool create\" make pools"},
        {"unsupported-feature", "use a newer vdisk"},
        {"damaged", "\"vdisk check\" tells more"},
        {"pool-failed", "\"vdisk check\" tells more"},
        {"pool-not-registered", "\"vdisk pool list\" lists those that are"},
        {"not-found", "check the path"},
        {"target-too-small", "choose a larger target"},
        {"too-many-jobs", "wait for one to end"},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(all); i++)
        if (strcmp(all[i].id, id) == 0)
            return all[i].text;
    return NULL;
}

const char *cli_schema(const struct cli_command *cmd, char *buf, size_t len)
{
    snprintf(buf, len, "vdisk.%s/1", cmd->name);
    for (char *p = buf; *p; p++)
        if (*p == ' ')
            *p = '-';
    return buf;
}

static void print_json(json_t *v)
{
    char *text = json_dumps(v, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    if (text)
        puts(text);
    free(text);
}

void cli_json(struct cli *c, json_t *result)
{
    char schema[80];
    json_t *v = json_pack("{s:s}", "schema", cli_schema(c->cmd, schema, sizeof(schema)));
    json_object_update(v, result);
    print_json(v);
    json_decref(v);
    json_decref(result);
}

void cli_report(struct cli *c)
{
    const char *todo = advice(c->err.id);
    cli_progress_end(c);
    fprintf(stderr, "vdisk: %s%s%s\n", c->err.message, todo ? ": " : "", todo ? todo : "");
    if (!c->json)
        return;
    const char *target = c->target ? c->target : c->n_args > 0 && c->args[0] ? c->args[0] : "";
    json_t *v = json_pack("{s:{s:s, s:o, s:o}}", "error", "id", c->err.id, "message",
                          vd_wire_text(c->err.message), "target", vd_wire_text(target));
    print_json(v);
    json_decref(v);
}
