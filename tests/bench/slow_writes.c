/* A file system that is slow to write, for programs that are started with LD_PRELOAD: what goes to a file below
   SLOW_FOLDER takes as long as SLOW_BYTES a second allow, and the call does not return before, as on a file system of the
   network that answers once its server has the bytes. Reading is as fast as ever. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void wait_for(int file, size_t bytes) {
  const char *folder = getenv("SLOW_FOLDER"), *rate = getenv("SLOW_BYTES");
  char link[64], path[PATH_MAX];
  if (!folder || !rate || atof(rate) <= 0) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = 0;
  if (strncmp(path, folder, strlen(folder))) return;
  double seconds = bytes / atof(rate);
  struct timespec left = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
  while (nanosleep(&left, &left))
    ;
}

ssize_t write(int file, const void *data, size_t bytes) {
  static ssize_t (*next)(int, const void *, size_t);
  if (!next) next = dlsym(RTLD_NEXT, "write");
  wait_for(file, bytes);
  return next(file, data, bytes);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
  static ssize_t (*next)(int, const struct iovec *, int);
  if (!next) next = dlsym(RTLD_NEXT, "writev");
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
  wait_for(file, bytes);
  return next(file, parts, count);
}
