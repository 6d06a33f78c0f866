/* The receive, look-up, send loop of UDP, outside of Python.
 *
 * A table maps the octets of a question (all but the message id) to ready answers. A thread per
 * socket takes batches of messages, answers those that the table knows and puts the others aside
 * for Python, which is told through an eventfd. Python alone changes the table; the thread reads it
 * under the lock and never touches a Python object, so it runs without the interpreter's lock.
 *
 * Plain C behind a small surface: Python loads it by ctypes, so one library serves every version.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define SIZE 4096
#define CONTROL 40
#define NAME 28
#define ASIDE (1 << 18) /* octets of messages that may wait for Python */

typedef struct {
    uint64_t hash;
    double until;
    uint32_t key_length, count, turn, slot;
    /* offsets[i]..offsets[i + 1] is answer i inside of data; the key stands before them. */
    uint32_t *offsets;
    uint8_t data[];
} entry;

typedef struct {
    pthread_rwlock_t lock;
    entry **cells;
    uint64_t mask, used, seed;
    uint64_t *hits; /* by slot: what a hit counts as */
    uint32_t slots;
} table;

typedef struct {
    int fd, event;
    /* control_size: of what is sent, without padding; 36 octets spare the kernel an allocation. */
    uint32_t name_size, control_size;
    pthread_t thread;
    pthread_mutex_t lock; /* of `answers` and the messages put aside */
    table *answers;
    int stop;
    uint32_t aside_used;
    uint64_t shed;
    uint8_t *aside;
} loop;

typedef struct {
    struct mmsghdr in[BATCH], out[BATCH];
    struct iovec in_vec[BATCH], out_vec[BATCH];
    uint8_t names[BATCH][NAME], controls[BATCH][CONTROL];
    uint8_t received[BATCH][SIZE], answers[BATCH][SIZE];
} batch;

static uint64_t mix(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_of(const uint8_t *key, uint32_t length, uint64_t seed) {
    uint64_t h = seed ^ length, word;
    while (length >= 8) {
        memcpy(&word, key, 8);
        h = mix(h ^ word, 0x9E3779B97F4A7C15u);
        key += 8;
        length -= 8;
    }
    word = 0;
    memcpy(&word, key, length);
    return mix(h ^ word, 0xD1B54A32D192ED03u);
}

/* The cell of a key, or the free one where it would stand. */
static entry **cell_of(table *t, uint64_t hash, const uint8_t *key, uint32_t length) {
    uint64_t at = hash & t->mask;
    for (entry *e; (e = t->cells[at]); at = (at + 1) & t->mask)
        if (e->hash == hash && e->key_length == length && !memcmp(e->data, key, length)) break;
    return &t->cells[at];
}

/* Counted up when the surface below changes: Python refuses a library of another age. */
uint32_t kw_version(void) { return 1; }

table *kw_table_new(void) {
    table *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->mask = 1023;
    t->cells = calloc(t->mask + 1, sizeof *t->cells);
    if (!t->cells || getrandom(&t->seed, sizeof t->seed, 0) < 0) {
        free(t->cells);
        free(t);
        return NULL;
    }
    pthread_rwlock_init(&t->lock, NULL);
    return t;
}

void kw_table_free(table *t) {
    for (uint64_t i = 0; i <= t->mask; i++) free(t->cells[i]);
    free(t->cells);
    free(t->hits);
    pthread_rwlock_destroy(&t->lock);
    free(t);
}

static int grow(table *t) {
    entry **old = t->cells;
    uint64_t old_mask = t->mask;
    entry **fresh = calloc((old_mask + 1) * 2, sizeof *fresh);
    if (!fresh) return -1;
    t->cells = fresh;
    t->mask = old_mask * 2 + 1;
    for (uint64_t i = 0; i <= old_mask; i++)
        if (old[i]) *cell_of(t, old[i]->hash, old[i]->data, old[i]->key_length) = old[i];
    free(old);
    return 0;
}

static int slot_room(table *t, uint32_t slot) {
    if (slot < t->slots) return 0;
    uint32_t more = slot * 2 + 64;
    uint64_t *fresh = realloc(t->hits, more * sizeof *fresh);
    if (!fresh) return -1;
    memset(fresh + t->slots, 0, (more - t->slots) * sizeof *fresh);
    t->hits = fresh;
    t->slots = more;
    return 0;
}

/* `answers` holds `count` answers of the given sizes in a row, ids included. 0, or -1: not kept. */
int kw_table_put(table *t, const uint8_t *key, uint32_t key_length, const uint8_t *answers,
                 const uint32_t *sizes, uint32_t count, double until, uint32_t slot) {
    uint32_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (sizes[i] < 12 || sizes[i] > SIZE) return -1;
        total += sizes[i];
    }
    /* The offsets stand behind the octets, at the next multiple of four. */
    uint32_t offsets_at = (key_length + total + 3) & ~3u;
    entry *e = count ? malloc(sizeof *e + offsets_at + (count + 1) * sizeof(uint32_t)) : NULL;
    if (!e) return -1;
    e->until = until;
    e->key_length = key_length;
    e->count = count;
    e->turn = 0;
    e->slot = slot;
    e->hash = hash_of(key, key_length, t->seed);
    e->offsets = (uint32_t *)(e->data + offsets_at);
    memcpy(e->data, key, key_length);
    memcpy(e->data + key_length, answers, total);
    e->offsets[0] = key_length;
    for (uint32_t i = 0; i < count; i++) e->offsets[i + 1] = e->offsets[i] + sizes[i];
    pthread_rwlock_wrlock(&t->lock);
    if (slot_room(t, slot) || (t->used * 2 > t->mask && grow(t))) {
        pthread_rwlock_unlock(&t->lock);
        free(e);
        return -1;
    }
    entry **cell = cell_of(t, e->hash, key, key_length);
    t->used += !*cell;
    free(*cell);
    *cell = e;
    pthread_rwlock_unlock(&t->lock);
    return 0;
}

