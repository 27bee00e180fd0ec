/* SPDX-License-Identifier: MIT */
/*
 * The catalogue in memory: keys applied one by one, look-ups by id and name. Pure.
 *
 * Invariants: every change arrives through catalog_apply with the bytes that are also in the log or
 * the tree, so that live and replayed state are the same; a failed apply changes nothing that
 * matters (the pool fails, or refuses to open).
 */
#include "snapshot/state_priv.h"

#include "core/base/text.h"

#include <stdlib.h>

void catalog_init(struct catalog *c)
{
    *c = (struct catalog){.next_id = 1, .next_branch = 1};
    vd_list_init(&c->branches);
    vd_list_init(&c->aliases);
    vd_list_init(&c->volumes);
}

/* ---- look-ups ---- */

struct volume *catalog_volume(const struct catalog *c, const char *name)
{
    for (struct hlink *l = htab_first(&c->volume_names, hash_text(0, name)); l; l = htab_next(l)) {
        struct volume *v = vd_container_of(l, struct volume, by_name);
        if (strcmp(v->rec.name, name) == 0)
            return v;
    }
    return NULL;
}

struct volume *catalog_volume_id(const struct catalog *c, uint64_t id)
{
    for (struct hlink *l = htab_first(&c->volume_ids, hash_u64(id)); l; l = htab_next(l)) {
        struct volume *v = vd_container_of(l, struct volume, by_id);
        if (v->id == id)
            return v;
    }
    return NULL;
}

struct snapshot *catalog_snapshot(const struct catalog *c, const struct volume *v, const char *name)
{
    struct hlink *l = htab_first(&c->snapshot_names, hash_text(v->id, name));
    for (; l; l = htab_next(l)) {
        struct snapshot *s = vd_container_of(l, struct snapshot, by_name);
        if (s->volume == v && strcmp(s->rec.name, name) == 0)
            return s;
    }
    return NULL;
}

static struct snapshot *snapshot_by_id(const struct catalog *c, uint64_t id)
{
    for (struct hlink *l = htab_first(&c->snapshot_ids, hash_u64(id)); l; l = htab_next(l)) {
        struct snapshot *s = vd_container_of(l, struct snapshot, by_id);
        if (s->id == id)
            return s;
    }
    return NULL;
}

/* ---- branches ---- */

static struct branch *branch_new(struct catalog *c, uint64_t id)
{
    struct branch *b = calloc(1, sizeof(*b));
    if (!b || htab_reserve(&c->branch_ids) < 0) {
        free(b);
        return NULL;
    }
    b->id = id;
    vd_list_init(&b->children);
    vd_list_init(&b->sibling);
    vd_list_init(&b->snapshots);
    htab_insert(&c->branch_ids, &b->link, hash_u64(id));
    vd_list_push(&c->branches, &b->all);
    c->nbranches++;
    return b;
}

static int branch_apply(struct catalog *c, uint64_t id, const void *val, uint16_t len)
{
    struct od_catalog_branch od;
    if (len != sizeof(od) || !id || id > UINT32_MAX || catalog_resolve(c, id))
        return -EUCLEAN;
    memcpy(&od, val, sizeof(od));
    uint64_t parent_id = vd_get64(od.parent), origin = vd_get64(od.origin);
    struct branch *parent = parent_id ? catalog_resolve(c, parent_id) : NULL;
    if (parent && parent->into) {
        if (od.flags)
            return -EUCLEAN;
        parent = parent->into; /* a fold began while the operation waited for its turn */
    }
    if (parent_id && (parent_id >= id || !parent || parent->id >= id || !origin))
        return -EUCLEAN;
    if (od.tip_state > CATALOG_TIP_DEAD || (od.flags && !parent))
        return -EUCLEAN;
    struct branch *b = branch_new(c, id);
    if (!b || (parent && !branch_retain(parent, origin)))
        return -ENOMEM;
    branch_set_parent(b, parent, origin, vd_get64(od.limit));
    b->absorbing = b->fold_known = od.flags & CATALOG_BRANCH_ABSORBING;
    if (b->absorbing) {
        parent->into = b;
        if (!branch_alias(c, parent))
            return -ENOMEM;
    }
    b->fold_cursor = vd_get64(od.fold_cursor);
    b->tip_state = od.tip_state;
    b->tip_floor = vd_get64(od.tip_floor);
    b->tip_cursor = vd_get64(od.tip_cursor);
    b->sweep_cursor = vd_get64(od.sweep_cursor);
    return 0;
}

