/* SPDX-License-Identifier: MIT */
/* Writes well-formed inputs for each target into DIR/label, DIR/root and so on: what fuzzing starts
 * from. */
#include "core/base/bytes.h"
#include "foreign/format.h"
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

/* ---- what others write ---- */

static void put_text(const char *target, unsigned n, const char *text)
{
    size_t len = strlen(text);
    memcpy(buf, text, len);
    put(target, n, len);
}

static void keys_and_frames(void)
{
    static const char *const keys[] = {
        "alice:00112233445566778899aabbccddeeff\n",
        "alice:00112233445566778899AABBCCDDEEFF\r\n\nbob:00112233445566778899aabbccddeeff0011",
        "alice:0011\n",
        "#a:00112233445566778899aabbccddeeff\n",
    };
    static const char *const texts[] = {
        "{\"command\":\"ls\",\"args\":{\"target\":\"a@b\",\"list\":[1,2.5,null,true]}}",
        "{\"errno\":-2,\"id\":\"not-found\",\"message\":\"there is none\\u00e9\"}",
        "{\"a\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}",
    };
    unsigned n = 0;
    for (size_t i = 0; i < VD_ARRAY_SIZE(keys); i++)
        put_text("keys", (unsigned)i, keys[i]);
    for (size_t i = 0; i < VD_ARRAY_SIZE(texts); i++) {
        put_text("wire", n++, texts[i]);
        size_t len = strlen(texts[i]);
        memcpy(buf, "VDC1", 4);
        vd_put_be32(buf + 4, (uint32_t)len);
        memcpy(buf + 8, texts[i], len);
        memcpy(buf + 8 + len, buf, 8 + len); /* twice */
        put("wire", n++, 2 * (8 + len));
    }
}

/* Three bytes before the image: its format, and how much of it is the second file (fuzz_image.c).
 */
#define IMAGE (buf + 3)
static void put_image(unsigned n, enum vd_format format, size_t len, size_t second)
{
    buf[0] = (uint8_t)format;
    buf[1] = (uint8_t)(second >> 8);
    buf[2] = (uint8_t)second;
    put("image", n, 3 + len + second);
    memset(buf, 0, sizeof(buf));
}

/* Clusters of 512 bytes: the header, the table of tables, a table. */
static void put_qcow2(unsigned n, const char *backing)
{
    static const uint8_t magic[] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
    size_t second = backing ? 512 : 0;
    memcpy(IMAGE, magic, sizeof(magic));
    vd_put_be32(IMAGE + 20, 9);
    vd_put_be64(IMAGE + 24, 512 * 64);
    vd_put_be32(IMAGE + 36, 1);
    vd_put_be64(IMAGE + 40, 512);
    vd_put_be32(IMAGE + 100, 104);
    vd_put_be64(IMAGE + 512, 1024);
    vd_put_be64(IMAGE + 1024, 1536);
    if (backing) {
        vd_put_be32(IMAGE + 104, 0xe2792aca);
        vd_put_be32(IMAGE + 108, 3);
        memcpy(IMAGE + 112, "raw", 3);
        vd_put_be64(IMAGE + 8, 200);
        vd_put_be32(IMAGE + 16, (uint32_t)strlen(backing));
        memcpy(IMAGE + 200, backing, strlen(backing));
    }
    put_image(n, VD_FORMAT_QCOW2, 2048, second);
}

static void put_vmdk(unsigned n)
{
    static const char text[] = "# Disk DescriptorFile\nversion=1\nCID=12345678\n"
                               "parentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"
                               "RW 2 FLAT \"b\" 0\nRW 1 ZERO\n";
    memcpy(IMAGE, text, sizeof(text) - 1);
    put_image(n, VD_FORMAT_VMDK, sizeof(text) - 1, 1024);
    memcpy(IMAGE, "KDMV\1\0\0\0\1", 9);
    IMAGE[12] = 4; /* sectors, in grains of one */
    IMAGE[20] = 1;
    IMAGE[44] = IMAGE[512] = 2; /* entries in a table; where it is */
    IMAGE[56] = 1;
    IMAGE[1024] = 2;
    put_image(n + 1, VD_FORMAT_VMDK, 2048, 0);
}

static void put_others(unsigned n)
{
    memcpy(IMAGE + 64, "\x7f\x10\xda\xbe", 4);
    IMAGE[341] = 2; /* the map; the data; sizes; one block */
    IMAGE[345] = 4;
    IMAGE[369] = IMAGE[377] = 2;
    IMAGE[384] = 1;
    put_image(n, VD_FORMAT_VDI, 2048, 0);
    memcpy(IMAGE, "conectix", 8);
    IMAGE[63] = 3;
    vd_put_be64(IMAGE + 16, 512);
    vd_put_be64(IMAGE + 512 + 16, 1024);
    vd_put_be32(IMAGE + 512 + 28, 1);
    vd_put_be32(IMAGE + 512 + 32, 512);
    IMAGE[1024 + 3] = 3;
    put_image(n + 1, VD_FORMAT_VPC, 3072, 0);
}

/* From the table of regions on, which lies at 192 KiB: the table of metadata 2 KiB behind it. */
static void put_vhdx(unsigned n)
{
    static const uint8_t bat[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                    0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
    static const uint8_t metadata[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                         0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
    static const uint8_t parameters[16] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                           0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
    IMAGE[8] = 2;
    memcpy(IMAGE + 16, bat, sizeof(bat));
    IMAGE[33] = 0x04; /* at 193 KiB, 8 bytes */
    IMAGE[34] = 3;
    IMAGE[40] = 8;
    memcpy(IMAGE + 48, metadata, sizeof(metadata));
    IMAGE[65] = 0x08;
    IMAGE[66] = 3;
    IMAGE[1024] = 6; /* a block that is there, at 0 */
    IMAGE[2048 + 10] = 1;
    memcpy(IMAGE + 2048 + 32, parameters, sizeof(parameters));
    IMAGE[2048 + 49] = 4; /* 1 KiB behind the table: how large a block is */
    IMAGE[3072 + 1] = 1;
    put_image(n, VD_FORMAT_VHDX, 3080, 0);
}

/* Maps as they lie in an area, and areas. */
static void put_segmaps(void)
{
    static uint64_t named[16], fixed[16];
    static uint16_t at[OD_SEGMAP_TELLERS];
    static uint8_t of[1024];
    struct vd_segmap m = {.named = named, .fixed = fixed, .at = at, .of = of};
    struct vd_segmaps head = {.incarnation = 20, .root_counter = 31, .count = 1};
    unsigned n = 0;
    for (uint32_t blocks = 256; blocks <= 1024; blocks *= 2) {
        sample_segmap(&m, blocks, blocks / 50);
        size_t size = segmap_size(&m, blocks);
        segmap_encode(&m, blocks, buf);
        put("segmap", n++, size);
        memmove(buf + sizeof(struct od_segmaps), buf, size);
        head.len = (uint32_t)(sizeof(struct od_segmaps) + size);
        segmaps_seal(&head, buf);
        put("segmap", n++, head.len);
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
    put_segmaps();
    keys_and_frames();
    memset(buf, 0, sizeof(buf));
    put_qcow2(0, NULL);
    put_qcow2(1, "b");
    put_qcow2(2, "../b");
    put_qcow2(3, "json:{}");
    put_vmdk(4);
    put_others(6);
    put_vhdx(8);
    put_image(9, VD_FORMAT_RAW, 512, 0);
    return 0;
}
