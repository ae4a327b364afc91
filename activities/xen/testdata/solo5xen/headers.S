/*
 * A stand-in for a Solo5 xen kernel, with what loaders look for in one: the Solo5 ABI note,
 * the note of a PVH entry point, and a multiboot 1 header with load addresses.
 */
#define MULTIBOOT_MAGIC	0x1badb002
#define MULTIBOOT_FLAGS	0x10003		/* pages, memory, load addresses */

	.section .multiboot, "a"
	.balign	4
multiboot:
	.long	MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
	.long	multiboot, load_start, load_end, bss_end, start_32

	.section .note, "a", @note
	.balign	4
	.long	4, 4, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.long	start_32
	.long	6, 16, 0x31494241	/* "ABI1" */
	.asciz	"Solo5"
	.balign	4
	.long	6, 1, 0, 0		/* xen, version 1 */

	.text
	.global	gate
gate:	call	interrupted

	.section .note.GNU-stack, "", @progbits
