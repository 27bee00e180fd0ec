/* SPDX-License-Identifier: MIT */
/*
 * The overlay: reading it, by cell at an epoch and in key order. Pure; views are taken for every
 * read and write, positions by the merge and by diff.
 */
#include "pool/overlay_priv.h"

#include <stdlib.h>

/* ---- views ---- */

static void view_fill(struct cell_view *v, uint32_t mask, const struct ov_ver *ver)
{
    const uint64_t *csum = ver_csum(ver);

    v->known |= mask;
    while (mask) {
        unsigned i = (unsigned)__builtin_ctz(mask);
        mask &= mask - 1;
        v->b[i].type = ver->type;
        v->b[i].born = ver->born;
        if (ver->type == VD_RUN_DATA) {
            v->b[i].addr = vd_addr_plus(ver->addr, i - ver->off);
            v->b[i].csum = csum[i - ver->off];
        }
    }
}

/* The newest ZERO of a coarse level that covers the cell and is not above `epoch`. */
static bool coarse_zero(const struct ov_branch *b, uint64_t cell, uint64_t epoch, uint64_t *born)
{
    bool found = false;

    for (unsigned k = 1; k < OV_LEVELS; k++) {
        const struct ov_rec *r = index_find(&b->level[k], cell >> (5 * k));
        uint32_t end = r ? r->used : 0;
        while (end > 0) {
            const struct ov_ver *ver = rec_prev(r, &end);
            if (ver->born > epoch)
                continue;
            if (!found || ver->born > *born)
                *born = ver->born;
            found = true;
            break;
        }
    }
    return found;
}

void overlay_view(const struct overlay *ov, uint64_t branch, uint64_t cell, uint64_t epoch,
                  struct cell_view *v)
{
    const struct ov_branch *b = branch_find(ov, branch);
    uint32_t need = v->want & ~v->known;

    if (!b || !need)
        return;
    struct ov_ver zero = {.type = VD_RUN_ZERO};
    bool zeroed = coarse_zero(b, cell, epoch, &zero.born);
    const struct ov_rec *r = index_find(&b->level[0], cell);
    uint32_t end = r ? r->used : 0;
    while (end > 0 && need) {
        const struct ov_ver *ver = rec_prev(r, &end);
        if (ver->born > epoch)
            continue;
        if (zeroed && ver->born < zero.born)
            break;
        view_fill(v, need & block_mask(ver->off, ver->blocks), ver);
        need = v->want & ~v->known;
    }
    if (zeroed)
        view_fill(v, need, &zero);
}

void cell_view_add(struct cell_view *v, uint64_t cell, const struct vd_run *run)
{
    uint64_t first = cell * VD_CELL_BLOCKS;
    uint64_t from = VD_MAX(first, run->lba), end = VD_MIN(first + VD_CELL_BLOCKS, vd_run_end(run));

    if (from >= end)
        return;
    uint32_t mask = block_mask((unsigned)(from - first), (unsigned)(end - from));
    mask &= v->want & ~v->known;
    v->known |= mask;
    while (mask) {
        unsigned i = (unsigned)__builtin_ctz(mask);
        mask &= mask - 1;
        v->b[i].type = run->type;
        v->b[i].born = run->born;
        if (run->type == VD_RUN_DATA) {
            v->b[i].addr = vd_addr_plus(run->addr, first + i - run->lba);
            v->b[i].csum = run->csum[first + i - run->lba];
        }
    }
}

/* ---- positions ---- */

#define NO_CELL UINT64_MAX

struct overlay_pos {
    const struct overlay *ov;
    uint64_t branch, cell;
    int err;
    size_t room, born_room;
    struct vd_run *run;
    uint64_t *born; /* of the coarse ZEROs that cover the span, ascending, each once */
    size_t borns;
};

