/* Preloaded into a process, makes one file's writes or fsyncs fail as a full or dying disk does.
 *
 * REFUSE_PATH: a part of the path of the files that are hit. REFUSE_CALL: write or fsync. REFUSE_AFTER: how many calls
 * on such files still work. REFUSE_ERRNO: the error of all later ones. The first write that fails still writes the half
 * of its bytes, as a disk does that fills up meanwhile.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long calls;

/* How many calls there were beyond those that work; 0 where this one works. */
static long refused(int handle, const char *call)
{
    const char *part = getenv("REFUSE_PATH"), *which = getenv("REFUSE_CALL");
    char link[64], path[4096];
    if (!part || !which || strcmp(which, call))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (!strstr(path, part))
        return 0;
    long over = atomic_fetch_add(&calls, 1) + 1 - atol(getenv("REFUSE_AFTER"));
    return over > 0 ? over : 0;
}

ssize_t write(int handle, const void *bytes, size_t count)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    long over = refused(handle, "write");
    if (over == 1 && count > 1)
        return real(handle, bytes, count / 2);
    if (over) {
        errno = atoi(getenv("REFUSE_ERRNO"));
        return -1;
    }
    return real(handle, bytes, count);
}

int fsync(int handle)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (refused(handle, "fsync")) {
        errno = atoi(getenv("REFUSE_ERRNO"));
        return -1;
    }
    return real(handle);
}
