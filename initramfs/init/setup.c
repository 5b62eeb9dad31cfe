/*
 * What PID 1 does once, before the first process: mounts, control groups, loopback, entropy.
 *
 * A step that fails is said and passed over: a VM with half of it can still say what is wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dial.h"
#include "init.h"

#define ENTROPY_MS 3000			/* a host that serves entropy does so at once */
#define ENTROPY_MAX_BYTES 512		/* twice what the kernel's pool holds */

#define ENABLED "/sys/fs/cgroup/cgroup.subtree_control"

#define OVER "/run/over"		/* what is written to /etc and /var with -w */

static const struct mount {
	const char *source, *target, *fstype;
	unsigned long flags;
	const char *data;
} mounts[] = {
	{ "dev", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755" },
	{ "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
	{ "sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
	/* A fifth of memory each: together they cannot starve the containers. */
	{ "run", "/run", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=20%" },
	{ "tmp", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=20%" },
	{ "shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=20%" },
	{ "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666" },
	{ "cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate" },
};

static const char *const links[][2] = {
	{ "/proc/self/fd", "/dev/fd" },
	{ "/proc/self/fd/0", "/dev/stdin" },
	{ "/proc/self/fd/1", "/dev/stdout" },
	{ "/proc/self/fd/2", "/dev/stderr" },
	{ "/proc/kcore", "/dev/core" },
};

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int status = fd < 0 || write(fd, text, strlen(text)) < 0 ? -1 : 0;

	if (status)
		say("warning", "writing", path);
	if (fd >= 0)
		close(fd);
	return status;
}

static void mount_all(void)
{
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		const struct mount *m = &mounts[i];

		/* Fails where it is there already, or where the image lacks it: mount(2) tells. */
		mkdir(m->target, 0755);
		/* The kernel mounts /dev itself where it has mounted the root. */
		if (mount(m->source, m->target, m->fstype, m->flags, m->data) &&
		    (errno != EBUSY ||
		     mount(NULL, m->target, NULL, MS_REMOUNT | m->flags, m->data)))
			say("error", "mounting", m->target);
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlink(links[i][0], links[i][1]) && errno != EEXIST)
			say("warning", "linking", links[i][1]);
	if (mkdir("/run/gcs", 0700))
		say("warning", "making", "/run/gcs");
}

/*
 * Let the root's children use every controller that this kernel has: all in one write, since each
 * is a turn of the whole hierarchy. It enables all or none, so then each that can be by itself.
 */
static void enable_controllers(void)
{
	FILE *list = fopen("/sys/fs/cgroup/cgroup.controllers", "re");
	char name[64], line[1024];
	size_t length = 0;

	if (!list) {
		say("warning", "reading", "/sys/fs/cgroup/cgroup.controllers");
		return;
	}
	while (length + sizeof(name) + 2 < sizeof(line) && fscanf(list, "%63s", name) == 1)
		length += sprintf(line + length, "+%s ", name);
	if (length && write_file(ENABLED, line)) {
		rewind(list);
		while (fscanf(list, "%63s", name) == 1) {
			snprintf(line, sizeof(line), "+%s", name);
			write_file(ENABLED, line);
		}
	}
	fclose(list);
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	/* The kernel gives a loopback device 127.0.0.1 and ::1 as it goes up. */
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		say("warning", "setting up", "lo");
	if (fd >= 0)
		close(fd);
}

/* Mix what the host sends until it closes into the kernel's random pool. */
static void add_entropy(const char *port)
{
	struct { struct rand_pool_info info; char data[ENTROPY_MAX_BYTES]; } pool = { 0 };
	long deadline = now_ms() + ENTROPY_MS;
	int fd = dial(strtoul(port, NULL, 0), ENTROPY_MS), urandom;
	ssize_t n;

	while (fd >= 0 && now_ms() < deadline && pool.info.buf_size < ENTROPY_MAX_BYTES &&
	       (n = read(fd, (char *)pool.info.buf + pool.info.buf_size,
			 ENTROPY_MAX_BYTES - pool.info.buf_size)) > 0)
		pool.info.buf_size += n;
	pool.info.entropy_count = pool.info.buf_size * 8;
	urandom = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	if (fd < 0 || urandom < 0 || !pool.info.buf_size || ioctl(urandom, RNDADDENTROPY, &pool))
		say("warning", "reading entropy from vsock port", port);
	if (urandom >= 0)
		close(urandom);
	if (fd >= 0)
		close(fd);
}

/* Let a folder of the read-only root be written; what is written goes with the VM. */
static void make_writable(const char *name)
{
	char upper[64], work[64], target[64], options[256];

	snprintf(upper, sizeof(upper), OVER "/%s", name);
	mkdir(upper, 0755);
	snprintf(upper, sizeof(upper), OVER "/%s/upper", name);
	snprintf(work, sizeof(work), OVER "/%s/work", name);
	snprintf(target, sizeof(target), "/%s", name);
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", target, upper, work);
	if (mkdir(upper, 0755) || mkdir(work, 0755) ||
	    mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options))
		say("error", "making writable", target);
}

static void make_some_writable(void)
{
	/* As much as hosts in use allow. */
	if (mkdir(OVER, 0755) ||
	    mount("over", OVER, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=40%")) {
		say("error", "mounting", OVER);
		return;
	}
	make_writable("etc");
	make_writable("var");
}

void set_up(const char *entropy_port, int is_writable)
{
	const struct rlimit files = { .rlim_cur = 1024, .rlim_max = 1048576 };

	mount_all();
	close_rootfs();
	/* As in the agents that hosts know: low for old programs, raised by who needs more. */
	if (setrlimit(RLIMIT_NOFILE, &files))
		say("warning", "setting the limit of", "open files");
	if (is_writable)
		make_some_writable();
	enable_controllers();
	/*
	 * Each CPU keeps free pages at hand, which the host does not get back: all together about
	 * this part of the memory, or four batches each. In a VM of 256 MiB the kernel would take
	 * 3 MiB, this leaves less than half of one.
	 */
	write_file("/proc/sys/vm/percpu_pagelist_high_fraction", "1024");
	loopback_up();
	if (entropy_port)
		add_entropy(entropy_port);
	/* Ctrl-Alt-Del, or its like from the host, becomes a SIGINT that is handled below. */
	reboot(RB_DISABLE_CAD);
}
