/* Reads a domain's configuration as xl does, with xl's own library, and prints
 * what it understood, strings in hex: "KEY S HEX" or "KEY L HEX HEX...", and each
 * disk as "disk FORMAT VDEV ACCESS HEX". Usage: xlu FILE KEY...
 * cc xlu.c -lxlutil -lxenlight */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <libxl.h>
#include <libxlutil.h>

static void hex(const char *s)
{
    putchar(' ');
    if (!*s)
        putchar('-');
    for (; *s; s++)
        printf("%02x", (unsigned char)*s);
}

int main(int argc, char **argv)
{
    XLU_Config *cfg = xlu_cfg_init(stderr, argv[1]);

    if (!cfg || xlu_cfg_readfile(cfg, argv[1]))
        return 1;
    for (int i = 2; i < argc; i++) {
        const char *s;
        XLU_ConfigList *list;
        int n;

        if (!xlu_cfg_get_string(cfg, argv[i], &s, 1)) {
            printf("%s S", argv[i]);
            hex(s);
            putchar('\n');
        } else if (!xlu_cfg_get_list(cfg, argv[i], &list, &n, 1)) {
            printf("%s L", argv[i]);
            for (int k = 0; k < n; k++) {
                s = xlu_cfg_get_listitem(list, k);
                hex(s ? s : "(list)");
            }
            putchar('\n');
            for (int k = 0; !strcmp(argv[i], "disk") && k < n; k++) {
                libxl_device_disk d;

                libxl_device_disk_init(&d);
                s = xlu_cfg_get_listitem(list, k);
                if (xlu_disk_parse(cfg, 1, &s, &d))
                    return 1;
                printf("disk %s %s %s", libxl_disk_format_to_string(d.format), d.vdev, d.readwrite ? "w" : "r");
                hex(d.pdev_path);
                putchar('\n');
            }
        }
    }
    return 0;
}
