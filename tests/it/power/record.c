/* Preloaded into the broker: writes down every write and sync of the log's files, in the order in which the system took
 * them, to the file that RECORD names. One record: what, which file, offset, length, as four 64-bit numbers, then the
 * bytes of a write. */
#include "../harness/preload.h"

enum { WRITE, SYNC, TRUNCATE };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;

static void note(uint64_t what, uint64_t file, uint64_t offset, uint64_t length, const void *bytes)
{
    uint64_t head[4] = {what, file, offset, length};
    struct iovec parts[2] = {{head, sizeof head}, {(void *)bytes, bytes ? length : 0}};
    if (record < 0)
        record = open(getenv("RECORD"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (writev(record, parts, 2) != (ssize_t)(sizeof head + parts[1].iov_len))
        abort();
}

static ssize_t put(int fd, const void *bytes, size_t n, off_t at, int positioned)
{
    int file = file_of(fd);
    if (file < 0)
        return positioned ? REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t)(fd, bytes, n, at)
                          : REAL(ssize_t, "write", int, const void *, size_t)(fd, bytes, n);
    pthread_mutex_lock(&lock);
    if (!positioned)
        at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = positioned ? REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t)(fd, bytes, n, at)
                              : REAL(ssize_t, "write", int, const void *, size_t)(fd, bytes, n);
    if (done > 0)
        note(WRITE, file, at, done, bytes);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t n) { return put(fd, bytes, n, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at, 1); }

static int truncated(int fd, off_t length)
{
    int file = file_of(fd);
    pthread_mutex_lock(&lock);
    int done = REAL(int, "ftruncate64", int, off_t)(fd, length);
    if (file >= 0 && done == 0)
        note(TRUNCATE, file, length, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off_t length) { return truncated(fd, length); }

static int synced(int fd, const char *name)
{
    int file = file_of(fd);
    int done = REAL(int, name, int)(fd);
    if (file >= 0 && done == 0) {
        pthread_mutex_lock(&lock);
        note(SYNC, file, 0, 0, NULL);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
