/* What a step tries with its network: each line of a plan in a process of its own, all at once, and what came of each.

   A line is NAME, VERB and arguments, separated by tabs; \r \n \t \xHH in an argument are what C makes of them:

     tcp ADDRESS PORT TEXT     connect, send, and take what comes back
     name NAME PORT TEXT       the same, to the address that the step's name server has for NAME
     udp ADDRESS PORT TEXT     a datagram
     ask SERVER NAME           a DNS query
     ping|raw ADDRESS TEXT     an ICMP echo request, by a datagram or a raw socket
     packet TEXT               an Ethernet frame on the loopback device
     unix PATH TEXT            as tcp, to a unix socket; @ begins an abstract name
     find TEXT                 the same to each unix socket in the file system
     fds TEXT                  the same to each socket that was inherited
     run PROGRAM ARGUMENT...

   ping, raw and packet go on for a while: until a datagram comes to 127.0.0.1:4999, which is how a listener says that it heard.
   Built as a static program, so that the image needs nothing else. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINES = 256, FIELDS = 16, HEARD_PORT = 4999, SENDS = 60, PAUSE_MS = 50 };

static const char *text;
static size_t text_bytes;

static int fails(const char *call) {
    printf("%s: %s", call, strerror(errno));
    return 1;
}

/* Decodes in place; gives the length, for a text may hold zeros. */
static size_t decode(char *field) {
    char *from = field, *to = field;
    while (*from) {
        unsigned value;
        if (*from != '\\') {
            *to++ = *from++;
        } else if (from[1] == 'x' && sscanf(from + 2, "%2x", &value) == 1) {
            *to++ = (char)value;
            from += 4;
        } else {
            *to++ = from[1] == 'r' ? '\r' : from[1] == 'n' ? '\n' : '\t';
            from += 2;
        }
    }
    *to = 0;
    return (size_t)(to - field);
}

/* Sends the text, says that nothing follows, and prints the beginning of the answer. */
static int talk(int fd) {
    char answer[512];
    struct timeval patience = {3, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (send(fd, text, text_bytes, MSG_NOSIGNAL) < 0)
        return fails("send");
    shutdown(fd, SHUT_WR);
    ssize_t got = recv(fd, answer, sizeof answer, 0);
    if (got <= 0)
        return got < 0 ? fails("recv") : (printf("closed"), 1);
    printf("answered ");
    for (ssize_t at = 0; at < got && at < 60; at++)
        putchar(answer[at] >= ' ' && answer[at] <= '~' ? answer[at] : '.');
    while (recv(fd, answer, sizeof answer, 0) > 0) {}
    return 0;
}

static socklen_t place(struct sockaddr_storage *where, const char *address, int port) {
    struct sockaddr_in *four = (struct sockaddr_in *)where;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)where;
    memset(where, 0, sizeof *where);
    if (strchr(address, ':')) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        inet_pton(AF_INET6, address, &six->sin6_addr);
        return sizeof *six;
    }
    four->sin_family = AF_INET;
    four->sin_port = htons((uint16_t)port);
    inet_pton(AF_INET, address, &four->sin_addr);
    return sizeof *four;
}

static int tcp(const char *address, int port) {
    struct sockaddr_storage where;
    struct timeval patience = {3, 0};
    socklen_t size = place(&where, address, port);
    int fd = socket(where.ss_family, SOCK_STREAM, 0);
    if (fd < 0)
        return fails("socket");
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return connect(fd, (struct sockaddr *)&where, size) ? fails("connect") : talk(fd);
}

static int udp(const char *address, int port) {
    struct sockaddr_storage where;
    socklen_t size = place(&where, address, port);
    int fd = socket(where.ss_family, SOCK_DGRAM, 0);
    if (fd < 0 || sendto(fd, text, text_bytes, 0, (struct sockaddr *)&where, size) < 0)
        return fails("sendto");
    printf("sent");
    return 0;
}

/* An A query; the address of the last record of the answer goes to `found`, if there is one. */
static int ask(const char *server, const char *name, char *found) {
    unsigned char message[512] = {0, 7, 1, 0, 0, 1};
    struct sockaddr_storage where;
    struct timeval patience = {3, 0};
    socklen_t size = place(&where, server, 53);
    size_t at = 12;
    for (const char *label = name; *label;) {
        size_t length = strcspn(label, ".");
        message[at] = (unsigned char)length;
        memcpy(message + at + 1, label, length);
        at += length + 1;
        label += length + (label[length] == '.');
    }
    message[at + 2] = message[at + 4] = 1;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (sendto(fd, message, at + 5, 0, (struct sockaddr *)&where, size) < 0)
        return fails("query");
    ssize_t got = recv(fd, message, sizeof message, 0);
    if (got < 12)
        return fails("query");
    if ((message[3] & 15) || !message[7])
        return printf("code %d, %d records", message[3] & 15, message[7]), 1;
    inet_ntop(AF_INET, message + got - 4, found, INET_ADDRSTRLEN);
    return 0;
}

static int unix_socket(const char *path) {
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    memcpy(where.sun_path, path, length < sizeof where.sun_path ? length : sizeof where.sun_path);
    if (*path == '@')
        where.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&where, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)))
        return fails("connect");
    return talk(fd);
}

static int try_file(const char *path, const struct stat *status, int kind, struct FTW *place_in_tree) {
    (void)place_in_tree;
    if (kind == FTW_D && (!strcmp(path, "/proc") || !strcmp(path, "/sys")))
        return FTW_SKIP_SUBTREE;
    if (kind == FTW_F && S_ISSOCK(status->st_mode)) {
        printf("%s ", path);
        unix_socket(path);
    }
    return FTW_CONTINUE;
}

