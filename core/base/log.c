/* SPDX-License-Identifier: MIT */
/*
 * The one place where libraries report to. Called from any thread, any fiber; never yields and
 * never allocates. The sink is set before threads start, so it needs no lock here.
 */
#include "core/base/log.h"

#include <stdarg.h>
#include <stdio.h>

static vd_log_fn *log_sink;
static void *log_arg;
static enum vd_log_level log_up_to;

void vd_log_set_sink(vd_log_fn *fn, void *arg, enum vd_log_level up_to)
{
    log_sink = fn;
    log_arg = arg;
    log_up_to = up_to;
}

static __thread const char *log_volume;

static void log_line(enum vd_log_level level, const char *fmt, va_list ap) VD_PRINTF(2, 0);
static void log_line(enum vd_log_level level, const char *fmt, va_list ap)
{
    if (!log_sink || level > log_up_to)
        return;
    char line[512];
    (void)vsnprintf(line, sizeof(line), fmt, ap);
    for (char *p = line; *p; p++)
        if (*p == '\n' || *p == '\r')
            *p = ' ';
    log_sink(log_arg, level, line);
}

void vd_log(enum vd_log_level level, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line(level, fmt, ap);
    va_end(ap);
}

void vd_log_volume(enum vd_log_level level, const char *volume, const char *fmt, ...)
{
    va_list ap;
    log_volume = volume;
    va_start(ap, fmt);
    log_line(level, fmt, ap);
    va_end(ap);
    log_volume = NULL;
}

const char *vd_log_volume_name(void)
{
    return log_volume;
}
