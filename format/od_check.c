/* SPDX-License-Identifier: MIT */
/*
 * Asserts the size and the offsets of every struct in od.h against docs/format.md: a changed struct
 * does not compile. No code. Whoever changes a number here changes the format.
 */
#include "format/format.h"

#define SIZE(type, n) static_assert(sizeof(struct type) == (n), #type)
#define AT(type, member, n) static_assert(offsetof(struct type, member) == (n), #type "." #member)

SIZE(od_addr, 8);
SIZE(od_chunk, 8);
AT(od_chunk, idx, 4);

SIZE(od_segref, 80);
AT(od_segref, stream, 4);
AT(od_segref, nchunks, 5);
AT(od_segref, rid, 8);
AT(od_segref, chunk, 16);

SIZE(od_logref, 16);
AT(od_logref, rid, 8);
SIZE(od_cut, 136);
AT(od_cut, last_seq, 8);
AT(od_cut, last_csum, 16);
AT(od_cut, next, 24);
AT(od_cut, log_next, 104);

SIZE(od_label, 1992);
AT(od_label, csum, 8);
AT(od_label, major, 16);
AT(od_label, minor, 18);
AT(od_label, compat, 24);
AT(od_label, ro_compat, 32);
AT(od_label, incompat, 40);
AT(od_label, pool_uuid, 48);
AT(od_label, dev_uuid, 64);
AT(od_label, dev_index, 80);
AT(od_label, dev_count, 82);
AT(od_label, chunk_size, 84);
AT(od_label, generation, 88);
AT(od_label, incarnation, 96);
AT(od_label, created_s, 104);
AT(od_label, capacity, 112);
AT(od_label, root_counter, 120);
AT(od_label, redundancy_data, 128);
AT(od_label, redundancy_parity, 129);
AT(od_label, tier, 130);
AT(od_label, flags, 131);
AT(od_label, cut_count, 132);
AT(od_label, pool_name, 136);
AT(od_label, dev_state, 264);
AT(od_label, key_slots, 392);
AT(od_label, cut, 904);
static_assert(sizeof(struct od_label) <= 4096, "a label fits its slot");

SIZE(od_node_ptr, 24);
AT(od_node_ptr, csum, 16);
SIZE(od_tree_root, 56);
AT(od_tree_root, height, 24);
AT(od_tree_root, entries, 32);
AT(od_tree_root, leaves, 40);
AT(od_tree_root, nodes, 48);

SIZE(od_root, 744);
AT(od_root, csum, 8);
AT(od_root, pool_uuid, 16);
AT(od_root, incarnation, 32);
AT(od_root, counter, 40);
AT(od_root, seq, 48);
AT(od_root, epoch, 56);
AT(od_root, log_seg, 64);
AT(od_root, log_sector, 144);
AT(od_root, log_next, 152);
AT(od_root, log_csum, 184);
AT(od_root, table_off, 192);
AT(od_root, table_area, 224);
AT(od_root, table_csum, 232);
AT(od_root, table_entries, 240);
AT(od_root, table_entry_size, 244);
AT(od_root, live_blocks, 248);
AT(od_root, capacity, 256);
AT(od_root, tree, 296);
static_assert(sizeof(struct od_root) <= 4096, "a root fits its slot");

SIZE(od_table_header, 64);
AT(od_table_header, pool_uuid, 8);
AT(od_table_header, counter, 24);
AT(od_table_header, entries, 32);
AT(od_table_header, entry_size, 36);
SIZE(od_segmaps, 64);
AT(od_segmaps, csum, 8);
AT(od_segmaps, pool_uuid, 16);
AT(od_segmaps, incarnation, 32);
AT(od_segmaps, root_counter, 40);
AT(od_segmaps, len, 48);
AT(od_segmaps, count, 52);
SIZE(od_segmap, 8);
AT(od_segmap, hints, 4);
AT(od_segmap, tellers, 6);
SIZE(od_table_entry, 32);
AT(od_table_entry, stream, 1);
AT(od_table_entry, nchunks, 2);
AT(od_table_entry, flags, 3);
AT(od_table_entry, live, 4);
AT(od_table_entry, last_seq, 8);
AT(od_table_entry, rid, 16);
AT(od_table_entry, chunk, 24);

