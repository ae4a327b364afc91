#ifndef HELLO_H
#define HELLO_H

#include <stdint.h>

/* Called by start.S: how it came in, the loader's start info, its magic. */
void boot(uint32_t entry, uint64_t info, uint32_t magic);

/* What this kernel does. Does not return. */
_Noreturn void hello(const char *mode, const char *command_line);

/* power.c */
_Noreturn void sleep_for_ever(void);
_Noreturn void power_off(void);
_Noreturn void reboot(void);
_Noreturn void crash(void);

#endif
