/* What the libraries have in common that are preloaded into the broker: which of its files a descriptor is of, and the
 * system's own functions. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

/* 0 is the database, 1 its write-ahead log, -1 anything else. */
static inline int file_of(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return -1;
    path[n] = 0;
    const char *name = strrchr(path, '/');
    if (!name)
        return -1;
    return !strcmp(name, "/tidings.db") ? 0 : !strcmp(name, "/tidings.db-wal") ? 1 : -1;
}
