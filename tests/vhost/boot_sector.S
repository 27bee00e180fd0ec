/* SPDX-License-Identifier: MIT */
/*
 * A guest of 512 bytes, started by the BIOS. Through INT 13h it writes TURNS blocks of 4 KiB, each
 * filled with the number of its turn, 32 places in turn, and reads each back after it has forgotten
 * what it wrote. It ends QEMU with status 33 when all were right, 35 when one was not, 37 when the
 * disk gave an error (isa-debug-exit doubles what is written to it and adds one). With TURNS=0 it
 * goes on until a byte arrives at the first serial port.
 *
 *   as --32 --defsym TURNS=500 boot_sector.S -o x.o
 *   ld -m elf_i386 -Ttext 0x7c00 --oformat binary x.o -o boot_sector.bin
 */
        .set BUFFER, 0x8000
        .set WORDS, 2048                /* of a block */

        .code16
        .globl _start
_start: ljmp    $0, $begin
begin:  xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        cld
        movb    %dl, drive
        movw    $1, %bp                 /* the turn */

turn:   movw    %bp, %ax
        andw    $31, %ax
        incw    %ax
        shlw    $3, %ax
        movw    %ax, sector
        movw    %bp, %ax
        call    fill
        movb    $0x43, %ah
        call    disk
        xorw    %ax, %ax
        call    fill
        movb    $0x42, %ah
        call    disk
        movw    $BUFFER, %di
        movw    $WORDS, %cx
        movw    %bp, %ax
        repe    scasw
        movb    $0x11, %al
        jne     exit
        incw    %bp
        .if     TURNS
        cmpw    $TURNS, %bp
        jbe     turn
        .else
        movw    $0x3fd, %dx             /* line status: data ready */
        inb     %dx, %al
        testb   $1, %al
        jz      turn
        .endif
        movb    $0x10, %al

exit:   outb    %al, $0xf4
stop:   hlt
        jmp     stop

/* The buffer with %ax. */
fill:   movw    $BUFFER, %di
        movw    $WORDS, %cx
        rep     stosw
        ret

/* Function %ah for the block. */
disk:   movb    $0, %al
        movw    $packet, %si
        movb    drive, %dl
        int     $0x13
        movb    $0x12, %al
        jc      exit
        ret

        .balign 4
packet: .byte   16, 0
        .word   8, BUFFER, 0
sector: .quad   0
drive:  .byte   0

        .org    510
        .word   0xaa55
