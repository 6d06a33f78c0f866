/* The receive, look-up, send loop of UDP, outside of Python.
 *
 * A table maps the octets of a question (all but the message id) to ready answers. A thread per
 * socket takes batches of messages, answers those that the table knows and puts the others aside
 * for Python, which is told through an eventfd. Python alone changes the table; the thread reads it
 * under the lock and never touches a Python object, so it runs without the interpreter's lock.
 *
 * Nothing stands below a name that does not exist (RFC 8020), so one entry may answer for all of them
 * (a cut): its key is what such questions share, and its answer gets the question's own name. Thus a
 * storm of names that search paths make costs what hits cost, however many there are.
 *
 * Nearly all that an answer costs is the kernel's, so the loop spares it work: answers of one size
 * to one client leave as one packet that the kernel cuts up at the end of its way (UDP_SEGMENT; the
 * last piece may be shorter), and while questions come fast the thread naps shortly instead of being
 * woken for each. A packet costs the kernel about as much as six answers inside of one, so the more
 * packets a batch needs, the longer the nap: names of many lengths, as search paths make them, then
 * cost about as much as names of one.
 *
 * Plain C behind a small surface: Python loads it by ctypes, so one library serves every version.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

#define BATCH 128
#define SIZE 4096
#define STRIDE (SIZE + 192) /* not a power of two: buffers must not share their cache lines */
#define CONTROL 40
#define NAME 28
#define ASIDE (1 << 18)   /* octets of messages that may wait for Python */
#define HEAD (4 + NAME + CONTROL) /* what stands before each of them */
#define CUT 0xFF          /* begins a cut's key; a question's begins with its flags, QR unset */
#define FIXED 12          /* octets before the tail in a cut's key */
#define NO_SLOT UINT32_MAX /* an answer of Python's that is not kept, at least not now */
#define SEGMENTS 64       /* what every kernel with UDP_SEGMENT takes */
#define SEGMENT_SIZE 1200 /* fits every path that IPv6 knows */
#define PACKET 65000      /* octets that fit into one datagram */
#define SECRETS 4
#define BUSY 64            /* messages ... */
#define BUSY_WITHIN 1.3e-3 /* ... that come within so many seconds make a busy time */
#define NAP 120000        /* ns between two batches in a busy time ... */
#define LONG_NAP 300000   /* ... and at most, where that makes fewer packets: */
#define MANY 32           /* so many messages make a nap longer ... */
#define FULL 10           /* ... unless so many share a packet */

typedef struct {
    double until;
    uint32_t key_length, count, turn, slot, cut;
    /* offsets[i]..offsets[i + 1] is answer i inside of data; the key stands before them. */
    uint32_t *offsets;
    uint8_t data[];
} entry;

/* The hash stands beside the entry, so that another one's is told apart without a look at it. */
typedef struct {
    uint64_t hash;
    entry *e;
} cell;

typedef struct {
    pthread_rwlock_t lock;
    cell *cells;
    uint64_t mask, used, seed;
    uint64_t depths; /* bit n: there may be a cut of a name with n labels */
    uint64_t *hits; /* by slot: what a hit counts as */
    uint32_t slots;
    uint32_t secret_count; /* 0: cookies go back as they came */
    uint8_t secrets[SECRETS][16];
} table;

/* An answer on its way. */
typedef struct {
    const uint8_t *data;
    void *name, *control;
    struct bundle *group;
    uint32_t size;
} letter;

typedef struct bundle {
    letter *first, *tail; /* the tail is shorter than the others and leaves last */
    struct bundle *next;  /* of the same client, in a ring */
    struct iovec *vectors;
    uint32_t count, placed;
    /* Room for control data as it came, then for UDP_SEGMENT. */
    _Alignas(8) uint8_t control[CONTROL + CMSG_SPACE(sizeof(uint16_t))];
} bundle;

typedef struct {
    letter letters[BATCH];
    bundle bundles[BATCH], *sent[BATCH];
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    uint32_t count, packets;
} outbox;

