/* SPDX-License-Identifier: MIT */
/* What core/base promises: seeds that repeat, strict parsing, errors that stay on one line. */
#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/log.h"
#include "core/base/rng.h"
#include "core/base/text.h"
#include "core/base/uuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void random_numbers_follow_the_reference(void **state)
{
    (void)state;
    /* xoshiro256** from the state 1, 2, 3, 4: the first outputs, worked out by hand from the
     * definition rotl(s1 * 5, 7) * 9. */
    struct vd_rng rng = {.s = {1, 2, 3, 4}};
    assert_true(vd_rng_u64(&rng) == UINT64_C(11520));
    assert_true(vd_rng_u64(&rng) == 0);
    assert_true(vd_rng_u64(&rng) == UINT64_C(1509978240));
    /* splitmix64 from 0 fills the state. */
    vd_rng_seed(&rng, 0);
    assert_true(rng.s[0] == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(rng.s[1] == UINT64_C(0x6e789e6aa1b965f4));
}

static void bounded_numbers_stay_in_bounds_and_reach_them(void **state)
{
    (void)state;
    struct vd_rng rng;
    unsigned seen[7] = {0};
    vd_rng_seed(&rng, 5);
    for (int i = 0; i < 7000; i++) {
        uint64_t x = vd_rng_below(&rng, 7);
        assert_true(x < 7);
        seen[x]++;
    }
    for (int i = 0; i < 7; i++)
        assert_in_range(seen[i], 800, 1200);
    assert_true(vd_rng_below(&rng, 1) == 0);
}

static void filling_ends_where_it_should(void **state)
{
    (void)state;
    struct vd_rng a, b;
    uint8_t x[16] = {0}, y[16] = {0};
    vd_rng_seed(&a, 1);
    vd_rng_seed(&b, 1);
    vd_rng_fill(&a, x, 11);
    vd_rng_fill(&b, y, 16);
    assert_memory_equal(x, y, 11);
    assert_true(vd_is_zero(x + 11, 5));
}

static void hashes_are_xxh3(void **state)
{
    (void)state;
    static const uint8_t zero[VD_BLOCK];
    assert_true(vd_xxh3("", 0) == UINT64_C(0x2d06800538d394c2));
    assert_true(vd_xxh3_zero_block() == vd_xxh3(zero, sizeof(zero)));
}

static void one_set_bit_anywhere_is_not_zero(void **state)
{
    (void)state;
    uint8_t buf[100] = {0};
    for (size_t len = 0; len <= sizeof(buf); len++) {
        assert_true(vd_is_zero(buf, len));
        for (size_t i = 0; i < sizeof(buf); i++) {
            buf[i] = 0x80;
            assert_int_equal(vd_is_zero(buf, len), i >= len);
            buf[i] = 0;
        }
    }
}

static void sizes_are_parsed_exactly(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int ret;
        uint64_t bytes;
    } cases[] = {
        {"0", 0, 0},
        {"512", 0, 512},
        {"512B", 0, 512},
        {"4K", 0, 4096},
        {"4k", 0, 4096},
        {"4KiB", 0, 4096},
        {"4KB", 0, 4096},
        {"8 MiB", 0, VD_MIB(8)},
        {"1.5G", 0, VD_GIB(1) + VD_MIB(512)},
        {"0.5E", 0, UINT64_C(1) << 59},
        {"8E", 0, UINT64_C(1) << 63},
        {"9223372036854775808", 0, UINT64_C(1) << 63},
        {"9223372036854775809", -ERANGE, 0},
        {"9E", -ERANGE, 0},
        {"8.5E", -ERANGE, 0},
        {"99999999999999999999999999999999999999999999", -ERANGE, 0},
        {"99999999999999999999999999999999999999999999K", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"K", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"1 ", 0, 1},
        {"1.5", -EINVAL, 0},
        {"1.K", -EINVAL, 0},
        {".5K", -EINVAL, 0},
        {"1KK", -EINVAL, 0},
        {"1Ki", -EINVAL, 0},
        {"1X", -EINVAL, 0},
        {"0x10", -EINVAL, 0},
        {"1K\n", -EINVAL, 0},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        struct vd_error err = {0};
        uint64_t bytes = 77;
        assert_int_equal(vd_size_parse(cases[i].text, &bytes, &err), cases[i].ret);
        assert_true(bytes == (cases[i].ret ? 77 : cases[i].bytes));
        assert_int_equal(err.code, cases[i].ret);
        if (cases[i].ret)
            assert_string_equal(err.id, "bad-size");
    }
    assert_int_equal(vd_size_parse("x", &(uint64_t){0}, NULL), -EINVAL);
}

static void sizes_are_shown_rounded(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1 KiB"},
        {1536, "1.5 KiB"},
        {VD_MIB(1) - 1, "1 MiB"},
        {VD_GIB(1) + VD_MIB(512), "1.5 GiB"},
        {UINT64_MAX, "16 EiB"},
        {UINT64_C(1) << 63, "8 EiB"},
        {VD_KIB(1100), "1.1 MiB"},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        char buf[32];
        assert_string_equal(vd_size_format(cases[i].bytes, buf, sizeof(buf)), cases[i].text);
    }
}