static int retained_apply(struct catalog *c, uint64_t id, uint64_t epoch, const void *val,
                          uint16_t len)
{
    struct od_catalog_retained od;
    struct branch *b = catalog_branch(c, id);
    if (len != sizeof(od) || !b || !epoch)
        return -EUCLEAN;
    memcpy(&od, val, sizeof(od));
    struct retained *r = branch_retain(b, epoch);
    if (!r)
        return -ENOMEM;
    r->recorded = true;
    r->purging = od.flags & CATALOG_RETAINED_PURGING;
    r->head = od.flags & CATALOG_RETAINED_HEAD;
    r->lo = vd_get64(od.lo);
    r->hi = vd_get64(od.hi);
    r->cursor = vd_get64(od.cursor);
    return 0;
}

/* ---- volumes ---- */

static void property_free(struct property *p)
{
    vd_list_remove(&p->link);
    free(p->name);
    free(p->value);
    free(p);
}

static int volume_delete(struct catalog *c, uint64_t id)
{
    struct volume *v = catalog_volume_id(c, id);
    if (!v || v->nsnapshots || v->opens)
        return -EUCLEAN;
    while (!vd_list_empty(&v->properties))
        property_free(vd_container_of(v->properties.next, struct property, link));
    v->branch->tip = NULL;
    htab_remove(&c->volume_ids, &v->by_id);
    htab_remove(&c->volume_names, &v->by_name);
    vd_list_remove(&v->all);
    c->nvolumes--;
    free(v);
    return 0;
}

static struct volume *volume_new(struct catalog *c, uint64_t id)
{
    struct volume *v = calloc(1, sizeof(*v));
    if (!v)
        return NULL;
    v->id = id;
    vd_list_init(&v->snapshots);
    vd_list_init(&v->properties);
    vd_list_init(&v->disks);
    vd_list_init(&v->holds);
    vd_waitq_init(&v->turn);
    vd_waitq_init(&v->released);
    htab_insert(&c->volume_ids, &v->by_id, hash_u64(id));
    vd_list_push(&c->volumes, &v->all);
    c->nvolumes++;
    return v;
}

static int volume_apply(struct catalog *c, uint64_t id, const void *val, uint16_t len)
{
    struct volume_rec rec;
    int r = volume_decode(val, len, &rec);
    if (r < 0 || !id)
        return -EUCLEAN;
    struct branch *b = catalog_resolve(c, rec.branch);
    struct volume *v = catalog_volume_id(c, id), *same = catalog_volume(c, rec.name);
    if (!b || b->into || (b->tip && b->tip != v) || (same && same != v))
        return -EUCLEAN;
    if (htab_reserve(&c->volume_ids) < 0 || htab_reserve(&c->volume_names) < 0)
        return -ENOMEM;
    if (v) {
        htab_remove(&c->volume_names, &v->by_name);
        v->branch->tip = NULL;
    } else {
        v = volume_new(c, id);
        if (!v)
            return -ENOMEM;
    }
    rec.branch = b->id;
    v->rec = rec;
    v->branch = b;
    b->tip = v;
    htab_insert(&c->volume_names, &v->by_name, hash_text(0, rec.name));
    return 0;
}

static struct property *property_find(const struct volume *v, uint64_t n)
{
    vd_list_each (it, &v->properties) {
        struct property *p = vd_container_of(it, struct property, link);
        if (p->n == n)
            return p;
    }
    return NULL;
}

/* Even subs are names, odd ones values; a value comes after its name. */
static int property_apply(struct catalog *c, const uint64_t key[3], const void *val, uint16_t len)
{
    struct volume *v = catalog_volume_id(c, key[1]);
    struct property *p = v ? property_find(v, key[2] / 2) : NULL;
    if (!v)
        return val ? -EUCLEAN : 0;
    if (!val) {
        if (p && key[2] % 2 == 0)
            property_free(p);
        return 0;
    }
    if (memchr(val, 0, len) || (key[2] % 2 && !p))
        return -EUCLEAN;
    char *text = malloc(len + 1u);
    if (!text)
        return -ENOMEM;
    memcpy(text, val, len);
    text[len] = 0;
    if (!p) {
        p = calloc(1, sizeof(*p));
        char *empty = calloc(1, 1);
        if (!p || !empty) {
            free(p);
            free(empty);
            free(text);
            return -ENOMEM;
        }
        p->n = key[2] / 2;
        p->value = empty;
        vd_list_push(&v->properties, &p->link);
        v->next_property = VD_MAX(v->next_property, p->n + 1);
    }
    char **slot = key[2] % 2 ? &p->value : &p->name;
    free(*slot);
    *slot = text;
    return 0;
}

