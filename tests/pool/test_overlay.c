/* SPDX-License-Identifier: MIT */
/* The overlay against a model that keeps, per block and epoch, the last thing said of it. */
#include "pool/overlay.h"
#include "tests/pool/model.h"

#define BRANCHES 3
#define EPOCHS 5
#define BLOCKS 70000u /* more than one piece of level 2 */

struct said {
    uint8_t type; /* 0: nothing */
    struct vd_addr addr;
    uint64_t csum;
};
static struct said (*model)[BLOCKS][EPOCHS];
static const uint64_t branch_id[BRANCHES] = {0, 7, UINT64_C(0xfffffff0)};
static uint64_t base; /* lba of block 0, a multiple of 2^20 */
static struct overlay *ov;
static struct vd_rng rng;
static uint32_t next_sector;

static uint64_t below(uint64_t n)
{
    return vd_rng_below(&rng, n);
}

static void model_apply(unsigned b, const struct vd_run *run)
{
    for (uint64_t i = 0; i < run->blocks; i++) {
        struct said *s = &model[b][run->lba - base + i][run->born - 1];
        memset(s, 0, sizeof(*s));
        s->type = (uint8_t)run->type;
        if (run->type == VD_RUN_DATA) {
            s->addr = vd_addr_plus(run->addr, i);
            s->csum = run->csum[i];
        }
    }
}

/* DATA in a cell mostly around a few hot places; ZERO of any length. */
static void random_run(struct vd_run *run, uint64_t epoch)
{
    memset(run, 0, sizeof(*run));
    run->born = epoch;
    run->died = VD_EPOCH_MAX;
    uint64_t at = below(3) ? below(300) + 32768 * below(2) : below(BLOCKS);
    if (below(4)) {
        run->type = VD_RUN_DATA;
        run->lba = base + at;
        run->blocks = 1 + below(VD_CELL_BLOCKS - at % VD_CELL_BLOCKS);
        run->blocks = VD_MIN(run->blocks, BLOCKS - at);
        if (below(2))
            run->blocks = 1;
        run->addr = (struct vd_addr){(uint32_t)below(100), next_sector += 8 * 32};
        for (uint64_t i = 0; i < run->blocks; i++)
            run->csum[i] = vd_rng_u64(&rng);
        return;
    }
    static const uint64_t longest[] = {1, 40, 200, 1200, 40000, BLOCKS};
    run->type = VD_RUN_ZERO;
    run->blocks = 1 + below(longest[below(VD_ARRAY_SIZE(longest))]);
    if (below(3) == 0) { /* aligned, as whole-volume trims are */
        at = VD_ROUND_DOWN(at, 1024u);
        run->blocks = VD_ROUND_UP(run->blocks, 1024u);
    }
    run->lba = base + at;
    run->blocks = VD_MIN(run->blocks, BLOCKS - at);
}

static void apply(unsigned b, const struct vd_run *run)
{
    assert_int_equal(overlay_apply(ov, branch_id[b], run), 0);
    model_apply(b, run);
}

static void check_view(unsigned b, uint64_t cell, uint64_t epoch)
{
    struct cell_view v = {.want = (uint32_t)vd_rng_u64(&rng)};
    if (below(2))
        v.want = UINT32_MAX;
    uint32_t before = v.known = v.want & (uint32_t)vd_rng_u64(&rng) & (uint32_t)vd_rng_u64(&rng);
    overlay_view(ov, branch_id[b], base / VD_CELL_BLOCKS + cell, epoch, &v);
    for (unsigned i = 0; i < VD_CELL_BLOCKS; i++) {
        uint64_t block = cell * VD_CELL_BLOCKS + i;
        const struct said *s = NULL;
        uint64_t born = 0;
        for (uint64_t e = VD_MIN(epoch, (uint64_t)EPOCHS); block < BLOCKS && e >= 1 && !s; e--)
            if (model[b][block][e - 1].type) {
                s = &model[b][block][e - 1];
                born = e;
            }
        bool fresh = !(before >> i & 1) && (v.want >> i & 1) && s;
        assert_int_equal(v.known >> i & 1, (before >> i & 1) || fresh);
        if (!fresh)
            continue;
        assert_int_equal(v.b[i].type, s->type);
        assert_int_equal(v.b[i].born, born);
        if (s->type == VD_RUN_DATA) {
            assert_true(vd_addr_equal(v.b[i].addr, s->addr));
            assert_int_equal(v.b[i].csum, s->csum);
        }
    }
}

