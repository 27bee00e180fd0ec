/* SPDX-License-Identifier: MIT */
/*
 * What the build makes from the table of commands: manual pages in scdoc's format, the completion
 * script of bash, and a list for tests. `vdisk help --list | --scdoc [COMMAND] | --completion`.
 */
#include "cli/cli_priv.h"

#include <stdlib.h>

/* The name of a command's page: vdisk-snapshot-create. */
static void page_name(FILE *out, const char *name)
{
    fputs("vdisk-", out);
    for (; *name; name++)
        fputc(*name == ' ' ? '-' : *name, out);
}

/* Text for scdoc: what it would take for markup is escaped. */
static void escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("_*\\#[]`~<>", *text))
            fputc('\\', out);
        fputc(*text, out);
    }
}

static void option_page(FILE *out, const struct cli_option *o)
{
    fprintf(out, "*--%s*", o->name);
    if (o->meta) {
        fputs(" _", out);
        escaped(out, o->meta);
        fputs("_", out);
    }
    fputs("\n\t", out);
    escaped(out, o->help);
    fputs("\n\n", out);
}

static void command_page(FILE *out, const struct cli_command *cmd)
{
    page_name(out, cmd->name);
    fputs("(1)\n\n# NAME\n\n", out);
    page_name(out, cmd->name);
    fputs(" - ", out);
    escaped(out, cmd->summary);
    fprintf(out, "\n\n# SYNOPSIS\n\n*vdisk %s*", cmd->name);
    for (const struct cli_arg *a = cmd->args; a && a->name; a++) {
        fputs(a->optional ? " \\[_" : " _", out);
        escaped(out, a->name);
        fprintf(out, "_%s%s", a->optional ? "\\]" : "", a->repeat ? "..." : "");
    }
    fputs(" \\[options\\]\n\n# DESCRIPTION\n\n", out);
    escaped(out, cmd->text);
    fputs("\n\n", out);
    for (const struct cli_arg *a = cmd->args; a && a->name; a++) {
        fputs("_", out);
        escaped(out, a->name);
        fputs("_\n\t", out);
        escaped(out, a->help);
        fputs("\n\n", out);
    }
    fputs("# OPTIONS\n\n", out);
    for (const struct cli_option *o = cmd->options; o && o->name; o++)
        option_page(out, o);
    for (const struct cli_option *o = cli_common_options; o->name; o++)
        if (cli_common_applies(cmd, o))
            option_page(out, o);
    fputs("# EXIT STATUS\n\n", out);
    for (unsigned e = 0; e < EXIT_COUNT; e++)
        if (e <= EXIT_USAGE || (cmd->exits & (1u << e)))
            fprintf(out, "*%u*\n\t%s\n\n", e, cli_exit_text(e));
    fputs("# EXAMPLES\n\n", out);
    for (const char *const *e = cmd->examples; *e; e += 2) {
        fputs("*", out);
        escaped(out, e[0]);
        fputs("*\n\t", out);
        escaped(out, e[1]);
        fputs("\n\n", out);
    }
    fputs("# SEE ALSO\n\n*vdisk*(1)\n", out);
}

