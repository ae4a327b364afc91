/* A stand-in for solo5-spt and solo5-hvt (which one, its name says): the same
 * command line, refused where and as they refuse it. What it runs is no kernel
 * but guest(), with the kernel's words as orders; "net NAME" and "block NAME"
 * among them use a device. */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <ifaddrs.h>
#include <libgen.h>
#include <limits.h>
#include <sys/stat.h>

#include "guest.h"

#define DEVICES 8
static struct device {
    char name[68];
    uint32_t type;
    int attached, fd;
    char path[4096];
} devices[DEVICES];
static int count;
static int abi_target;
static const char *prog;

static void usage(void)
{
    fprintf(stderr, "usage: %s [ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]\n", prog);
    exit(1);
}

/* The first note of the type in a PT_NOTE, past its header and name. */
static uint8_t *note(uint8_t *elf, size_t size, uint32_t type, uint32_t *length)
{
    Elf64_Ehdr *e = (Elf64_Ehdr *)elf;
    if (size < sizeof *e || memcmp(e->e_ident, ELFMAG, SELFMAG))
        return NULL;
    for (int i = 0; i < e->e_phnum; i++) {
        Elf64_Phdr *p = (Elf64_Phdr *)(elf + e->e_phoff) + i;
        if (p->p_type != PT_NOTE)
            continue;
        for (uint8_t *at = elf + p->p_offset; at + 12 < elf + p->p_offset + p->p_filesz;) {
            uint32_t *h = (uint32_t *)at;
            uint8_t *value = at + 12 + ((h[0] + 3) & -4);
            if (h[2] == type && !memcmp(at + 12, "Solo5", 6)) {
                *length = h[1];
                return value;
            }
            at = value + ((h[1] + 3) & -4);
        }
    }
    return NULL;
}

static void load(const char *path)
{
    static uint8_t elf[1 << 20];
    uint32_t length;
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        err(1, "%s: Could not open", path);
    ssize_t size = read(fd, elf, sizeof elf);
    close(fd);
    uint8_t *abi = note(elf, size, 0x31494241, &length);
    if (!abi)
        errx(1, "%s: No Solo5 ABI information found in executable", path);
    if (*(int *)abi != abi_target)
        errx(1, "%s: Executable is not for the %s target", path, prog);
    uint8_t *mft = note(elf, size, 0x3154464d, &length);
    if (!mft)
        errx(1, "%s: No Solo5 manifest found in executable", path);
    uint32_t entries = *(uint32_t *)(mft + 8);
    if (*(uint32_t *)(mft + 4) != 1 || length != 12 + 104 * entries || entries > DEVICES)
        errx(1, "%s: Solo5 manifest is invalid", path);
    for (uint32_t i = 1; i < entries; i++, count++) {
        memcpy(devices[count].name, mft + 12 + 104 * i, 68);
        devices[count].type = *(uint32_t *)(mft + 12 + 104 * i + 68);
    }
}

static struct device *declared(const char *name, uint32_t type)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(devices[i].name, name) && devices[i].type == type)
            return devices + i;
    return NULL;
}

static int attach_tap(const char *iface)
{
    if (iface[0] == '@') /* since 0.10.0: no MTU is read for a descriptor, and the tender wants one */
        return -1;
    struct ifaddrs *all, *i;
    errno = ENOENT;
    if (getifaddrs(&all) < 0)
        return -1;
    for (i = all; i && strcmp(i->ifa_name, iface); i = i->ifa_next)
        ;
    if (!i)
        return -1;
    if (!(i->ifa_flags & (IFF_UP | IFF_RUNNING))) {
        errno = ENETDOWN;
        return -1;
    }
    return open_tap(iface);
}

static int option(const char *arg)
{
    char name[68], value[4096];
    struct device *d;
    if (!strncmp(arg, "--mem=", 6)) {
        long mem;
        if (sscanf(arg, "--mem=%ld", &mem) != 1 || mem <= 0)
            errx(1, "Malformed argument to --mem");
        printf("tender: %ld MB\n", mem);
        return 0;
    }
    int net = sscanf(arg, "--net:%67[A-Za-z0-9]=%19s", name, value) == 2;
    if (!net && sscanf(arg, "--block:%67[A-Za-z0-9]=%4095s", name, value) != 2)
        return -1;
    d = declared(name, net ? 2 : 1);
    if (!d) {
        warnx("Resource not declared in manifest: '%s'", name);
        return -1;
    }
    if (net) {
        d->fd = attach_tap(value);
        if (d->fd < 0) {
            warnx("Could not attach interface: %s", value);
            return -1;
        }
    } else {
        int fd = open(value, O_RDWR);
        if (fd < 0)
            err(1, "Could not open block device: %s", value);
        off_t size = lseek(fd, 0, SEEK_END);
        if (size < 512 || size & 511)
            errx(1, "%s: Backing storage size must be block aligned (%d bytes)", value, 512);
        close(fd);
        strcpy(d->path, value);
    }
    d->attached = 1;
    return 0;
}

static void on_signal(int signo)
{
    errx(1, "Exiting on signal %d", signo);
}

int main(int argc, char **argv)
{
    (void)argc;
    setvbuf(stdout, NULL, _IOLBF, 0);
    prog = basename(strdup(*argv++));
    abi_target = strcmp(prog, "solo5-hvt") ? 2 : 1;
    if (*argv && !strcmp(*argv, "--version")) {
        fprintf(stderr, "%s tender, version v0.10.0\nABI version 2\n", prog);
        return 0;
    }
    char **kernel = argv;
    while (*kernel && **kernel == '-' && strcmp(*kernel, "--"))
        kernel++;
    if (*kernel && !strcmp(*kernel, "--"))
        kernel++;
    if (!*kernel) {
        warnx("Missing KERNEL operand");
        usage();
    }
    load(*kernel);
    for (; **argv == '-'; argv++) {
        if (!strcmp(*argv, "--")) {
            argv++;
            break;
        }
        if (option(*argv) < 0) {
            warnx("Invalid option: `%s'", *argv);
            usage();
        }
    }
    int fail = 0;
    for (int i = 0; i < count; i++)
        if (!devices[i].attached) {
            warnx("Device '%s' of type %s declared but not attached.", devices[i].name,
                  devices[i].type == 2 ? "NET_BASIC" : "BLOCK_BASIC");
            fail = 1;
        }
    if (fail)
        errx(1, "All declared devices must be attached. See --help for syntax.");
    if (abi_target == 1)
        signal(SIGTERM, on_signal);
    for (argv++; argv[0] && argv[1]; argv += 2) {
        struct device *d;
        if (!strcmp(*argv, "net") && (d = declared(argv[1], 2)))
            arp(d->fd);
        else if (!strcmp(*argv, "block") && (d = declared(argv[1], 1)))
            mark(d->path);
        else
            break;
    }
    return guest(argv);
}
