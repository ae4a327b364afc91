/*
 * From the loader to hello(): which loader it was, where its command line is,
 * and which console we have.
 */
#include <stdint.h>

#include "console.h"
#include "entry.h"
#include "hello.h"
#include "x86.h"
#include "xen.h"

/* xen/include/public/xen.h, for PV. */
struct pv_start_info {
	char magic[32];
	uint64_t nr_pages;
	uint64_t shared_info;
	uint32_t flags, pad0;
	uint64_t store_mfn;
	uint32_t store_evtchn, pad1;
	uint64_t console_mfn;
	uint32_t console_evtchn, pad2;
	uint64_t pt_base;
	uint64_t nr_pt_frames;
	uint64_t mfn_list;
	uint64_t mod_start;
	uint64_t mod_len;
	char cmd_line[1024];
};
#define SIF_INITDOMAIN	2	/* we are dom0, which has no console ring */

/* Xen maps its table from machine to pseudo-physical frames here for 64-bit PV. */
#define MACH2PHYS	((const uint64_t *)0xffff800000000000)

/* xen/include/public/arch-x86/hvm/start_info.h, for PVH. */
struct hvm_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist;
	uint64_t cmdline;
};
#define HVM_START_MAGIC	0x336ec578

/* Multiboot2 specification 3.6: a total size, then tags padded to eight bytes. */
struct multiboot2_tag {
	uint32_t type;
	uint32_t size;
	char string[];
};
#define MULTIBOOT2_MAGIC	0x36d76289
#define MULTIBOOT2_TAG_END	0
#define MULTIBOOT2_TAG_CMDLINE	1

static const char *multiboot2_command_line(uint64_t info)
{
	uint64_t end = info + *(const uint32_t *)info;

	for (uint64_t at = info + 8; at < end;) {
		const struct multiboot2_tag *tag = (const void *)at;

		if (tag->type == MULTIBOOT2_TAG_CMDLINE)
			return tag->string;
		if (tag->type == MULTIBOOT2_TAG_END)
			break;
		at += (tag->size + 7ul) & ~7ul;
	}
	return "";
}

static void boot_pv(uint64_t info)
{
	const struct pv_start_info *start = (const void *)info;

	xen_is_pv();
	/* VIRT_BASE is 0, so a pseudo-physical address is a virtual one. */
	if (!(start->flags & SIF_INITDOMAIN))
		console_add_ring(MACH2PHYS[start->console_mfn] << 12, start->console_evtchn);
	hello("xen-pv", start->cmd_line);
}

static void boot_32(uint64_t info, uint32_t magic)
{
	const struct hvm_start_info *start = (const void *)info;
	const char *mode, *command_line = "";
	int pvh = magic != MULTIBOOT2_MAGIC && start->magic == HVM_START_MAGIC;

	xen_detect();
	if (pvh) {
		mode = on_xen ? "xen-pvh" : "pvh";
		if (start->cmdline)
			command_line = (const char *)start->cmdline;
	} else if (magic == MULTIBOOT2_MAGIC) {
		mode = on_xen ? "xen-hvm-multiboot2" : "multiboot2";
		command_line = multiboot2_command_line(info);
	} else {
		mode = "unknown";
	}

	if (on_xen) {
		uint64_t frame = xen_hvm_param(HVM_PARAM_CONSOLE_PFN);

		if (frame)
			console_add_ring(frame << 12,
					 (uint32_t)xen_hvm_param(HVM_PARAM_CONSOLE_EVTCHN));
	}
	/* A PVH guest of Xen has no serial port; everything else here is a PC. */
	if (!on_xen || !pvh)
		console_add_serial();
	hello(mode, command_line);
}

void boot(uint32_t entry, uint64_t info, uint32_t magic)
{
	if (entry == ENTRY_PV)
		boot_pv(info);
	else
		boot_32(info, magic);
}
