/* The compiled loop under sanitizers: damaged messages, exact borders, a table that changes.
 *
 * It includes the source, so that it reaches what the library hides. `batches SEED N` runs N batches
 * by hand: octets behind each message are poisoned, every answer that leaves is compared with a model,
 * every message that lies aside is the one that came. `threads SEED N` sends N messages to the thread
 * while tables are filled, emptied and swapped.
 */
#include "../../src/kubewire/dns/native/fastpath.c"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

#define CHECK(what) \
    if (!(what)) fprintf(stderr, "line %d: %s\n", __LINE__, #what), abort()

#define KEYS 64
#define PLAIN_MAX 300

typedef struct {
    uint8_t key[PLAIN_MAX];
    uint32_t length, size; /* of the key; of the answer, 0: not in the table */
    uint8_t answer[SIZE];
} known;

static uint64_t state;
static known model[KEYS];

static uint32_t chance(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % below;
}

static void scribble(uint8_t *at, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) at[i] = (uint8_t)chance(256);
}

/* A question without its id: one name, and an OPT record without options in every second. */
static void make_key(known *k, uint32_t number) {
    uint8_t *at = k->key;
    memcpy(at, "\1\0\0\1\0\0\0\0\0\0", 10);
    at[9] = number % 2;
    at += 10;
    for (uint32_t labels = 1 + chance(4); labels; labels--) {
        uint32_t length = 1 + chance(chance(4) ? 12 : 63);
        *at++ = (uint8_t)length;
        scribble(at, length);
        at += length;
    }
    memcpy(at, "\0\0\1\0\1", 5);
    at += 5;
    if (number % 2) {
        memcpy(at, "\0\0\51\0\0\0\0\0\0\0\0", 11);
        at[3] = (uint8_t)chance(20);
        at += 11;
    }
    k->length = (uint32_t)(at - k->key);
}

static void fill(table *t, uint32_t number) {
    known *k = &model[number];
    k->size = chance(4) ? 12 + chance(200) : 12 + chance(SIZE - 11);
    scribble(k->answer, k->size);
    if (number % 2 && k->size >= 23 && chance(8))
        memcpy(k->answer + k->size - 11, "\0\0\51\4\320\0\0\0\0\0\0", 11);
    CHECK(!kw_table_put(t, k->key, k->length, k->answer, &k->size, 1, 1e18, number % 5));
}

static uint32_t pack(uint8_t *out, const known *k) {
    memcpy(out, &k->length, 4);
    memcpy(out + 4, k->key, k->length);
    return 4 + k->length;
}

static void change(table *t) {
    uint8_t secrets[SECRETS * 16], packed[4 + PLAIN_MAX];
    uint32_t number = chance(KEYS), none[] = {11, 12};
    scribble(secrets, sizeof secrets);
    switch (chance(5)) {
    case 0:
        kw_table_remove(t, packed, pack(packed, &model[number]));
        model[number].size = 0;
        break;
    case 1:
        kw_table_cookies(t, secrets, chance(SECRETS + 2));
        break;
    case 2:
        CHECK(kw_table_put(t, secrets, 20, secrets, none, 1, 1e18, 0) == -1);
        CHECK(kw_table_put(t, secrets, 20, secrets, none, 0, 1e18, 0) == -1);
        break;
    default:
        fill(t, number);
    }
}

/* A message: a known question, mostly with options, mostly damaged; or noise. */
static uint32_t make_message(uint8_t *out) {
    known *k = &model[chance(KEYS)];
    uint32_t size = 2 + k->length;
    memcpy(out + 2, k->key, k->length);
    if (k->key[9] && chance(4)) {
        uint32_t start = size;
        for (uint32_t left = chance(4); left; left--) {
            uint32_t length = chance(3) ? chance(44) : chance(2) ? 8 : 24;
            uint8_t head[4] = {0, (uint8_t)(chance(8) ? 9 + chance(4) : chance(20)), 0, (uint8_t)length};
            memcpy(out + size, head, 4);
            scribble(out + size + 4, length);
            if (length == 24 && chance(2)) memcpy(out + size + 12, "\1\0\0\0", 4);
            size += 4 + length;
        }
        if (!chance(8)) size -= chance(size - start + 1); /* the last option is cut off */
        out[start - 2] = (uint8_t)((size - start) >> 8);
        out[start - 1] = (uint8_t)(size - start);
    }
    for (uint32_t left = chance(3) ? 0 : 1 + chance(4); left; left--) {
        switch (chance(3)) {
        case 0:
            if (size) out[chance(size)] = (uint8_t)chance(256);
            break;
        case 1:
            size = chance(size + 1);
            break;
        default:
            if (size < 1000) scribble(out + size, 9), size += chance(10);
        }
    }
    if (!chance(30)) scribble(out, size = chance(SIZE + 1));
    return size;
}

