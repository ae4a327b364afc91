/*
 * A multiboot 1 kernel with load addresses of its own, as Solo5's virtio kernels
 * have. It prints its command line, its modules' strings and their bytes on the
 * first serial port, and ends QEMU by isa-debug-exit at 0xf4.
 *
 * Multiboot specification 0.6.96: 3.1 the header, 3.3 the information.
 */
#define MAGIC	0x1badb002
#define FLAGS	0x10001		/* load addresses; modules on page boundaries */

	.code32
	.text
start:	jmp	go

	.balign	4
header:	.long	MAGIC, FLAGS, -(MAGIC + FLAGS)
	.long	header, start, 0, 0, go	/* all of the file, no bss */

go:	mov	$stack, %esp
	mov	%ebx, %ebp
	mov	$kernel, %esi
	call	print
	mov	16(%ebp), %esi
	call	print
	mov	$end, %esi
	call	print

	mov	20(%ebp), %ecx		/* how many modules */
	mov	24(%ebp), %ebx
1:	jecxz	3f
	mov	$module, %esi
	call	print
	mov	8(%ebx), %esi
	call	print
	mov	$middle, %esi
	call	print
	mov	0(%ebx), %esi
2:	cmp	4(%ebx), %esi
	jae	4f
	lodsb
	call	put
	jmp	2b
4:	mov	$end, %esi
	call	print
	add	$16, %ebx
	dec	%ecx
	jmp	1b

3:	mov	$0x10, %eax
	mov	$0xf4, %edx
	outl	%eax, %dx
5:	hlt
	jmp	5b

print:	lodsb
	test	%al, %al
	jz	1f
	call	put
	jmp	print
1:	ret

put:	mov	%al, %ah
	mov	$0x3fd, %dx
1:	inb	%dx, %al
	test	$0x20, %al
	jz	1b
	mov	%ah, %al
	mov	$0x3f8, %dx
	outb	%al, %dx
	ret

kernel:	.asciz	"\nkernel ["
module:	.asciz	"module ["
middle:	.asciz	"] ["
end:	.asciz	"]\n"

	.balign	16
	.skip	1024
stack:
