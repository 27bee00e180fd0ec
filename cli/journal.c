/* SPDX-License-Identifier: MIT */
/*
 * Where log lines go: to the journal, with fields that can be searched for, where standard error is
 * connected to it (JOURNAL_STREAM, systemd.exec(5)); else to standard error as text. Speaks the
 * journal's own protocol, a datagram of FIELD=VALUE lines. Called on any thread; does not yield and
 * does not wait: what the journal does not take at once is printed.
 */
#include "cli/cli_priv.h"

#include "core/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

static int journal_fd = -1;
static char journal_pool[512];

void cli_journal_pool(const char *pool)
{
    snprintf(journal_pool, sizeof(journal_pool), "%s", pool);
    for (char *p = journal_pool; *p; p++)
        if (*p == '\n')
            *p = ' ';
}

static bool send_journal(enum vd_log_level level, const char *message)
{
    static const int priorities[] = {3, 4, 6, 7}; /* err, warning, info, debug of syslog(3) */
    struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};
    const char *volume = vd_log_volume_name();
    char text[1536];
    int n = snprintf(text, sizeof(text),
                     "MESSAGE=%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=vdisk\n%s%s%s%s%s%s", message,
                     priorities[level], *journal_pool ? "VDISK_POOL=" : "", journal_pool,
                     *journal_pool ? "\n" : "", volume ? "VDISK_VOLUME=" : "", volume ? volume : "",
                     volume ? "\n" : "");
    return n > 0 && (size_t)n < sizeof(text) &&
           sendto(journal_fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&sa,
                  sizeof(sa)) == n;
}

static void sink(void *arg, enum vd_log_level level, const char *message)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (journal_fd >= 0 && send_journal(level, message))
        return;
    fprintf(stderr, "vdisk: %s: %s\n", names[level], message);
}

/* Whether standard error is what JOURNAL_STREAM says: it may have been redirected since. */
static bool is_journal(void)
{
    const char *is = getenv("JOURNAL_STREAM");
    struct stat st;
    char want[64];
    if (!is || fstat(STDERR_FILENO, &st) < 0)
        return false;
    snprintf(want, sizeof(want), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    return strcmp(is, want) == 0;
}

void cli_log_background(void)
{
    if (journal_fd < 0)
        journal_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

void cli_log_begin(void)
{
    const char *level = getenv("VDISK_LOG");
    if (is_journal())
        journal_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    vd_log_set_sink(sink, NULL,
                    !level                        ? VD_LOG_WARNING
                    : strcmp(level, "debug") == 0 ? VD_LOG_DEBUG
                    : strcmp(level, "info") == 0  ? VD_LOG_INFO
                                                  : VD_LOG_WARNING);
}