/* What the table would answer if it looked a message up octet by octet. */
static const known *expected(const uint8_t *message, uint32_t length) {
    for (uint32_t i = 0; length > 12 && i < KEYS; i++)
        if (model[i].size && model[i].length == length - 2 &&
            !memcmp(model[i].key, message + 2, length - 2))
            return &model[i];
    return NULL;
}

static int udp(struct sockaddr_in *at) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 4 << 20;
    socklen_t size = sizeof *at;
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(fd >= 0 && !bind(fd, (struct sockaddr *)at, size));
    CHECK(!getsockname(fd, (struct sockaddr *)at, &size));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    return fd;
}

static void receive_all(batch *b, int client, const uint32_t *sent, uint32_t count) {
    static uint8_t got[SIZE + 1];
    uint32_t found = 0;
    for (ssize_t size; (size = recv(client, got, sizeof got, MSG_DONTWAIT)) > 0; found++) {
        uint32_t number = (uint32_t)(got[0] << 8 | got[1]);
        CHECK(number < BATCH && sent[number] == (uint32_t)size);
        CHECK(!memcmp(got, b->answers[number], (size_t)size));
    }
    CHECK(found == count);
}

static void by_hand(loop *l, batch *b, int client, const struct sockaddr_in *to) {
    static uint8_t copy[BATCH][SIZE], taken[ASIDE];
    uint32_t sent[BATCH] = {0}, answered = 0, at = 0;
    int count = 1 + (int)chance(BATCH);
    for (int i = 0; i < count; i++) {
        ASAN_UNPOISON_MEMORY_REGION(b->received[i], STRIDE);
        uint32_t length = make_message(b->received[i]);
        b->received[i][0] = 0;
        b->received[i][1] = (uint8_t)i;
        memcpy(copy[i], b->received[i], length);
        b->in[i].msg_len = length;
        memcpy(b->names[i], to, sizeof *to);
        ASAN_POISON_MEMORY_REGION(b->received[i] + length, STRIDE - length);
    }
    one_batch(l, b, count, 1);
    for (uint32_t i = 0; i < (uint32_t)count; i++)
        for (uint32_t j = 0; j < BATCH; j++)
            if (b->out.letters[j].data == b->answers[i]) sent[i] = b->out.letters[j].size, answered++;
    receive_all(b, client, sent, answered);
    uint32_t aside = kw_loop_take(l, taken), length;
    for (int i = 0; i < count; i++) {
        const known *k = expected(copy[i], b->in[i].msg_len);
        if (sent[i]) {
            CHECK(!k || (sent[i] == k->size && !memcmp(b->answers[i] + 2, k->answer + 2, k->size - 2)));
        } else if (b->in[i].msg_len >= 12) {
            CHECK(!k && at < aside);
            memcpy(&length, taken + at, 4);
            CHECK(length == b->in[i].msg_len);
            CHECK(!memcmp(taken + at + 4 + NAME + CONTROL, copy[i], length));
            at += 4 + NAME + CONTROL + length;
        }
    }
    CHECK(at == aside);
    memset(b->out.letters, 0, sizeof b->out.letters);
}

