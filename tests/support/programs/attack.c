/* One step's attacks on what it stands in. Prints "tried NAME WORDS" for each; a test judges the words, and looks from outside.

   argv: a text that only files of the executor hold, one that only another build's store holds, the key of a shared memory
   segment of the host, the name of an abstract socket of the host; or "kill" and the first process to kill. Compiled
   statically: the image has nothing else. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void said(const char *name, const char *format, ...) {
    va_list words;
    va_start(words, format);
    printf("tried %s ", name);
    vprintf(format, words);
    printf("\n");
    fflush(stdout);
    va_end(words);
}

/* How a call ended: "done", or the name of its error. */
static const char *ending(long result) { return result == -1 ? strerrorname_np(errno) : "done"; }

static ssize_t content(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return -1;
    ssize_t got = read(fd, buffer, size - 1);
    if (got >= 0) buffer[got] = 0;
    close(fd);
    return got;
}

/* Processes that aren't this one: how many there are, and what can be done to them. */
static void attack_processes(void) {
    int seen = 0, signalled = 0, traced = 0, remembered = 0, copied = 0, rooted = 0, described = 0, variables = 0;
    char path[300], buffer[65536], names[4096] = "";
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    while (proc && (entry = readdir(proc))) {
        int pid = atoi(entry->d_name);
        if (pid <= 0 || pid == getpid()) continue;
        seen++;
        signalled += kill(pid, 0) == 0;
        snprintf(path, sizeof path, "/proc/%d/environ", pid);
        ssize_t got = content(path, buffer, sizeof buffer);
        for (ssize_t at = 0; got > 0 && at < got; at += strlen(buffer + at) + 1) {
            variables++;
            strncat(names, buffer + at, strcspn(buffer + at, "="));
            strcat(names, ",");
        }
        snprintf(path, sizeof path, "/proc/%d/root/sandboxbuild", pid);
        rooted += access(path, F_OK) == 0;
        snprintf(path, sizeof path, "/proc/%d/fd", pid);
        DIR *fds = opendir(path);
        struct dirent *fd;
        while (fds && (fd = readdir(fds))) {
            if (fd->d_name[0] == '.') continue;
            int taken = openat(dirfd(fds), fd->d_name, O_RDONLY | O_NONBLOCK);
            if (taken < 0) taken = openat(dirfd(fds), fd->d_name, O_WRONLY | O_NONBLOCK);
            described += taken >= 0;
            if (taken >= 0) close(taken);
        }
        if (fds) closedir(fds);
        snprintf(path, sizeof path, "/proc/%d/maps", pid);
        unsigned long start = 0;
        if (content(path, buffer, sizeof buffer) > 0 && (start = strtoul(buffer, NULL, 16))) {
            char word[8];
            struct iovec here = {word, sizeof word}, there = {(void *)start, sizeof word};
            copied += process_vm_readv(pid, &here, 1, &there, 1, 0) == sizeof word;
            snprintf(path, sizeof path, "/proc/%d/mem", pid);
            int mem = open(path, O_RDWR);
            remembered += mem >= 0 && pread(mem, word, sizeof word, start) == sizeof word;
            if (mem >= 0) close(mem);
        }
        if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
            traced++;
            ptrace(PTRACE_DETACH, pid, 0, 0);
        }
    }
    said("others_seen", "%d", seen);
    said("others_signalled", "%d", signalled);
    said("others_traced", "%d", traced);
    said("others_memory", "%d", remembered + copied);
    said("others_root", "%d", rooted);
    said("others_descriptors", "%d", described);
    said("others_environment", "%d %s", variables, names);
}

static void attack_descriptors(void) {
    int count = 0, outside = 0;
    for (int fd = 3; fd < 4096; fd++) {
        char path[64];
        if (fcntl(fd, F_GETFD) < 0) continue;
        count++;
        snprintf(path, sizeof path, "/proc/self/fd/%d/sandboxbuild", fd);
        outside += access(path, F_OK) == 0;
    }
    said("inherited", "%d", count + outside);
}

