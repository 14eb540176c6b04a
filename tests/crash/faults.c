/* Lets one durable call of a process fail, or kills the process at it: before it, after it, or in the middle of it.
 *
 * Loaded by LD_PRELOAD; does nothing until `faults_arm`. Counted is every call that can change what a restart finds
 * below one of the given folders, from all threads, in the order in which they are made. The strace test compares the
 * count with what the kernel saw.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { COUNT, KILL_BEFORE, KILL_AFTER, LOST, APPLIED, TORN };

static char roots[4096]; /* folders, each followed by ':' */
static int armed, log_fd = -1, chosen, mode, number_of_error;
static int counter;

/* 0 if the path of an open file, or of a name below an open folder, lies below none of the roots. */
static int below(const char *path) {
    for (const char *root = roots; *root;) {
        const char *end = strchr(root, ':');
        size_t length = (size_t)(end - root);
        if (!strncmp(path, root, length) && (path[length] == '/' || !path[length])) return 1;
        root = end + 1;
    }
    return 0;
}

static int path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    if (length < 0) return 0;
    out[length] = 0;
    return 1;
}

static int full(int folder, const char *name, char *out) {
    char base[PATH_MAX];
    if (name[0] == '/') return snprintf(out, PATH_MAX, "%s", name) < PATH_MAX;
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else if (!path_of(folder, base)) return 0;
    return snprintf(out, PATH_MAX, "%s/%s", base, name) < PATH_MAX;
}

/* The number of this call, or 0 if it is not counted. Logs it. SQLite's shared memory is no durable state. */
static int counted(const char *what, const char *path) {
    size_t length = strlen(path);
    if (!armed || !below(path) || (length > 4 && !strcmp(path + length - 4, "-shm"))) return 0;
    int at = __atomic_add_fetch(&counter, 1, __ATOMIC_SEQ_CST);
    if (log_fd >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%d %s %s\n", at, what, path);
        syscall(SYS_write, log_fd, line, (size_t)length);
    }
    return at;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Around a call: whether it is made at all, and what becomes of its result. */
static int made(int at) {
    if (!at || at != chosen) return 1;
    if (mode == KILL_BEFORE) die();
    return mode != LOST;
}

static long after(int at, long result) {
    if (!at || at != chosen) return result;
    if (mode == KILL_AFTER || mode == TORN) die();
    if (mode == LOST || mode == APPLIED) {
        errno = number_of_error;
        return -1;
    }
    return result;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void faults_arm(const char *where, const char *log, int at, int how, int error) {
    snprintf(roots, sizeof roots, "%s", where);
    log_fd = log[0] ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    chosen = at, mode = how, number_of_error = error, counter = 0;
    __atomic_store_n(&armed, 1, __ATOMIC_SEQ_CST);
}

#define ON_FILE(what, call) \
    char path[PATH_MAX]; \
    int at = armed && path_of(fd, path) ? counted(what, path) : 0; \
    return made(at) ? after(at, call) : after(at, 0)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[PATH_MAX];
    int at = armed && path_of(fd, path) ? counted("write", path) : 0;
    if (at && at == chosen && mode == TORN) size /= 2;
    return made(at) ? after(at, real(fd, data, size)) : after(at, 0);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    char path[PATH_MAX];
    int at = armed && path_of(fd, path) ? counted("pwrite", path) : 0;
    if (at && at == chosen && mode == TORN) size /= 2;
    return made(at) ? after(at, real(fd, data, size, offset)) : after(at, 0);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    ON_FILE("writev", real(fd, parts, count));
}

ssize_t copy_file_range(int from, off64_t *in, int fd, off64_t *out, size_t size, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    ON_FILE("copy_file_range", real(from, in, fd, out, size, flags));
}

ssize_t sendfile64(int fd, int from, off64_t *offset, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    ON_FILE("sendfile", real(fd, from, offset, size));
}

ssize_t sendfile(int fd, int from, off_t *offset, size_t size) { return sendfile64(fd, from, offset, size); }

int fsync(int fd) {
    REAL(int, "fsync", int);
    ON_FILE("fsync", real(fd));
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    ON_FILE("fdatasync", real(fd));
}

int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    ON_FILE("ftruncate", real(fd, size));
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fallocate64(int fd, int how, off64_t offset, off64_t size) {
    REAL(int, "fallocate64", int, int, off64_t, off64_t);
    ON_FILE("fallocate", real(fd, how, offset, size));
}

int fallocate(int fd, int how, off_t offset, off_t size) { return fallocate64(fd, how, offset, size); }

#define ON_NAME(what, folder, name, call) \
    char path[PATH_MAX]; \
    int at = armed && full(folder, name, path) ? counted(what, path) : 0; \
    return made(at) ? after(at, call) : after(at, 0)

int renameat(int from, const char *old, int to, const char *new) {
    REAL(int, "renameat", int, const char *, int, const char *);
    ON_NAME("rename", to, new, real(from, old, to, new));
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    ON_NAME("rename", to, new, real(from, old, to, new, flags));
}

int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    ON_NAME("link", to, new, real(from, old, to, new, flags));
}

int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int symlinkat(const char *target, int folder, const char *name) {
    REAL(int, "symlinkat", const char *, int, const char *);
    ON_NAME("symlink", folder, name, real(target, folder, name));
}

int symlink(const char *target, const char *name) { return symlinkat(target, AT_FDCWD, name); }

int unlinkat(int folder, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    ON_NAME(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, name, real(folder, name, flags));
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t how) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    ON_NAME("mkdir", folder, name, real(folder, name, how));
}

int mkdir(const char *name, mode_t how) { return mkdirat(AT_FDCWD, name, how); }

/* Opening for writing is counted if it may make or empty a file. */
static int opened(int folder, const char *name, int flags, mode_t how) {
    REAL(int, "openat64", int, const char *, int, ...);
    if (!(flags & (O_CREAT | O_TRUNC))) return real(folder, name, flags, how);
    ON_NAME("create", folder, name, real(folder, name, flags, how));
}

#define OPEN(name, ...) \
    int name(__VA_ARGS__, int flags, ...) { \
        mode_t how = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            how = va_arg(rest, mode_t); \
            va_end(rest); \
        }

OPEN(openat64, int folder, const char *path) return opened(folder, path, flags, how); }
OPEN(openat, int folder, const char *path) return opened(folder, path, flags, how); }
OPEN(open64, const char *path) return opened(AT_FDCWD, path, flags, how); }
OPEN(open, const char *path) return opened(AT_FDCWD, path, flags, how); }