static void batches(uint32_t rounds) {
    struct sockaddr_in here, to;
    table *t = kw_table_new();
    loop l = {.fd = udp(&here), .event = eventfd(0, EFD_NONBLOCK), .name_size = 16, .answers = t,
              .aside = malloc(ASIDE)};
    batch *b = calloc(1, sizeof *b);
    int client = udp(&to);
    pthread_mutex_init(&l.lock, NULL);
    for (int i = 0; i < BATCH; i++)
        b->in[i].msg_hdr = (struct msghdr){.msg_name = b->names[i], .msg_control = b->controls[i]};
    for (uint32_t i = 0; i < KEYS; i++) fill(t, i);
    while (rounds--) {
        for (uint32_t left = chance(6); left; left--) change(t);
        by_hand(&l, b, client, &to);
    }
    for (int i = 0; i < BATCH; i++) ASAN_UNPOISON_MEMORY_REGION(b->received[i], STRIDE);
    free(b);
    free(l.aside);
    kw_table_free(t);
}

/* As Python makes it of a question whose answer is one for all below some of its labels; 0: none. */
static uint32_t cut_key(uint8_t *out, const uint8_t *message, uint32_t length) {
    const uint8_t *root = length > 17 && length < 400 ? memchr(message + 12, 0, length - 12) : NULL;
    uint32_t end = root ? (uint32_t)(root - message) + 1 : length, start = 12;
    if (length - end != 4 && length - end != 15) return 0;
    for (uint32_t left = chance(3); left && start + 1u + message[start] < end; left--)
        start += 1u + message[start];
    out[0] = CUT;
    out[1] = (uint8_t)(end - 12);
    memcpy(out + 2, message + 2, 10);
    memcpy(out + FIXED, message + end, length - end);
    memcpy(out + FIXED + length - end, message + start, end - start);
    return FIXED + length - start;
}

/* As Python does it: every message that lies aside is answered, some answers are kept. */
static void answer_aside(loop *l, table *t) {
    static uint8_t taken[ASIDE], replies[3 * ASIDE];
    uint32_t size = kw_loop_take(l, taken), length, used = 0;
    for (uint32_t at = 0; at < size; at += HEAD + length) {
        memcpy(&length, taken + at, 4);
        CHECK(length >= 12 && at + HEAD + length <= size);
        uint8_t key[SIZE];
        uint32_t key_size = chance(2) ? cut_key(key, taken + at + HEAD, length) : 0;
        reply r = {at, length, chance(2) ? NO_SLOT : chance(5), key_size, key_size ? 1 + chance(5) : 0};
        memcpy(replies + used, &r, sizeof r);
        memcpy(replies + used + sizeof r, taken + at + HEAD, length);
        memcpy(replies + used + sizeof r + length, key, key_size);
        used += (uint32_t)sizeof r + length + key_size;
    }
    kw_loop_answer(l, t, taken, replies, used);
}

static void threads(uint32_t messages) {
    static uint8_t out[SIZE], taken[ASIDE];
    struct sockaddr_in here, there;
    int server = udp(&here), client = udp(&there), event = eventfd(0, EFD_NONBLOCK);
    table *t = kw_table_new(), *other = kw_table_new();
    for (uint32_t i = 0; i < KEYS; i++) fill(t, i), fill(other, i);
    loop *l = kw_loop_start(server, event, t, 16, 0);
    CHECK(l && !connect(client, (struct sockaddr *)&here, sizeof here));
    for (uint32_t i = 0; i < messages; i++) {
        send(client, out, make_message(out), 0);
        if (!chance(4)) change(chance(2) ? t : other);
        if (!chance(50)) kw_loop_swap(l, chance(2) ? t : other);
        if (!chance(20)) answer_aside(l, chance(2) ? t : other);
        if (!chance(50)) kw_table_hits(t, (uint64_t *)(void *)taken, 5), kw_loop_shed(l);
        while (recv(client, out, sizeof out, MSG_DONTWAIT) > 0) {}
    }
    kw_loop_stop(l);
    kw_table_free(t);
    kw_table_free(other);
}

int main(int count, char **words) {
    CHECK(count == 4);
    state = 0x9E3779B97F4A7C15u ^ strtoull(words[2], NULL, 10);
    for (uint32_t i = 0; i < KEYS; i++) make_key(&model[i], i);
    (strcmp(words[1], "threads") ? batches : threads)((uint32_t)atoi(words[3]));
    return 0;
}
