/* SPDX-License-Identifier: MIT */
/* Roots and segment tables: refused, or encode to the same bytes again. */
#include "tests/fuzz/fuzz.h"

#include "format/format.h"

static void table(const uint8_t *data, size_t size)
{
    static struct vd_table_entry e;
    uint8_t entry[256];

    for (unsigned n = 1; n <= OD_SEG_CHUNKS; n++) {
        size_t len = table_entry_size(n);
        if (size < len)
            return;
        if (table_entry_decode(data, len, &e) < 0)
            continue;
        table_entry_encode(&e, entry, len);
        fuzz_equal(data, entry, len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[4096], again[4096];
    static struct vd_root root;

    table(data, size);
    if (size >= sizeof(struct od_table_header))
        table_header_decode(data, &root.pool_uuid, root.counter, root.table_entries,
                            root.table_entry_size);
    fuzz_block(buf, data, size);
    root_decode(buf, &root);
    fuzz_seal(buf, offsetof(struct od_root, magic), OD_MAGIC_ROOT, 8);
    if (root_decode(buf, &root) < 0)
        return 0;
    root_encode(&root, again);
    fuzz_equal(buf, again, sizeof(buf));
    return 0;
}
