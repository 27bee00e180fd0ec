/* SPDX-License-Identifier: MIT */
/* Help texts, made from the table of commands. Prints to a stream; does not yield. */
#include "cli/cli_priv.h"

#define USAGE_COLUMNS 98

#define WIDTH 79

/* Prints `text` wrapped, each line after `indent` blanks; an empty line begins a paragraph. */
static void wrap(FILE *out, const char *text, int indent)
{
    int column = 0;
    while (*text) {
        if (text[0] == '\n') {
            fputs("\n", out);
            column = 0;
            text++;
            continue;
        }
        size_t n = strcspn(text, " \n");
        if (column > 0 && column + 1 + (int)n > WIDTH) {
            fputs("\n", out);
            column = 0;
        }
        if (column == 0)
            column = fprintf(out, "%*s", indent, "");
        else
            column += fprintf(out, " ");
        column += fprintf(out, "%.*s", (int)n, text);
        text += n;
        text += *text == ' ';
    }
    if (column)
        fputs("\n", out);
}

/* One word of a usage line, on a line of its own where that would become too long. */
static void usage_word(FILE *out, int *column, const char *word)
{
    int len = (int)strlen(word) + 1;
    if (*column + len > USAGE_COLUMNS) {
        fputs("\n        ", out);
        *column = 8;
    }
    *column += len;
    fprintf(out, " %s", word);
}

void cli_usage_line(FILE *out, const struct cli_command *cmd)
{
    char word[120];
    int column = (int)strlen("Usage: ") + fprintf(out, "vdisk %s", cmd->name);
    for (const struct cli_arg *a = cmd->args; a && a->name; a++) {
        snprintf(word, sizeof(word), "%s%s%s%s", a->optional ? "[" : "", a->name,
                 a->optional ? "]" : "", a->repeat ? "..." : "");
        usage_word(out, &column, word);
    }
    for (const struct cli_option *o = cmd->options; o && o->name; o++) {
        snprintf(word, sizeof(word), "%s--%s%s%s%s%s", o->required ? "" : "[", o->name,
                 o->meta ? " " : "", o->meta ? o->meta : "", o->required ? "" : "]",
                 o->repeat ? "..." : "");
        usage_word(out, &column, word);
    }
}

static void entry(FILE *out, const char *head, const char *help)
{
    fprintf(out, "  %s\n", head);
    wrap(out, help, 6);
}

static void option_entry(FILE *out, const struct cli_option *o)
{
    char head[100];
    snprintf(head, sizeof(head), "--%s%s%s", o->name, o->meta ? " " : "", o->meta ? o->meta : "");
    entry(out, head, o->help);
}

void cli_help(FILE *out, const struct cli_command *cmd)
{
    fputs("Usage: ", out);
    cli_usage_line(out, cmd);
    fputs("\n\n", out);
    wrap(out, cmd->text, 0);
    if (cmd->args && cmd->args[0].name)
        fputs("\nArguments:\n", out);
    for (const struct cli_arg *a = cmd->args; a && a->name; a++)
        entry(out, a->name, a->help);
    fputs("\nOptions:\n", out);
    for (const struct cli_option *o = cmd->options; o && o->name; o++)
        option_entry(out, o);
    for (const struct cli_option *o = cli_common_options; o->name; o++)
        if (cli_common_applies(cmd, o))
            option_entry(out, o);
    fputs("\nExamples:\n", out);
    for (const char *const *e = cmd->examples; *e; e += 2) {
        fprintf(out, "  %s\n", e[0]);
        wrap(out, e[1], 6);
    }
    fputs("\nExit status:\n", out);
    for (unsigned e = 0; e < EXIT_COUNT; e++)
        if (e <= EXIT_USAGE || (cmd->exits & (1u << e)))
            fprintf(out, "  %u  %s\n", e, cli_exit_text(e));
}

static void summaries(FILE *out, const char *word)
{
    size_t n = word ? strlen(word) : 0;
    for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++)
        if (!word || (strncmp(cmd->name, word, n) == 0 && cmd->name[n] == ' '))
            fprintf(out, "  %-18s %s\n", cmd->name, cmd->summary);
}

void cli_help_group(FILE *out, const char *word)
{
    fprintf(out, "Usage: vdisk %s COMMAND ...\n\n", word);
    summaries(out, word);
    fprintf(out, "\n\"vdisk %s COMMAND --help\" tells more about each.\n", word);
}

void cli_help_all(FILE *out)
{
    fputs("Usage: vdisk COMMAND ...\n\nVirtual disks with snapshots, in files or on block "
          "devices.\n\n",
          out);
    summaries(out, NULL);
    fputs(
        "\nA target is POOL[:VOLUME][@SNAPSHOT]. POOL is a registered name, or the path of the "
        "pool's\nfile or device (with a '/' or a '.' in it). VOLUME may be left out when there is "
        "just one.\n\n\"vdisk COMMAND --help\" tells more about each; \"vdisk --version\" which "
        "version this is.\n",
        out);
}