static void main_page(FILE *out)
{
    fputs(
        "vdisk(1)\n\n# NAME\n\nvdisk - virtual disks with snapshots\n\n"
        "# SYNOPSIS\n\n*vdisk* _COMMAND_ \\[arguments\\] \\[options\\]\n\n"
        "# DESCRIPTION\n\n"
        "vdisk keeps virtual disks, their snapshots and clones in pools: files or block devices. "
        "A pool that is not being served is used directly by each command; commands for a pool "
        "that is being served are carried out by its server.\n\n"
        "# TARGETS\n\n"
        "A target is POOL\\[:VOLUME\\]\\[@SNAPSHOT\\]. After the last slash, the last @ begins the "
        "snapshot and the last colon before it the volume. A POOL without slash and dot is a "
        "registered name, anything else the path of its file or device. *--pool* _PATH_ names "
        "pools whose path would be misread. VOLUME may be left out when the pool has just one. "
        "Names are letters, digits, '.', '\\_' and '-', at most 127, beginning with a letter or "
        "digit.\n\n# COMMANDS\n\n",
        out);
    for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++) {
        fputs("*", out);
        page_name(out, cmd->name);
        fputs("*(1)\n\t", out);
        escaped(out, cmd->summary);
        fputs("\n\n", out);
    }
    fputs("# EXIT STATUS\n\n", out);
    for (unsigned e = 0; e < EXIT_COUNT; e++)
        fprintf(out, "*%u*\n\t%s\n\n", e, cli_exit_text(e));
    fputs(
        "# ENVIRONMENT\n\n"
        "*VDISK\\_RUNTIME\\_DIR*, *XDG\\_RUNTIME\\_DIR*\n\tWhere control sockets and default doors "
        "are: the first, or vdisk below the second; for root /run/vdisk.\n\n"
        "*VDISK\\_CONFIG\\_DIR*, *XDG\\_CONFIG\\_HOME*\n\tWhere pools are registered, in "
        "pools.json: the first, or vdisk below the second; for root /etc/vdisk.\n\n"
        "*VDISK\\_LOG*\n\tHow much is told on standard error: warning, info or debug.\n\n"
        "*VDISK\\_LOOP*\n\tHow I/O is done: uring or epoll; chosen by itself when unset.\n",
        out);
}

static void completion(FILE *out)
{
    fputs("# bash completion of vdisk; made from its table of commands\n"
          "_vdisk()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words= opts=\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words='help",
          out);
    for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++) {
        const char *space = strchr(cmd->name, ' ');
        size_t n = space ? (size_t)(space - cmd->name) : strlen(cmd->name);
        bool seen = false;
        for (const struct cli_command *b = cli_commands; b != cmd; b++)
            seen |= strncmp(b->name, cmd->name, n) == 0 && b->name[n] == ' ' && space;
        if (!seen)
            fprintf(out, " %.*s", (int)n, cmd->name);
    }
    fputs("'\n    fi\n    case \"${COMP_WORDS[1]} ${COMP_WORDS[2]}\" in\n", out);
    for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++) {
        fprintf(out, "    '%s'%s) opts='", cmd->name, strchr(cmd->name, ' ') ? "" : "\\ *");
        for (const struct cli_option *o = cmd->options; o && o->name; o++)
            fprintf(out, "--%s ", o->name);
        for (const struct cli_option *o = cli_common_options; o->name; o++)
            if (cli_common_applies(cmd, o))
                fprintf(out, "--%s ", o->name);
        fputs("' ;;\n", out);
    }
    fputs("    esac\n    if [ \"$COMP_CWORD\" -eq 2 ]; then\n        case $prev in\n", out);
    for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++) {
        const char *space = strchr(cmd->name, ' ');
        if (!space)
            continue;
        size_t n = (size_t)(space - cmd->name);
        if (cmd != cli_commands && strncmp(cmd[-1].name, cmd->name, n + 1) == 0)
            fprintf(out, " %s", space + 1);
        else
            fprintf(out, "        %.*s) words='%s", (int)n, cmd->name, space + 1);
        if (!cmd[1].name || strncmp(cmd[1].name, cmd->name, n + 1) != 0)
            fputs("' ;;\n", out);
    }
    fputs("        esac\n    fi\n"
          "    case $cur in\n"
          "    --*) COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\")) ;;\n"
          "    *) if [ -n \"$words\" ]; then COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "       else compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); fi ;;\n"
          "    esac\n}\ncomplete -F _vdisk vdisk\n",
          out);
}

int cli_generate(int argc, char **argv)
{
    int words;
    if (strcmp(argv[0], "--list") == 0) {
        for (const struct cli_command *cmd = cli_commands; cmd->name; cmd++)
            puts(cmd->name);
        return EXIT_OK;
    }
    if (strcmp(argv[0], "--completion") == 0) {
        completion(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[0], "--scdoc") == 0) {
        const struct cli_command *cmd = cli_find(argc - 1, argv + 1, &words);
        if (cmd)
            command_page(stdout, cmd);
        else if (argc == 1)
            main_page(stdout);
        else
            return EXIT_USAGE;
        return EXIT_OK;
    }
    fputs("vdisk: help takes a command: see \"vdisk --help\"\n", stderr);
    return EXIT_USAGE;
}
