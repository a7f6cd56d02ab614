#include "CLinux.h"

#include <sys/ioctl.h>
#include <unistd.h>

int sciferry_terminal_columns(int fd) {
    struct winsize size;
    if (!isatty(fd)) return 0;
    if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}
