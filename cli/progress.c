/* SPDX-License-Identifier: MIT */
/*
 * Progress of long jobs on standard error: a bar on a terminal, or events as lines of JSON.
 * Standard output belongs to results.
 */
#include "cli/cli_priv.h"

#include "core/io/loop.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR 24

static void print_event(json_t *event)
{
    char *text = json_dumps(event, JSON_COMPACT);
    if (text)
        fprintf(stderr, "%s\n", text);
    free(text);
}

static int terminal_width(void)
{
    struct winsize ws;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 0 ? ws.ws_col : 80;
}

/* "0:42" or "1:02:03" */
static void clock_text(uint64_t s, char *buf, size_t len)
{
    if (s >= 3600)
        snprintf(buf, len, "%" PRIu64 ":%02u:%02u", s / 3600, (unsigned)(s / 60 % 60),
                 (unsigned)(s % 60));
    else
        snprintf(buf, len, "%" PRIu64 ":%02u", s / 60, (unsigned)(s % 60));
}

static void draw(struct cli *c, const char *kind, uint64_t done, uint64_t total)
{
    char line[256], bar[BAR + 1], left[40] = "";
    uint64_t now = vd_loop_now_ns(vd_loop_current());
    if (!c->bar_started_ns)
        c->bar_started_ns = now;
    uint64_t ms = (now - c->bar_started_ns) / 1000000;
    double rate = ms ? (double)done * 1000 / (double)ms : 0;
    if (total) {
        double part = (double)VD_MIN(done, total) / (double)total;
        int full = (int)(part * BAR);
        for (int i = 0; i < BAR; i++)
            bar[i] = i < full ? '#' : '-';
        bar[BAR] = 0;
        if (rate > 0 && ms > 2000)
            clock_text((uint64_t)((double)(total - VD_MIN(done, total)) / rate), left,
                       sizeof(left));
        snprintf(line, sizeof(line), "%s [%s] %3d%%  %s of %s  %s/s%s%s", kind, bar,
                 (int)(part * 100), human_size((json_int_t)done), human_size((json_int_t)total),
                 human_size((json_int_t)rate), *left ? "  left " : "", left);
    } else if (!done) {
        snprintf(line, sizeof(line), "%s ...", kind);
    } else {
        snprintf(line, sizeof(line), "%s  %s  %s/s", kind, human_size((json_int_t)done),
                 human_size((json_int_t)rate));
    }
    fprintf(stderr, "\r%.*s\033[K", terminal_width() - 1, line);
    fflush(stderr);
    c->bar = true;
}

void cli_progress_event(struct cli *c, json_t *event)
{
    if (strcmp(get_str(event, "event"), "progress") != 0) {
        if (c->on_event)
            c->on_event(c, event);
        return;
    }
    if (c->progress == PROGRESS_JSON)
        print_event(event);
    else if (c->progress == PROGRESS_AUTO && isatty(STDERR_FILENO) &&
             (c->bar || get_int(event, "done") != get_int(event, "total")))
        draw(c, get_str(event, "kind"), (uint64_t)get_int(event, "done"),
             (uint64_t)get_int(event, "total"));
}

void cli_progress_end(struct cli *c)
{
    if (c->bar)
        fputs("\r\033[K", stderr);
    c->bar = false;
}