/* ---- snapshots ---- */

static void hold_free(struct snapshot *s, struct hold_tag *h)
{
    vd_list_remove(&h->link);
    s->nholds--;
    free(h->tag);
    free(h);
}

static int snapshot_delete(struct catalog *c, uint64_t id)
{
    struct snapshot *s = snapshot_by_id(c, id);
    if (!s || s->opens)
        return -EUCLEAN;
    while (!vd_list_empty(&s->holds))
        hold_free(s, vd_container_of(s->holds.next, struct hold_tag, link));
    branch_retained(s->branch, s->rec.epoch)->names--;
    vd_list_remove(&s->in_branch);
    vd_list_remove(&s->in_volume);
    s->volume->nsnapshots--;
    htab_remove(&c->snapshot_ids, &s->by_id);
    htab_remove(&c->snapshot_names, &s->by_name);
    c->nsnapshots--;
    free(s);
    return 0;
}

static struct snapshot *snapshot_new(struct catalog *c, uint64_t id, struct volume *v,
                                     struct branch *b)
{
    struct snapshot *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->id = id;
    s->volume = v;
    s->branch = b;
    vd_list_init(&s->holds);
    vd_list_init(&s->disks);
    vd_list_push(&v->snapshots, &s->in_volume);
    vd_list_push(&b->snapshots, &s->in_branch);
    v->nsnapshots++;
    htab_insert(&c->snapshot_ids, &s->by_id, hash_u64(id));
    c->nsnapshots++;
    return s;
}

static int snapshot_apply(struct catalog *c, uint64_t id, const void *val, uint16_t len)
{
    struct snapshot_rec rec;
    int r = snapshot_decode(val, len, &rec);
    if (r < 0 || !id)
        return -EUCLEAN;
    struct volume *v = catalog_volume_id(c, rec.volume);
    struct branch *b = catalog_resolve(c, rec.branch);
    struct snapshot *s = snapshot_by_id(c, id);
    if (!v || !b)
        return -EUCLEAN;
    if (b->into)
        b = b->into; /* a fold began while the operation waited for its turn */
    struct snapshot *same = catalog_snapshot(c, v, rec.name);
    if ((same && same != s) || (s && (s->volume != v || s->branch != b)) ||
        (s && s->rec.epoch != rec.epoch))
        return -EUCLEAN;
    if (htab_reserve(&c->snapshot_ids) < 0 || htab_reserve(&c->snapshot_names) < 0)
        return -ENOMEM;
    if (s) {
        htab_remove(&c->snapshot_names, &s->by_name);
    } else {
        struct retained *ret = branch_retain(b, rec.epoch);
        s = ret ? snapshot_new(c, id, v, b) : NULL;
        if (!s)
            return -ENOMEM;
        ret->names++;
    }
    rec.branch = b->id;
    s->rec = rec;
    htab_insert(&c->snapshot_names, &s->by_name, hash_text(v->id, rec.name));
    return 0;
}

static int hold_apply(struct catalog *c, const uint64_t key[3], const void *val, uint16_t len)
{
    struct snapshot *s = snapshot_by_id(c, key[1]);
    struct hold_tag *h = NULL;
    if (!s)
        return val ? -EUCLEAN : 0;
    vd_list_each (it, &s->holds) {
        struct hold_tag *at = vd_container_of(it, struct hold_tag, link);
        if (at->n == key[2])
            h = at;
    }
    if (!val) {
        if (h)
            hold_free(s, h);
        return 0;
    }
    if (h || len > VD_NAME_MAX)
        return -EUCLEAN;
    h = calloc(1, sizeof(*h));
    char *tag = calloc(1, len + 1u);
    if (!h || !tag) {
        free(h);
        free(tag);
        return -ENOMEM;
    }
    memcpy(tag, val, len);
    h->tag = tag;
    h->n = key[2];
    vd_list_push(&s->holds, &h->link);
    s->nholds++;
    s->next_hold = VD_MAX(s->next_hold, h->n + 1);
    return vd_name_valid(tag) ? 0 : -EUCLEAN;
}

