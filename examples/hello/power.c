/* Ends: under Xen a hypercall, elsewhere the ports of a PC as QEMU makes it. */
#include "console.h"
#include "hello.h"
#include "x86.h"
#include "xen.h"

/*
 * QEMU's isa-debug-exit device: writing N ends QEMU with status 2N+1. Its port
 * is 0x501 unless told otherwise; 0xf4 is what people tell it. Nothing else is
 * there, so without the device nothing happens.
 */
static void debug_exit(uint8_t n)
{
	outb(0x501, n);
	outb(0xf4, n);
}
#define DEBUG_EXIT_OK		0x10	/* status 33 */
#define DEBUG_EXIT_CRASH	0x11	/* status 35 */

/*
 * ACPI's PM1a control register, where SeaBIOS puts it on QEMU's pc and q35
 * machines. A sleep type of 0 with the enable bit is S5, soft off, in their
 * DSDT. (In general both come from the FADT and the DSDT.)
 */
#define PM1A_CONTROL		0x604
#define PM1_SLEEP_ENABLE	(1 << 13)

/* The keyboard controller's pulse on the reset line. */
#define KEYBOARD_COMMAND	0x64
#define KEYBOARD_RESET		0xfe

/*
 * The PC's interrupt controllers. The timer that firmware has left running would
 * end a poll, again and again, for nobody takes its interrupt.
 */
#define PIC1_MASK		0x21
#define PIC2_MASK		0xa1

void sleep_for_ever(void)
{
	if (on_xen && !xen_pv) {	/* a PV guest may not, and has none */
		outb(PIC1_MASK, 0xff);
		outb(PIC2_MASK, 0xff);
	}
	for (;;) {
		if (on_xen)
			xen_sleep();
		else
			__asm__ volatile("hlt");	/* interrupts are off */
	}
}

void power_off(void)
{
	console_flush();
	if (on_xen)
		xen_shutdown(SHUTDOWN_POWEROFF);
	debug_exit(DEBUG_EXIT_OK);
	outw(PM1A_CONTROL, PM1_SLEEP_ENABLE);
	sleep_for_ever();
}

void reboot(void)
{
	console_flush();
	if (on_xen)
		xen_shutdown(SHUTDOWN_REBOOT);
	outb(KEYBOARD_COMMAND, KEYBOARD_RESET);
	sleep_for_ever();
}

void crash(void)
{
	static const struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} no_interrupts = { 0, 0 };

	console_flush();
	if (on_xen)
		xen_shutdown(SHUTDOWN_CRASH);
	debug_exit(DEBUG_EXIT_CRASH);
	/* A fault with no handler, thrice, resets a PC. */
	__asm__ volatile("lidt %0; ud2" : : "m"(no_interrupts));
	__builtin_unreachable();
}
