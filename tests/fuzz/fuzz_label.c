/* SPDX-License-Identifier: MIT */
/* Labels: any 4096 bytes are refused, or decode to what encodes to the same bytes. */
#include "tests/fuzz/fuzz.h"

#include "format/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[4096], again[4096];
    static struct vd_label l;
    char names[80];

    fuzz_block(buf, data, size);
    int r = label_decode(buf, &l);
    feature_names(l.incompat, names, sizeof(names));
    fuzz_seal(buf, offsetof(struct od_label, magic), OD_MAGIC_LABEL, 8);
    r = label_decode(buf, &l);
    if (r == -EPROTONOSUPPORT)
        feature_names(l.incompat, names, size % sizeof(names));
    if (r < 0 || l.minor > OD_FORMAT_MINOR || l.compat || l.ro_compat)
        return 0;
    label_encode(&l, again);
    fuzz_equal(buf, again, sizeof(buf));
    return 0;
}
