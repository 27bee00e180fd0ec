/* SPDX-License-Identifier: MIT */
/*
 * The table of commands. Parsing, help, completion and manual pages all come from it; a command
 * that is not in it does not exist. Data only.
 */
#include "cli/cli_priv.h"

#define NOT_FOUND (1u << EXIT_NOT_FOUND)
#define BUSY (1u << EXIT_BUSY)
#define DAMAGE (1u << EXIT_DAMAGE)
#define SPACE (1u << EXIT_NO_SPACE)
#define CANCELLED (1u << EXIT_CANCELLED)
#define PERMISSION (1u << EXIT_PERMISSION)
#define UNSUPPORTED (1u << EXIT_UNSUPPORTED)
/* What opening any pool may end in. */
#define OPENING (NOT_FOUND | BUSY | DAMAGE | PERMISSION | UNSUPPORTED)

#define ARGS(...) ((const struct cli_arg[]){__VA_ARGS__, {0}})
#define OPTIONS(...) ((const struct cli_option[]){__VA_ARGS__, {0}})
#define EXAMPLES(...) ((const char *const[]){__VA_ARGS__, NULL})

const struct cli_option cli_common_options[] = {
    {"pool", CLI_TEXT, "PATH",
     "The pool, where its path would be misread in a target; the first target is then only "
     "[VOLUME][@SNAPSHOT] and may be left out."},
    {"no-wait", CLI_FLAG, NULL,
     "Do not wait for the background work that this causes on an idle pool; a later command does "
     "it."},
    {"progress", CLI_CHOICE, "auto|json|none",
     "Progress on standard error: a bar if that is a terminal (auto), events as lines of JSON, or "
     "nothing."},
    {"detach", CLI_FLAG, NULL,
     "Return as soon as the job has begun, and print its number; it goes on in the background."},
    {"json", CLI_FLAG, NULL, "Print the result, or the error, as one JSON object."},
    {"help", CLI_FLAG, NULL, "Print what this command does."},
    {0},
};

static const char target_help[] = "POOL[:VOLUME]; the volume may be left out when there is one";
/* The names of foreign/format.c. */
static const char format_choice[] = "raw|qcow2|vmdk|vdi|vhdx|vpc";
static const char subformat_help[] =
    "vmdk: monolithicSparse or streamOptimized. vdi, vhdx, vpc: dynamic or fixed.";
static const char snapshot_help[] = "POOL[:VOLUME]@SNAPSHOT";
static const char pool_help[] = "a registered name, or the path of the pool's file or device";

/* What serve and door add have in common. */
#define DOORS                                                                                   \
    {"nbd", CLI_TEXT, "ADDR", "Open an NBD door at unix:PATH, tcp:HOST:PORT or fd:N.",          \
     .repeat = true},                                                                           \
        {"vhost", CLI_TEXT, "DIR",                                                              \
         "Make DIR/VOLUME.sock for each volume: a vhost-user-blk disk for QEMU and its like.",  \
         .repeat = true},                                                                       \
        {"fuse", CLI_TEXT, "MNT", "Mount the volumes as files on the directory MNT.",           \
         .repeat = true},                                                                       \
        {"allow-other", CLI_FLAG, NULL,                                                         \
         "Other users may use the files of a FUSE mount, as far as their modes let them."},     \
        {"metrics", CLI_TEXT, "ADDR",                                                           \
         "Tell Prometheus what the volumes do, at http://HOST:PORT/metrics: ADDR is "           \
         "tcp:127.0.0.1:PORT or unix:PATH.",                                                    \
         .repeat = true},                                                                       \
        {"tls-cert", CLI_TEXT, "DIR",                                                           \
         "TCP clients must use TLS. DIR holds server-cert.pem and server-key.pem; with "        \
         "ca-cert.pem, clients must show a certificate that it signed and that ca-crl.pem, if " \
         "there is one, does not revoke."},                                                     \
        {"tls-psk", CLI_TEXT, "FILE",                                                           \
         "TCP clients must use TLS and know a key in FILE: lines of NAME:HEX, as psktool "      \
         "writes them."},                                                                       \
    {                                                                                           \
        "insecure", CLI_FLAG, NULL,                                                             \
            "Let anybody connect who can reach a TCP address, whoever it is."                   \
    }

