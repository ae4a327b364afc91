/* A Linux program, as MirageOS makes with -t unix. */
#include "guest.h"

int main(int argc, char **argv)
{
    (void)argc;
    return guest(argv + 1);
}
