/* SPDX-License-Identifier: MIT */
/* The table of foreign formats and their magic numbers. Reads a little, does not yield. */
#include "foreign/format.h"

#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#define HEAD 512u

static const struct {
    const char *name;
    const char *ends[4];
    const char *subformats[3];
} formats[VD_FORMAT_COUNT] = {
    [VD_FORMAT_RAW] = {"raw", {""}, {""}},
    [VD_FORMAT_QCOW2] = {"qcow2", {".qcow2", ".qcow", ""}, {""}},
    [VD_FORMAT_VMDK] = {"vmdk", {".vmdk", ""}, {"monolithicSparse", "streamOptimized", ""}},
    [VD_FORMAT_VDI] = {"vdi", {".vdi", ""}, {"dynamic", "fixed", ""}},
    [VD_FORMAT_VHDX] = {"vhdx", {".vhdx", ""}, {"dynamic", "fixed", ""}},
    [VD_FORMAT_VPC] = {"vpc", {".vhd", ".vpc", ""}, {"dynamic", "fixed", ""}},
};

const char *vd_format_name(enum vd_format f)
{
    return formats[f].name;
}

bool vd_format_find(const char *name, enum vd_format *ret)
{
    for (int i = 0; i < VD_FORMAT_COUNT; i++)
        if (strcmp(formats[i].name, name) == 0) {
            *ret = (enum vd_format)i;
            return true;
        }
    return false;
}

const char *const *vd_format_subformats(enum vd_format f)
{
    return formats[f].subformats;
}

enum vd_format vd_format_of_name(const char *path)
{
    size_t n = strlen(path);
    for (int i = 0; i < VD_FORMAT_COUNT; i++)
        for (const char *const *end = formats[i].ends; **end; end++)
            if (n > strlen(*end) && strcasecmp(path + n - strlen(*end), *end) == 0)
                return (enum vd_format)i;
    return VD_FORMAT_RAW;
}

enum vd_format vd_format_look(int fd)
{
    static const struct {
        enum vd_format format;
        unsigned off, len;
        const char *bytes;
    } magic[] = {
        {VD_FORMAT_QCOW2, 0, 4, "QFI\xfb"}, {VD_FORMAT_VMDK, 0, 4, "KDMV"},
        {VD_FORMAT_VMDK, 0, 4, "COWD"},     {VD_FORMAT_VDI, 64, 4, "\x7f\x10\xda\xbe"},
        {VD_FORMAT_VHDX, 0, 8, "vhdxfile"}, {VD_FORMAT_VPC, 0, 8, "conectix"},
    };
    static const char descriptor[] = "# Disk DescriptorFile";
    char head[HEAD] = {0};
    if (pread(fd, head, sizeof(head), 0) <= 0)
        return VD_FORMAT_RAW;
    for (size_t i = 0; i < VD_ARRAY_SIZE(magic); i++)
        if (memcmp(head + magic[i].off, magic[i].bytes, magic[i].len) == 0)
            return magic[i].format;
    if (strncasecmp(head, descriptor, sizeof(descriptor) - 1) == 0)
        return VD_FORMAT_VMDK;
    /* A fixed VHD is raw but for its last sector. */
    off_t end = lseek(fd, 0, SEEK_END);
    memset(head, 0, sizeof(head));
    if (end > (off_t)HEAD && pread(fd, head, sizeof(head), end - (off_t)HEAD) > 0 &&
        memcmp(head, "conectix", 8) == 0)
        return VD_FORMAT_VPC;
    return VD_FORMAT_RAW;
}