static void names_follow_the_grammar(void **state)
{
    (void)state;
    char longest[VD_NAME_MAX + 2];
    memset(longest, 'a', sizeof(longest));
    longest[VD_NAME_MAX] = 0;
    assert_true(vd_name_valid(longest));
    longest[VD_NAME_MAX] = 'a';
    longest[VD_NAME_MAX + 1] = 0;
    assert_false(vd_name_valid(longest));
    static const char *const good[] = {"a", "Z9", "0", "a.b_c-d"};
    static const char *const bad[] = {"", ".a", "-a", "_a", "a/b", "a:b", "a@b", "a b", "\xc3\xa4"};
    for (size_t i = 0; i < VD_ARRAY_SIZE(good); i++)
        assert_true(vd_name_valid(good[i]));
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++)
        assert_false(vd_name_valid(bad[i]));
}

static void uuids_round_trip(void **state)
{
    (void)state;
    struct vd_rng rng;
    struct vd_uuid u, v = {{0}};
    char text[VD_UUID_TEXT];
    vd_rng_seed(&rng, 3);
    assert_true(vd_uuid_is_nil(&v));
    vd_uuid_new(&u, &rng);
    vd_uuid_format(&u, text);
    assert_int_equal(strlen(text), 36);
    assert_int_equal(text[14], '4');
    assert_non_null(strchr("89ab", text[19]));
    assert_true(vd_uuid_parse(text, &v));
    assert_true(vd_uuid_equal(&u, &v));
    assert_true(vd_uuid_parse("00112233-4455-6677-8899-AABBCCDDEEFF", &v));
    static const char *const bad[] = {
        "", "00112233-4455-6677-8899-AABBCCDDEEF", "00112233-4455-6677-8899-AABBCCDDEEFF0",
        "0011223344556677-8899-AABBCCDDEEFF0000", "g0112233-4455-6677-8899-AABBCCDDEEFF"};
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++)
        assert_false(vd_uuid_parse(bad[i], &v));
}

static void errors_are_one_line_and_carry_their_cause(void **state)
{
    (void)state;
    struct vd_error err = {0};
    assert_int_equal(vd_fail(NULL, -EIO, "x", "y"), -EIO);
    assert_int_equal(vd_fail_at(NULL, -EIO, "y"), -EIO);
    assert_int_equal(vd_fail(&err, -ENOENT, "volume-not-found", "no volume '%s'", "a\nb"), -ENOENT);
    assert_string_equal(err.id, "volume-not-found");
    assert_string_equal(err.message, "no volume 'a?b'");
    assert_int_equal(vd_fail_at(&err, -EIO, "pool %d", 7), -EIO);
    assert_string_equal(err.message, "pool 7: no volume 'a?b'");
    assert_int_equal(err.code, -EIO);
    struct vd_error bare = {0};
    assert_int_equal(vd_fail_at(&bare, -ENOSPC, "log"), -ENOSPC);
    assert_string_equal(bare.message, "log: No space left on device");
    /* Its own text may be an argument; nothing overflows. */
    for (int i = 0; i < 100; i++)
        assert_int_equal(vd_fail(&err, -EIO, err.id, "again %s", err.message), -EIO);
    assert_true(strlen(err.message) < sizeof(err.message));
}

static char logged[600];
static int log_calls;

static void sink(void *arg, enum vd_log_level level, const char *message)
{
    assert_ptr_equal(arg, logged);
    assert_int_equal(level, VD_LOG_WARNING);
    log_calls++;
    (void)snprintf(logged, sizeof(logged), "%s", message);
}

static void the_log_is_one_line_up_to_its_level(void **state)
{
    (void)state;
    vd_log(VD_LOG_ERROR, "nobody listens");
    vd_log_set_sink(sink, logged, VD_LOG_WARNING);
    vd_log(VD_LOG_WARNING, "two\nlines %d", 1);
    vd_log(VD_LOG_INFO, "not wanted");
    vd_log_set_sink(NULL, NULL, VD_LOG_ERROR);
    assert_int_equal(log_calls, 1);
    assert_string_equal(logged, "two lines 1");
}

static void aligned_memory_is_aligned(void **state)
{
    (void)state;
    for (size_t len = 0; len < 10000; len += 999) {
        uint8_t *p = vd_alloc_aligned(len);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % VD_BLOCK, 0);
        memset(p, 1, len);
        free(p);
    }
    assert_null(vd_alloc_aligned(SIZE_MAX - 5));
}

static void wire_integers_have_their_order(void **state)
{
    (void)state;
    le32_t v = vd_le32(0x01020304);
    assert_int_equal(v.b[0], 4);
    assert_true(vd_get32(v) == 0x01020304);
    assert_true(vd_get64(vd_le64(UINT64_C(0x0102030405060708))) == UINT64_C(0x0102030405060708));
    uint8_t be[8];
    vd_put_be64(be, UINT64_C(0x0102030405060708));
    assert_int_equal(be[0], 1);
    assert_true(vd_get_be64(be) == UINT64_C(0x0102030405060708));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_numbers_follow_the_reference),
        cmocka_unit_test(bounded_numbers_stay_in_bounds_and_reach_them),
        cmocka_unit_test(filling_ends_where_it_should),
        cmocka_unit_test(hashes_are_xxh3),
        cmocka_unit_test(one_set_bit_anywhere_is_not_zero),
        cmocka_unit_test(sizes_are_parsed_exactly),
        cmocka_unit_test(sizes_are_shown_rounded),
        cmocka_unit_test(names_follow_the_grammar),
        cmocka_unit_test(uuids_round_trip),
        cmocka_unit_test(errors_are_one_line_and_carry_their_cause),
        cmocka_unit_test(the_log_is_one_line_up_to_its_level),
        cmocka_unit_test(aligned_memory_is_aligned),
        cmocka_unit_test(wire_integers_have_their_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