const struct cli_command cli_commands[] = {
    {"create", "make a disk: a pool of one file with one volume in it",
     "Makes FILE, a pool with one volume. The file takes space as it is written to; its size is "
     "not the volume's.\n\nAn existing path is refused, and nothing is left behind when anything "
     "fails. The file can be read and written by its owner only.",
     ARGS({"FILE", ARG_FILE, .help = "the file to make"}),
     OPTIONS({"size", CLI_SIZE, "N", "Size of the volume: bytes, or with K, M, G, T.",
              .required = true},
             {"volume", CLI_NAME, "NAME", "Name of the volume instead of \"disk\"."},
             {"capacity", CLI_SIZE, "N", "The file never grows beyond this."}),
     0, NOT_FOUND | SPACE | PERMISSION,
     EXAMPLES("vdisk create vm.vdk --size 20G",
              "A disk of 20 GiB in a file that is small at first.",
              "vdisk create vm.vdk --size 1T --capacity 200G",
              "Promise a terabyte, never take more than 200 GiB of the host."),
     cli_create},
    {"pool create", "make an empty pool and register it under a name",
     "Makes a pool on DEV, a file (made if it does not exist) or a block device, and registers it "
     "as NAME. A device that holds anything is refused unless --force.",
     ARGS({"NAME", ARG_NAME, .help = "what it is to be called"},
          {"DEV", ARG_FILE, .help = "a file or block device"}),
     OPTIONS({"capacity", CLI_SIZE, "N", "Take no more than this of the device."},
             {"force", CLI_FLAG, NULL, "Overwrite what the device holds."}),
     0, NOT_FOUND | BUSY | SPACE | PERMISSION,
     EXAMPLES("vdisk pool create tank /dev/sdb", "A pool of a whole disk.",
              "vdisk pool create lab ~/lab.vdk --capacity 50G",
              "A pool in a file of at most 50 GiB."),
     cli_pool_create},
    {"pool list", "list registered pools",
     "Lists the pools that are registered, and where they are.", NULL, NULL, 0, PERMISSION,
     EXAMPLES("vdisk pool list", "Name, UUID and devices."), cli_pool_list},
    {"pool attach", "register a pool that exists",
     "Registers the pool on DEV under NAME, or under the name that it was made with.",
     ARGS({"DEV", ARG_FILE, .help = "a device or file of the pool"},
          {"NAME", ARG_NAME, .optional = true, .help = "what it is to be called here"}),
     NULL, 0, NOT_FOUND | PERMISSION,
     EXAMPLES("vdisk pool attach /mnt/usb/tank.vdk tank", "Use it as \"tank\" from now on."),
     cli_pool_attach},
    {"pool detach", "forget a registered pool",
     "Removes NAME from the registered pools. The pool itself is not touched.",
     ARGS({"NAME", ARG_NAME, .help = "a registered name"}), NULL, 0, NOT_FOUND | PERMISSION,
     EXAMPLES("vdisk pool detach tank", "Its devices can still be used by their paths."),
     cli_pool_detach},
    {"ls", "list pools, volumes or snapshots",
     "Lists the volumes of a pool, or the snapshots of a volume if TARGET names one. Without "
     "TARGET "
     "the registered pools and those that are being served.",
     ARGS({"TARGET", ARG_TARGET, .optional = true, .help = "POOL or POOL:VOLUME"}), NULL, CLI_POOL,
     OPENING,
     EXAMPLES("vdisk ls", "What is there.", "vdisk ls tank", "The volumes of tank.",
              "vdisk ls tank:web", "The snapshots of its volume web."),
     cli_ls},
    {"info", "show everything about a pool, a volume or a snapshot",
     "Shows size, space, state, doors and clients of a pool, or the details of a volume or "
     "snapshot. "
     "Without TARGET all registered and served pools.",
     ARGS({"TARGET", ARG_TARGET, .optional = true, .help = "POOL[:VOLUME][@SNAPSHOT]"}), NULL,
     CLI_POOL, OPENING,
     EXAMPLES("vdisk info vm.vdk", "The pool and its volume.", "vdisk info tank:web@monday",
              "One snapshot."),
     cli_info},
    {"tree", "draw volumes, snapshots and clones as a tree",
     "Shows which snapshot a volume was cloned from, and what was taken of it since.",
     ARGS({"TARGET", ARG_TARGET, .help = "POOL"}), NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk tree tank", "All volumes of tank."), cli_tree},
    {"du", "show what takes the space",
     "Shows per volume and snapshot what it refers to and what only it keeps, which is what "
     "deleting "
     "it would free.",
     ARGS({"TARGET", ARG_TARGET, .help = "POOL or POOL:VOLUME"}), NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk du tank", "Volumes and snapshots of tank, and the pool's totals."), cli_du},
    {"volume create", "make a volume in a pool", "Makes a volume that reads as zeroes.",
     ARGS({"TARGET", ARG_TARGET, .help = "POOL:VOLUME"}),
     OPTIONS({"size", CLI_SIZE, "N", "Size: bytes, or with K, M, G, T.", .required = true}),
     CLI_POOL, OPENING | SPACE,
     EXAMPLES("vdisk volume create tank:web --size 40G", "A thin disk of 40 GiB."),
     cli_volume_create},
    {"volume delete", "delete a volume",
     "Deletes a volume that nobody has open. One with snapshots needs --recursive.",
     ARGS({"TARGET", ARG_TARGET, .help = "POOL:VOLUME"}),
     OPTIONS({"recursive", CLI_FLAG, NULL, "Delete its snapshots too."}), CLI_POOL | CLI_NO_WAIT,
     OPENING, EXAMPLES("vdisk volume delete tank:web --recursive", "With all its snapshots."),
     cli_volume_delete},
    {"volume rename", "give a volume another name", "Its snapshots and connected clients stay.",
     ARGS({"TARGET", ARG_TARGET, .help = target_help}, {"NAME", ARG_NAME, .help = "the new name"}),
     NULL, CLI_POOL, OPENING, EXAMPLES("vdisk volume rename tank:web www", "It is tank:www now."),
     cli_volume_rename},
    {"volume resize", "make a volume larger or smaller",
     "Clients that are connected see the new size. A smaller one needs --shrink, for what lies "
     "beyond "
     "the new end is lost; snapshots keep it.",
     ARGS({"TARGET", ARG_TARGET, .help = target_help}),
     OPTIONS({"size", CLI_SIZE, "N", "The new size.", .required = true},
             {"shrink", CLI_FLAG, NULL, "Allow it to become smaller."}),
     CLI_POOL | CLI_NO_WAIT, OPENING | SPACE,
     EXAMPLES("vdisk volume resize vm.vdk --size 40G", "The disk of vm.vdk grows to 40 GiB."),
     cli_volume_resize},
    {"volume set", "set properties of a volume",
     "Properties are read-only (on or off), comment, and user.NAME for anything of your own. An "
     "empty value unsets a property.\n\nlimit.iops (requests per second) and limit.bandwidth "
     "(bytes "
     "per second) hold clients back, all clients of the volume together; limit.burst is how long a "
     "volume that was idle may go unhindered (10s, 500ms; one second if it is not set). They hold "
     "at once, also for connected clients; flushes are never held back.",
     ARGS({"TARGET", ARG_TARGET, .help = target_help},
          {"PROPERTY=VALUE", ARG_TEXT, .repeat = true, .help = "what to set"}),
     NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk volume set tank:golden read-only=on", "Nobody writes to it any more.",
              "vdisk volume set tank:web limit.iops=1000 limit.bandwidth=50MiB limit.burst=10s",
              "So that it leaves something to others."),
     cli_volume_set},
    {"volume get", "show properties of a volume",
     "Shows all properties that are set, or the values of those named.",
     ARGS({"TARGET", ARG_TARGET, .help = target_help},
          {"PROPERTY", ARG_TEXT, .optional = true, .repeat = true, .help = "a property"}),
     NULL, CLI_POOL, OPENING, EXAMPLES("vdisk volume get tank:web comment", "One value."),
     cli_volume_get},
    {"snapshot create", "take snapshots",
     "Takes a snapshot of each volume named. Several are taken at the same moment, all or none. It "
     "holds every write acknowledged before the command was given.",
     ARGS({"TARGET", ARG_TARGET, .repeat = true, .help = snapshot_help}), NULL, CLI_POOL,
     OPENING | SPACE,
     EXAMPLES("vdisk snapshot create vm.vdk@before-upgrade", "Takes no time at any size.",
              "vdisk snapshot create tank:db@nightly tank:wal@nightly", "Two disks, one moment."),
     cli_snapshot_create},
    {"snapshot list", "list the snapshots of a volume", "Oldest first.",
     ARGS({"TARGET", ARG_TARGET, .help = "POOL or POOL:VOLUME; all volumes if it is left out"}),
     NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk snapshot list tank:web", "Name, age and space of each."), cli_snapshot_list},
    {"snapshot delete", "delete snapshots",
     "Deletes all that are named, or none. A snapshot that is held is refused. What only they kept "
     "is freed in the background.",
     ARGS({"TARGET", ARG_TARGET, .repeat = true, .help = snapshot_help}), NULL,
     CLI_POOL | CLI_NO_WAIT, OPENING,
     EXAMPLES("vdisk snapshot delete vm.vdk@before-upgrade", "The space comes back."),
     cli_snapshot_delete},
    {"snapshot rename", "give a snapshot another name", "Clones and holds stay.",
     ARGS({"TARGET", ARG_TARGET, .help = snapshot_help},
          {"NAME", ARG_NAME, .help = "the new name"}),
     NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk snapshot rename tank:web@tmp release-7", "It is tank:web@release-7 now."),
     cli_snapshot_rename},
    {"snapshot hold", "protect a snapshot from deletion",
     "Puts the hold TAG on a snapshot; it can be deleted when the last hold is released.",
     ARGS({"TARGET", ARG_TARGET, .help = snapshot_help}, {"TAG", ARG_NAME, .help = "who holds it"}),
     NULL, CLI_POOL, OPENING, EXAMPLES("vdisk snapshot hold tank:web@monday backup", "Keep it."),
     cli_snapshot_hold},
    {"snapshot release", "take a hold from a snapshot", "Takes away the hold TAG.",
     ARGS({"TARGET", ARG_TARGET, .help = snapshot_help}, {"TAG", ARG_NAME, .help = "who held it"}),
     NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk snapshot release tank:web@monday backup", "Let it go."), cli_snapshot_release},
    {"rollback", "make a volume what it was at a snapshot",
     "The present state is kept as a snapshot of its own, whose name is printed, unless "
     "--discard-current. A volume that clients are connected to is refused, naming them, unless "
     "--force.",
     ARGS({"TARGET", ARG_TARGET, .help = snapshot_help}),
     OPTIONS({"discard-current", CLI_FLAG, NULL, "Do not keep the present state."},
             {
                 "force",
                 CLI_FLAG,
                 NULL,
                 "Even while clients are connected; they see other content.",
             }),
     CLI_POOL | CLI_NO_WAIT, OPENING | SPACE,
     EXAMPLES("vdisk rollback vm.vdk@before-upgrade", "As if the upgrade had not been."),
     cli_rollback},
    {"clone", "make a new volume from a snapshot or volume",
     "VOLUME starts with the content of TARGET and shares its space until either changes.",
     ARGS({"TARGET", ARG_TARGET, .help = "POOL[:VOLUME][@SNAPSHOT]; without snapshot as it is now"},
          {"VOLUME", ARG_NAME, .help = "the new volume, in the same pool"}),
     NULL, CLI_POOL, OPENING | SPACE,
     EXAMPLES("vdisk clone tank:golden@v3 web7", "A disk for one more machine, at once."),
     cli_clone},
    {"diff", "list what changed between two points",
     "Lists the ranges that changed from the snapshot A to the snapshot B or, when that is left "
     "out, "
     "to the volume as it is now. Changes are tracked always, so this is quick at any size.",
     ARGS({"FROM", ARG_TARGET, .help = "POOL[:VOLUME]@A"},
          {"TO", ARG_TARGET, .optional = true, .help = "POOL[:VOLUME][@B]"}),
     OPTIONS({"summary", CLI_FLAG, NULL, "Only how much changed."}), CLI_POOL | CLI_PROGRESS,
     OPENING | CANCELLED,
     EXAMPLES("vdisk diff tank:web@monday tank:web@tuesday", "Ranges in bytes."), cli_diff},
    {"import", "copy a disk into a pool",
     "Copies SOURCE into a new volume: a raw file, a block device, a pipe (-), an NBD server "
     "(nbd://HOST[:PORT][/EXPORT], nbd+unix:///[EXPORT]?socket=PATH), or an image of another "
     "program if --format says which. TARGET is a volume of a pool that exists, or a file, which "
     "is made: a pool with one volume.\n\nWhat looks like an image is refused without --format: "
     "a raw disk can hold what looks like one. The backing and data files of an image are followed "
     "inside its own directory, and never through a protocol.\n\nAn import that its server's end "
     "has interrupted can be resumed; one that fails or is cancelled leaves nothing behind. Other "
     "formats than raw need qemu-storage-daemon (Debian: qemu-system-common).",
     ARGS({"SOURCE", ARG_FILE, .help = "an image, a block device, an NBD URI, or - for a pipe"},
          {"TARGET", ARG_TARGET, .help = "POOL:VOLUME, or a file to make"}),
     OPTIONS({"format", CLI_CHOICE, format_choice, "What the source is."},
             {"trust-source", CLI_FLAG, NULL, "Follow the names in an image anywhere."},
             {"verify", CLI_FLAG, NULL, "Read both again and compare them."},
             {"overwrite", CLI_FLAG, NULL, "Replace a volume that exists."},
             {"capacity", CLI_SIZE, "N", "For a file that is made: it never grows beyond this."}),
     CLI_POOL | CLI_NO_WAIT | CLI_PROGRESS | CLI_DETACH, OPENING | SPACE | CANCELLED,
     EXAMPLES("vdisk import debian.raw vm.vdk", "A new file with the content of the image.",
              "vdisk import debian.qcow2 vm.vdk --format qcow2", "The same from a qcow2 image.",
              "zcat disk.gz | vdisk import - tank:web", "From a pipe."),
     cli_import},
    {"export", "copy a volume or snapshot out of a pool",
     "Writes TARGET to the file, block device, pipe (-) or NBD server DEST. A live volume is "
     "exported as it is at the moment the command begins. Holes stay holes.\n\nAn image in "
     "another format than raw gets its name when it is complete: what is interrupted leaves "
     "nothing behind. These need qemu-storage-daemon and qemu-img (Debian: qemu-system-common, "
     "qemu-utils).",
     ARGS(
         {"TARGET", ARG_TARGET, .help = "POOL[:VOLUME][@SNAPSHOT]"},
         {"DEST", ARG_FILE, .help = "a file to make, a block device, an NBD URI, or - for a pipe"}),
     OPTIONS({"format", CLI_CHOICE, format_choice, "What to write; raw if it is left out."},
             {"subformat", CLI_TEXT, "S", subformat_help},
             {"compress", CLI_FLAG, NULL, "qcow2: with compressed clusters."},
             {"verify", CLI_FLAG, NULL, "Read both again and compare them."},
             {"overwrite", CLI_FLAG, NULL, "Write over a file or device that exists."}),
     CLI_POOL | CLI_PROGRESS | CLI_DETACH, OPENING | SPACE | CANCELLED,
     EXAMPLES("vdisk export vm.vdk@monday monday.raw", "A sparse raw file.",
              "vdisk export vm.vdk vm.vmdk --format vmdk --subformat streamOptimized",
              "What an OVA wants."),
     cli_export},
    {"convert", "copy a disk from one format to another",
     "Copies SOURCE to DEST without a pool: files in any format, block devices, and NBD servers by "
     "their URI. Both are named as for import and export. Holes stay holes, and a command that "
     "fails or is cancelled leaves nothing behind.",
     ARGS({"SOURCE", ARG_FILE, .help = "an image, a block device or an NBD URI"},
          {"DEST", ARG_FILE, .help = "a file to make, a block device or an NBD URI"}),
     OPTIONS({"format", CLI_CHOICE, format_choice, "What to write; raw if it is left out."},
             {"source-format", CLI_CHOICE, format_choice, "What the source is."},
             {"trust-source", CLI_FLAG, NULL, "Follow the names in an image anywhere."},
             {"subformat", CLI_TEXT, "S", subformat_help},
             {"compress", CLI_FLAG, NULL, "qcow2: with compressed clusters."},
             {"verify", CLI_FLAG, NULL, "Read both again and compare them."},
             {"overwrite", CLI_FLAG, NULL, "Write over a file or device that exists."}),
     CLI_PROGRESS, NOT_FOUND | PERMISSION | SPACE | CANCELLED | DAMAGE | UNSUPPORTED,
     EXAMPLES("vdisk convert vm.vmdk vm.qcow2 --source-format vmdk --format qcow2",
              "From one image to another.", "vdisk convert nbd://host/disk disk.raw",
              "From a server to a raw file."),
     cli_convert},
    {"serve", "serve a pool's volumes to clients",
     "Becomes the owner of the pool and serves it until told to end by SIGTERM or SIGINT. Without "
     "a "
     "door it opens an NBD door in the runtime directory. What clients can connect to is printed "
     "when "
     "it is ready; with $NOTIFY_SOCKET set, systemd is told.\n\nNBD exports are called VOLUME "
     "(writable) and VOLUME@SNAPSHOT (read-only); the empty name is the only volume of a pool. The "
     "metadata context vdisk:changed-since:SNAPSHOT tells what differs from a snapshot.\n\nUnix "
     "sockets can be opened by their owner only. A TCP address that other machines can reach wants "
     "TLS by which clients prove who they are: certificates (--tls-cert), keys (--tls-psk), or "
     "either. Files with keys must be closed to other users.\n\nSockets that systemd hands over "
     "(socket activation) are the doors where no --nbd is given; --nbd fd:NAME takes one of them "
     "by "
     "its name, --nbd fd:N any listening socket by its number.",
     ARGS({"POOL", ARG_POOL, .help = pool_help}),
     OPTIONS(
         DOORS,
         {"shared", CLI_FLAG, NULL,
          "Let clients of several doors write one volume. Without it, a volume that clients of one "
          "door have open for writing is refused at the others, but for read-only doors."},
         {"read-only", CLI_FLAG, NULL, "Write nothing, and let others read the pool too."}),
     CLI_POOL, OPENING,
     EXAMPLES("vdisk serve vm.vdk", "Prints the address of its NBD door.",
              "vdisk serve tank --nbd tcp:127.0.0.1:10809 --nbd unix:/run/tank.sock", "Two doors.",
              "vdisk serve tank --nbd tcp:0.0.0.0:10809 --tls-cert /etc/vdisk/tls",
              "For clients on other machines that have a certificate."),
     cli_serve},
    {"mount", "show a pool's volumes as files",
     "Mounts the volumes of POOL on the directory MNT: MNT/VOLUME/disk.raw is the volume, "
     "MNT/VOLUME/snapshots/NAME/disk.raw a snapshot, and partitions/N.raw beside either its "
     "partitions. mkdir and rmdir below snapshots/ take and delete a snapshot.\n\nA pool that is "
     "being served gets another door. Else a server is started in the background, which other "
     "commands find, and which ends when it is unmounted. Ordinary users need fusermount3 (Debian: "
     "fuse3).",
     ARGS({"POOL", ARG_POOL, .help = pool_help}, {"MNT", ARG_FILE, .help = "a directory"}),
     OPTIONS({"read-only", CLI_FLAG, NULL, "Nothing can be written, and no snapshot taken."},
             {"allow-other", CLI_FLAG, NULL,
              "Other users may use the files, as far as their modes let them."},
             {"foreground", CLI_FLAG, NULL, "Stay until it is unmounted."}),
     CLI_POOL | CLI_BACKGROUND, OPENING,
     EXAMPLES("vdisk mount vm.vdk /mnt/vm", "mount -o loop /mnt/vm/disk/partitions/1.raw works.",
              "vdisk mount tank ~/tank --read-only", "To look at old states."),
     cli_mount},
    {"umount", "unmount what vdisk mount has mounted",
     "Makes everything durable and unmounts MNT, also where the server was killed and left a mount "
     "that nobody answers for.",
     ARGS({"MNT", ARG_FILE, .help = "where it is mounted"}), NULL, 0, NOT_FOUND | BUSY | PERMISSION,
     EXAMPLES("vdisk umount /mnt/vm", "All that was written is in the pool."), cli_umount},
    {"door add", "open another door of a pool that is being served",
     "Opens doors as the options of serve would have, and prints what clients can connect to. They "
     "stay until they are removed or the server ends.",
     ARGS({"POOL", ARG_POOL, .help = pool_help}),
     OPTIONS(DOORS, {"read-only", CLI_FLAG, NULL, "Nothing can be written through it."}), CLI_POOL,
     OPENING,
     EXAMPLES("vdisk door add tank --nbd tcp:127.0.0.1:10809",
              "NBD over TCP besides what there is.",
              "vdisk door add tank --metrics tcp:127.0.0.1:9809", "For Prometheus."),
     cli_door_add},
    {"door remove", "close a door of a pool that is being served",
     "Finishes the requests of its clients, disconnects them and closes the door.",
     ARGS({"POOL", ARG_POOL, .help = pool_help},
          {"ADDRESS", ARG_TEXT, .help = "as \"vdisk door list\" shows it"}),
     NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk door remove tank tcp:127.0.0.1:10809", "Nobody gets in there any more."),
     cli_door_remove},
    {"door list", "list the doors of a pool that is being served",
     "Lists by what its volumes can be reached, and by how many clients they are.",
     ARGS({"POOL", ARG_POOL, .help = pool_help}), NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk door list tank", "Kind, address and clients of each."), cli_door_list},
    {"top", "show what volumes do, as it happens",
     "Shows for each volume of POOL, or of all pools that this user serves: requests and bytes per "
     "second, the times that half and 99 of 100 requests did not exceed, and how many are in "
     "flight; for each pool its clients, cleaner and cache. On a terminal it is redrawn until q or "
     "Ctrl-C; elsewhere each interval is printed.",
     ARGS({"POOL", ARG_POOL, .optional = true, .help = pool_help}),
     OPTIONS({"interval", CLI_TEXT, "S", "Seconds between two looks; 1 if it is left out."},
             {"count", CLI_TEXT, "N", "End after N intervals."}),
     CLI_POOL, OPENING,
     EXAMPLES("vdisk top", "All served pools, every second.", "vdisk top tank --json --interval 10",
              "An object every ten seconds."),
     cli_top},
    {"job list", "list the long jobs of a pool",
     "Lists what runs and what has ended lately, and imports that were interrupted.",
     ARGS({"POOL", ARG_POOL, .help = pool_help}), NULL, CLI_POOL, OPENING,
     EXAMPLES("vdisk job list tank", "Number, kind, state and progress."), cli_job_list},
    {"job wait", "wait for a job to end",
     "Waits for job ID, or for all that run. Its exit status is the job's. Ctrl-C ends the "
     "waiting, "
     "not the job.",
     ARGS({"POOL", ARG_POOL, .help = pool_help},
          {"ID", ARG_TEXT, .optional = true, .help = "the job's number"}),
     NULL, CLI_POOL | CLI_PROGRESS, OPENING | SPACE | CANCELLED,
     EXAMPLES("vdisk job wait tank 3", "With a progress bar."), cli_job_wait},
    {"job cancel", "cancel a job",
     "Stops job ID and removes what it has made so far. An interrupted one is given up.",
     ARGS({"POOL", ARG_POOL, .help = pool_help}, {"ID", ARG_TEXT, .help = "the job's number"}),
     NULL, CLI_POOL | CLI_NO_WAIT, OPENING,
     EXAMPLES("vdisk job cancel tank 3", "Returns when it has ended."), cli_job_cancel},
    {"job resume", "go on with an interrupted import",
     "Goes on where an import stopped when its server ended. The source is opened again under the "
     "path it had, or under SOURCE.",
     ARGS({"POOL", ARG_POOL, .help = pool_help}, {"ID", ARG_TEXT, .help = "the job's number"},
          {"SOURCE", ARG_FILE, .optional = true, .help = "where the source is now"}),
     NULL, CLI_POOL | CLI_NO_WAIT | CLI_PROGRESS | CLI_DETACH, OPENING | SPACE | CANCELLED,
     EXAMPLES("vdisk job resume tank 3", "Copies only what is missing."), cli_job_resume},
    {"check", "check a pool for damage",
     "Verifies every structure of the pool and, with --data, every block. It never writes, and "
     "works "
     "on a pool that is being served. Exit status 5 means that something was found; each finding "
     "is a "
     "line.",
     ARGS({"POOL", ARG_POOL, .help = pool_help}),
     OPTIONS({"data", CLI_FLAG, NULL, "Read and verify all data too."}),
     CLI_POOL | CLI_PROGRESS | CLI_DETACH, OPENING | CANCELLED,
     EXAMPLES("vdisk check vm.vdk --data", "Everything."), cli_check},
    {0},
};

static unsigned common_bit(const struct cli_option *opt)
{
    static const unsigned bits[] = {CLI_POOL, CLI_NO_WAIT, CLI_PROGRESS, CLI_DETACH};
    size_t i = (size_t)(opt - cli_common_options);
    return i < VD_ARRAY_SIZE(bits) ? bits[i] : 0;
}

bool cli_common_applies(const struct cli_command *cmd, const struct cli_option *opt)
{
    unsigned bit = common_bit(opt);
    return bit == 0 || (cmd->common & bit);
}

const char *cli_exit_text(enum cli_exit e)
{
    static const char *const texts[] = {
        "ok",
        "failed",
        "wrong usage",
        "not found",
        "busy: in use, or clients are connected",
        "damage found",
        "no space",
        "cancelled",
        "permission denied",
        "not supported: a feature of the pool or the host",
    };
    return texts[e];
}
