#include "xen.h"
#include "x86.h"

/* xen/include/public/xen.h: a hypercall's number is its slot in the page. */
#define HYPERVISOR_CONSOLE_IO		18
#define HYPERVISOR_SCHED_OP		29
#define HYPERVISOR_EVENT_CHANNEL_OP	32
#define HYPERVISOR_HVM_OP		34

#define CONSOLEIO_WRITE	0
#define SCHEDOP_YIELD	0
#define SCHEDOP_SHUTDOWN 2
#define SCHEDOP_POLL	3
#define EVTCHNOP_SEND	4
#define HVMOP_GET_PARAM	1

#define DOMID_SELF	0x7ff0

extern char hypercall_page[];

int on_xen;
int xen_pv;

static long hypercall(uint32_t number, uint64_t a, uint64_t b, uint64_t c)
{
	char *stub = hypercall_page + 32 * number;
	long result;

	/* Arguments in rdi, rsi, rdx (r10, r8 for more); rcx and r11 are lost. */
	__asm__ volatile("call *%[stub]"
			 : "=a"(result), "+D"(a), "+S"(b), "+d"(c)
			 : [stub] "b"(stub)
			 : "rcx", "r8", "r9", "r10", "r11", "memory");
	return result;
}

void xen_is_pv(void)
{
	xen_pv = 1;
	on_xen = 1;
}

void xen_detect(void)
{
	/*
	 * xen/include/public/arch-x86/cpuid.h: "XenVMMXenVMM" at a leaf from
	 * 0x40000000 on, which moves up in steps of 0x100 if Xen also pretends
	 * to be another hypervisor. Two leaves on, ebx is the MSR that takes
	 * the hypercall page's physical address.
	 */
	for (uint32_t leaf = 0x40000000; leaf < 0x40010000; leaf += 0x100) {
		struct cpuid r = cpuid(leaf);

		if (r.ebx == 0x566e6558 && r.ecx == 0x65584d4d && r.edx == 0x4d4d566e) {
			wrmsr(cpuid(leaf + 2).ebx, (uint64_t)hypercall_page);
			on_xen = 1;
			return;
		}
	}
}

uint64_t xen_hvm_param(uint32_t index)
{
	struct { uint16_t domid; uint32_t index; uint64_t value; } param = {
		DOMID_SELF, index, 0,
	};

	if (hypercall(HYPERVISOR_HVM_OP, HVMOP_GET_PARAM, (uint64_t)&param, 0))
		return 0;
	return param.value;
}

void xen_notify(uint32_t event_channel)
{
	hypercall(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, (uint64_t)&event_channel, 0);
}

void xen_log(const char *text, uint64_t length)
{
	hypercall(HYPERVISOR_CONSOLE_IO, CONSOLEIO_WRITE, length, (uint64_t)text);
}

void xen_yield(void)
{
	hypercall(HYPERVISOR_SCHED_OP, SCHEDOP_YIELD, 0, 0);
}

void xen_sleep(void)
{
	/*
	 * Poll on no port and with no time limit. SCHEDOP_block would unmask
	 * events, and the first one (the console's) would kill a PV guest that
	 * has no event callback.
	 */
	struct { uint64_t ports; uint32_t count; uint64_t timeout; } poll = { 0, 0, 0 };

	hypercall(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, (uint64_t)&poll, 0);
}

void xen_shutdown(uint32_t reason)
{
	hypercall(HYPERVISOR_SCHED_OP, SCHEDOP_SHUTDOWN, (uint64_t)&reason, 0);
}