static void attack_mounts(void) {
    mkdir("/m", 0755);
    said("mount_tmpfs", "%s", ending(mount("none", "/m", "tmpfs", 0, "")));
    said("mount_bind", "%s", ending(mount("/", "/m", NULL, MS_BIND, NULL)));
    said("mount_proc", "%s", ending(mount("proc", "/m", "proc", 0, "")));
    said("mount_again", "%s", ending(mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL)));
    said("umount", "%s", ending(umount2("/proc/sys", MNT_DETACH)));
    said("fsopen", "%s", ending(syscall(SYS_fsopen, "tmpfs", 0)));
    said("open_tree", "%s", ending(syscall(SYS_open_tree, AT_FDCWD, "/", 1)));
    said("unshare", "%s", ending(unshare(CLONE_NEWUSER | CLONE_NEWNS)));
}

/* The classic one: a descriptor of a directory from before a second chroot, and up from there. */
static void attack_root(void) {
    int outside = 0;
    pid_t child = fork();
    if (child == 0) {
        int before = open("/", O_RDONLY | O_DIRECTORY);
        mkdir("/jail", 0755);
        if (chroot("/jail") || fchdir(before)) _exit(0);
        for (int up = 0; up < 64; up++) outside |= access("sandboxbuild", F_OK) == 0 || chdir("..");
        _exit(outside | (access("sandboxbuild", F_OK) == 0));
    }
    waitpid(child, &outside, 0);
    said("double_chroot", "%s", WEXITSTATUS(outside) ? "outside" : "inside");
}

static void attack_devices(void) {
    static const struct { const char *name; mode_t type; int major, minor; } nodes[] = {
        {"mem", S_IFCHR, 1, 1}, {"kmsg", S_IFCHR, 1, 11}, {"disk8", S_IFBLK, 8, 0}, {"disk254", S_IFBLK, 254, 0},
        {"fuse", S_IFCHR, 10, 229}, {"tun", S_IFCHR, 10, 200}, {"null", S_IFCHR, 1, 3},
    };
    int opened = 0;
    for (size_t n = 0; n < sizeof nodes / sizeof *nodes; n++) {
        char path[32];
        snprintf(path, sizeof path, "/%s", nodes[n].name);
        opened += mknod(path, nodes[n].type | 0666, makedev(nodes[n].major, nodes[n].minor)) == 0;
    }
    said("devices_made", "%d", opened);
    char found[1024] = "";
    DIR *dev = opendir("/dev");
    struct dirent *entry;
    while (dev && (entry = readdir(dev))) {
        struct stat status;
        if (fstatat(dirfd(dev), entry->d_name, &status, 0) == 0 && (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)))
            snprintf(found + strlen(found), sizeof found - strlen(found), "%s,", entry->d_name);
    }
    said("devices_seen", "%s", found);
}

static void attack_system_files(void) {
    /* Opened and no more: the kernel asks for permission then, and a host that is in reach is not harmed. */
    static const char *const files[] = {
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/domainname", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
        "/proc/sys/vm/overcommit_memory", "/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_forward",
        "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/release_agent",
    };
    int changed = 0;
    char which[2048] = "", buffer[4096];
    for (size_t n = 0; n < sizeof files / sizeof *files; n++) {
        int fd = open(files[n], O_WRONLY | O_NONBLOCK);
        if (fd < 0) continue;
        close(fd);
        changed++;
        snprintf(which + strlen(which), sizeof which - strlen(which), "%s,", files[n]);
    }
    said("system_written", "%d %s", changed, which);
    static const char *const told[] = {"kcore", "kmsg", "keys", "timer_list", "interrupts", "sched_debug", "slabinfo",
                                       "vmallocinfo", "kpagecount", "acpi", "scsi"};
    int read_bytes = 0;
    which[0] = 0;
    for (size_t n = 0; n < sizeof told / sizeof *told; n++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s", told[n]);
        int entries = 0;
        DIR *folder = opendir(path);
        struct dirent *entry;
        while (folder && (entry = readdir(folder))) entries += entry->d_name[0] != '.';
        if (folder ? entries > 0 : content(path, buffer, sizeof buffer) > 0) {
            read_bytes++;
            snprintf(which + strlen(which), sizeof which - strlen(which), "%s,", told[n]);
        }
    }
    said("system_told", "%d %s", read_bytes, which);
}

