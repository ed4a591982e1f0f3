/* Stands between the standard library and the kernel, and has the calls on sockets fail as the kernel may have them fail.
 *
 * FAULTS_SEED decides, FAULTS_HARD adds errors that cost a connection. What was done is written to standard error in the end.
 * Whoever is told of EAGAIN, or is given less than there is, waits for the selector to say that there is more: so each such socket is
 * armed anew, as the kernel would say it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 65536

static struct {
    atomic_int selector; /* and one more, so that 0 is none */
    _Atomic uint64_t data;
    _Atomic uint32_t events;
} watched[MOST];

static atomic_ulong interrupted, refused, shortened, failed, starved;
static _Atomic uint64_t state;
static int hard;

__attribute__((constructor)) static void begin(void) {
    const char *seed = getenv("FAULTS_SEED");
    state = seed ? strtoull(seed, NULL, 10) : 1;
    hard = getenv("FAULTS_HARD") != NULL;
}

__attribute__((destructor)) static void end(void) {
    fprintf(stderr, "faults: interrupted %lu refused %lu shortened %lu failed %lu starved %lu\n", interrupted, refused,
            shortened, failed, starved);
}

static uint64_t next_random(void) {
    uint64_t mixed = atomic_fetch_add(&state, 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int is_watched(int fd) { return fd >= 0 && fd < MOST && watched[fd].selector > 0; }

int epoll_ctl(int selector, int what, int fd, struct epoll_event *event) {
    REAL(epoll_ctl);
    int outcome = real(selector, what, fd, event);
    if (outcome == 0 && fd >= 0 && fd < MOST) {
        int kind = 0;
        socklen_t len = sizeof kind;
        if (what == EPOLL_CTL_DEL || getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len) != 0) {
            watched[fd].selector = 0;
        } else {
            watched[fd].data = event->data.u64;
            watched[fd].events = event->events;
            watched[fd].selector = selector + 1;
        }
        errno = 0;
    }
    return outcome;
}

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < MOST) watched[fd].selector = 0;
    return real(fd);
}

static void arm_anew(int fd) {
    REAL(epoll_ctl);
    struct epoll_event event = {.events = watched[fd].events, .data.u64 = watched[fd].data};
    real(watched[fd].selector - 1, EPOLL_CTL_MOD, fd, &event);
}

/* What becomes of a call on a socket: an error number, or 0, and then how many bytes of it are left. */
static int fate(int fd, size_t *bytes) {
    if (!is_watched(fd)) return 0;
    uint64_t random = next_random();
    switch (random % 12) {
    case 0:
        interrupted++;
        return EINTR;
    case 1:
    case 2:
        refused++;
        arm_anew(fd);
        return EAGAIN;
    case 3:
    case 4:
    case 5:
        if (*bytes > 1) {
            shortened++;
            *bytes = 1 + (random >> 8) % (*bytes - 1);
            arm_anew(fd);
        }
        return 0;
    case 6:
        if (hard && (random >> 8) % 8 == 0) {
            failed++;
            return (random >> 16) % 2 ? ENOMEM : ENOBUFS;
        }
        return 0;
    default:
        return 0;
    }
}

#define FATE(fd, bytes) \
    int number = fate(fd, &(bytes)); \
    if (number != 0) { errno = number; return -1; }

ssize_t recv(int fd, void *buffer, size_t bytes, int flags) {
    REAL(recv);
    FATE(fd, bytes)
    return real(fd, buffer, bytes, flags);
}

ssize_t read(int fd, void *buffer, size_t bytes) {
    REAL(read);
    FATE(fd, bytes)
    return real(fd, buffer, bytes);
}

ssize_t send(int fd, const void *buffer, size_t bytes, int flags) {
    REAL(send);
    FATE(fd, bytes)
    return real(fd, buffer, bytes, flags);
}

ssize_t write(int fd, const void *buffer, size_t bytes) {
    REAL(write);
    FATE(fd, bytes)
    return real(fd, buffer, bytes);
}

/* Of several pieces the first one alone, or a part of it. */
static void shorten(const struct iovec *pieces, size_t left, struct iovec *piece) {
    piece->iov_base = pieces[0].iov_base;
    piece->iov_len = left < pieces[0].iov_len ? left : pieces[0].iov_len;
}

static size_t total(const struct iovec *pieces, size_t count) {
    size_t bytes = 0;
    for (size_t index = 0; index < count; index++) bytes += pieces[index].iov_len;
    return bytes;
}

#define MESSAGE(name, constant) \
    ssize_t name(int fd, constant struct msghdr *message, int flags) { \
        REAL(name); \
        size_t all = total(message->msg_iov, message->msg_iovlen), bytes = all; \
        FATE(fd, bytes) \
        if (bytes == all || message->msg_iovlen == 0) return real(fd, message, flags); \
        struct iovec piece; \
        shorten(message->msg_iov, bytes, &piece); \
        struct msghdr less = *message; \
        less.msg_iov = &piece; \
        less.msg_iovlen = 1; \
        return real(fd, &less, flags); \
    }
MESSAGE(sendmsg, const)
MESSAGE(recvmsg, )

#define VECTOR(name) \
    ssize_t name(int fd, const struct iovec *pieces, int count) { \
        REAL(name); \
        size_t all = total(pieces, (size_t)count), bytes = all; \
        FATE(fd, bytes) \
        if (bytes == all || count == 0) return real(fd, pieces, count); \
        struct iovec piece; \
        shorten(pieces, bytes, &piece); \
        return real(fd, &piece, 1); \
    }
VECTOR(readv)
VECTOR(writev)

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags) {
    REAL(accept4);
    size_t bytes = 0;
    if (is_watched(fd) && next_random() % 2 == 0) {
        static const int numbers[] = {EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EINTR};
        uint64_t random = next_random();
        starved++;
        /* The connection waits on, as it does then. */
        arm_anew(fd);
        errno = numbers[random % (sizeof numbers / sizeof *numbers)];
        return -1;
    }
    FATE(fd, bytes)
    return real(fd, address, len, flags);
}

int epoll_wait(int selector, struct epoll_event *events, int most, int timeout) {
    REAL(epoll_wait);
    if (next_random() % 16 == 0) {
        interrupted++;
        errno = EINTR;
        return -1;
    }
    return real(selector, events, most, timeout);
}