typedef struct {
    int fd, event;
    /* control_size: of what is sent, without padding; 36 octets spare the kernel an allocation. */
    uint32_t name_size, control_size;
    pthread_t thread;
    pthread_mutex_t lock; /* of `answers` and the messages put aside */
    table *answers;
    int stop, unsegmented;
    uint32_t aside_used;
    uint64_t shed;
    uint8_t *aside;
} loop;

typedef struct {
    struct mmsghdr in[BATCH];
    struct iovec in_vec[BATCH];
    uint64_t hashes[BATCH];
    uint32_t plain[BATCH]; /* length of a message without its EDNS options */
    _Alignas(8) uint8_t names[BATCH][NAME], controls[BATCH][CONTROL];
    uint8_t received[BATCH][STRIDE], answers[BATCH][STRIDE];
    outbox out;
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

/* A cut's key: CUT, length of the question's name, header behind the id, what follows the name (type,
 * class and perhaps an OPT record without options), name of the cut in lower case. Its hash takes the
 * labels from the last to the first, so that one pass over a name finds it. */
typedef struct {
    _Alignas(8) uint8_t fixed[32], name[256 + 8]; /* zeroed at the end: read by words */
    uint8_t starts[128];
    uint32_t fixed_size, size, labels;
} spread;

/* Gives 0 for what is no plain question. `header` begins with the id. */
static int lay_out(spread *s, const uint8_t *header, const uint8_t *name, uint32_t size,
                   const uint8_t *tail, uint32_t tail_size) {
    if (size < 2 || size > 255 || (tail_size != 4 && tail_size != 15)) return 0;
    memset(s->fixed, 0, sizeof s->fixed);
    s->fixed[0] = CUT;
    s->fixed[1] = (uint8_t)size;
    memcpy(s->fixed + 2, header + 2, 10);
    if (tail_size == 4)
        memcpy(s->fixed + FIXED, tail, 4);
    else
        memcpy(s->fixed + FIXED, tail, 15);
    s->fixed_size = FIXED + tail_size;
    s->size = size;
    for (uint32_t i = 0; i < size; i++)
        s->name[i] = (uint8_t)(name[i] - 'A') < 26 ? name[i] | 32 : name[i];
    memset(s->name + size, 0, 8);
    uint32_t at = 0;
    for (s->labels = 0; at < size && s->name[at]; at += 1u + s->name[at]) {
        if (name[at] > 63) return 0;
        s->starts[s->labels++] = (uint8_t)at;
    }
    return at == size - 1;
}

static uint64_t hash_fixed(const spread *s, uint64_t seed) {
    uint64_t h = seed, word;
    for (uint32_t i = 0; i < sizeof s->fixed; i += 8) {
        memcpy(&word, s->fixed + i, 8);
        h = mix(h ^ word, 0x9E3779B97F4A7C15u);
    }
    return h;
}

/* One label with its length; up to 7 octets behind it are read. */
static uint64_t hash_label(uint64_t h, const uint8_t *label) {
    uint64_t word;
    int left = 1 + label[0];
    for (; left > 8; left -= 8, label += 8) {
        memcpy(&word, label, 8);
        h = mix(h ^ word, 0x9E3779B97F4A7C15u);
    }
    memcpy(&word, label, 8);
    return mix(h ^ (word & ~0ull >> (64 - 8 * left)), 0xD1B54A32D192ED03u);
}

/* The hash of any key. */
static uint64_t hash_key(const uint8_t *key, uint32_t length, uint64_t seed) {
    spread s;
    uint32_t tail = length > FIXED && key[FIXED - 1] ? 15 : 4, before = FIXED + tail;
    if (key[0] != CUT || length <= before) return hash_of(key, length, seed);
    if (!lay_out(&s, key, key + before, length - before, key + FIXED, tail))
        return hash_of(key, length, seed);
    s.fixed[1] = key[1];
    uint64_t h = hash_fixed(&s, seed);
    for (uint32_t n = s.labels; n; n--) h = hash_label(h, s.name + s.starts[n - 1]);
    return h;
}

/* The cell of a key, or the free one where it would stand. */
static cell *cell_of(table *t, uint64_t hash, const uint8_t *key, uint32_t length) {
    uint64_t at = hash & t->mask;
    for (entry *e; (e = t->cells[at].e); at = (at + 1) & t->mask)
        if (t->cells[at].hash == hash && e->key_length == length && !memcmp(e->data, key, length))
            break;
    return &t->cells[at];
}

/* Counted up when the surface below changes: Python refuses a library of another age. */
uint32_t kw_version(void) { return 3; }

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
    for (uint64_t i = 0; i <= t->mask; i++) free(t->cells[i].e);
    free(t->cells);
    free(t->hits);
    pthread_rwlock_destroy(&t->lock);
    free(t);
}