/* ---- all of it ---- */

static int meta_apply(struct catalog *c, const void *val, uint16_t len)
{
    struct od_catalog_meta od;
    if (len != sizeof(od))
        return -EUCLEAN;
    memcpy(&od, val, sizeof(od));
    if (vd_get64(od.next_id) < c->next_id || vd_get64(od.next_branch) < c->next_branch)
        return -EUCLEAN;
    c->next_id = vd_get64(od.next_id);
    c->next_branch = vd_get64(od.next_branch);
    return 0;
}

static int alias_apply(struct catalog *c, uint64_t id, const void *val, uint16_t len)
{
    struct od_catalog_alias od;
    if (len != sizeof(od) || catalog_branch(c, id))
        return -EUCLEAN;
    memcpy(&od, val, sizeof(od));
    return catalog_alias(c, id, vd_get64(od.branch));
}

int catalog_apply(struct catalog *c, const uint64_t key[3], const void *val, uint16_t len)
{
    switch (key[0]) {
    case CATALOG_META:
        return val ? meta_apply(c, val, len) : -EUCLEAN;
    case CATALOG_BRANCH:
        return val ? branch_apply(c, key[1], val, len) : -EUCLEAN;
    case CATALOG_ALIAS:
        return val ? alias_apply(c, key[1], val, len) : -EUCLEAN;
    case CATALOG_VOLUME:
        return val ? volume_apply(c, key[1], val, len) : volume_delete(c, key[1]);
    case CATALOG_SNAPSHOT:
        return val ? snapshot_apply(c, key[1], val, len) : snapshot_delete(c, key[1]);
    case CATALOG_PROPERTY:
        return property_apply(c, key, val, len);
    case CATALOG_HOLD:
        return hold_apply(c, key, val, len);
    case CATALOG_RETAINED:
        return val ? retained_apply(c, key[1], key[2], val, len) : -EUCLEAN;
    default:
        return -EUCLEAN;
    }
}

int catalog_verify(const struct catalog *c)
{
    vd_list_each (it, &c->branches) {
        const struct branch *b = vd_container_of(it, struct branch, all);
        if (b->id >= c->next_branch || (b->into && (b->tip || !vd_list_empty(&b->snapshots))))
            return -EUCLEAN;
        if (b->tip && b->tip_state != CATALOG_TIP_LIVE)
            return -EUCLEAN;
    }
    vd_list_each (it, &c->aliases) {
        const struct alias *a = vd_container_of(it, struct alias, all);
        if (!catalog_resolve(c, a->id))
            return -EUCLEAN;
    }
    vd_list_each (it, &c->volumes) {
        const struct volume *v = vd_container_of(it, struct volume, all);
        if (v->id >= c->next_id)
            return -EUCLEAN;
        vd_list_each (sn, &v->snapshots)
            if (vd_container_of(sn, struct snapshot, in_volume)->id >= c->next_id)
                return -EUCLEAN;
    }
    return 0;
}

void catalog_done(struct catalog *c)
{
    while (!vd_list_empty(&c->volumes)) {
        struct volume *v = vd_container_of(c->volumes.next, struct volume, all);
        while (!vd_list_empty(&v->snapshots)) {
            struct snapshot *s = vd_container_of(v->snapshots.next, struct snapshot, in_volume);
            s->opens = 0;
            snapshot_delete(c, s->id);
        }
        v->opens = 0;
        volume_delete(c, v->id);
    }
    while (!vd_list_empty(&c->aliases))
        alias_remove(c, vd_container_of(c->aliases.next, struct alias, all));
    while (!vd_list_empty(&c->branches)) /* children first */
        branch_remove(c, vd_container_of(c->branches.prev, struct branch, all));
    htab_done(&c->branch_ids);
    htab_done(&c->alias_ids);
    htab_done(&c->volume_ids);
    htab_done(&c->volume_names);
    htab_done(&c->snapshot_ids);
    htab_done(&c->snapshot_names);
}
