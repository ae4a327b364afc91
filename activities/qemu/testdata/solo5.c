/*
 * Stands in for a Solo5 virtio kernel: it is found and started as one (a 64-bit
 * ELF file with a multiboot 1 header that has load addresses, the Solo5 notes),
 * and as one it uses the memory from 1 MiB up to the first gap. It ends as OCaml
 * does if that is too little. As a real one it goes through the virtio devices on the PCI bus and compares
 * them with its manifest. It aborts if the two differ in number, order of one
 * type, or kind.
 *
 * DEVICES is the manifest: {"service", NET}, {"data", BLOCK}. STATUS is what it
 * exits with.
 *
 * gcc -m32 -Wa,--64: 32-bit code in a 64-bit object.
 */
__asm__(".code32");

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

enum { BLOCK = 1, NET = 2, RESERVED = 1 << 30 };

/* Solo5's mft_abi.h: a note of type MFT1, its manifest aligned to 8 bytes. */
struct entry {
	char name[68];
	u32 type;
	u8 rest[32];	/* what a tender fills in, and "attached" */
};

static const struct entry entries[] = { { "", RESERVED, { 0 } }, DEVICES };

#define COUNT (sizeof entries / sizeof entries[0])

__attribute__((section(".note.solo5.manifest"), used, aligned(8)))
static const struct {
	u32 namesize, valuesize, type;
	char name[8];
	u32 pad, version, count;
	struct entry entries[COUNT];
} manifest = { 6, 12 + sizeof entries, 0x3154464d, "Solo5", 0, 1, COUNT,
	{ { "", RESERVED, { 0 } }, DEVICES } };

/* What the linker script of Solo5 adds: no interpreter, and a note that keeps
 * OpenBSD from taking the kernel for a program. */
__attribute__((section(".interp"), used))
static const char interpreter[] = "/nonexistent/solo5/";

__attribute__((section(".note.solo5.not-openbsd"), used, aligned(4)))
static const struct { u32 namesize, valuesize, type; char name[8]; u32 value; } openbsd =
	{ 8, 4, 1, "OpenBSD", 0 };

/* elf_abi.h: target 3 is virtio. */
__attribute__((section(".note.solo5.abi"), used, aligned(4)))
static const struct {
	u32 namesize, valuesize, type;
	char name[8];
	u32 target, version, reserved[2];
} abi = { 6, 16, 0x31494241, "Solo5", 3, 1, { 0, 0 } };

extern const char load_start[], load_end[], bss_end[], start[];

/* Multiboot specification 0.6.96: flag 16, addresses in the header. */
__attribute__((section(".multiboot"), used, aligned(4)))
static const struct {
	u32 magic, flags, checksum;
	const void *header, *load, *load_end, *bss_end, *entry;
} multiboot = { 0x1badb002, 0x10003, -(0x1badb002u + 0x10003u),
	&multiboot, load_start, load_end, bss_end, start };

static u8 stack[16384] __attribute__((used, aligned(16)));

__asm__(".section .text.start, \"ax\"\n"
	"	.globl start\n"
	"start:	cli; cld\n"
	"	mov $stack + 16384, %esp\n"
	"	push %ebx\n"
	"	call run\n"
	"1:	hlt; jmp 1b\n"
	".text\n");

static void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }

static void print(const char *s)
{
	for (; *s; s++) {
		while (!(inb(0x3fd) & 0x20))
			;
		outb(0x3f8, *s);
	}
}

static void print_number(u32 n, u32 base)
{
	char digits[16], *p = digits + sizeof digits;

	*--p = 0;
	do
		*--p = "0123456789abcdef"[n % base];
	while (n /= base);
	print(p);
}

static void end(u8 status)
{
	outb(0x501, status);
	for (;;)
		__asm__ volatile("hlt");
}

static void fail(const char *why)
{
	print("Solo5: ABORT: ");
	print(why);
	print("\nSolo5: solo5_abort() called\n");
	end(255);
}

static u32 config(u32 device, u32 offset)
{
	outl(0xcf8, 0x80000000u | device << 11 | offset);
	return inl(0xcfc);
}

/* The next device of a type in the manifest, 0 if there is none. */
static u32 next(u32 type, u32 after)
{
	for (u32 i = after + 1; i < COUNT; i++)
		if (entries[i].type == type)
			return i;
	return 0;
}

/* The size in MiB of the memory that ends with the available range at 1 MiB. */
static u32 memory(const u32 *info)
{
	struct __attribute__((packed)) range { u32 size, from, from_high, length, length_high, type; } *r;

	for (u32 at = 0; at < info[11]; at += r->size + 4) {
		r = (void *)(info[12] + at);
		if (r->from == 0x100000 && !r->from_high && r->type == 1)
			return (r->from + r->length) >> 20;
	}
	fail("no memory at 1 MiB");
	return 0;
}

static unsigned long long ticks(void) { unsigned long long v; __asm__ volatile("rdtsc" : "=A"(v)); return v; }

/* Whether the command line has a word. */
static int has(const u32 *info, const char *word)
{
	const char *at = info[0] & 4 ? (const char *)info[4] : "", *w;

	for (; *at; at++) {
		for (w = word; *w && *w == at[w - word]; w++)
			;
		if (!*w)
			return 1;
	}
	return 0;
}

__attribute__((used)) static void run(const u32 *info)
{
	u32 last[3] = { 0, 0, 0 }, found = 0;

	print("Solo5 stand-in\ncommand line: [");
	print(info[0] & 4 ? (const char *)info[4] : "");
	print("]\nSolo5: Memory map: ");
	print_number(memory(info), 10);
	print(" MB addressable:\n");
	if (memory(info) < 16)
		fail("Not enough heap memory to reserve minor heaps");
	if (has(info, "usage")) {
		print("usage: hello [--hello=VAL]\n");
		for (unsigned long long until = ticks() + 150000000; ticks() < until;)
			;
		print("Solo5: solo5_exit(64) called\n");
		end(64);
	}
	for (u32 device = 0; device < 32; device++) {
		if ((config(device, 0) & 0xffff) != 0x1af4)
			continue;
		u32 kind = config(device, 0x2c) >> 16, bar = config(device, 0x10);
		u32 type = kind == 1 ? NET : kind == 2 ? BLOCK : 0;

		if (!type)
			fail("unknown virtio device");
		if (!(bar & 1))
			fail("no legacy virtio device");
		last[type] = next(type, last[type]);
		if (!last[type])
			fail("virtio device not in manifest");
		found++;
		print(type == NET ? "net " : "block ");
		print(entries[last[type]].name);
		print(": ");
		/* The device's own configuration: a MAC, a number of sectors. */
		u16 own = (bar & ~3u) + 20;
		if (type == BLOCK)
			print_number(inl(own), 10);
		else
			for (u16 i = 0; i < 6; i++) {
				u8 b = inb(own + i);
				print(i ? ":" : "");
				print_number(b >> 4, 16);
				print_number(b & 15, 16);
			}
		print("\n");
		if (!(found < COUNT && entries[found].type == type))
			fail("virtio devices are not in the manifest's order");
	}
	if (found != COUNT - 1)
		fail("device in manifest not attached");
	print("Solo5: solo5_exit(");
	print_number(STATUS, 10);
	print(") called\n");
	end(STATUS);
}