SIZE(od_record, 4096);
AT(od_record, flags, 4);
AT(od_record, entry_count, 6);
AT(od_record, csum, 8);
AT(od_record, pool, 16);
AT(od_record, incarnation, 24);
AT(od_record, seq, 32);
AT(od_record, prev_csum, 40);
AT(od_record, rid, 48);
AT(od_record, at, 56);
AT(od_record, payload_blocks, 64);
AT(od_record, entries_len, 68);
AT(od_record, echo_len, 70);
AT(od_record, echo_count, 72);
AT(od_record, prev_flags, 74);
AT(od_record, prev_payload_blocks, 76);
AT(od_record, horizon, 80);
AT(od_record, root_counter, 88);
AT(od_record, epoch, 96);
AT(od_record, next, 104);
AT(od_record, wall_s, 136);
AT(od_record, entries, OD_RECORD_ENTRIES);
static_assert(OD_RECORD_ENTRIES % 8 == 0 && OD_RECORD_ENTRIES_MAX % 8 == 0, "entries are aligned");

SIZE(od_entry, 4);
AT(od_entry, flags, 1);
AT(od_entry, len, 2);
SIZE(od_entry_write, 24);
AT(od_entry_write, blocks, 4);
AT(od_entry_write, payload, 6);
AT(od_entry_write, branch, 8);
AT(od_entry_write, lba, 16);
SIZE(od_entry_zero, 24);
AT(od_entry_zero, branch, 4);
AT(od_entry_zero, lba, 8);
AT(od_entry_zero, blocks, 16);
SIZE(od_entry_bulk, 32);
AT(od_entry_bulk, blocks, 4);
AT(od_entry_bulk, hints, 6);
AT(od_entry_bulk, branch, 8);
AT(od_entry_bulk, lba, 16);
AT(od_entry_bulk, addr, 24);
SIZE(od_entry_relocate, 24);
AT(od_entry_relocate, payload, 4);
AT(od_entry_relocate, blocks, 6);
AT(od_entry_relocate, count, 8);
AT(od_entry_relocate, csum, 16);
SIZE(od_relocation, 32);
static_assert(VD_RELOCATIONS_PER_BLOCK * sizeof(struct od_relocation) == VD_BLOCK, "whole blocks");
AT(od_relocation, blocks, 4);
AT(od_relocation, lba, 8);
AT(od_relocation, from, 16);
AT(od_relocation, to, 24);
SIZE(od_entry_epoch, 16);
AT(od_entry_epoch, epoch, 8);
SIZE(od_entry_catalog, 32);
AT(od_entry_catalog, value_len, 4);
AT(od_entry_catalog, key, 8);
SIZE(od_entry_emptied, 8);
AT(od_entry_emptied, seg, 4);
SIZE(od_entry_segment, 88);
AT(od_entry_segment, ref, 8);
static_assert(sizeof(struct od_entry_catalog) + VD_CATALOG_VALUE_MAX <= OD_RECORD_ENTRIES_MAX,
              "the largest entry fits a header");

SIZE(od_key, 32);
SIZE(od_node, OD_NODE_SIZE);
AT(od_node, tree, 4);
AT(od_node, level, 5);
AT(od_node, count, 6);
AT(od_node, csum, 8);
AT(od_node, pool, 16);
AT(od_node, incarnation, 24);
AT(od_node, counter, 32);
AT(od_node, first, 40);
AT(od_node, last, 72);
AT(od_node, used, 104);
AT(od_node, csums, 106);
AT(od_node, epochs, 108);
AT(od_node, body, 112);
SIZE(od_child, 24);
AT(od_child, key, 24);
SIZE(od_kv, 8);
AT(od_kv, key, 8);
SIZE(od_run, 20);
AT(od_run, born, 4);
AT(od_run, died, 6);
AT(od_run, type, 8);
AT(od_run, blocks, 9);
AT(od_run, csum, 10);
AT(od_run, seg, 12);
AT(od_run, sector, 16);

static_assert((int)VD_ENTRY_WRITE == OD_ENTRY_WRITE && (int)VD_ENTRY_ZERO == OD_ENTRY_ZERO &&
                  (int)VD_ENTRY_RELOCATE == OD_ENTRY_RELOCATE &&
                  (int)VD_ENTRY_BULK == OD_ENTRY_BULK && (int)VD_ENTRY_EPOCH == OD_ENTRY_EPOCH &&
                  (int)VD_ENTRY_CATALOG == OD_ENTRY_CATALOG &&
                  (int)VD_ENTRY_SEGMENT == OD_ENTRY_SEGMENT &&
                  (int)VD_ENTRY_EMPTIED == OD_ENTRY_EMPTIED,
              "entry types in memory are those on disk");
