/* Preloaded into the broker: a disk that fails. From the moment that the file FAIL_FROM exists, what FAIL names ("sync",
 * "write" or "read") ends with EIO on the log's files, and does nothing. "room" is a disk without any for the files whose
 * names end with "-shm" or "/room"; "quota" is one that is used up, for the log's files and "/room". "mark" is a disk without room
 * for what the file of the high-water mark says was committed last: to overwrite may take room, too. */
#include "../harness/preload.h"

static int fails(int fd, const char *what)
{
    if (strcmp(getenv("FAIL"), what) || file_of(fd) < 0 || access(getenv("FAIL_FROM"), F_OK))
        return 0;
    errno = EIO;
    return 1;
}

static int ends(const char *path, ssize_t length, const char *end)
{
    ssize_t n = strlen(end);
    return length >= n && !memcmp(path + length - n, end, n);
}

static int is_full(int fd)
{
    char link[64], path[4096];
    int room = !strcmp(getenv("FAIL"), "room"), quota = !strcmp(getenv("FAIL"), "quota");
    if ((!room && !quota) || access(getenv("FAIL_FROM"), F_OK))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!ends(path, length, "/room") && !(room ? ends(path, length, "-shm") : file_of(fd) >= 0))
        return 0;
    errno = room ? ENOSPC : EDQUOT;
    return 1;
}

/* Whether it is the third record of the file, which is written with each batch. */
static int is_mark(int fd, size_t n, off_t at)
{
    char link[64], path[4096];
    if (strcmp(getenv("FAIL"), "mark") || n != 512 || at != 1024 || access(getenv("FAIL_FROM"), F_OK))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (!ends(path, readlink(link, path, sizeof path - 1), "/high-water"))
        return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    return is_full(fd) ? -1 : REAL(ssize_t, "write", int, const void *, size_t)(fd, bytes, n);
}

static ssize_t put(int fd, const void *bytes, size_t n, off_t at)
{
    if (is_full(fd) || is_mark(fd, n, at))
        return -1;
    return fails(fd, "write") ? -1 : REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t)(fd, bytes, n, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at); }

static ssize_t get(int fd, void *bytes, size_t n, off_t at)
{
    return fails(fd, "read") ? -1 : REAL(ssize_t, "pread64", int, void *, size_t, off_t)(fd, bytes, n, at);
}

ssize_t pread(int fd, void *bytes, size_t n, off_t at) { return get(fd, bytes, n, at); }
ssize_t pread64(int fd, void *bytes, size_t n, off_t at) { return get(fd, bytes, n, at); }

int fsync(int fd) { return fails(fd, "sync") ? -1 : REAL(int, "fsync", int)(fd); }
int fdatasync(int fd) { return fails(fd, "sync") ? -1 : REAL(int, "fdatasync", int)(fd); }
