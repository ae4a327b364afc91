/* The probe: a kernel that computes with SSE in long mode, as every 64-bit
 * unikernel's compiler does, and says the result on isa-debug-exit. There are
 * /dev/kvm that open, answer and run integer code, but die on this.
 *
 * A flat multiboot1 image, loaded at 1 MiB. Writing v to port 0xf4 ends QEMU
 * with status 2v+1; v is 0x21+0x21, so 133. */
        .set    pml4, 0x200000          /* page tables, in memory QEMU has zeroed */
        .set    pdpt, 0x201000
        .set    pd,   0x202000

        .code32
        .globl  _start
header: .long   0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000)
        .long   header, header, end, end, _start

_start: movl    $pdpt + 3, pml4         /* identity map of the first 2 MiB, */
        movl    $pd + 3, pdpt           /* which is where this code is */
        movl    $0x83, pd
        mov     $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $0xC0000080, %ecx       /* EFER.LME */
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     $0x80000013, %eax       /* PG, ET, MP, PE; not EM */
        mov     %eax, %cr0
        lgdt    gdtr
        ljmp    $8, $long

        .code64
long:   movdqu  numbers, %xmm0
        paddd   %xmm0, %xmm0
        movd    %xmm0, %eax
        out     %al, $0xf4
1:      hlt
        jmp     1b

        .balign 8
gdt:    .quad   0, 0x00AF9B000000FFFF
gdtr:   .word   . - gdt - 1
        .long   gdt
numbers: .long  0x21, 0, 0, 0
end:
