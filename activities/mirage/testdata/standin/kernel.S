/* About the smallest file with the notes of a Solo5 kernel: see Solo5's
   elf_abi.h and mft_abi.h, and Xen's elfnote.h. It boots nowhere. */
	.file "kernel.S"	/* or ld names it by a temporary file, at random */

#if defined TARGET_HVT
#define ABI 1
#elif defined TARGET_SPT
#define ABI 2
#elif defined TARGET_VIRTIO
#define ABI 3
#elif defined TARGET_MUEN
#define ABI 4
#elif defined TARGET_GENODE
#define ABI 5
#elif defined TARGET_XEN || defined TARGET_QUBES
#define ABI 6
#endif

#ifdef ABI
	.section .note.solo5.abi, "a", @note
	.balign 4
	.long 6, 16, 0x31494241
	.asciz "Solo5"
	.balign 4
	.long ABI, 2, 0, 0

	.section .note.solo5.manifest, "a", @note
	.balign 8
	.long 6, 4 + 8 + 104, 0x3154464d	/* 4 of padding, the head, one entry */
	.asciz "Solo5"
	.balign 4
	.long 0, 1, 1
	.fill 68, 1, 0
	.long 1 << 30				/* the reserved first entry */
	.fill 32, 1, 0
#endif

#if defined TARGET_VIRTIO
	.section .multiboot, "a"
	.balign 4
mb:	.long 0x1badb002, 0x10003, -(0x1badb002 + 0x10003)
	.long mb, mb, 0, 0, _start
#elif defined TARGET_XEN || defined TARGET_QUBES
	.section .note.xen, "a", @note
	.balign 4
	.long 4, 8, 18
	.asciz "Xen"
	.quad _start
#endif

	.text
	.globl _start
_start:	hlt
	jmp _start
