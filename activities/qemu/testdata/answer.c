/*
 * Takes the place of examples/hello/hello.c in a kernel that answers on TCP
 * port 80 of 10.0.2.15: the least that tells a port that answers from one that
 * does not. Drives a legacy virtio-net device by port I/O (virtio 0.9.5), knows
 * ARP and three segments of TCP, and keeps no state.
 *
 * The word "refuse" on the command line refuses all connections; "mute" takes
 * frames and says nothing, not even by ARP.
 */
#include "console.h"
#include "hello.h"
#include "x86.h"

static void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static uint16_t inw(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* PCI configuration of bus 0. */
static uint32_t pci_address(uint32_t device, uint32_t at)
{
	return 0x80000000u | device << 11 | at;
}

static uint32_t pci_read(uint32_t device, uint32_t at)
{
	outl(0xcf8, pci_address(device, at));
	return inl(0xcfc);
}

static void pci_write(uint32_t device, uint32_t at, uint32_t value)
{
	outl(0xcf8, pci_address(device, at));
	outl(0xcfc, value);
}

/* Offsets in the device's ports. */
enum { FEATURES = 4, QUEUE_ADDRESS = 8, QUEUE_SIZE = 12, QUEUE_SELECT = 14, QUEUE_NOTIFY = 16, STATUS = 18, MAC = 20 };

#define SLOTS 256 /* QEMU's queue size */

struct queue {
	struct { uint64_t address; uint32_t length; uint16_t flags, next; } slot[SLOTS];
	uint16_t available_flags;
	volatile uint16_t available;
	uint16_t ring[SLOTS];
	uint16_t pad0;
	uint8_t pad1[4096 - 2 * (3 + SLOTS)];
	uint16_t used_flags;
	volatile uint16_t used;
	struct { uint32_t slot, length; } done[SLOTS];
} __attribute__((aligned(4096)));

static struct queue in, out;
static uint8_t frames[2][2048]; /* one in, one out, each behind a 10 byte header */
static uint16_t ports;

static int queue_init(uint16_t number, struct queue *q)
{
	outw(ports + QUEUE_SELECT, number);
	outl(ports + QUEUE_ADDRESS, (uint32_t)((uint64_t)q >> 12));
	return inw(ports + QUEUE_SIZE) == SLOTS;
}

static void offer(uint16_t number, struct queue *q, uint8_t *frame, uint32_t length, uint16_t flags)
{
	q->slot[0].address = (uint64_t)frame;
	q->slot[0].length = length;
	q->slot[0].flags = flags;
	q->ring[q->available % SLOTS] = 0;
	__asm__ volatile("" : : : "memory");
	q->available++;
	__asm__ volatile("mfence" : : : "memory");
	outw(ports + QUEUE_NOTIFY, number);
}

static void await(struct queue *q)
{
	while (q->used != q->available)
		__asm__ volatile("pause" : : : "memory");
}

static uint32_t get(const uint8_t *b, int n)
{
	uint32_t v = 0;

	while (n--)
		v = v << 8 | *b++;
	return v;
}

static void put(uint8_t *b, int n, uint32_t v)
{
	while (n--) {
		b[n] = (uint8_t)v;
		v >>= 8;
	}
}

static void copy(uint8_t *to, const uint8_t *from, int n)
{
	while (n--)
		*to++ = *from++;
}

static uint16_t checksum(uint32_t sum, const uint8_t *b, int n)
{
	for (; n > 1; n -= 2, b += 2)
		sum += get(b, 2);
	if (n)
		sum += (uint32_t)*b << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static const uint8_t me[] = { 10, 0, 2, 15 };
static uint8_t mac[6];

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

/* The answer to f in r: its length, 0 for none. */
static int answer(const uint8_t *f, uint8_t *r, int refuse)
{
	static const char text[] = "answered\n";
	uint32_t kind = get(f + 12, 2), flags, seq, data, length = 0;
	const uint8_t *ip = f + 14, *tcp = ip + 20;

	for (int i = 0; i < 64; i++)
		r[i] = 0;
	copy(r, f + 6, 6);
	copy(r + 6, mac, 6);
	put(r + 12, 2, kind);
	if (kind == 0x0806 && get(ip + 6, 2) == 1 && get(ip + 24, 4) == get(me, 4)) {
		copy(r + 14, ip, 6);
		put(r + 20, 2, 2);
		copy(r + 22, mac, 6);
		copy(r + 28, me, 4);
		copy(r + 32, ip + 8, 10);
		return 60;
	}
	if (kind != 0x0800 || ip[0] != 0x45 || ip[9] != 6)
		return 0;
	flags = tcp[13];
	seq = get(tcp + 4, 4);
	data = get(ip + 2, 2) - 20 - (uint32_t)(tcp[12] >> 4) * 4;
	copy(r + 34, tcp + 2, 2);
	copy(r + 36, tcp, 2);
	put(r + 42, 4, seq + data + !!(flags & SYN) + !!(flags & FIN));
	r[46] = 5 << 4;
	put(r + 48, 2, 8192);
	if (flags & RST)
		return 0;
	if (refuse || get(tcp + 2, 2) != 80) {
		r[47] = RST | ACK;
	} else if (flags & SYN) {
		r[47] = SYN | ACK;
	} else if (!(flags & FIN) && get(tcp + 8, 4) == 1) { /* our SYN had sequence number 0 */
		put(r + 38, 4, 1);
		r[47] = PSH | FIN | ACK;
		length = sizeof text - 1;
		copy(r + 54, (const uint8_t *)text, (int)length);
	} else if (flags & FIN) {
		put(r + 38, 4, get(tcp + 8, 4));
		r[47] = ACK;
	} else {
		return 0;
	}
	r[14] = 0x45;
	put(r + 16, 2, 40 + length);
	r[22] = 64;
	r[23] = 6;
	copy(r + 26, me, 4);
	copy(r + 30, ip + 12, 4);
	put(r + 24, 2, checksum(0, r + 14, 20));
	put(r + 50, 2, checksum(6 + 20 + length + get(r + 26, 2) + get(r + 28, 2) + get(r + 30, 2) + get(r + 32, 2),
				r + 34, 20 + (int)length));
	return 54 + (int)length < 60 ? 60 : 54 + (int)length;
}

void hello(const char *mode, const char *command_line)
{
	int refuse = command_line[0] == 'r', mute = command_line[0] == 'm';
	uint32_t device = 0;

	(void)mode;
	while (device < 32 && pci_read(device, 0) != 0x10001af4)
		device++;
	if (device == 32) {
		print("no network\n");
		power_off();
	}
	pci_write(device, 4, pci_read(device, 4) | 5); /* port I/O, bus master */
	ports = pci_read(device, 0x10) & 0xfffc;
	outb(ports + STATUS, 0);
	outb(ports + STATUS, 3); /* acknowledge, driver */
	outl(ports + FEATURES, 0);
	for (int i = 0; i < 6; i++)
		mac[i] = inb((uint16_t)(ports + MAC + i));
	if (!queue_init(0, &in) || !queue_init(1, &out)) {
		print("another queue size\n");
		power_off();
	}
	outb(ports + STATUS, 7); /* and ready */
	print("listening\n");
	for (;;) {
		int length;

		offer(0, &in, frames[0], sizeof frames[0], 2);
		await(&in);
		length = mute ? 0 : answer(frames[0] + 10, frames[1] + 10, refuse);
		if (length) {
			offer(1, &out, frames[1], (uint32_t)length + 10, 0);
			await(&out);
		}
	}
}