static void attack_sockets(const char *abstract) {
    said("raw_socket", "%s", ending(socket(AF_INET, SOCK_RAW, 1)));
    said("packet_socket", "%s", ending(socket(AF_PACKET, SOCK_RAW, 0)));
    struct sockaddr_un address = {AF_UNIX, ""};
    strncpy(address.sun_path + 1, abstract, sizeof address.sun_path - 2);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    said("abstract_socket", "%s",
         ending(connect(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract))));
}

static void attack_memory(int key) {
    int segment = shmget(key, 0, 0);
    char *place = segment < 0 ? (char *)-1 : shmat(segment, NULL, 0);
    said("shared_memory", "%s", place == (char *)-1 ? strerrorname_np(errno) : "done");
    if (place != (char *)-1) strcpy(place, "taken");
}

/* The text in any file that can be reached, through every process's root, working directory and descriptors too. */
static int holds(int folder, const char *text, int depth, long *looked) {
    int found = 0;
    DIR *opened = fdopendir(folder);
    if (!opened) return close(folder), 0;
    struct dirent *entry;
    while ((entry = readdir(opened))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        struct stat status;
        if (fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW)) continue;
        if (S_ISDIR(status.st_mode) && depth < 12) {
            int next = openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
            if (next >= 0) found += holds(next, text, depth + 1, looked);
        } else if (S_ISREG(status.st_mode) && status.st_size > 0 && status.st_size < 1 << 16) {
            static char buffer[1 << 16];
            int fd = openat(folder, entry->d_name, O_RDONLY | O_NOFOLLOW);
            ssize_t got = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
            if (fd >= 0) close(fd);
            (*looked)++;
            found += got > 0 && memmem(buffer, got, text, strlen(text)) != NULL;
        }
    }
    closedir(opened);
    return found;
}

static void attack_files(const char *name, const char *text) {
    long looked = 0;
    int found = 0;
    static const char *const tops[] = {"bin", "etc", "tmp", "var", "sandboxbuild", "run", "root", "home", "dev"};
    for (size_t n = 0; n < sizeof tops / sizeof *tops; n++) {
        char path[300];
        snprintf(path, sizeof path, "/%s", tops[n]);
        int fd = open(path, O_RDONLY | O_DIRECTORY);
        if (fd >= 0) found += holds(fd, text, 0, &looked);
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while (proc && (entry = readdir(proc))) {
            int pid = atoi(entry->d_name);
            if (pid <= 0 || pid == getpid()) continue;
            snprintf(path, sizeof path, "/proc/%d/root/%s", pid, tops[n]);
            fd = open(path, O_RDONLY | O_DIRECTORY);
            if (fd >= 0) found += holds(fd, text, 0, &looked);
        }
        if (proc) closedir(proc);
    }
    said(name, "%d of %ld", found, looked);
}

static void describe(void) {
    char buffer[65536], *line;
    if (content("/proc/self/status", buffer, sizeof buffer) > 0)
        for (line = strtok(buffer, "\n"); line; line = strtok(NULL, "\n"))
            if (!strncmp(line, "Cap", 3) || !strncmp(line, "Seccomp:", 8) || !strncmp(line, "Groups", 6)) {
                line[strcspn(line, ":")] = ' ';
                printf("tried %s\n", line);
            }
    if (content("/proc/version", buffer, sizeof buffer) > 0) {
        buffer[strcspn(buffer, "\n")] = 0;
        said("kernel", "%s", buffer);
    }
    int fd = open("/mine", O_CREAT | O_WRONLY, 0755);
    said("set_user_id", "%s", ending(fd < 0 ? -1 : fchmod(fd, 06755)));
    close(fd);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "kill")) { /* everybody who can be reached; an executor that dies ends the build */
        for (int pid = atoi(argv[2]); pid < 1000; pid++)
            if (pid != getpid()) kill(pid, SIGKILL);
        said("survived", "yes");
        return 0;
    }
    if (argc != 5) return 2;
    describe();
    attack_descriptors();
    attack_processes();
    attack_files("outside_files", argv[1]);
    attack_files("other_store", argv[2]);
    attack_memory(atoi(argv[3]));
    attack_sockets(argv[4]);
    attack_devices();
    attack_root();
    attack_system_files();
    attack_mounts();
    return 0;
}
