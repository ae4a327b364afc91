/*
 * The two ways in. Both end in boot(), in 64-bit mode on a stack of our own,
 * with virtual addresses that equal physical ones.
 */

/* Intel SDM volume 3: 2.5 Control registers, 10.8.5 Initializing IA-32e mode. */
#define CR0_PE		(1 << 0)
#define CR0_PG		(1 << 31)
#define CR4_PAE		(1 << 5)
#define MSR_EFER	0xc0000080
#define EFER_LME	(1 << 8)

#define PAGE_SIZE	4096
#define PAGE_PRESENT	(1 << 0)
#define PAGE_WRITE	(1 << 1)
#define PAGE_LARGE	(1 << 7)

#define CODE_SELECTOR	8
#define DATA_SELECTOR	16

#include "entry.h"

	.section .text.start, "ax"

/*
 * Xen PV (xen/include/public/xen.h, "Start-of-day memory layout"): 64-bit mode,
 * paging on, in ring 3; rsi holds the address of struct start_info. Privileged
 * instructions such as cli and hlt would fault.
 */
	.code64
	.global	start_pv
start_pv:
	cld
	lea	stack_top(%rip), %rsp
	xor	%ebp, %ebp
	mov	$ENTRY_PV, %edi
	xor	%edx, %edx
	call	boot
1:	pause
	jmp	1b

/*
 * PVH (xen/docs/misc/pvh.pandoc) and multiboot2 (specification 3.3): 32-bit
 * protected mode, flat segments, paging off. ebx holds the address of the
 * start info; eax holds multiboot2's magic, and nothing in particular under PVH.
 */
	.code32
	.global	start_32
start_32:
	cld
	cli
	mov	$stack_top, %esp
	mov	%eax, %edi
	mov	%ebx, %esi

	/* Map the first 4 GiB to itself: four page directories of 2 MiB pages. */
	movl	$(pdpt + PAGE_PRESENT + PAGE_WRITE), pml4
	mov	$pdpt, %edx
	mov	$(page_directories + PAGE_PRESENT + PAGE_WRITE), %eax
	mov	$4, %ecx
1:	mov	%eax, (%edx)
	movl	$0, 4(%edx)
	add	$PAGE_SIZE, %eax
	add	$8, %edx
	loop	1b

	mov	$page_directories, %edx
	mov	$(PAGE_PRESENT + PAGE_WRITE + PAGE_LARGE), %eax
	mov	$(4 * 512), %ecx
1:	mov	%eax, (%edx)
	movl	$0, 4(%edx)
	add	$(2 << 20), %eax
	add	$8, %edx
	loop	1b

	/* To long mode. */
	mov	%cr4, %eax
	or	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	$MSR_EFER, %ecx
	rdmsr
	or	$EFER_LME, %eax
	wrmsr
	mov	%cr0, %eax
	or	$(CR0_PG | CR0_PE), %eax
	mov	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$CODE_SELECTOR, $long_mode

	.code64
long_mode:
	mov	$DATA_SELECTOR, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs

	lea	stack_top(%rip), %rsp
	xor	%ebp, %ebp
	mov	%edi, %edx		/* the magic */
	mov	%esi, %esi		/* the start info, upper half cleared */
	mov	$ENTRY_32, %edi
	call	boot
1:	hlt
	jmp	1b

	.section .rodata
	.balign	8
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* code: 64-bit, ring 0 */
	.quad	0x00cf93000000ffff	/* data: ring 0 */
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

/*
 * Xen writes its hypercall stubs here, 32 bytes each: the domain builder does it
 * for PV, a wrmsr asks for it under PVH. Until then each is a ret.
 */
	.section .text.hypercall_page, "ax"
	.balign	PAGE_SIZE
	.global	hypercall_page
hypercall_page:
	.skip	PAGE_SIZE, 0xc3

	.bss
	.balign	PAGE_SIZE
pml4:	.skip	PAGE_SIZE
pdpt:	.skip	PAGE_SIZE
page_directories:
	.skip	4 * PAGE_SIZE
	.skip	4 * PAGE_SIZE
stack_top:

	.section .note.GNU-stack, "", @progbits
