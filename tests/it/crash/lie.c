/* Preloaded into the broker: a disk that lies. What is written to the write-ahead log stays in the memory of the process
 * for up to HOLD, and a sync succeeds at once. The process itself sees no difference, but a kill loses what is
 * held. */
#include "../harness/preload.h"

enum { HOLD = 50 * 1000 }; /* microseconds */

struct held {
    struct held *next;
    int fd;
    off_t at;
    size_t n;
    char bytes[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct held *first, **last = &first;

static void apply(void)
{
    pthread_mutex_lock(&lock);
    while (first) {
        struct held *held = first;
        if (REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t)(held->fd, held->bytes, held->n, held->at)
            != (ssize_t)held->n)
            abort();
        first = held->next;
        free(held);
    }
    last = &first;
    pthread_mutex_unlock(&lock);
}

static void *apply_for_ever(void *nothing)
{
    for (;;) {
        usleep(HOLD);
        apply();
    }
    return nothing;
}

static void begin(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, apply_for_ever, NULL))
        abort();
}

static ssize_t put(int fd, const void *bytes, size_t n, off_t at)
{
    static pthread_once_t begun = PTHREAD_ONCE_INIT;
    if (file_of(fd) != 1)
        return REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t)(fd, bytes, n, at);
    pthread_once(&begun, begin);
    struct held *held = malloc(sizeof *held + n);
    if (!held)
        abort();
    *held = (struct held){NULL, fd, at, n};
    memcpy(held->bytes, bytes, n);
    pthread_mutex_lock(&lock);
    *last = held;
    last = &held->next;
    pthread_mutex_unlock(&lock);
    return n;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) { return put(fd, bytes, n, at); }

static ssize_t get(int fd, void *bytes, size_t n, off_t at)
{
    if (file_of(fd) == 1)
        apply();
    return REAL(ssize_t, "pread64", int, void *, size_t, off_t)(fd, bytes, n, at);
}

ssize_t pread(int fd, void *bytes, size_t n, off_t at) { return get(fd, bytes, n, at); }
ssize_t pread64(int fd, void *bytes, size_t n, off_t at) { return get(fd, bytes, n, at); }

static int truncated(int fd, off_t length)
{
    apply();
    return REAL(int, "ftruncate64", int, off_t)(fd, length);
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off_t length) { return truncated(fd, length); }

int fsync(int fd) { return file_of(fd) == 1 ? 0 : REAL(int, "fsync", int)(fd); }
int fdatasync(int fd) { return file_of(fd) == 1 ? 0 : REAL(int, "fdatasync", int)(fd); }

int close(int fd)
{
    if (file_of(fd) == 1)
        apply();
    return REAL(int, "close", int)(fd);
}
