/* SPDX-License-Identifier: MIT */
/*
 * The guest's memory: what the client shares of it, where we have it mapped, and the log of the
 * pages that we have written, which a migration needs.
 *
 * Invariants:
 *  1. Every address from outside goes through memory_guest or memory_user, which give nothing that
 *     is not mapped.
 *  2. A file has the bytes that are mapped of it when it is mapped. Its owner may cut it short
 * later all the same; then sigbus.c keeps us alive and the client is dropped.
 *  3. Regions change only while nothing of the connection is under way (queues_pause).
 *
 * Nothing here suspends.
 */
#include "vhost/vhost_priv.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int memory_map(struct vhost_conn *c, int fd, uint64_t off, uint64_t len, void **ret_map,
               size_t *ret_map_len, uint8_t **ret, int *ret_guard)
{
    struct stat st;
    uint64_t end;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || len == 0 ||
        __builtin_add_overflow(off, len, &end) || end > (uint64_t)st.st_size)
        return -EPROTO;
    /* Files of huge pages are mapped in whole ones, and say so here. */
    uint64_t page = VD_MAX((uint64_t)sysconf(_SC_PAGESIZE), (uint64_t)st.st_blksize);
    if (page & (page - 1))
        return -EPROTO;
    uint64_t from = VD_ROUND_DOWN(off, page), map_len = VD_ROUND_UP(end - from, page);
    void *map =
        mmap(NULL, map_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)from);
    if (map == MAP_FAILED)
        return errno == ENOMEM ? -ENOMEM : -EPROTO;
    int guard = sigbus_guard(map, map_len, &c->memory_lost);
    if (guard < 0) {
        munmap(map, map_len);
        return -ENOMEM;
    }
    (void)madvise(map, map_len, MADV_DONTDUMP); /* what a guest knows stays out of our core dumps */
    *ret_map = map;
    *ret_map_len = map_len;
    *ret = (uint8_t *)map + (off - from);
    *ret_guard = guard;
    return 0;
}

void memory_unmap(void *map, size_t map_len, int guard)
{
    if (!map)
        return;
    sigbus_release(guard);
    munmap(map, map_len);
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_len, uint64_t b_len)
{
    return a < b + b_len && b < a + a_len;
}

int memory_region_add(struct vhost_conn *c, const struct vhost_mem_region *r, int fd)
{
    uint64_t end;
    if (!c->regions && !(c->regions = calloc(VHOST_REGIONS_MAX, sizeof(*c->regions))))
        return -ENOMEM;
    if (c->n_regions == VHOST_REGIONS_MAX || r->size == 0 ||
        __builtin_add_overflow(r->guest_addr, r->size, &end) ||
        __builtin_add_overflow(r->user_addr, r->size, &end))
        return -EPROTO;
    for (unsigned i = 0; i < c->n_regions; i++) {
        const struct vhost_region *o = &c->regions[i];
        if (overlap(o->guest, r->guest_addr, o->size, r->size) ||
            overlap(o->user, r->user_addr, o->size, r->size))
            return -EPROTO;
    }
    struct vhost_region new = {.guest = r->guest_addr, .user = r->user_addr, .size = r->size};
    int ret = memory_map(c, fd, r->mmap_off, r->size, &new.map, &new.map_len, &new.mem, &new.guard);
    if (ret == 0)
        c->regions[c->n_regions++] = new;
    return ret;
}

int memory_region_remove(struct vhost_conn *c, const struct vhost_mem_region *r)
{
    for (unsigned i = 0; i < c->n_regions; i++) {
        struct vhost_region *o = &c->regions[i];
        if (o->guest != r->guest_addr || o->user != r->user_addr || o->size != r->size)
            continue;
        memory_unmap(o->map, o->map_len, o->guard);
        *o = c->regions[--c->n_regions];
        return 0;
    }
    return -EPROTO;
}

void memory_regions_free(struct vhost_conn *c)
{
    while (c->n_regions > 0) {
        struct vhost_region *o = &c->regions[--c->n_regions];
        memory_unmap(o->map, o->map_len, o->guard);
    }
}

uint8_t *memory_guest(const struct vhost_conn *c, uint64_t addr, uint64_t *len)
{
    for (unsigned i = 0; i < c->n_regions; i++) {
        const struct vhost_region *r = &c->regions[i];
        if (addr < r->guest || addr - r->guest >= r->size)
            continue;
        *len = VD_MIN(*len, r->size - (addr - r->guest));
        return r->mem + (addr - r->guest);
    }
    return NULL;
}

void *memory_user(const struct vhost_conn *c, uint64_t addr, uint64_t len)
{
    for (unsigned i = 0; i < c->n_regions; i++) {
        const struct vhost_region *r = &c->regions[i];
        if (addr >= r->user && addr - r->user < r->size && len <= r->size - (addr - r->user))
            return r->mem + (addr - r->user);
    }
    return NULL;
}

int memory_dirty(struct vhost_conn *c, uint64_t guest, uint64_t len)
{
    uint64_t end;
    if (!c->log || !conn_has(c, VHOST_F_LOG_ALL_BIT) || len == 0)
        return 0;
    if (__builtin_add_overflow(guest, len - 1, &end) || end / VD_BLOCK / 8 >= c->log_len)
        return conn_refuse(c, "the log of dirty pages is too short for its memory");
    for (uint64_t page = guest / VD_BLOCK; page <= end / VD_BLOCK; page++)
        __atomic_fetch_or(&c->log[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_SEQ_CST);
    return 0;
}

void memory_log_free(struct vhost_conn *c)
{
    memory_unmap(c->log_map, c->log_map_len, c->log_guard);
    c->log_map = NULL;
    c->log = NULL;
    c->log_len = 0;
}
