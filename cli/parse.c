/* SPDX-License-Identifier: MIT */
/*
 * Parses a command line by the table of commands. Options may stand anywhere; "--" ends them. Pure:
 * no I/O, does not yield.
 */
#include "cli/cli_priv.h"

#include "core/base/text.h"

#include <stdarg.h>
#include <stdlib.h>

const struct cli_command *cli_find(int argc, char **argv, int *ret_words)
{
    char two[128];
    const struct cli_command *found = NULL;
    if (argc < 1)
        return NULL;
    snprintf(two, sizeof(two), "%s %s", argv[0], argc > 1 ? argv[1] : "");
    for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++) {
        bool pair = strchr(cmd->name, ' ') != NULL;
        if (strcmp(cmd->name, pair ? two : argv[0]) != 0)
            continue;
        found = cmd;
        *ret_words = pair ? 2 : 1;
    }
    return found;
}

static int wrong(struct cli *c, const char *fmt, ...) VD_PRINTF(2, 3);
static int wrong(struct cli *c, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return vd_fail(&c->err, -EINVAL, "usage", "%s: see \"vdisk %s --help\"", text, c->cmd->name);
}

static const struct cli_option *option_in(const struct cli_option *list, const char *name,
                                          size_t len)
{
    for (; list && list->name; list++)
        if (strlen(list->name) == len && strncmp(list->name, name, len) == 0)
            return list;
    return NULL;
}

static const struct cli_option *option_find(const struct cli_command *cmd, const char *name,
                                            size_t len)
{
    const struct cli_option *o = option_in(cmd->options, name, len);
    if (o)
        return o;
    o = option_in(cli_common_options, name, len);
    return o && cli_common_applies(cmd, o) ? o : NULL;
}

static bool choice_valid(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; p; p = strchr(p, '|')) {
        p += *p == '|';
        if (strncmp(p, text, n) == 0 && (p[n] == '|' || !p[n]) && n > 0)
            return true;
    }
    return false;
}

static int value_check(struct cli *c, const struct cli_option *o, struct cli_value *v)
{
    struct vd_error why = {0};
    switch (o->type) {
    case CLI_SIZE:
        if (vd_size_parse(v->text, &v->size, &why) < 0)
            return wrong(c, "--%s: %s", o->name, why.message);
        if (v->size % VD_SECTOR)
            return wrong(c, "--%s: %s is no multiple of %u bytes", o->name, v->text, VD_SECTOR);
        if (v->size == 0)
            return wrong(c, "--%s: zero is no size", o->name);
        return 0;
    case CLI_NAME:
        return vd_name_valid(v->text)
                   ? 0
                   : wrong(c,
                           "--%s: \"%.127s\" is no name (letters, digits, '.', '_' and '-', "
                           "beginning with a letter or digit)",
                           o->name, v->text);
    case CLI_CHOICE:
        return choice_valid(o->meta, v->text)
                   ? 0
                   : wrong(c, "--%s: \"%.60s\" is not one of %s", o->name, v->text, o->meta);
    case CLI_TEXT:
        return *v->text ? 0 : wrong(c, "--%s: the value is empty", o->name);
    default:
        return 0;
    }
}

/* argv[*i] is an option; takes its value too. */
static int option_parse(struct cli *c, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2, *eq = strchr(name, '=');
    size_t len = eq ? (size_t)(eq - name) : strlen(name);
    const struct cli_option *o = option_find(c->cmd, name, len);
    if (!o)
        return wrong(c, "there is no option --%.*s", (int)VD_MIN(len, (size_t)60), name);
    struct cli_value v = {.option = o};
    if (o->type == CLI_FLAG) {
        if (eq)
            return wrong(c, "--%s takes no value", o->name);
    } else if (eq) {
        v.text = eq + 1;
    } else if (*i + 1 < argc) {
        v.text = argv[++*i];
    } else {
        return wrong(c, "--%s needs a value", o->name);
    }
    if (!o->repeat && o->type != CLI_FLAG && cli_text(c, o->name))
        return wrong(c, "--%s is given twice", o->name);
    int r = value_check(c, o, &v);
    if (r < 0)
        return r;
    if (c->n_values == CLI_VALUES_MAX)
        return wrong(c, "there are more than %d options", CLI_VALUES_MAX);
    c->values[c->n_values++] = v;
    return 0;
}

static int count_check(struct cli *c)
{
    const struct cli_arg *first = c->cmd->args;
    if (cli_text(c, "pool") && first && first->kind == ARG_POOL) {
        /* --pool stands for it; there is room, for --pool itself took some. */
        memmove(c->args + 1, c->args, (size_t)c->n_args * sizeof(*c->args));
        c->args[0] = NULL;
        c->n_args++;
    }
    int least = 0, most = 0;
    bool repeat = false, pool = cli_text(c, "pool") != NULL;
    for (const struct cli_arg *a = c->cmd->args; a && a->name; a++) {
        most++;
        /* With --pool the pool itself, or a target that is nothing more, may be left out. */
        bool left_out = pool && a == c->cmd->args && !a[1].name;
        least += !a->optional && !left_out;
        repeat = a->repeat;
        if (!a->optional && !left_out && c->n_args < least)
            return wrong(c, "%s is missing", a->name);
    }
    if (c->n_args > most && !repeat)
        return wrong(c, "\"%.100s\" is too much", c->args[most]);
    for (const struct cli_option *o = c->cmd->options; o && o->name; o++)
        if (o->required && !cli_text(c, o->name))
            return wrong(c, "--%s is missing", o->name);
    return 0;
}

int cli_parse(struct cli *c, int argc, char **argv)
{
    bool options = true;
    int r = 0;
    c->args = argv;
    c->n_args = 0;
    /* Whatever else is wrong, the error is to be told in the way that was asked for. */
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        c->json |= strcmp(argv[i], "--json") == 0;
    for (int i = 0; i < argc && r == 0; i++) {
        if (options && strcmp(argv[i], "--") == 0)
            options = false;
        else if (options && strcmp(argv[i], "-h") == 0)
            r = option_parse(c, 1, (char *[]){(char *)"--help"}, &(int){0});
        else if (options && strncmp(argv[i], "--", 2) == 0)
            r = option_parse(c, argc, argv, &i);
        else if (options && argv[i][0] == '-' && argv[i][1])
            r = wrong(c, "there is no option %.60s", argv[i]);
        else
            argv[c->n_args++] = argv[i]; /* arguments move to the front */
    }
    if (cli_flag(c, "help"))
        return 0;
    const char *progress = cli_text(c, "progress");
    if (progress)
        c->progress = strcmp(progress, "json") == 0   ? PROGRESS_JSON
                      : strcmp(progress, "none") == 0 ? PROGRESS_NONE
                                                      : PROGRESS_AUTO;
    return r < 0 ? r : count_check(c);
}

static const struct cli_value *value_find(const struct cli *c, const char *option)
{
    for (int i = 0; i < c->n_values; i++)
        if (strcmp(c->values[i].option->name, option) == 0)
            return &c->values[i];
    return NULL;
}

const char *cli_text(const struct cli *c, const char *option)
{
    const struct cli_value *v = value_find(c, option);
    return v ? v->text : NULL;
}

bool cli_flag(const struct cli *c, const char *option)
{
    return value_find(c, option) != NULL;
}

bool cli_size(const struct cli *c, const char *option, uint64_t *ret)
{
    const struct cli_value *v = value_find(c, option);
    if (v)
        *ret = v->size;
    return v != NULL;
}
