/*
 * What a loader looks for in the file: Xen's ELF notes and a multiboot2 header.
 */

/*
 * An ELF note is: size of the name, size of the value, type, name, value, each
 * padded to four bytes. Types: xen/include/public/elfnote.h.
 */
#define XEN_NOTE_ADDRESS(type, address)                                       \
	.long	4, 8, type;                                                   \
	.asciz	"Xen";                                                        \
	.quad	address

#define XEN_NOTE_STRING(type, string)                                         \
	.long	4, 2f - 1f, type;                                             \
	.asciz	"Xen";                                                        \
1:	.asciz	string;                                                       \
2:	.balign	4

#define XEN_ELFNOTE_ENTRY		1
#define XEN_ELFNOTE_HYPERCALL_PAGE	2
#define XEN_ELFNOTE_VIRT_BASE		3
#define XEN_ELFNOTE_PADDR_OFFSET	4
#define XEN_ELFNOTE_XEN_VERSION		5
#define XEN_ELFNOTE_GUEST_OS		6
#define XEN_ELFNOTE_GUEST_VERSION	7
#define XEN_ELFNOTE_LOADER		8
#define XEN_ELFNOTE_PAE_MODE		9
#define XEN_ELFNOTE_FEATURES		10
#define XEN_ELFNOTE_PHYS32_ENTRY	18

	.section .note.Xen, "a", @note
	.balign	4
	XEN_NOTE_STRING(XEN_ELFNOTE_GUEST_OS, "hello")
	XEN_NOTE_STRING(XEN_ELFNOTE_GUEST_VERSION, "1")

	/*
	 * Xen PV: the domain builder takes a kernel for "xen-3.0" and the
	 * "generic" loader, maps it at VIRT_BASE plus its ELF address (so here
	 * virtual and pseudo-physical addresses are the same), fills the
	 * hypercall page and starts at ENTRY in 64-bit mode.
	 */
	XEN_NOTE_STRING(XEN_ELFNOTE_XEN_VERSION, "xen-3.0")
	XEN_NOTE_STRING(XEN_ELFNOTE_LOADER, "generic")
	XEN_NOTE_STRING(XEN_ELFNOTE_PAE_MODE, "yes")
	XEN_NOTE_STRING(XEN_ELFNOTE_FEATURES, "!writable_page_tables|pae_pgdir_above_4gb")
	XEN_NOTE_ADDRESS(XEN_ELFNOTE_VIRT_BASE, 0)
	XEN_NOTE_ADDRESS(XEN_ELFNOTE_PADDR_OFFSET, 0)
	XEN_NOTE_ADDRESS(XEN_ELFNOTE_ENTRY, start_pv)
	XEN_NOTE_ADDRESS(XEN_ELFNOTE_HYPERCALL_PAGE, hypercall_page)

	/*
	 * PVH, on Xen and on any monitor that took up its boot ABI (QEMU,
	 * Firecracker, Cloud Hypervisor): a 32-bit entry point. QEMU finds the
	 * note only through a PT_NOTE segment; see link.ld.
	 */
	XEN_NOTE_ADDRESS(XEN_ELFNOTE_PHYS32_ENTRY, start_32)

/*
 * Multiboot2 specification 3.1: aligned to eight bytes, in the first 32 KiB of
 * the file. The entry tag is needed because the ELF entry is the 64-bit one.
 */
#define MULTIBOOT2_MAGIC	0xe85250d6
#define MULTIBOOT2_I386		0
#define MULTIBOOT2_TAG_ENTRY	3
#define MULTIBOOT2_TAG_END	0

	.section .multiboot2, "a"
	.balign	8
multiboot2:
	.long	MULTIBOOT2_MAGIC
	.long	MULTIBOOT2_I386
	.long	multiboot2_end - multiboot2
	.long	-(MULTIBOOT2_MAGIC + MULTIBOOT2_I386 + (multiboot2_end - multiboot2))

	.short	MULTIBOOT2_TAG_ENTRY, 0
	.long	12
	.long	start_32
	.balign	8

	.short	MULTIBOOT2_TAG_END, 0
	.long	8
multiboot2_end:

	.section .note.GNU-stack, "", @progbits
