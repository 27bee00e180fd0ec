/* SPDX-License-Identifier: MIT */
/*
 * Metrics as the text that Prometheus reads (exposition format 0.0.4): all samples of a family
 * together, after its HELP and TYPE; base units; counters end in _total. Names are part of what
 * people build on: they may be added to, and are not changed. Never yields.
 */
#include "server/stats_priv.h"

#include <stdio.h>
#include <unistd.h>

/* The buckets told, as powers of two of nanoseconds: 16 us to 17 s. */
#define LE_FIRST 14u
#define LE_LAST 34u
#define LE_STEP 1u

struct text {
    FILE *f;
    const struct stats *s;
    char pool[1024]; /* label value, escaped */
};

static void family(struct text *t, const char *name, const char *type, const char *help)
{
    fprintf(t->f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Backslash, quote and newline are escaped; what does not fit is left out. */
static void escape(char *to, size_t len, const char *from)
{
    size_t n = 0;
    for (; *from && n + 3 < len; from++) {
        if (*from == '\\' || *from == '"' || *from == '\n')
            to[n++] = '\\';
        to[n++] = *from == '\n' ? 'n' : *from;
    }
    to[n] = 0;
}

static void pool_value(struct text *t, const char *name, const char *type, const char *help,
                       uint64_t value)
{
    family(t, name, type, help);
    fprintf(t->f, "%s{pool=\"%s\"} %" PRIu64 "\n", name, t->pool, value);
}

static void pool_metrics(struct text *t)
{
    const struct vd_store_info *p = &t->s->pool;
    pool_value(t, "vdisk_pool_capacity_bytes", "gauge",
               "Bytes that the pool may take on its devices.", p->capacity);
    pool_value(t, "vdisk_pool_allocated_bytes", "gauge", "Bytes that it takes now.", p->allocated);
    pool_value(t, "vdisk_pool_live_bytes", "gauge", "Bytes of data that something needs.", p->live);
    pool_value(t, "vdisk_pool_metadata_bytes", "gauge", "Bytes of tree nodes, all copies.",
               p->metadata);
    pool_value(t, "vdisk_pool_log_bytes", "gauge", "Bytes of log since the last checkpoint.",
               p->log_bytes);
    pool_value(t, "vdisk_pool_backlog_bytes", "gauge", "Background work that is left to do.",
               vd_store_backlog(t->s->owner->store));
    pool_value(t, "vdisk_pool_segments", "gauge", "Segments that there are.", p->segments);
    pool_value(t, "vdisk_pool_segments_free", "gauge", "Segments that are free.", p->segments_free);
    pool_value(t, "vdisk_pool_segments_cleaned_total", "counter",
               "Segments that the cleaner has emptied.", p->segments_cleaned);
    pool_value(t, "vdisk_pool_checkpoints_total", "counter", "Checkpoints made.", p->checkpoints);
    pool_value(t, "vdisk_pool_written_bytes_total", "counter", "Bytes written to volumes.",
               p->written);
    pool_value(t, "vdisk_pool_device_written_bytes_total", "counter",
               "Bytes written to the devices for that.", p->device_written);
    pool_value(t, "vdisk_pool_cache_bytes", "gauge", "Memory that caches tree nodes.",
               p->cache_bytes);
    pool_value(t, "vdisk_pool_cache_hits_total", "counter", "Nodes found in that memory.",
               p->cache_hits);
    pool_value(t, "vdisk_pool_cache_misses_total", "counter", "Nodes not found there.",
               p->cache_misses);
    pool_value(t, "vdisk_pool_failed", "gauge", "1 when an error has made the pool read-only.",
               *p->failed != 0);
    pool_value(t, "vdisk_pool_clients", "gauge", "Clients connected to all doors.",
               vd_doors_count(t->s->owner));
}

/* Volume names need no escapes. */
static void volume_head(struct text *t, const char *name, size_t i)
{
    fprintf(t->f, "%s{pool=\"%s\",volume=\"%s\"", name, t->pool, t->s->volumes[i].name);
}

static void volume_gauges(struct text *t)
{
    static const char size[] = "vdisk_volume_size_bytes", used[] = "vdisk_volume_referenced_bytes",
                      flight[] = "vdisk_volume_requests_in_flight",
                      held[] = "vdisk_volume_limit_wait_seconds_total";
    const struct stats *s = t->s;
    family(t, size, "gauge", "Size of the volume.");
    for (size_t i = 0; i < s->n; i++) {
        volume_head(t, size, i);
        fprintf(t->f, "} %" PRIu64 "\n", s->volumes[i].size);
    }
    family(t, used, "gauge", "Bytes that the volume holds, shared ones included.");
    for (size_t i = 0; i < s->n; i++) {
        volume_head(t, used, i);
        fprintf(t->f, "} %" PRIu64 "\n", s->volumes[i].referenced);
    }
    family(t, flight, "gauge", "Requests that have not ended.");
    for (size_t i = 0; i < s->n; i++) {
        volume_head(t, flight, i);
        fprintf(t->f, "} %u\n", s->volumes[i].meter ? s->volumes[i].meter->in_flight : 0);
    }
    family(t, held, "counter", "Time that requests have waited for the volume's limits.");
    for (size_t i = 0; i < s->n; i++) {
        volume_head(t, held, i);
        fprintf(t->f, "} %.9f\n",
                s->volumes[i].meter ? (double)s->volumes[i].meter->held_ns / 1e9 : 0.0);
    }
}

static void volume_counts(struct text *t)
{
    static const struct {
        const char *name, *help;
        size_t member;
    } families[] = {
        {"vdisk_volume_requests_total", "Requests that have ended.",
         offsetof(struct vd_meter_counts, requests)},
        {"vdisk_volume_bytes_total", "Bytes of requests that went well.",
         offsetof(struct vd_meter_counts, bytes)},
        {"vdisk_volume_errors_total", "Requests that failed.",
         offsetof(struct vd_meter_counts, errors)},
    };
    for (size_t f = 0; f < VD_ARRAY_SIZE(families); f++) {
        family(t, families[f].name, "counter", families[f].help);
        for (size_t i = 0; i < t->s->n; i++)
            for (int k = 0; k < VD_METER_KINDS; k++) {
                const struct vd_meter *m = t->s->volumes[i].meter;
                uint64_t n = 0;
                if (m)
                    memcpy(&n, (const char *)&m->kinds[k] + families[f].member, sizeof(n));
                volume_head(t, families[f].name, i);
                fprintf(t->f, ",kind=\"%s\"} %" PRIu64 "\n", vd_meter_kind_names[k], n);
            }
    }
}

static void volume_durations(struct text *t)
{
    static const char name[] = "vdisk_volume_request_duration_seconds";
    family(t, name, "histogram", "How long requests took, waiting for limits included.");
    for (size_t i = 0; i < t->s->n; i++)
        for (int k = 0; k < VD_METER_KINDS; k++) {
            static const struct vd_histogram none;
            const struct vd_meter *m = t->s->volumes[i].meter;
            const struct vd_histogram *h = m ? &m->kinds[k].latency : &none;
            const char *kind = vd_meter_kind_names[k];
            for (unsigned e = LE_FIRST; e <= LE_LAST; e += LE_STEP) {
                fprintf(t->f, "%s_bucket{pool=\"%s\",volume=\"%s\",kind=\"%s\",le=\"%.9g\"}", name,
                        t->pool, t->s->volumes[i].name, kind, (double)(UINT64_C(1) << e) / 1e9);
                fprintf(t->f, " %" PRIu64 "\n", vd_histogram_below(h, e));
            }
            uint64_t count = vd_histogram_count(h);
            fprintf(t->f,
                    "%s_bucket{pool=\"%s\",volume=\"%s\",kind=\"%s\",le=\"+Inf\"} %" PRIu64 "\n",
                    name, t->pool, t->s->volumes[i].name, kind, count);
            fprintf(t->f, "%s_sum{pool=\"%s\",volume=\"%s\",kind=\"%s\"} %.9f\n", name, t->pool,
                    t->s->volumes[i].name, kind, (double)h->sum_ns / 1e9);
            fprintf(t->f, "%s_count{pool=\"%s\",volume=\"%s\",kind=\"%s\"} %" PRIu64 "\n", name,
                    t->pool, t->s->volumes[i].name, kind, count);
        }
}

char *stats_exposition(const struct stats *s)
{
    struct text t = {.s = s};
    char *out = NULL;
    size_t len;
    t.f = open_memstream(&out, &len);
    if (!t.f)
        return NULL;
    escape(t.pool, sizeof(t.pool),
           *s->owner->pool_name ? s->owner->pool_name : s->owner->full_path);
    family(&t, "vdisk_build_info", "gauge", "The version of vdisk, as a label.");
    fprintf(t.f, "vdisk_build_info{version=\"%s\"} 1\n", VDISK_VERSION);
    pool_metrics(&t);
    volume_gauges(&t);
    volume_counts(&t);
    volume_durations(&t);
    bool bad = ferror(t.f);
    if (fclose(t.f) != 0 || bad) {
        free(out);
        return NULL;
    }
    return out;
}