/* Takes what a span says out of the model's copy; what is left was not told. */
static void check_version(struct said (*left)[BLOCKS][EPOCHS], unsigned b, const struct vd_run *v)
{
    for (uint64_t i = 0; i < v->blocks; i++) {
        uint64_t block = v->lba - base + i;
        assert_true(block < BLOCKS);
        struct said *s = &left[b][block][v->born - 1];
        assert_int_equal(s->type, v->type);
        if (v->type == VD_RUN_DATA) {
            assert_true(vd_addr_equal(s->addr, vd_addr_plus(v->addr, i)));
            assert_int_equal(s->csum, v->csum[i]);
        }
        s->type = 0;
    }
}

static void check_all(void)
{
    static struct said zero[EPOCHS];
    struct said(*left)[BLOCKS][EPOCHS] = malloc(sizeof(*left) * BRANCHES);
    struct overlay_pos *pos = overlay_seek(ov, 0, 0);
    struct overlay_span s;
    uint64_t branch = 0, at = 0, data = 0, spans = 0;

    memcpy(left, model, sizeof(*left) * BRANCHES);
    for (unsigned b = 0; b < BRANCHES; b++)
        for (unsigned i = 0; i < BLOCKS; i++)
            for (unsigned e = 0; e < EPOCHS; e++)
                data += model[b][i][e].type == VD_RUN_DATA;
    assert_int_equal(overlay_data_blocks(ov), data);
    for (; overlay_next(pos, &s); spans++) {
        unsigned b = 0;
        while (branch_id[b] != s.branch)
            assert_true(++b < BRANCHES);
        assert_true(spans == 0 || s.branch > branch || (s.branch == branch && s.lba >= at));
        assert_true(s.lba % VD_CELL_BLOCKS == 0 && s.blocks % VD_CELL_BLOCKS == 0 && s.blocks);
        assert_true(s.count > 0 && !s.relocations);
        branch = s.branch;
        at = s.lba + s.blocks;
        for (unsigned i = 0; i < s.count; i++) {
            const struct vd_run *v = &s.versions[i], *w = i ? v - 1 : NULL;
            assert_true(v->lba >= s.lba && vd_run_end(v) <= at);
            assert_true(!w || v->born > w->born || (v->born == w->born && v->lba >= vd_run_end(w)));
            assert_true(s.blocks == VD_CELL_BLOCKS ||
                        (v->type == VD_RUN_ZERO && v->lba == s.lba && v->blocks == s.blocks));
            check_version(left, b, v);
        }
    }
    assert_int_equal(overlay_pos_error(pos), 0);
    for (unsigned b = 0; b < BRANCHES; b++)
        for (unsigned i = 0; i < BLOCKS; i++)
            for (unsigned e = 0; e < EPOCHS; e++)
                if (left[b][i][e].type != zero[0].type)
                    fail_msg("branch %u block %u epoch %u was not told", b, i, e + 1);
    assert_int_equal(overlay_empty(ov), spans == 0);
    overlay_pos_free(pos);
    free(left);
}

static void start(uint64_t at)
{
    base = at;
    next_sector = 0;
    model = calloc(BRANCHES, sizeof(*model));
    ov = overlay_new();
    assert_true(model && ov);
    assert_true(overlay_empty(ov));
}

static void stop(void)
{
    overlay_free(ov);
    free(model);
}

static void random_history(uint64_t at, unsigned ops)
{
    struct vd_run run;

    start(at);
    for (unsigned n = 1; n <= ops; n++) {
        unsigned b = (unsigned)below(BRANCHES);
        random_run(&run, 1 + (uint64_t)n * EPOCHS / (ops + 1));
        apply(b, &run);
        check_view(b, (run.lba - base) / VD_CELL_BLOCKS, 1 + below(EPOCHS));
        check_view(b, below(BLOCKS / VD_CELL_BLOCKS), below(8) ? 1 + below(EPOCHS) : UINT64_MAX);
        if (n % (ops / 5) == 0)
            check_all();
    }
    stop();
}

