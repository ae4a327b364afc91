/*
 * Does what a Solo5 xen kernel does at its start: it takes the command line from the loader,
 * finds Xen, writes to Xen's console and lets interrupts in. It has no handler for those of
 * a PC, which would end it.
 */
#include <stdint.h>

#include "console.h"
#include "x86.h"
#include "xen.h"

#define MULTIBOOT_MAGIC		0x2badb002	/* in eax, from the loader */
#define MULTIBOOT_CMDLINE	(1 << 2)

/* Some tenths of a second: a PC's timer interrupts 18 times a second. */
#define TICKS	1000000000ul

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
};

static struct {
	uint16_t low, selector, type, middle;
	uint32_t high, zero;
} idt[256];

extern char gate[];

void interrupted(void)
{
	print("an interrupt of the PC came\n");
	xen_shutdown(SHUTDOWN_CRASH);
	for (;;)
		;
}

static void let_interrupts_in(void)
{
	struct { uint16_t limit; uint64_t base; } __attribute__((packed)) pointer = { sizeof idt - 1, (uint64_t)idt };
	uint64_t to = (uint64_t)gate;

	for (int i = 0; i < 256; i++) {
		idt[i].low = (uint16_t)to;
		idt[i].middle = (uint16_t)(to >> 16);
		idt[i].selector = 8;
		idt[i].type = 0x8e00;
	}
	__asm__ volatile("lidt %0; sti" : : "m"(pointer));
}

void boot(uint32_t entry, uint64_t info, uint32_t magic)
{
	const struct multiboot_info *m = (const void *)info;
	int multiboot = magic == MULTIBOOT_MAGIC;
	const char *line = multiboot && m->flags & MULTIBOOT_CMDLINE ? (const char *)(uint64_t)m->cmdline : "";

	(void)entry;
	xen_detect();
	if (!on_xen)
		for (;;)
			;
	console_add_ring(xen_hvm_param(HVM_PARAM_CONSOLE_PFN) << 12, (uint32_t)xen_hvm_param(HVM_PARAM_CONSOLE_EVTCHN));
	print(multiboot ? "started by multiboot\n" : "started by PVH\n");
	print("command line: [");
	print(line);
	print("]\n");
	let_interrupts_in();
	for (uint64_t begun = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - begun < TICKS;)
		;
	print("no interrupt came\n");
	console_flush();
	xen_shutdown(SHUTDOWN_POWEROFF);
}
