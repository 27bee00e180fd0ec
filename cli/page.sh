#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the manual page of a command: page.sh SCDOC VDISK [COMMAND...]
set -eu
scdoc=$1 vdisk=$2
shift 2
text=$("$vdisk" help --scdoc "$@")
printf '%s\n' "$text" | "$scdoc"
