/* SPDX-License-Identifier: MIT */
/* Inside the oracle: states as shared pages of versions, changes, and what is known of versions. */
#ifndef CRASH_ORACLE_PRIV_H
#define CRASH_ORACLE_PRIV_H

#include "tests/crash/oracle.h"

#define PAGE_SECTORS 1024u
#define NAME_LIVE 0    /* "" */
#define NAME_UNKNOWN 1 /* the name under which a rollback kept the tip, if it did not say */
#define OPEN_MAX 64    /* changes open at once that a judgement looks at */
#define SUBSETS_MAX 12 /* of them, those that leave no trace: all subsets are tried */

/* Another version that the sector may hold as well. */
struct alt {
    uint32_t at, version;
};
struct page {
    unsigned refs;
    unsigned nalt, room;
    struct alt *alt;
    uint32_t v[PAGE_SECTORS];
};
struct oracle_content {
    unsigned refs;
    uint64_t sectors;
    size_t npages;
    struct page **page; /* NULL = zeroes */
};
struct entry {
    int volume, snapshot;
    bool automatic;
    struct oracle_content *content;
};
struct oracle_state {
    struct entry *v;
    unsigned n, room;
};

struct oracle_op {
    struct oracle_change c;
    int volume[ORACLE_TARGETS], snapshot[ORACLE_TARGETS], to;
    uint32_t version;
    uint64_t sub, ack; /* ack UINT64_MAX: open */
    bool refused, must;
    struct oracle_content *base[ORACLE_TARGETS]; /* SNAPSHOT: as it was when asked for */
};
/* An acknowledged change and the state after it. Step 0 is the certain state. */
struct step {
    struct oracle_op *op;
    struct oracle_state *state;
};
struct version {
    uint64_t ack; /* when the change that made it was acknowledged; UINT64_MAX: not yet */
    bool zero;
};

struct oracle {
    char (*name)[ORACLE_NAME];
    unsigned names;
    struct version *ver;
    uint32_t vers;
    uint64_t clock;
    struct oracle_op **op;
    unsigned ops;
    struct step *step;
    unsigned steps;
};

void *oracle_alloc(void *old, size_t len);
int oracle_name(struct oracle *o, const char *text);
int oracle_name_find(const struct oracle *o, const char *text); /* -1: never heard of */

struct oracle_content *content_ref(struct oracle_content *c);
void content_unref(struct oracle_content *c);
struct oracle_state *state_copy(const struct oracle_state *s);
struct entry *state_find(const struct oracle_state *s, int volume, int snapshot);
void state_apply(const struct oracle *o, struct oracle_state *s, const struct oracle_op *op);

/* The version a sector holds; *page for its alternatives. */
static inline uint32_t content_at(const struct oracle_content *c, uint64_t sector,
                                  const struct page **page)
{
    *page = c->page[sector / PAGE_SECTORS];
    return *page ? (*page)->v[sector % PAGE_SECTORS] : 0;
}
static inline bool version_is(const struct oracle *o, uint32_t expected, uint32_t found)
{
    return expected == found || (found == 0 && o->ver[expected].zero);
}
static inline bool ops_overlap(const struct oracle_op *a, const struct oracle_op *b)
{
    return a->sub < b->ack && b->sub < a->ack;
}
static inline bool op_is_content(const struct oracle_op *op)
{
    return op->c.kind == ORACLE_WRITE || op->c.kind == ORACLE_ZERO;
}
/* May the sector hold `found`? */
bool content_may_be(const struct oracle *o, const struct oracle_content *c, uint64_t sector,
                    uint32_t found);
/* "write of 8 sectors at 24 of a, acknowledged" into buf. */
const char *op_text(const struct oracle *o, const struct oracle_op *op, char *buf, size_t len);

#endif
