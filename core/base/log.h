/* SPDX-License-Identifier: MIT */
/* Where libraries report what happened. They never print: the program sets a sink. */
#ifndef VD_BASE_LOG_H
#define VD_BASE_LOG_H

#include "core/base/base.h"

enum vd_log_level { VD_LOG_ERROR, VD_LOG_WARNING, VD_LOG_INFO, VD_LOG_DEBUG };

/* `message` is one line without a newline. Called on whichever thread logs. */
typedef void vd_log_fn(void *arg, enum vd_log_level level, const char *message);

/* Sets the process-wide sink; NULL drops everything. Call before threads start. */
void vd_log_set_sink(vd_log_fn *fn, void *arg, enum vd_log_level up_to);

void vd_log(enum vd_log_level level, const char *fmt, ...) VD_PRINTF(2, 3);
/* The same about a volume, whose name a sink may want to have apart. */
void vd_log_volume(enum vd_log_level level, const char *volume, const char *fmt, ...)
    VD_PRINTF(3, 4);
/* For sinks: what the line at hand is about, NULL = no volume. */
const char *vd_log_volume_name(void);

#endif
