/* SPDX-License-Identifier: MIT */
/* The TARGET grammar: what is pool, volume and snapshot, and what is refused. */
#include "server/target.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct good {
    const char *text, *pool_path;
    enum vd_pool_kind kind;
    const char *pool, *volume, *snapshot;
};

static const struct good good[] = {
    {"tank", NULL, VD_POOL_NAME, "tank", NULL, NULL},
    {"tank:web", NULL, VD_POOL_NAME, "tank", "web", NULL},
    {"tank:web@monday", NULL, VD_POOL_NAME, "tank", "web", "monday"},
    {"tank@monday", NULL, VD_POOL_NAME, "tank", NULL, "monday"},
    {"a.vdk", NULL, VD_POOL_PATH, "a.vdk", NULL, NULL},
    {"./tank", NULL, VD_POOL_PATH, "./tank", NULL, NULL},
    {"/a:b@c/d.vdk:v@s", NULL, VD_POOL_PATH, "/a:b@c/d.vdk", "v", "s"},
    {"/a:b@c/d", NULL, VD_POOL_PATH, "/a:b@c/d", NULL, NULL},
    {"./a:b:v", NULL, VD_POOL_PATH, "./a:b", "v", NULL},
    {"./a@b@s", NULL, VD_POOL_PATH, "./a@b", NULL, "s"},
    {"./a@b:v@s", NULL, VD_POOL_PATH, "./a@b", "v", "s"},
    {"rbd:pool/image:v@s", NULL, VD_POOL_URI, "rbd:pool/image", "v", "s"},
    {"nbd://host:10809/x@s", NULL, VD_POOL_URI, "nbd://host:10809/x", NULL, "s"},
    {"nbd+unix:///e?socket=/run/x.sock:v", NULL, VD_POOL_URI, "nbd+unix:///e?socket=/run/x.sock",
     "v", NULL},
    {NULL, "odd:name@x.vdk", VD_POOL_PATH, "odd:name@x.vdk", NULL, NULL},
    {"", "odd", VD_POOL_PATH, "odd", NULL, NULL},
    {"v", "odd", VD_POOL_PATH, "odd", "v", NULL},
    {":v@s", "odd", VD_POOL_PATH, "odd", "v", "s"},
    {"@s", "odd", VD_POOL_PATH, "odd", NULL, "s"},
    {"@s", "rbd:a/b", VD_POOL_URI, "rbd:a/b", NULL, "s"},
};

static void same(const char *is, const char *want)
{
    if (want)
        assert_string_equal(is, want);
    else
        assert_null(is);
}

static void test_good(void **state)
{
    for (size_t i = 0; i < VD_ARRAY_SIZE(good); i++) {
        struct vd_target_ref t;
        struct vd_error err = {0};
        assert_int_equal(vd_target_parse(good[i].text, good[i].pool_path, &t, &err), 0);
        assert_int_equal(t.kind, good[i].kind);
        same(t.pool, good[i].pool);
        same(t.volume, good[i].volume);
        same(t.snapshot, good[i].snapshot);
        vd_target_done(&t);
    }
}

static void test_bad(void **state)
{
    static const struct {
        const char *text, *pool_path, *id;
    } bad[] = {
        {"", NULL, "target-invalid"},       {NULL, NULL, "target-invalid"},
        {":v", NULL, "target-invalid"},     {"@s", NULL, "target-invalid"},
        {"rbd:", NULL, "target-invalid"},   {"nbd:@s", NULL, "target-invalid"},
        {"a.vdk:", NULL, "name-invalid"},   {"a.vdk@", NULL, "name-invalid"},
        {"a.vdk:v@", NULL, "name-invalid"}, {"a.vdk:-v", NULL, "name-invalid"},
        {"a.vdk:v/w", NULL, NULL},          {"a.vdk:v w", NULL, "name-invalid"},
        {"a.vdk@s@", NULL, "name-invalid"}, {"ta nk", NULL, "name-invalid"},
        {"-tank", NULL, "name-invalid"},    {"v", "", "target-invalid"},
        {"a:v", "odd", "name-invalid"},     {":", "odd", "name-invalid"},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++) {
        struct vd_target_ref t;
        struct vd_error err = {0};
        int r = vd_target_parse(bad[i].text, bad[i].pool_path, &t, &err);
        if (!bad[i].id) { /* a path like any other */
            assert_int_equal(r, 0);
            vd_target_done(&t);
            continue;
        }
        assert_int_equal(r, -EINVAL);
        assert_string_equal(err.id, bad[i].id);
    }
}

static void test_long_names(void **state)
{
    char text[2 * VD_NAME_MAX + 20] = "a.vdk:";
    struct vd_target_ref t;
    size_t n = strlen(text);
    memset(text + n, 'x', VD_NAME_MAX);
    assert_int_equal(vd_target_parse(text, NULL, &t, NULL), 0);
    char *again = vd_target_text(&t);
    assert_string_equal(again, text);
    free(again);
    vd_target_done(&t);
    text[n + VD_NAME_MAX] = 'x';
    assert_int_equal(vd_target_parse(text, NULL, &t, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_long_names),
    };
    return cmocka_run_group_tests_name("targets", tests, NULL, NULL);
}