static void test_random(void **state)
{
    test_seed(&rng, "random");
    random_history(0, 400);
    random_history(0, 6000);
    /* The end of the largest volume, too. */
    random_history((UINT64_C(1) << 51) - (UINT64_C(1) << 20), 2000);
}

/* Positions started anywhere say the same as one that came from the beginning. */
static void test_seek(void **state)
{
    struct vd_run run;
    struct overlay_span a, b;

    test_seed(&rng, "seek");
    start(0);
    for (unsigned n = 0; n < 600; n++) {
        random_run(&run, 1);
        apply((unsigned)below(2), &run);
    }
    for (unsigned n = 0; n < 300; n++) {
        uint64_t lba = below(BLOCKS), cell = VD_ROUND_DOWN(lba, VD_CELL_BLOCKS);
        struct overlay_pos *all = overlay_seek(ov, 0, 0), *from = overlay_seek(ov, 0, lba);
        bool more;
        while ((more = overlay_next(all, &a)) && a.branch == 0 && a.lba + a.blocks <= cell)
            continue;
        assert_int_equal(overlay_next(from, &b), more);
        if (more && a.branch == 0) {
            uint64_t first = VD_MAX(a.lba, cell);
            assert_true(b.lba == first && b.lba + b.blocks == a.lba + a.blocks);
            assert_int_equal(a.count, b.count);
        }
        overlay_pos_free(all);
        overlay_pos_free(from);
    }
    stop();
}

/* A failed allocation changes nothing: every allocation of every operation in turn. */
static void test_no_memory(void **state)
{
    struct vd_run run;
    unsigned failures = 0;

    test_seed(&rng, "no memory");
    start(0);
    for (unsigned n = 0; n < 3000; n++) {
        unsigned b = (unsigned)below(BRANCHES);
        random_run(&run, 1 + (uint64_t)n * EPOCHS / 3000);
        for (unsigned at = 1;; at++) {
            size_t entries = overlay_entries(ov);
            fail_alloc = at;
            int r = overlay_apply(ov, branch_id[b], &run);
            bool failed = fail_alloc == 0;
            fail_alloc = 0;
            if (r == 0) /* a node that could not be split may not have had to be */
                break;
            assert_true(failed && r == -ENOMEM);
            failures++;
            assert_int_equal(overlay_entries(ov), entries);
            check_view(b, (run.lba - base) / VD_CELL_BLOCKS, 1 + below(EPOCHS));
        }
        model_apply(b, &run);
        if (n % 1000 == 0)
            check_all();
    }
    assert_true(failures > 1000);
    check_all();
    stop();
}

/* A block rewritten after each of thousands of snapshots, with trims in between. */
static void test_many_epochs(void **state)
{
    enum { TURNS = 4000 };
    struct vd_run run = {.lba = 37, .blocks = 2, .type = VD_RUN_DATA};
    struct overlay_span s;
    static struct cell_view v;

    start(0);
    for (uint64_t e = 1; e <= TURNS; e++) {
        run.born = e;
        run.type = e % 8 ? VD_RUN_DATA : VD_RUN_ZERO;
        run.lba = e % 16 ? 37 : 0;
        run.blocks = e % 16 ? 2 : 1 << 20; /* a coarse piece */
        run.addr.sector = (uint32_t)e * 16;
        assert_int_equal(overlay_apply(ov, 1, &run), 0);
    }
    for (uint64_t e = 1; e <= TURNS + 1; e++) {
        uint64_t at = VD_MIN(e, (uint64_t)TURNS);
        v = (struct cell_view){.want = 1 << 6};
        overlay_view(ov, 1, 1, e, &v);
        assert_true(v.known == 1 << 6 && v.b[6].born == at);
        assert_int_equal(v.b[6].type, at % 8 ? VD_RUN_DATA : VD_RUN_ZERO);
        assert_true(at % 8 == 0 || v.b[6].addr.sector == at * 16 + 8);
    }
    struct overlay_pos *pos = overlay_seek(ov, 1, 32);
    assert_true(overlay_next(pos, &s));
    assert_true(s.lba == 32 && s.blocks == 32 && s.count == TURNS);
    for (unsigned i = 0; i < s.count; i++)
        assert_int_equal(s.versions[i].born, i + 1);
    assert_true(overlay_next(pos, &s));
    assert_true(s.lba == 64 && s.blocks > 32 && s.count == TURNS / 16);
    overlay_pos_free(pos);
    stop();
}