void kw_table_remove(table *t, const uint8_t *key, uint32_t length) {
    pthread_rwlock_wrlock(&t->lock);
    entry **cell = cell_of(t, hash_of(key, length, t->seed), key, length);
    if (*cell) {
        free(*cell);
        *cell = NULL;
        t->used--;
        /* Close the gap: move up what a look-up would no longer find behind it. */
        uint64_t gap = (uint64_t)(cell - t->cells);
        for (uint64_t at = (gap + 1) & t->mask; t->cells[at]; at = (at + 1) & t->mask) {
            uint64_t home = t->cells[at]->hash & t->mask;
            if (((at - home) & t->mask) < ((at - gap) & t->mask)) continue;
            t->cells[gap] = t->cells[at];
            t->cells[at] = NULL;
            gap = at;
        }
    }
    pthread_rwlock_unlock(&t->lock);
}

uint32_t kw_table_hits(table *t, uint64_t *out, uint32_t room) {
    pthread_rwlock_rdlock(&t->lock);
    uint32_t n = t->slots < room ? t->slots : room;
    for (uint32_t i = 0; i < n; i++) out[i] = __atomic_load_n(&t->hits[i], __ATOMIC_RELAXED);
    pthread_rwlock_unlock(&t->lock);
    return n;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Copy the answer to a message; 0: Python has to see it. */
static uint32_t answer(table *t, const uint8_t *message, uint32_t length, double at, uint8_t *out) {
    if (length <= 12) return 0;
    uint64_t hash = hash_of(message + 2, length - 2, t->seed);
    entry *e = *cell_of(t, hash, message + 2, length - 2);
    if (!e || e->until <= at) return 0;
    uint32_t turn = e->count == 1 ? 0 : __atomic_add_fetch(&e->turn, 1, __ATOMIC_RELAXED) % e->count;
    uint32_t size = e->offsets[turn + 1] - e->offsets[turn];
    memcpy(out, e->data + e->offsets[turn], size);
    memcpy(out, message, 2);
    __atomic_add_fetch(&t->hits[e->slot], 1, __ATOMIC_RELAXED);
    return size;
}

/* Python reads: length of the message, then name, control data, message. */
static int put_aside(loop *l, batch *b, int i) {
    uint32_t length = b->in[i].msg_len, whole = 4 + NAME + CONTROL + length;
    if (l->aside_used + whole > ASIDE) {
        l->shed++;
        return 0;
    }
    uint8_t *at = l->aside + l->aside_used;
    memcpy(at, &length, 4);
    memcpy(at + 4, b->names[i], NAME);
    memcpy(at + 4 + NAME, b->controls[i], CONTROL);
    memcpy(at + 4 + NAME + CONTROL, b->received[i], length);
    l->aside_used += whole;
    return 1;
}

static void send_all(int fd, struct mmsghdr *messages, int count, int flags) {
    for (int first = 0; first < count;) {
        int sent = sendmmsg(fd, messages + first, (unsigned)(count - first), flags);
        if (sent < 0 && errno == EINTR) continue;
        /* One client that cannot be reached must not hold up the rest of the batch. */
        first += sent > 0 ? sent : 1;
    }
}

static void one_batch(loop *l, batch *b, int count) {
    int ready = 0, aside = 0;
    double at = now();
    pthread_mutex_lock(&l->lock);
    pthread_rwlock_rdlock(&l->answers->lock);
    for (int i = 0; i < count; i++) {
        struct msghdr *in = &b->in[i].msg_hdr, *out = &b->out[ready].msg_hdr;
        uint32_t length = b->in[i].msg_len;
        uint32_t size = answer(l->answers, b->received[i], length, at, b->answers[ready]);
        if (size) {
            b->out_vec[ready].iov_len = size;
            out->msg_name = in->msg_name;
            out->msg_namelen = in->msg_namelen;
            out->msg_control = in->msg_control;
            out->msg_controllen = in->msg_controllen ? l->control_size : 0;
            ready++;
        } else if (length >= 12) {
            aside |= put_aside(l, b, i);
        }
    }
    pthread_rwlock_unlock(&l->answers->lock);
    pthread_mutex_unlock(&l->lock);
    if (ready) send_all(l->fd, b->out, ready, 0);
    if (aside) {
        uint64_t one = 1;
        while (write(l->event, &one, sizeof one) < 0 && errno == EINTR) {}
    }
}

static void *run(void *argument) {
    loop *l = argument;
    batch *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    for (int i = 0; i < BATCH; i++) {
        b->in_vec[i] = (struct iovec){b->received[i], SIZE};
        b->out_vec[i] = (struct iovec){b->answers[i], SIZE};
        b->in[i].msg_hdr = (struct msghdr){.msg_name = b->names[i], .msg_iov = &b->in_vec[i],
                                           .msg_iovlen = 1, .msg_control = b->controls[i]};
        b->out[i].msg_hdr = (struct msghdr){.msg_iov = &b->out_vec[i], .msg_iovlen = 1};
    }
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            b->in[i].msg_hdr.msg_namelen = l->name_size;
            b->in[i].msg_hdr.msg_controllen = l->control_size ? CONTROL : 0;
        }
        int count = recvmmsg(l->fd, b->in, BATCH, MSG_WAITFORONE, NULL);
        if (__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE)) break;
        if (count > 0) {
            one_batch(l, b, count);
        } else if (errno != EINTR && errno != EAGAIN) {
            struct timespec pause = {0, 1000000};
            nanosleep(&pause, NULL);
        }
    }
    free(b);
    return NULL;
}

