/* Where text goes: Xen's console ring, the first serial port, or both. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdint.h>

/* Adds Xen's console: its ring's address and event channel. */
void console_add_ring(uint64_t address, uint32_t event_channel);

/* Adds the serial port COM1, 115200 baud. */
void console_add_serial(void);

/* Writes text to all of them; "\n" goes out as "\r\n". */
void print(const char *text);

/* Waits, within bounds, until Xen's console has read the ring. */
void console_flush(void);

#endif