/* Room for any span of the overlay as it is: then overlay_next does not allocate. */
static bool pos_room(struct overlay_pos *pos)
{
    const struct overlay *ov = pos->ov;
    size_t borns = 0;

    for (unsigned k = 1; k < OV_LEVELS; k++)
        borns += ov->largest[k] / sizeof(struct ov_ver);
    /* A coarse ZERO shows in at most half the blocks of a cell, and one more, as single runs. */
    size_t runs = ov->largest[0] / sizeof(struct ov_ver) + borns * (VD_CELL_BLOCKS / 2 + 1) + 1;
    if (runs > pos->room) {
        struct vd_run *run = realloc(pos->run, runs * sizeof(*run));
        if (!run)
            return false;
        pos->run = run;
        pos->room = runs;
    }
    if (borns > pos->born_room) {
        uint64_t *born = realloc(pos->born, borns * sizeof(*born));
        if (!born)
            return false;
        pos->born = born;
        pos->born_room = borns;
    }
    return true;
}

struct overlay_pos *overlay_seek(const struct overlay *ov, uint64_t branch, uint64_t lba)
{
    struct overlay_pos *pos = calloc(1, sizeof(*pos));
    if (!pos)
        return NULL;
    pos->ov = ov;
    pos->branch = branch;
    pos->cell = lba / VD_CELL_BLOCKS;
    if (!pos_room(pos)) {
        overlay_pos_free(pos);
        return NULL;
    }
    return pos;
}

int overlay_pos_error(const struct overlay_pos *pos)
{
    return pos->err;
}

void overlay_pos_free(struct overlay_pos *pos)
{
    if (!pos)
        return;
    free(pos->run);
    free(pos->born);
    free(pos);
}

static int born_cmp(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* What lies around `cell` in the coarse levels: pos->born of those that cover it; *limit = how far
 * that stays so; *next = where the first beyond it starts. */
static void coarse_around(struct overlay_pos *pos, const struct ov_branch *b, uint64_t cell,
                          uint64_t *limit, uint64_t *next)
{
    pos->borns = 0;
    *limit = *next = NO_CELL;
    for (unsigned k = 1; k < OV_LEVELS; k++) {
        uint64_t key;
        void *val;
        unsigned shift = 5 * k;
        if (!index_ceil(&b->level[k], cell >> shift, &key, &val))
            continue;
        if (key != cell >> shift) {
            *next = VD_MIN(*next, key << shift);
            continue;
        }
        *limit = VD_MIN(*limit, (key + 1) << shift);
        const struct ov_rec *r = val;
        for (uint32_t end = r->used; end > 0;)
            pos->born[pos->borns++] = rec_prev(r, &end)->born;
    }
    if (pos->borns < 2)
        return;
    qsort(pos->born, pos->borns, sizeof(pos->born[0]), born_cmp);
    size_t out = 1;
    for (size_t i = 1; i < pos->borns; i++)
        if (pos->born[i] != pos->born[out - 1])
            pos->born[out++] = pos->born[i];
    pos->borns = out;
}

static void run_zero(struct vd_run *run, uint64_t lba, uint64_t blocks, uint64_t born)
{
    run->lba = lba;
    run->blocks = blocks;
    run->born = born;
    run->died = VD_EPOCH_MAX;
    run->type = VD_RUN_ZERO;
}

static void run_ver(struct vd_run *run, uint64_t cell, const struct ov_ver *ver)
{
    run_zero(run, cell * VD_CELL_BLOCKS + ver->off, ver->blocks, ver->born);
    run->type = ver->type;
    run->addr = ver->addr;
    memcpy(run->csum, ver_csum(ver), 8 * ver_csums(ver));
}

/* Below `top`, counting down, the runs of a coarse ZERO in the blocks of `mask`. */
static size_t zeroes_down(struct overlay_pos *pos, size_t top, uint64_t cell, uint32_t mask,
                          uint64_t born)
{
    for (unsigned end = VD_CELL_BLOCKS; end > 0;) {
        if (!(mask & block_mask(end - 1, 1))) {
            end--;
            continue;
        }
        unsigned off = end - 1;
        while (off > 0 && mask & block_mask(off - 1, 1))
            off--;
        run_zero(&pos->run[--top], cell * VD_CELL_BLOCKS + off, end - off, born);
        end = off;
    }
    return top;
}

/* Among runs of one epoch, DATA and ZERO of the record and the ZEROes around them: by lba. */
static void runs_sort(struct vd_run *run, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct vd_run tmp = run[i];
        size_t to = i;
        for (; to > 0 && run[to - 1].lba > tmp.lba; to--)
            run[to] = run[to - 1];
        run[to] = tmp;
    }
}