static void test_refused(void **state)
{
    struct vd_run run = {.lba = 31, .blocks = 2, .born = 5, .type = VD_RUN_DATA};

    start(0);
    assert_int_equal(overlay_apply(ov, 1, &run), -EINVAL); /* crosses a cell */
    run.blocks = 0;
    assert_int_equal(overlay_apply(ov, 1, &run), -EINVAL);
    run.type = VD_RUN_ZERO;
    assert_int_equal(overlay_apply(ov, 1, &run), -EINVAL);
    run.lba = UINT64_C(1) << 51;
    run.blocks = 1;
    assert_int_equal(overlay_apply(ov, 1, &run), -EINVAL);
    run.lba = 1;
    run.blocks = UINT64_MAX;
    assert_int_equal(overlay_apply(ov, 1, &run), -EINVAL);
    run.blocks = (UINT64_C(1) << 51) - 1;
    assert_int_equal(overlay_apply(ov, 1, &run), 0);
    run.born = 4; /* an epoch goes down */
    assert_int_equal(overlay_apply(ov, 1, &run), -EINVAL);
    run.type = 3;
    run.blocks = 1;
    assert_int_equal(overlay_apply(ov, 1, &run), -EINVAL);
    assert_int_equal(overlay_data_blocks(ov), 0);
    stop();
}

/* A trim of everything there can be is a few dozen entries, and takes what its epoch held with it.
 */
static void test_long_zero(void **state)
{
    struct vd_run run = {.lba = 0, .blocks = 1, .born = 1, .type = VD_RUN_DATA};

    start(0);
    for (run.lba = 0; run.lba < 50000; run.lba++) {
        run.addr.sector = (uint32_t)run.lba * 8;
        assert_int_equal(overlay_apply(ov, 1, &run), 0);
    }
    assert_int_equal(overlay_entries(ov), 50000);
    struct vd_run zero = {
        .lba = 1, .blocks = (UINT64_C(1) << 51) - 2, .born = 1, .type = VD_RUN_ZERO};
    assert_int_equal(overlay_apply(ov, 1, &zero), 0);
    assert_int_equal(overlay_data_blocks(ov), 1);
    assert_true(overlay_entries(ov) < 62 * 10);
    size_t entries = overlay_entries(ov);
    for (unsigned i = 0; i < 1000; i++) { /* trims inside it add nothing */
        struct vd_run inside = {
            .lba = 77 + i * 1000, .blocks = 500, .born = 1, .type = VD_RUN_ZERO};
        assert_int_equal(overlay_apply(ov, 1, &inside), 0);
    }
    assert_int_equal(overlay_entries(ov), entries);
    static struct cell_view v;
    v = (struct cell_view){.want = UINT32_MAX};
    overlay_view(ov, 1, 0, 1, &v);
    assert_true(v.known == UINT32_MAX && v.b[0].type == VD_RUN_DATA && v.b[1].type == VD_RUN_ZERO);
    v = (struct cell_view){.want = UINT32_MAX};
    overlay_view(ov, 1, (UINT64_C(1) << 46) - 1, 1, &v);
    assert_int_equal(v.known, UINT32_MAX >> 1);
    stop();
}

static void test_memory(void **state)
{
    struct vd_run run = {.blocks = 1, .born = 1, .type = VD_RUN_DATA};

    test_seed(&rng, "memory");
    start(0);
    for (unsigned i = 0; i < 100000; i++) {
        run.lba = below(UINT64_C(1) << 28); /* 1 TiB: hardly two in a cell */
        assert_int_equal(overlay_apply(ov, 1, &run), 0);
    }
    size_t n = overlay_entries(ov);
    printf("%zu bytes for each of %zu random 4 KiB entries\n", overlay_memory(ov) / n, n);
    assert_true(overlay_memory(ov) / n <= 100);
    for (unsigned i = 0; i < 100000; i++) { /* rewriting the same blocks costs nothing more */
        run.lba = below(1000);
        assert_int_equal(overlay_apply(ov, 2, &run), 0);
    }
    assert_true(overlay_memory(ov) < (n + 2000) * 100);
    stop();
}

