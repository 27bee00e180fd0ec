/* SPDX-License-Identifier: MIT */
/* Log records, bulk headers and entries: refused, or encode to the same bytes again. */
#include "tests/fuzz/fuzz.h"

#include "format/format.h"

static void entries(const uint8_t *p, size_t len)
{
    static uint8_t again[4096];
    struct vd_entry e;
    int n;

    while ((n = entry_decode(p, len, &e)) > 0) {
        fuzz_check(entry_size(&e) == (size_t)n);
        entry_encode(&e, again);
        fuzz_equal(p, again, (size_t)n);
        p += n;
        len -= (size_t)n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[4096], again[4096];
    static struct vd_record rec;

    if (size > OD_RECORD_ENTRIES)
        entries(data + OD_RECORD_ENTRIES, size - OD_RECORD_ENTRIES);
    fuzz_block(buf, data, size);
    record_decode(buf, &rec);
    fuzz_seal(buf, offsetof(struct od_record, magic), size % 2 ? OD_MAGIC_BULK : OD_MAGIC_RECORD,
              4);
    if (record_decode(buf, &rec) < 0)
        return 0;
    memcpy(again, buf, sizeof(buf));
    record_seal(&rec, again);
    fuzz_equal(buf, again, sizeof(buf));
    return 0;
}