static int grow(table *t) {
    cell *old = t->cells;
    uint64_t old_mask = t->mask;
    cell *fresh = calloc((old_mask + 1) * 2, sizeof *fresh);
    if (!fresh) return -1;
    t->cells = fresh;
    t->mask = old_mask * 2 + 1;
    for (uint64_t i = 0; i <= old_mask; i++)
        if (old[i].e) *cell_of(t, old[i].hash, old[i].e->data, old[i].e->key_length) = old[i];
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

static entry *make(const uint8_t *key, uint32_t key_length, const uint8_t *answers,
                   const uint32_t *sizes, uint32_t count, double until, uint32_t slot) {
    uint32_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (sizes[i] < 12 || sizes[i] > SIZE) return NULL;
        total += sizes[i];
    }
    /* The offsets stand behind the octets, at the next multiple of four. */
    uint32_t offsets_at = (key_length + total + 3) & ~3u;
    entry *e = count ? malloc(sizeof *e + offsets_at + (count + 1) * sizeof(uint32_t)) : NULL;
    if (!e) return NULL;
    e->until = until;
    e->key_length = key_length;
    e->count = count;
    e->turn = e->cut = 0;
    e->slot = slot;
    e->offsets = (uint32_t *)(e->data + offsets_at);
    memcpy(e->data, key, key_length);
    memcpy(e->data + key_length, answers, total);
    e->offsets[0] = key_length;
    for (uint32_t i = 0; i < count; i++) e->offsets[i + 1] = e->offsets[i] + sizes[i];
    return e;
}

/* Under the lock. */
static int place(table *t, entry *e) {
    if (!e || slot_room(t, e->slot) || (t->used * 2 > t->mask && grow(t))) {
        free(e);
        return -1;
    }
    if (e->cut) t->depths |= 1ull << (e->cut & 63);
    uint64_t hash = hash_key(e->data, e->key_length, t->seed);
    cell *at = cell_of(t, hash, e->data, e->key_length);
    t->used += !at->e;
    free(at->e);
    *at = (cell){hash, e};
    return 0;
}

/* `answers` holds `count` answers of the given sizes in a row, ids included. 0, or -1: not kept. */
int kw_table_put(table *t, const uint8_t *key, uint32_t key_length, const uint8_t *answers,
                 const uint32_t *sizes, uint32_t count, double until, uint32_t slot) {
    entry *e = make(key, key_length, answers, sizes, count, until, slot);
    pthread_rwlock_wrlock(&t->lock);
    int failed = place(t, e);
    pthread_rwlock_unlock(&t->lock);
    return failed;
}

/* Under the lock. */
static void take_out(table *t, const uint8_t *key, uint32_t length) {
    cell *found = cell_of(t, hash_key(key, length, t->seed), key, length);
    if (!found->e) return;
    free(found->e);
    found->e = NULL;
    t->used--;
    /* Close the gap: move up what a look-up would no longer find behind it. */
    uint64_t gap = (uint64_t)(found - t->cells);
    for (uint64_t at = (gap + 1) & t->mask; t->cells[at].e; at = (at + 1) & t->mask) {
        uint64_t home = t->cells[at].hash & t->mask;
        if (((at - home) & t->mask) < ((at - gap) & t->mask)) continue;
        t->cells[gap] = t->cells[at];
        t->cells[at].e = NULL;
        gap = at;
    }
}

/* `keys` holds keys in a row, each behind its length (4 octets). */
void kw_table_remove(table *t, const uint8_t *keys, uint32_t size) {
    pthread_rwlock_wrlock(&t->lock);
    for (uint32_t at = 0, length; at < size; at += 4 + length) {
        memcpy(&length, keys + at, 4);
        take_out(t, keys + at + 4, length);
    }
    pthread_rwlock_unlock(&t->lock);
}