static void test_relocations(void **state)
{
    enum { RUNS = 20000 };
    struct vd_addr to;
    struct overlay_span s;

    test_seed(&rng, "relocations");
    start(0);
    struct vd_addr from = {1, 8};
    assert_false(overlay_moved(ov, from, &to));
    for (uint32_t i = 0; i < RUNS; i++) {
        from = (struct vd_addr){i % 50, i * 32 * 8};
        assert_int_equal(overlay_relocate(ov, i % 3, (uint64_t)i * 96 + i % 16, 1 + i % 17, from,
                                          (struct vd_addr){1000 + i, 80}),
                         0);
    }
    for (uint32_t i = 0; i < RUNS; i++) {
        from = (struct vd_addr){i % 50, i * 32 * 8};
        for (unsigned k = 0; k < 20; k++) {
            bool moved = overlay_moved(ov, vd_addr_plus(from, k), &to);
            assert_int_equal(moved, k <= i % 17);
            assert_true(!moved || (to.seg == 1000 + i && to.sector == 80 + k * 8));
        }
    }
    struct vd_run run = {.lba = 96 * 3, .blocks = 32, .born = 1, .type = VD_RUN_ZERO};
    assert_int_equal(overlay_apply(ov, 0, &run), 0);
    struct overlay_pos *pos = overlay_seek(ov, 0, 0);
    for (uint64_t b = 0; b < 3; b++)
        for (uint64_t i = b; i < RUNS; i += 3) {
            assert_true(overlay_next(pos, &s));
            assert_true(s.branch == b && s.lba == i * 96 && s.relocations);
            assert_int_equal(s.count, i == 3);
        }
    assert_false(overlay_next(pos, &s));
    overlay_pos_free(pos);
    size_t entries = overlay_entries(ov);
    for (unsigned at = 1;; at++) { /* no memory: all or nothing */
        fail_alloc = at;
        int r = overlay_relocate(ov, 99, 0, 32, (struct vd_addr){7777, 0}, (struct vd_addr){1, 0});
        bool failed = fail_alloc == 0;
        fail_alloc = 0;
        assert_int_equal(r, failed ? -ENOMEM : 0);
        assert_int_equal(overlay_entries(ov), entries + (failed ? 0 : 32));
        if (!failed)
            break;
        assert_false(overlay_moved(ov, (struct vd_addr){7777, 0}, &to));
    }
    stop();
}

static void test_view_add(void **state)
{
    static struct vd_run run;
    run =
        (struct vd_run){.lba = 40, .blocks = 10, .born = 3, .type = VD_RUN_DATA, .addr = {5, 800}};
    struct cell_view v = {.want = 0x0003ff00, .known = 0x00000100};

    for (unsigned i = 0; i < 10; i++)
        run.csum[i] = i;
    cell_view_add(&v, 1, &run);
    assert_int_equal(v.known, 0x0003ff00);
    assert_int_equal(v.b[8].type, 0); /* was known */
    assert_true(v.b[17].addr.sector == 800 + 72 && v.b[17].csum == 9 && v.b[17].born == 3);
    v = (struct cell_view){.want = UINT32_MAX};
    cell_view_add(&v, 2, &run);
    assert_int_equal(v.known, 0);
    run = (struct vd_run){.lba = 0, .blocks = UINT64_C(1) << 51, .born = 1, .type = VD_RUN_ZERO};
    cell_view_add(&v, 2, &run);
    assert_int_equal(v.known, UINT32_MAX);
}

static void test_clip(void **state)
{
    struct vd_run run = {.lba = 40, .blocks = 10, .type = VD_RUN_DATA, .addr = {5, 800}};
    for (unsigned i = 0; i < 10; i++)
        run.csum[i] = i;
    vd_run_clip(&run, 43, 100);
    assert_true(run.lba == 43 && run.blocks == 7 && run.addr.sector == 824 && run.csum[6] == 9);
    vd_run_clip(&run, 0, 45);
    assert_true(run.lba == 43 && run.blocks == 2 && run.addr.sector == 824 && run.csum[0] == 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),    cmocka_unit_test(test_seek),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_many_epochs),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_long_zero),
        cmocka_unit_test(test_memory),    cmocka_unit_test(test_relocations),
        cmocka_unit_test(test_view_add),  cmocka_unit_test(test_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
