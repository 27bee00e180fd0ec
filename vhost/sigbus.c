/* SPDX-License-Identifier: MIT */
/*
 * A client may cut short the file that we have mapped as its guest's memory; touching what is gone
 * raises SIGBUS, which would end the server and with it everybody's disks. The handler puts zeroes
 * in the place of the whole mapping and tells its owner, who drops that client. A fault anywhere
 * else does what it did before.
 *
 * Invariants: a slot's fields are written before its `used` is set and not changed while it is; the
 * handler only reads slots, maps memory and sets a flag, so it may run anywhere, on any thread.
 */
#include "vhost/vhost_priv.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#define SLOTS 4096

static struct slot {
    atomic_int used; /* 0 free, 1 being filled, 2 watched */
    uintptr_t from, len;
    atomic_bool *lost;
} slots[SLOTS];
static atomic_int slots_high; /* no slot from here on was ever used */
static struct sigaction before;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void handler(int sig, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    int high = atomic_load(&slots_high), code = errno;
    for (int i = 0; i < high; i++) {
        struct slot *s = &slots[i];
        if (atomic_load(&s->used) != 2 || at < s->from || at - s->from >= s->len)
            continue;
        if (mmap((void *)s->from, s->len, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            break;
        atomic_store(s->lost, true);
        errno = code;
        return;
    }
    /* Not ours: it happens again, to whoever was there before. */
    (void)sigaction(sig, &before, NULL);
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    (void)sigaction(SIGBUS, &action, &before);
}

int sigbus_guard(void *map, size_t len, atomic_bool *lost)
{
    pthread_once(&once, install);
    for (int i = 0; i < SLOTS; i++) {
        int free_slot = 0;
        if (!atomic_compare_exchange_strong(&slots[i].used, &free_slot, 1))
            continue;
        slots[i].from = (uintptr_t)map;
        slots[i].len = len;
        slots[i].lost = lost;
        for (int high = atomic_load(&slots_high);
             high <= i && !atomic_compare_exchange_weak(&slots_high, &high, i + 1);)
            ;
        atomic_store(&slots[i].used, 2);
        return i;
    }
    return -1;
}

void sigbus_release(int guard)
{
    if (guard >= 0)
        atomic_store(&slots[guard].used, 0);
}
