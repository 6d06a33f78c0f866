/* Passes a CNI call (environment and stdin) on to the kubewire agent and prints its answer.
   Compiled and installed by `kubewire cni install`; the agent listens on SOCKET. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

struct buffer { char *data; size_t size, room; };

static struct buffer input;

static void append(struct buffer *to, const char *data, size_t size) {
    if (to->size + size + 1 > to->room) {
        to->room = 2 * (to->size + size + 1);
        to->data = realloc(to->data, to->room);
        if (to->data == NULL) _exit(1);
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
    to->data[to->size] = 0;
}

static void read_all(int fd, struct buffer *to) {
    char part[65536];
    ssize_t got;
    append(to, "", 0);
    while ((got = read(fd, part, sizeof part)) > 0) append(to, part, (size_t)got);
}

static int write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = write(fd, data, size);
        if (sent < 0) return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

/* The value of "cniVersion" in the input, for answers that we make ourselves. */
static const char *version(void) {
    static char found[16];
    const char *at = input.data ? strstr(input.data, "\"cniVersion\"") : NULL;
    if (at != NULL && sscanf(at, "\"cniVersion\" : \"%15[0-9.]", found) == 1) return found;
    return "1.1.0";
}

static void later(const char *why) {
    char text[512];
    int size = snprintf(text, sizeof text,
        "{\"cniVersion\":\"%s\",\"code\":11,\"msg\":\"kubewire agent at " SOCKET ": %s; try again later\"}",
        version(), why);
    write_all(1, text, (size_t)size);
    _exit(1);
}

static void too_late(int number) {
    (void)number;
    later("no answer within 9 s");
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    struct buffer call = {0}, answer = {0};
    const char *program = argc > 0 ? argv[0] : "", *slash = strrchr(program, '/'), *command = getenv("CNI_COMMAND");
    int fd;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, too_late);
    alarm(9);
    read_all(0, &input);
    if (command != NULL && strcmp(command, "VERSION") == 0) {
        printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[" VERSIONS "]}", version());
        return 0;
    }
    program = slash ? slash + 1 : program;
    append(&call, program, strlen(program) + 1);
    for (char **one = environ; *one; one++)
        if (strncmp(*one, "CNI_", 4) == 0) append(&call, *one, strlen(*one) + 1);
    append(&call, "", 1);
    append(&call, input.data, input.size);

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) later(strerror(errno));
    if (write_all(fd, call.data, call.size) < 0) later(strerror(errno));
    shutdown(fd, SHUT_WR);
    read_all(fd, &answer);
    char *line = strchr(answer.data, '\n');
    if (line == NULL) later("closed the connection");
    write_all(1, line + 1, answer.size - (size_t)(line + 1 - answer.data));
    return atoi(answer.data);
}
