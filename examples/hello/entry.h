/* How start.S came in: the first argument of boot(). Read by C and by cpp. */
#define ENTRY_PV 0
#define ENTRY_32 1
