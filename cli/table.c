/* SPDX-License-Identifier: MIT */
/*
 * Human output: columns, sizes, times. Short of memory it prints less; never yields.
 */
#include "cli/cli_priv.h"

#include "core/base/text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

void table_init(struct cli_table *t, const char *const *heads, int n)
{
    memset(t, 0, sizeof(*t));
    t->n_columns = n;
    memcpy(t->heads, heads, (size_t)n * sizeof(*heads));
}

void table_row(struct cli_table *t)
{
    if (t->n_rows == t->room) {
        int room = t->room ? 2 * t->room : 16;
        char **cells = realloc(t->cells, (size_t)room * (size_t)t->n_columns * sizeof(*cells));
        if (!cells)
            return;
        t->cells = cells;
        t->room = room;
    }
    memset(t->cells + (size_t)t->n_rows * (size_t)t->n_columns, 0,
           (size_t)t->n_columns * sizeof(*t->cells));
    t->n_rows++;
}

void table_cell(struct cli_table *t, int column, const char *fmt, ...)
{
    if (t->n_rows == 0)
        return;
    char **cell = &t->cells[(size_t)(t->n_rows - 1) * (size_t)t->n_columns + (size_t)column];
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(cell, fmt, ap) < 0)
        *cell = NULL;
    va_end(ap);
}

/* Columns a text takes: UTF-8 characters, which here are all of width one. */
static int text_width(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += (*s & 0xc0) != 0x80;
    return n;
}

/* One line; nothing is printed after its last text. */
static void put_row(FILE *out, const char *const *cells, int n, const int *width, const bool *right)
{
    int owed = 0;
    for (int i = 0; i < n; i++) {
        const char *text = cells[i] ? cells[i] : "";
        int pad = width[i] - text_width(text);
        if (!*text) {
            owed += width[i] + 2;
            continue;
        }
        fprintf(out, "%*s%s", owed + (right[i] ? pad : 0), "", text);
        owed = (right[i] ? 0 : pad) + 2;
    }
    fputc('\n', out);
}

void table_print(struct cli_table *t, FILE *out)
{
    int width[TABLE_COLUMNS];
    bool right[TABLE_COLUMNS];
    size_t n = (size_t)t->n_columns;
    for (int i = 0; i < t->n_columns; i++) {
        right[i] = t->heads[i][0] == '>';
        t->heads[i] += right[i];
        width[i] = text_width(t->heads[i]);
    }
    for (size_t k = 0; k < n * (size_t)t->n_rows; k++)
        width[k % n] = VD_MAX(width[k % n], t->cells[k] ? text_width(t->cells[k]) : 0);
    put_row(out, t->heads, t->n_columns, width, right);
    for (int r = 0; r < t->n_rows; r++)
        put_row(out, (const char *const *)t->cells + (size_t)r * n, t->n_columns, width, right);
    for (size_t k = 0; k < n * (size_t)t->n_rows; k++)
        free(t->cells[k]);
    free(t->cells);
}

static char *ring(size_t *len)
{
    static char buffers[8][40];
    static unsigned next;
    *len = sizeof(buffers[0]);
    return buffers[next++ % 8];
}

const char *human_size(json_int_t bytes)
{
    size_t len;
    char *buf = ring(&len);
    return vd_size_format((uint64_t)VD_MAX(bytes, 0), buf, len);
}

const char *human_time(json_int_t seconds)
{
    size_t len;
    char *buf = ring(&len);
    time_t t = (time_t)seconds;
    struct tm tm;
    if (!localtime_r(&t, &tm) || strftime(buf, len, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(buf, len, "%lld", (long long)seconds);
    return buf;
}

const char *get_str(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

json_int_t get_int(json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

bool get_bool(json_t *o, const char *key)
{
    return json_is_true(json_object_get(o, key));
}