void kw_table_cookies(table *t, const uint8_t *secrets, uint32_t count) {
    pthread_rwlock_wrlock(&t->lock);
    t->secret_count = count < SECRETS ? count : SECRETS;
    memcpy(t->secrets, secrets, t->secret_count * sizeof t->secrets[0]);
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

static uint64_t turned(uint64_t x, int by) { return x << by | x >> (64 - by); }

static void sip_rounds(uint64_t v[4], int count) {
    while (count--) {
        v[0] += v[1]; v[1] = turned(v[1], 13) ^ v[0]; v[0] = turned(v[0], 32);
        v[2] += v[3]; v[3] = turned(v[3], 16) ^ v[2];
        v[0] += v[3]; v[3] = turned(v[3], 21) ^ v[0];
        v[2] += v[1]; v[1] = turned(v[1], 17) ^ v[2]; v[2] = turned(v[2], 32);
    }
}

/* SipHash-2-4 on a little-endian machine, as all that run this are. */
static uint64_t siphash(const uint8_t *key, const uint8_t *data, uint32_t length) {
    uint64_t k[2], word = (uint64_t)length << 56;
    memcpy(k, key, sizeof k);
    uint64_t v[4] = {k[0] ^ 0x736F6D6570736575u, k[1] ^ 0x646F72616E646F6Du,
                     k[0] ^ 0x6C7967656E657261u, k[1] ^ 0x7465646279746573u};
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t whole;
        memcpy(&whole, data, 8);
        v[3] ^= whole;
        sip_rounds(v, 2);
        v[0] ^= whole;
    }
    for (uint32_t i = 0; i < length; i++) word |= (uint64_t)data[i] << (8 * i);
    v[3] ^= word;
    sip_rounds(v, 2);
    v[0] ^= word;
    v[2] ^= 255;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* A server cookie: version, time, hash of the client's cookie, both and the client's address. */
static void server_cookie(const uint8_t *secret, const uint8_t *client, uint32_t made,
                          const struct sockaddr *from, uint8_t *out) {
    uint8_t input[32], head[8] = {1, 0, 0, 0, (uint8_t)(made >> 24), (uint8_t)(made >> 16),
                                  (uint8_t)(made >> 8), (uint8_t)made};
    const uint8_t *address = (const uint8_t *)from + (from->sa_family == AF_INET6 ? 8 : 4);
    uint32_t length = from->sa_family == AF_INET6 ? 16 : 4;
    memcpy(input, client, 8);
    memcpy(input + 8, head, 8);
    memcpy(input + 16, address, length);
    uint64_t hash = siphash(secret, input, 16 + length);
    memcpy(out, head, 8);
    memcpy(out + 8, &hash, 8);
}

/* Write a cookie with a server cookie that is good for a while; the sizes are those of RFC 7873. */
static uint32_t complete(const table *t, const uint8_t *cookie, uint32_t length,
                         const struct sockaddr *from, uint8_t *out) {
    uint32_t at = (uint32_t)time(NULL), made;
    memcpy(out, cookie, 8);
    if (length == 24 && !memcmp(cookie + 8, "\1\0\0", 4)) {
        memcpy(&made, cookie + 12, 4);
        made = __builtin_bswap32(made);
        int32_t age = (int32_t)(at - made);
        for (uint32_t i = 0; i < t->secret_count && age >= -300 && age <= 1800; i++) {
            server_cookie(t->secrets[i], cookie, made, from, out + 8);
            if (!memcmp(out + 8, cookie + 8, 16)) return 24;
        }
    }
    server_cookie(t->secrets[0], cookie, at, from, out + 8);
    return 24;
}

/* Where the options of a message begin that ends in an OPT record with some; 0: it does not. */
static uint32_t options_at(const uint8_t *message, uint32_t length) {
    if (length < 12 || memcmp(message + 4, "\0\1\0\0\0\0\0\1", 8)) return 0;
    uint32_t at = 12;
    while (at < length && message[at]) {
        if (message[at] > 63) return 0;
        at += 1u + message[at];
    }
    at += 5 + 11;
    if (at >= length || memcmp(message + at - 11, "\0\0\51", 3)) return 0;
    return (uint32_t)(message[at - 2] << 8 | message[at - 1]) == length - at ? at : 0;
}

/* Add a question's options to an answer of `size` octets; gives the new size, 0: Python's. */
static uint32_t add_options(const table *t, const uint8_t *at, const uint8_t *end,
                            const struct sockaddr *from, uint8_t *out, uint32_t size) {
    uint8_t *opt = out + size - 11;
    if (size < 23 || memcmp(opt, "\0\0\51", 3) || opt[9] || opt[10]) return 0;
    uint32_t limit = (uint32_t)(opt[3] << 8 | opt[4]), cookies = 0;
    limit = limit < 512 ? 512 : limit > SIZE ? SIZE : limit;
    while (at < end) {
        if (end - at < 4) return 0;
        uint32_t code = (uint32_t)(at[0] << 8 | at[1]), length = (uint32_t)(at[2] << 8 | at[3]);
        /* EXPIRE, COOKIE, KEEPALIVE and PADDING come back and change nothing else. */
        if (code < 9 || code > 12 || length > (uint32_t)(end - at) - 4) return 0;
        /* An EXPIRE or KEEPALIVE that holds something may be malformed. */
        if ((code & 1) && length) return 0;
        int sign = code == 10 && t->secret_count;
        if (sign && (cookies++ || (length != 8 && (length < 16 || length > 40)))) return 0;
        if (size + 4 + (sign ? 24 : length) > limit) return 0;
        memcpy(out + size, at, 4);
        if (sign)
            out[size + 3] = (uint8_t)complete(t, at + 4, length, from, out + size + 4);
        else
            memcpy(out + size + 4, at + 4, length);
        size += 4 + (sign ? 24 : length);
        at += 4 + length;
    }
    uint32_t added = (uint32_t)(out + size - opt) - 11;
    opt[9] = (uint8_t)(added >> 8);
    opt[10] = (uint8_t)added;
    return size;
}

/* The cut that holds the name of a question of this length, if there is one. */
static entry *cut_above(table *t, const uint8_t *message, uint32_t length) {
    spread s;
    uint32_t end = 12;
    while (end < length && message[end] && end < 12 + 255) end += 1u + message[end];
    if (!lay_out(&s, message, message + 12, end + 1 - 12, message + end + 1, length - end - 1))
        return NULL;
    uint64_t hash = hash_fixed(&s, t->seed), left = t->depths;
    for (uint32_t n = 1; n <= s.labels && n < 64 && left >> n; n++) {
        uint32_t start = s.starts[s.labels - n], size = s.size - start;
        hash = hash_label(hash, s.name + start);
        if (!(left >> n & 1)) continue;
        uint64_t at = hash & t->mask;
        for (entry *e; (e = t->cells[at].e); at = (at + 1) & t->mask)
            if (t->cells[at].hash == hash && e->cut && e->key_length == s.fixed_size + size &&
                !memcmp(e->data, s.fixed, s.fixed_size) &&
                !memcmp(e->data + s.fixed_size, s.name + start, size))
                return e;
    }
    return NULL;
}

/* Copy the answer to message `i`; 0: Python has to see it. */
static uint32_t answer(table *t, batch *b, int i, double at) {
    const uint8_t *message = b->received[i];
    uint8_t *out = b->answers[i];
    uint32_t length = b->plain[i], whole = b->in[i].msg_len;
    if (message[2] & 0x80) return 0;
    entry *e = cell_of(t, b->hashes[i], message + 2, length - 2)->e;
    if (!e && t->depths) e = cut_above(t, message, length);
    if (!e || e->until <= at) return 0;
    uint32_t turn = e->count == 1 ? 0 : __atomic_add_fetch(&e->turn, 1, __ATOMIC_RELAXED) % e->count;
    uint32_t size = e->offsets[turn + 1] - e->offsets[turn];
    memcpy(out, e->data + e->offsets[turn], size);
    memcpy(out, message, 2);
    if (e->cut) memcpy(out + 12, message + 12, e->data[1]);
    if (length != whole)
        size = add_options(t, message + length, message + whole,
                           (const struct sockaddr *)b->names[i], out, size);
    if (size) __atomic_add_fetch(&t->hits[e->slot], 1, __ATOMIC_RELAXED);
    return size;
}

/* Give a message back the length of its options, which the look-up took away. */
static void restore(batch *b, int i) {
    uint32_t plain = b->plain[i], options = b->in[i].msg_len - plain;
    if (!options) return;
    b->received[i][plain - 2] = (uint8_t)(options >> 8);
    b->received[i][plain - 1] = (uint8_t)options;
}

/* Python reads: length of the message, then name, control data, message. */
static int put_aside(loop *l, batch *b, int i) {
    uint32_t length = b->in[i].msg_len, whole = HEAD + length;
    if (l->aside_used + whole > ASIDE) {
        l->shed++;
        return 0;
    }
    uint8_t *at = l->aside + l->aside_used;
    memcpy(at, &length, 4);
    memcpy(at + 4, b->names[i], NAME);
    memcpy(at + 4 + NAME, b->controls[i], CONTROL);
    memcpy(at + HEAD, b->received[i], length);
    l->aside_used += whole;
    return 1;
}

static void post(outbox *o, const uint8_t *data, uint32_t size, void *name, void *control) {
    o->letters[o->count++] = (letter){.data = data, .size = size, .name = name, .control = control};
}

static int same_client(const loop *l, const letter *a, const letter *b) {
    return !memcmp(a->name, b->name, l->name_size) &&
           !memcmp(a->control, b->control, l->control_size);
}

static int has_room(const loop *l, const bundle *b) {
    return !l->unsegmented && b->first->size <= SEGMENT_SIZE && b->count < SEGMENTS &&
           (b->count + 1) * b->first->size <= PACKET;
}

/* Put each letter into the bundle of its client and size; gives how many bundles there are. */
static uint32_t bundle_up(const loop *l, outbox *o) {
    uint8_t clients[2 * BATCH] = {0}; /* number of a client's first bundle + 1 */
    uint32_t bundles = 0;
    for (uint32_t i = 0; i < o->count; i++) {
        letter *one = &o->letters[i];
        uint64_t at = hash_of(one->name, l->name_size, 0) % (2 * BATCH);
        while (clients[at] && !same_client(l, o->bundles[clients[at] - 1].first, one))
            at = (at + 1) % (2 * BATCH);
        bundle *first = clients[at] ? &o->bundles[clients[at] - 1] : NULL, *b = first;
        while (b && (b->first->size != one->size || !has_room(l, b)))
            b = b->next == first ? NULL : b->next;
        if (!b) {
            b = &o->bundles[bundles++];
            *b = (bundle){.first = one, .next = first ? first->next : b};
            if (first)
                first->next = b;
            else
                clients[at] = (uint8_t)bundles;
        }
        b->count++;
        one->group = b;
    }
    return bundles;
}

/* A letter that is alone in its bundle goes along behind larger ones to the same client. */
static void tuck_in(const loop *l, outbox *o, uint32_t bundles) {
    for (uint32_t i = 0; i < bundles; i++) {
        bundle *alone = &o->bundles[i], *host = NULL;
        if (alone->count != 1) continue;
        for (bundle *b = alone->next; b != alone && !(host && host->count > 1); b = b->next)
            if (b->count && !b->tail && b->first->size > alone->first->size && has_room(l, b))
                host = b;
        if (!host) continue;
        host->tail = alone->first;
        host->tail->group = host;
        host->count++;
        alone->count = 0;
    }
}

/* The header of a bundle, or of one letter. */
static void address(const loop *l, struct msghdr *m, bundle *b, int segmented) {
    m->msg_name = b->first->name;
    m->msg_namelen = l->name_size;
    m->msg_control = l->control_size ? b->first->control : NULL;
    m->msg_controllen = l->control_size;
    if (!segmented) return;
    uint32_t before = (uint32_t)CMSG_ALIGN(l->control_size);
    memcpy(b->control, b->first->control, before);
    struct cmsghdr *c = (struct cmsghdr *)(b->control + before);
    *c = (struct cmsghdr){.cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT,
                          .cmsg_len = CMSG_LEN(sizeof(uint16_t))};
    uint16_t size = (uint16_t)b->first->size;
    memcpy(CMSG_DATA(c), &size, sizeof size);
    m->msg_control = b->control;
    m->msg_controllen = before + CMSG_SPACE(sizeof size);
}

/* A bundle that did not go as a whole: the kernel or the way does not take them. */
static void send_singly(loop *l, struct msghdr *whole, bundle *b, int flags) {
    if (b->count < 2) return;
    if (errno == EINVAL || errno == EIO || errno == EOPNOTSUPP)
        __atomic_store_n(&l->unsegmented, 1, __ATOMIC_RELAXED);
    struct iovec *vectors = whole->msg_iov;
    struct msghdr one = {.msg_iovlen = 1};
    address(l, &one, b, 0);
    for (uint32_t i = 0; i < b->count; i++) {
        one.msg_iov = &vectors[i];
        while (sendmsg(l->fd, &one, flags) < 0 && errno == EINTR) {}
    }
}

static void send_all(loop *l, outbox *o, int flags) {
    uint32_t bundles = bundle_up(l, o);
    struct iovec *place = o->vectors;
    tuck_in(l, o, bundles);
    o->packets = 0;
    for (uint32_t i = 0; i < bundles; i++) {
        bundle *b = &o->bundles[i];
        if (!b->count) continue;
        struct msghdr *m = &o->messages[o->packets].msg_hdr;
        *m = (struct msghdr){.msg_iov = place, .msg_iovlen = b->count};
        address(l, m, b, b->count > 1);
        b->vectors = place;
        place += b->count;
        o->sent[o->packets++] = b;
    }
    for (uint32_t i = 0; i < o->count; i++) {
        letter *one = &o->letters[i];
        bundle *b = one->group;
        uint32_t at = one == b->tail ? b->count - 1 : b->placed++;
        b->vectors[at] = (struct iovec){(void *)one->data, one->size};
    }
    for (uint32_t first = 0; first < o->packets;) {
        int sent = sendmmsg(l->fd, o->messages + first, o->packets - first, flags);
        if (sent < 0 && errno == EINTR) continue;
        /* One client that cannot be reached must not hold up the rest of the batch. */
        if (sent <= 0) send_singly(l, &o->messages[first].msg_hdr, o->sent[first], flags);
        first += sent > 0 ? (uint32_t)sent : 1;
    }
    o->count = 0;
}

/* The entries of a batch are called into the cache together, not waited for one by one. */
static void look_ahead(table *t, batch *b, int count) {
    for (int i = 0; i < count; i++) {
        uint8_t *message = b->received[i];
        uint32_t length = b->in[i].msg_len, options = options_at(message, length);
        if (options) message[options - 2] = message[options - 1] = 0;
        b->plain[i] = length = options ? options : length;
        if (length <= 12) continue;
        b->hashes[i] = hash_of(message + 2, length - 2, t->seed);
        __builtin_prefetch(&t->cells[b->hashes[i] & t->mask]);
    }
    for (int i = 0; i < count; i++) {
        if (b->in[i].msg_len <= 12) continue;
        const cell *at = &t->cells[b->hashes[i] & t->mask];
        const char *e = (const char *)at->e;
        if (at->hash != b->hashes[i]) continue;
        __builtin_prefetch(e);
        __builtin_prefetch(e + 64);
        __builtin_prefetch(e + 128);
    }
}

/* Gives whether Python is behind: messages of an earlier batch still wait for it. */
static int one_batch(loop *l, batch *b, int count, double at) {
    int tell = 0;
    pthread_mutex_lock(&l->lock);
    pthread_rwlock_rdlock(&l->answers->lock);
    int idle = !l->aside_used;
    b->out.packets = 0;
    look_ahead(l->answers, b, count);
    for (int i = 0; i < count; i++) {
        struct msghdr *in = &b->in[i].msg_hdr;
        uint32_t length = b->in[i].msg_len, size = 0;
        if (length > 12) size = answer(l->answers, b, i, at);
        if (size) {
            post(&b->out, b->answers[i], size, in->msg_name, in->msg_control);
        } else if (length >= 12) {
            restore(b, i);
            tell |= put_aside(l, b, i);
        }
    }
    pthread_rwlock_unlock(&l->answers->lock);
    pthread_mutex_unlock(&l->lock);
    if (b->out.count) send_all(l, &b->out, 0);
    if (tell && idle) {
        uint64_t one = 1;
        while (write(l->event, &one, sizeof one) < 0 && errno == EINTR) {}
    }
    return !idle;
}

/* Whether messages come so fast that waiting for more of them pays. */
typedef struct {
    double since, last;
    int count, busy;
} pace;

static void keep_pace(pace *p, int count, double at) {
    if (at - p->last > BUSY_WITHIN) *p = (pace){.since = at};
    p->last = at;
    p->count += count;
    if (p->count < BUSY) return;
    p->busy = at - p->since < BUSY_WITHIN * p->count / BUSY;
    p->since = at;
    p->count = 0;
}

/* How long to wait for the next batch; clients that ask little at once gain nothing by more. */
static long nap(uint32_t packets, int count) {
    double spread = (double)packets * FULL / count;
    if (count < MANY || spread < 1) return NAP;
    return spread * spread * NAP < LONG_NAP ? (long)(spread * spread * NAP) : LONG_NAP;
}

static void *run(void *argument) {
    loop *l = argument;
    batch *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    prctl(PR_SET_TIMERSLACK, 1000);
    for (int i = 0; i < BATCH; i++) {
        b->in_vec[i] = (struct iovec){b->received[i], SIZE};
        b->in[i].msg_hdr = (struct msghdr){.msg_name = b->names[i], .msg_iov = &b->in_vec[i],
                                           .msg_iovlen = 1, .msg_control = b->controls[i]};
    }
    pace p = {0};
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            b->in[i].msg_hdr.msg_namelen = l->name_size;
            b->in[i].msg_hdr.msg_controllen = l->control_size ? CONTROL : 0;
        }
        int count = recvmmsg(l->fd, b->in, BATCH, MSG_WAITFORONE, NULL);
        if (__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE)) break;
        if (count > 0) {
            double at = now();
            int behind = one_batch(l, b, count, at);
            keep_pace(&p, count, at);
            /* While Python is behind it needs the processor more than new messages need haste. */
            if ((p.busy || behind) && count < BATCH)
                nanosleep(&(struct timespec){0, nap(b->out.packets, count)}, NULL);
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

/* What stands before each answer of Python's. */
typedef struct {
    uint32_t at; /* of the message in what was taken */
    uint32_t size, slot;
    uint32_t key_size, cut; /* key behind the answer, labels of its name; 0: the question's own */
} reply;

/* An answer that has a slot is kept as the first of many, and counted. */
static void keep_all(table *t, const uint8_t *taken, const uint8_t *replies, uint32_t size) {
    reply r;
    pthread_rwlock_wrlock(&t->lock);
    for (uint32_t at = 0; at < size; at += r.size + r.key_size) {
        memcpy(&r, replies + at, sizeof r);
        at += (uint32_t)sizeof r;
        if (r.slot == NO_SLOT) continue;
        const uint8_t *answer = replies + at, *key = answer + r.size;
        uint32_t length = r.key_size;
        if (!length) {
            memcpy(&length, taken + r.at, 4);
            length -= 2;
            key = taken + r.at + HEAD + 2;
        }
        entry *e = make(key, length, answer, &r.size, 1, INFINITY, r.slot);
        if (e) e->cut = r.cut;
        if (!place(t, e)) t->hits[r.slot]++;
    }
    pthread_rwlock_unlock(&t->lock);
}

/* Send answers to messages that were taken; those that have a slot are kept in the table. */
void kw_loop_answer(loop *l, table *t, uint8_t *taken, const uint8_t *replies, uint32_t size) {
    outbox o;
    reply r;
    keep_all(t, taken, replies, size);
    o.count = 0;
    for (uint32_t at = 0; at < size;) {
        memcpy(&r, replies + at, sizeof r);
        uint8_t *name = taken + r.at + 4;
        at += (uint32_t)sizeof r;
        post(&o, replies + at, r.size, name, name + NAME);
        at += r.size + r.key_size;
        if (o.count == BATCH || at >= size) send_all(l, &o, MSG_DONTWAIT);
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
