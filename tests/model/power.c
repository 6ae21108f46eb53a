/* Loaded before libc (LD_PRELOAD): writes down what is done to the files beneath $POWER_ROOT, in order, to $POWER_LOG.

   Each entry: operation (1 byte), length of path and of data (4 bytes each), offset (8 bytes), path, data.
   O opened for writing and made if missing · W written at offset · T cut off at offset · S synced · D a directory synced
   R renamed, the new name as data · U unlinked */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 4096
static char *paths[MOST];
static int out = -1;
static const char *root;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    root = getenv("POWER_ROOT");
    const char *log = getenv("POWER_LOG");
    if (root && log) out = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

static void put(const void *data, size_t size) {
    const char *at = data;
    while (size) {
        long done = syscall(SYS_write, out, at, size);
        if (done <= 0) abort();
        at += done, size -= done;
    }
}

static void note(char what, const char *path, uint64_t offset, const void *data, uint32_t size) {
    uint32_t length = strlen(path);
    char head[17];
    head[0] = what;
    memcpy(head + 1, &length, 4), memcpy(head + 5, &size, 4), memcpy(head + 9, &offset, 8);
    put(head, 17), put(path, length), put(data, size);
}

static int ours(const char *path) { return out >= 0 && path && !strncmp(path, root, strlen(root)); }
static char *of(int file) { return file >= 0 && file < MOST ? paths[file] : NULL; }

static int opened(int file, const char *path, int flags) {
    if (file < 0 || file >= MOST) return file;
    free(paths[file]), paths[file] = NULL;
    if (!ours(path)) return file;
    paths[file] = strdup(path);
    if (flags & (O_WRONLY | O_RDWR)) {
        note('O', path, 0, "", 0);
        if (flags & O_TRUNC) note('T', path, 0, "", 0);
    }
    return file;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
        pthread_mutex_lock(&order); \
        int file = opened(syscall(SYS_openat, AT_FDCWD, path, flags, mode), path, flags); \
        pthread_mutex_unlock(&order); \
        return file; \
    }
OPEN(open)
OPEN(open64)

int close(int file) {
    pthread_mutex_lock(&order);
    if (of(file)) free(paths[file]), paths[file] = NULL;
    int done = syscall(SYS_close, file);
    pthread_mutex_unlock(&order);
    return done;
}

static ssize_t written(int file, const void *data, size_t size, off64_t offset, int here) {
    pthread_mutex_lock(&order);
    if (here && of(file)) {
        int flags = fcntl(file, F_GETFL);
        offset = lseek64(file, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
    }
    ssize_t done = here ? syscall(SYS_write, file, data, size) : syscall(SYS_pwrite64, file, data, size, offset);
    if (done > 0 && of(file)) note('W', of(file), offset, data, done);
    pthread_mutex_unlock(&order);
    return done;
}
ssize_t write(int file, const void *data, size_t size) {
    return of(file) ? written(file, data, size, 0, 1) : syscall(SYS_write, file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return written(file, data, size, offset, 0); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) { return written(file, data, size, offset, 0); }

static int cut(int file, off64_t size) {
    pthread_mutex_lock(&order);
    int done = syscall(SYS_ftruncate, file, size);
    if (!done && of(file)) note('T', of(file), size, "", 0);
    pthread_mutex_unlock(&order);
    return done;
}
int ftruncate(int file, off_t size) { return cut(file, size); }
int ftruncate64(int file, off64_t size) { return cut(file, size); }

static int synced(int file) { /* noted, and not done: a disk that takes its time costs a test nothing */
    pthread_mutex_lock(&order);
    if (of(file)) {
        struct stat found;
        fstat(file, &found);
        note(S_ISDIR(found.st_mode) ? 'D' : 'S', of(file), 0, "", 0);
    }
    pthread_mutex_unlock(&order);
    return 0;
}
int fsync(int file) { return synced(file); }
int fdatasync(int file) { return synced(file); }

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&order);
    int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!done && ours(from)) note('R', from, 0, to, strlen(to));
    pthread_mutex_unlock(&order);
    return done;
}
int unlink(const char *path) {
    pthread_mutex_lock(&order);
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!done && ours(path)) note('U', path, 0, "", 0);
    pthread_mutex_unlock(&order);
    return done;
}