/* Serve a blocking socket; `event` is an eventfd that is written to when messages lie aside. */
loop *kw_loop_start(int fd, int event, table *answers, uint32_t name_size, uint32_t control_size) {
    loop *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    *l = (loop){.fd = fd, .event = event, .name_size = name_size, .control_size = control_size,
                .answers = answers, .aside = malloc(ASIDE)};
    pthread_mutex_init(&l->lock, NULL);
    /* Signals are Python's: the thread inherits a mask of all. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = !l->aside || pthread_create(&l->thread, NULL, run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(l->aside);
        free(l);
        return NULL;
    }
    return l;
}

/* Answer from another table; the old one is not read any more when this returns. */
void kw_loop_swap(loop *l, table *answers) {
    pthread_mutex_lock(&l->lock);
    l->answers = answers;
    pthread_mutex_unlock(&l->lock);
}

/* Move what lies aside to `out` (ASIDE octets); gives how many octets. */
uint32_t kw_loop_take(loop *l, uint8_t *out) {
    pthread_mutex_lock(&l->lock);
    uint32_t used = l->aside_used;
    memcpy(out, l->aside, used);
    l->aside_used = 0;
    pthread_mutex_unlock(&l->lock);
    return used;
}

/* Send answers of Python's, laid out as `put_aside` lays out messages. */
void kw_loop_send(loop *l, uint8_t *packed, uint32_t size) {
    struct mmsghdr out[BATCH];
    struct iovec vec[BATCH];
    for (uint32_t at = 0; at < size;) {
        int n = 0;
        for (; n < BATCH && at < size; n++) {
            uint32_t length;
            memcpy(&length, packed + at, 4);
            uint8_t *name = packed + at + 4;
            vec[n] = (struct iovec){name + NAME + CONTROL, length};
            out[n].msg_hdr = (struct msghdr){.msg_name = name, .msg_namelen = l->name_size,
                                             .msg_iov = &vec[n], .msg_iovlen = 1};
            if (l->control_size) {
                out[n].msg_hdr.msg_control = name + NAME;
                out[n].msg_hdr.msg_controllen = l->control_size;
            }
            at += 4 + NAME + CONTROL + length;
        }
        send_all(l->fd, out, n, MSG_DONTWAIT);
    }
}

uint64_t kw_loop_shed(loop *l) { return l->shed; }

/* End the thread. Shutting a datagram socket down wakes whoever waits for it, connected or not. */
void kw_loop_stop(loop *l) {
    __atomic_store_n(&l->stop, 1, __ATOMIC_RELEASE);
    shutdown(l->fd, SHUT_RD);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    free(l->aside);
    free(l);
}