/* The versions of a cell, newest first from the end of pos->run; *first is where they begin. */
static size_t cell_versions(struct overlay_pos *pos, uint64_t cell, const struct ov_rec *r)
{
    size_t top = pos->room, borns = pos->borns;
    uint32_t end = r ? r->used : 0;

    while (end > 0 || borns > 0) {
        uint32_t peek = end;
        uint64_t born = end ? rec_prev(r, &peek)->born : 0;
        if (borns && (!end || pos->born[borns - 1] > born))
            born = pos->born[borns - 1];
        size_t above = top;
        uint32_t free_blocks = UINT32_MAX;
        while (end > 0) {
            peek = end;
            const struct ov_ver *ver = rec_prev(r, &peek);
            if (ver->born != born)
                break;
            end = peek;
            free_blocks &= ~block_mask(ver->off, ver->blocks);
            run_ver(&pos->run[--top], cell, ver);
        }
        if (borns && pos->born[borns - 1] == born) {
            top = zeroes_down(pos, top, cell, free_blocks, born);
            borns--;
            runs_sort(pos->run + top, above - top);
        }
    }
    return top;
}

/* The next span of branch b at or after pos->cell. */
static bool branch_span(struct overlay_pos *pos, const struct ov_branch *b,
                        struct overlay_span *ret)
{
    uint64_t cell = pos->cell;
    uint64_t fine, moved, limit, next;
    void *rec;

    if (!index_ceil(&b->level[0], cell, &fine, &rec))
        fine = NO_CELL;
    if (!index_ceil(&b->moved, cell, &moved, NULL))
        moved = NO_CELL;
    coarse_around(pos, b, cell, &limit, &next);
    uint64_t first = VD_MIN(fine, moved);
    if (first != cell && !pos->borns) {
        cell = VD_MIN(first, next);
        if (cell == NO_CELL)
            return false;
        coarse_around(pos, b, cell, &limit, &next);
    }
    ret->branch = b->id;
    ret->lba = cell * VD_CELL_BLOCKS;
    ret->relocations = moved == cell;
    if (first == cell) {
        size_t top = cell_versions(pos, cell, fine == cell ? rec : NULL);
        ret->blocks = VD_CELL_BLOCKS;
        ret->versions = pos->run + top;
        ret->count = (unsigned)(pos->room - top);
        pos->cell = cell + 1;
        return true;
    }
    limit = VD_MIN(VD_MIN(limit, next), first);
    ret->blocks = (limit - cell) * VD_CELL_BLOCKS;
    for (size_t i = 0; i < pos->borns; i++)
        run_zero(&pos->run[i], ret->lba, ret->blocks, pos->born[i]);
    ret->versions = pos->run;
    ret->count = (unsigned)pos->borns;
    pos->cell = limit;
    return true;
}

bool overlay_next(struct overlay_pos *pos, struct overlay_span *ret)
{
    const struct overlay *ov = pos->ov;

    /* For an overlay that grew since the seek; one that is frozen needs nothing more. */
    if (pos->err || !pos_room(pos)) {
        pos->err = -ENOMEM;
        return false;
    }
    for (size_t i = branch_ceil(ov, pos->branch); i < ov->branches; i++) {
        const struct ov_branch *b = ov->branch[i];
        if (b->id != pos->branch) {
            pos->branch = b->id;
            pos->cell = 0;
        }
        if (branch_span(pos, b, ret))
            return true;
    }
    return false;
}
