/* SPDX-License-Identifier: MIT */
/* Writes well-formed inputs for each target into DIR/label, DIR/root, DIR/record, DIR/node: what
 * fuzzing starts from. */
#include "tests/format/samples.h"
#include "tests/pool/node_samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char *dir;
static uint8_t buf[4096];

static void put(const char *target, unsigned n, size_t len)
{
    static char path[4096];

    snprintf(path, sizeof(path), "%s/%s", dir, target);
    if (mkdir(path, 0777) < 0 && errno != EEXIST) {
        perror(path);
        exit(1);
    }
    snprintf(path, sizeof(path), "%s/%s/seed-%u", dir, target, n);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(buf, 1, len, f) != len || fclose(f)) {
        perror(path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static struct vd_label label;
    static struct vd_root root;
    static struct vd_record rec;

    if (argc != 2 || (mkdir(argv[1], 0777) < 0 && errno != EEXIST)) {
        fprintf(stderr, "usage: seeds DIR\n");
        return 2;
    }
    dir = argv[1];
    for (unsigned cuts = 0; cuts <= OD_LABEL_CUTS; cuts += 4) {
        sample_label(&label, cuts);
        label_encode(&label, buf);
        put("label", cuts, sizeof(buf));
    }
    label.incompat = UINT64_MAX;
    label_encode(&label, buf);
    put("label", 100, sizeof(buf));

    sample_root(&root);
    root_encode(&root, buf);
    put("root", 0, sizeof(buf));
    for (unsigned s = VD_SEG_NONE; s <= VD_SEG_FIXED; s++) {
        struct vd_table_entry e;
        sample_table_entry(&e, (enum vd_seg_state)s);
        table_entry_encode(&e, buf, table_entry_size(1 + s));
        put("root", 1 + s, table_entry_size(1 + s));
    }
    table_header_encode(buf, &root.pool_uuid, root.counter, root.table_entries,
                        root.table_entry_size);
    put("root", 100, sizeof(struct od_table_header));

    for (unsigned n = 0; n <= SAMPLE_ENTRIES; n++) {
        sample_record(&rec, buf, n);
        put("record", n, sizeof(buf));
    }
    sample_bulk(&rec, buf);
    put("record", 100, sizeof(buf));
    buf[4095] = 0; /* an odd length is what the target takes for bulk */
    put("record", 101, sizeof(buf) - 1);
    sample_hints(&rec, buf);
    put("record", 102, sizeof(buf));

    for (unsigned n = 0; n < SAMPLE_NODES; n++) {
        static struct od_node node;
        sample_node(n, &node);
        memcpy(buf, &node, sizeof(buf));
        put("node", n, sizeof(buf));
    }
    return 0;
}