static int descriptors(void) {
    for (int fd = 3; fd < 1024; fd++) {
        struct stat status;
        if (!fstat(fd, &status) && S_ISSOCK(status.st_mode)) {
            printf("%d ", fd);
            talk(fd);
        }
    }
    printf("searched");
    return 0;
}

static uint16_t checksum(const unsigned char *data, size_t size) {
    uint32_t sum = 0;
    for (size_t at = 0; at < size; at += 2)
        sum += (uint32_t)data[at] << 8 | (at + 1 < size ? data[at + 1] : 0);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

static int until_heard(int fd, const void *data, size_t size, const struct sockaddr *where, socklen_t length) {
    struct sockaddr_storage mine;
    int ear = socket(AF_INET, SOCK_DGRAM, 0), yes = 1;
    socklen_t ear_length = place(&mine, "127.0.0.1", HEARD_PORT);
    setsockopt(ear, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
    bind(ear, (struct sockaddr *)&mine, ear_length);
    struct pollfd waiting = {ear, POLLIN, 0};
    for (int sent = 0; sent < SENDS; sent++) {
        if (sendto(fd, data, size, 0, where, length) < 0)
            return fails("sendto");
        if (poll(&waiting, 1, PAUSE_MS) > 0)
            break;
    }
    printf("sent");
    return 0;
}

static int echo(const char *address, int kind) {
    struct sockaddr_storage where;
    unsigned char message[512] = {8};
    socklen_t length = place(&where, address, 0);
    memcpy(message + 8, text, text_bytes);
    uint16_t sum = checksum(message, 8 + text_bytes);
    memcpy(message + 2, &sum, 2);
    int fd = socket(AF_INET, kind, IPPROTO_ICMP);
    return fd < 0 ? fails("socket") : until_heard(fd, message, 8 + text_bytes, (struct sockaddr *)&where, length);
}

static int packet(void) {
    unsigned char frame[512] = {[12] = 0x88, [13] = 0xb5}; /* IEEE 802, local experimental Ethertype */
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(0x88b5)};
    int fd = socket(AF_PACKET, SOCK_RAW, htons(0x88b5));
    if (fd < 0)
        return fails("socket");
    where.sll_ifindex = (int)if_nametoindex("lo");
    memcpy(frame + 14, text, text_bytes);
    return until_heard(fd, frame, 14 + text_bytes, (struct sockaddr *)&where, sizeof where);
}

static int attempt(char **field, int fields) {
    const char *verb = field[1];
    char found[INET_ADDRSTRLEN];
    if (!strcmp(verb, "run"))
        return execv(field[2], field + 2);
    text_bytes = decode(field[fields - 1]);
    text = field[fields - 1];
    if (!strcmp(verb, "tcp"))
        return tcp(field[2], atoi(field[3]));
    if (!strcmp(verb, "udp"))
        return udp(field[2], atoi(field[3]));
    if (!strcmp(verb, "ask"))
        return ask(field[2], field[3], found) || (printf("answered %s", found), 0);
    if (!strcmp(verb, "name"))
        return ask("198.18.0.1", field[2], found) || tcp(found, atoi(field[3]));
    if (!strcmp(verb, "unix"))
        return unix_socket(field[2]);
    if (!strcmp(verb, "find"))
        return nftw("/", try_file, 16, FTW_PHYS | FTW_ACTIONRETVAL) || (printf("searched"), 0);
    if (!strcmp(verb, "fds"))
        return descriptors();
    if (!strcmp(verb, "ping") || !strcmp(verb, "raw"))
        return echo(field[2], *verb == 'p' ? SOCK_DGRAM : SOCK_RAW);
    if (!strcmp(verb, "packet"))
        return packet();
    printf("no such verb");
    return 2;
}

static int begin(char *line, char **name) {
    char *field[FIELDS + 1] = {0};
    int fields = 0, pipes[2];
    for (char *next; fields < FIELDS && (next = strsep(&line, "\t"));)
        field[fields++] = next;
    *name = field[0];
    if (fields < 2 || pipe2(pipes, O_CLOEXEC))
        exit(2);
    if (!fork()) {
        dup2(pipes[1], 1);
        dup2(pipes[1], 2);
        alarm(15);
        int status = attempt(field, fields);
        fflush(stdout);
        _exit(status);
    }
    close(pipes[1]);
    return pipes[0];
}

int main(int count, char **arguments) {
    static char line[LINES][16384];
    char *name[LINES], answer[400];
    int ear[LINES], lines = 0;
    FILE *plan = count > 1 ? fopen(arguments[1], "re") : NULL;
    if (!plan)
        return 2;
    for (; lines < LINES && fgets(line[lines], sizeof line[lines], plan); lines++) {
        line[lines][strcspn(line[lines], "\n")] = 0;
        ear[lines] = begin(line[lines], &name[lines]);
    }
    for (int at = 0; at < lines; at++) {
        size_t size = 0;
        for (ssize_t got; size < sizeof answer - 1 && (got = read(ear[at], answer + size, sizeof answer - 1 - size)) > 0;)
            size += (size_t)got;
        answer[size] = 0;
        for (char *each = answer; *each; each++)
            *each = *each == '\n' ? ' ' : *each;
        printf("attempt %s: %s\n", name[at], answer);
        fflush(stdout);
        close(ear[at]);
    }
    while (wait(NULL) > 0) {}
    return 0;
}
