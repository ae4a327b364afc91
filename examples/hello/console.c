#include "console.h"
#include "x86.h"
#include "xen.h"

/* xen/include/public/io/console.h. The counters run on; the buffers wrap. */
static volatile struct ring {
	char in[1024];
	char out[2048];
	uint32_t in_cons, in_prod;
	uint32_t out_cons, out_prod;
} *ring;

static uint32_t ring_event;
static int serial;

/* The 16550 UART: registers from the port's base, as on any PC. */
#define COM1			0x3f8
#define UART_DATA		(COM1 + 0)	/* divisor, low, while DLAB is set */
#define UART_INTERRUPTS		(COM1 + 1)	/* divisor, high, while DLAB is set */
#define UART_FIFO		(COM1 + 2)
#define UART_LINE		(COM1 + 3)
#define UART_STATUS		(COM1 + 5)
#define UART_LINE_8N1		0x03
#define UART_LINE_DLAB		0x80
#define UART_FIFO_ON_CLEAR	0x07
#define UART_STATUS_EMPTY	0x20

void console_add_ring(uint64_t address, uint32_t event_channel)
{
	ring = (struct ring *)address;
	ring_event = event_channel;
}

void console_add_serial(void)
{
	outb(UART_INTERRUPTS, 0);
	outb(UART_LINE, UART_LINE_8N1 | UART_LINE_DLAB);
	outb(UART_DATA, 1);
	outb(UART_INTERRUPTS, 0);
	outb(UART_LINE, UART_LINE_8N1);
	outb(UART_FIFO, UART_FIFO_ON_CLEAR);
	serial = 1;
}

static void ring_put(char c)
{
	while (ring->out_prod - ring->out_cons >= sizeof ring->out) {
		xen_notify(ring_event);
		xen_yield();
	}
	ring->out[ring->out_prod % sizeof ring->out] = c;
	/* x86 keeps stores in order; volatile keeps the compiler's. */
	ring->out_prod++;
}

static void serial_put(char c)
{
	/* Where there is no port, reads give 0xff, so this does not hang. */
	while (!(inb(UART_STATUS) & UART_STATUS_EMPTY))
		__asm__ volatile("pause");
	outb(UART_DATA, (uint8_t)c);
}

static void put(char c)
{
	if (ring)
		ring_put(c);
	if (serial)
		serial_put(c);
}

void print(const char *text)
{
	const char *c;

	for (c = text; *c; c++) {
		if (*c == '\n')
			put('\r');
		put(*c);
	}
	if (ring)
		xen_notify(ring_event);
	/* Seen by `xl dmesg` if Xen runs with guest_loglvl=all. */
	if (on_xen)
		xen_log(text, (uint64_t)(c - text));
}

void console_flush(void)
{
	if (!ring)
		return;
	for (int i = 0; i < 2000000 && ring->out_cons != ring->out_prod; i++) {
		if (i % 1024 == 0)
			xen_notify(ring_event);
		xen_yield();
	}
}
