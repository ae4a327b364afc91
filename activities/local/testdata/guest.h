/* What both stand-ins do: the Linux program, and the kernel in the stand-in for
 * Solo5's tenders. Its arguments are orders, done in turn. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int open_tap(const char *name)
{
    struct ifreq ifr;
    int fd = open("/dev/net/tun", O_RDWR);
    memset(&ifr, 0, sizeof ifr);
    ifr.ifr_flags = IFF_TAP | IFF_NO_PI;
    strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0) {
        perror(name);
        exit(1);
    }
    return fd;
}

/* Asks who has 10.213.8.1, and waits for the answer: both ways of the tap. */
static void arp(int fd)
{
    uint8_t frame[42] = { 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 8, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
        2, 0, 0, 0, 0, 8, 10, 213, 8, 2, 0, 0, 0, 0, 0, 0, 10, 213, 8, 1 };
    uint8_t got[2048];
    time_t until = time(NULL) + 50;
    while (time(NULL) < until) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        /* Again and again: at first the host's end may not have seen the cable. */
        if (write(fd, frame, sizeof frame) != sizeof frame) {
            perror("write frame");
            exit(1);
        }
        poll(&p, 1, 200);
        ssize_t n = p.revents ? read(fd, got, sizeof got) : 0;
        if (n >= 42 && got[12] == 8 && got[13] == 6 && got[21] == 2 && got[31] == 1) {
            printf("arp: the host answered\n");
            return;
        }
    }
    printf("arp: no answer\n");
    exit(1);
}

static void mark(const char *path)
{
    int fd = open(path, O_RDWR);
    char was[9] = { 0 };
    if (fd < 0 || read(fd, was, 8) != 8 || pwrite(fd, "written!", 8, 0) != 8) {
        perror(path);
        exit(1);
    }
    printf("block of %ld bytes had %s\n", (long)lseek(fd, 0, SEEK_END), was[0] ? was : "nothing");
    close(fd);
}

static void rights(void)
{
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "CapEff:", 7) || !strncmp(line, "CapAmb:", 7) || !strncmp(line, "Uid:", 4))
            fputs(line, stdout);
}

/* Starts what nobody waits for, and says its number. A daemon lets go of all
 * that it had; a bare one has an empty environment. */
static void leave(const char *how)
{
    pid_t child = fork();
    if (child != 0 && !strcmp(how, "daemon")) {
        waitpid(child, NULL, 0);
        return;
    }
    if (child == 0 && !strcmp(how, "daemon")) {
        setsid();
        if (chdir("/") < 0)
            _exit(1);
        child = fork();
    }
    if (child != 0) {
        printf("left %d\n", child);
        fflush(stdout);
        if (!strcmp(how, "daemon"))
            _exit(0);
        return;
    }
    if (!strcmp(how, "bare")) {
        char *args[] = { "bare", "stay", NULL }, *none[] = { NULL };
        execve("/proc/self/exe", args, none);
        _exit(1);
    }
    if (!strcmp(how, "daemon"))
        for (int fd = 0; fd < 64; fd++)
            close(fd);
    for (;;)
        pause();
}

static int guest(char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (; *argv; argv++) {
        if (!strcmp(*argv, "hello"))
            printf("hello from a Linux process\n");
        else if (!strcmp(*argv, "say"))
            printf("said: %s\n", *++argv);
        else if (!strcmp(*argv, "mutter"))
            fputs(*++argv, stdout), fflush(stdout);
        else if (!strcmp(*argv, "env"))
            for (char **e = environ; *e; e++)
                printf("env: %s\n", *e);
        else if (!strcmp(*argv, "rights"))
            rights();
        else if (!strcmp(*argv, "complain"))
            fprintf(stderr, "this is wrong\n");
        else if (!strcmp(*argv, "arp-fd"))
            arp(atoi(*++argv));
        else if (!strcmp(*argv, "arp-name"))
            arp(open_tap(*++argv));
        else if (!strcmp(*argv, "mark"))
            mark(*++argv);
        else if (!strcmp(*argv, "ignore-term"))
            signal(SIGTERM, SIG_IGN);
        else if (!strcmp(*argv, "leave"))
            leave(*++argv);
        else if (!strcmp(*argv, "flood"))
            for (long n = atol(*++argv) << 14; n > 0; n--)
                puts("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde");
        else if (!strcmp(*argv, "nap"))
            usleep(1000 * atoi(*++argv));
        else if (!strcmp(*argv, "gate"))
            while (access("gate", F_OK) < 0)
                usleep(5000);
        else if (!strcmp(*argv, "stay"))
            for (;;)
                pause();
        else if (!strcmp(*argv, "exit"))
            return atoi(*++argv);
        else {
            printf("unknown order %s\n", *argv);
            return 99;
        }
    }
    return 0;
}
