/* The few parts of Xen that saying hello needs. */
#ifndef XEN_H
#define XEN_H

#include <stdint.h>

/* Whether Xen is below us; set by xen_detect() or xen_is_pv(). */
extern int on_xen;

/* Whether we are a PV guest of it; set by xen_is_pv(). */
extern int xen_pv;

/* A PV guest: Xen is there, and has filled the hypercall page. */
void xen_is_pv(void);

/* Looks for Xen by CPUID (PVH and HVM guests) and asks for the hypercall page. */
void xen_detect(void);

/* xen/include/public/hvm/params.h; zero if Xen has no value for us. */
#define HVM_PARAM_CONSOLE_PFN		17
#define HVM_PARAM_CONSOLE_EVTCHN	18
uint64_t xen_hvm_param(uint32_t index);

/* Tells the other end of an event channel to look. */
void xen_notify(uint32_t event_channel);

/* Writes to the hypervisor's own console. */
void xen_log(const char *text, uint64_t length);

void xen_yield(void);

/* Sleeps; may come back early. */
void xen_sleep(void);

/* Ends the domain for a reason of xen/include/public/sched.h. */
#define SHUTDOWN_POWEROFF	0
#define SHUTDOWN_REBOOT		1
#define SHUTDOWN_CRASH		3
void xen_shutdown(uint32_t reason);

#endif
