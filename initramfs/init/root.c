/*
 * The VM's root: a file system that nobody can write, root included.
 *
 * A root image is one by itself: erofs has no code to write. An initrd is not: the kernel unpacks
 * it into rootfs, a tmpfs at the bottom of every mount namespace, which whoever is root can make
 * writable. So what is in it is moved to a tmpfs of its own, an overlay without an upper folder
 * is laid over that, and then it is unmounted: nothing but the overlay has it any more, and an
 * overlay without an upper folder can't be made writable (EROFS). This takes no memory, for a
 * file is deleted as soon as it has been copied, and an overlay has no pages of its own. It is
 * also a root that pivot_root(2), which OCI runtimes use, can leave.
 *
 * Source: ovl_reconfigure() in fs/overlayfs/params.c, init_mount_tree() in fs/namespace.c.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

#define KEPT ".kept"			/* where the new tmpfs is for a moment */
#define SHOWN ".shown"			/* where the overlay is before it is the root */

extern char **environ;

/* The same bytes from any boot: no file tells when that was. */
static const struct timespec no_times[2];

static int copy_file(int from, int to, const char *name, const struct stat *file)
{
	int in = openat(from, name, O_RDONLY | O_CLOEXEC);
	int out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, file->st_mode & 07777);
	off_t left = file->st_size;
	ssize_t n = 0;

	while (in >= 0 && out >= 0 && left > 0 && (n = sendfile(out, in, NULL, left)) > 0)
		left -= n;
	if (out >= 0)
		futimens(out, no_times);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return in >= 0 && out >= 0 && !left ? 0 : -1;
}

static int copy_link(int from, int to, const char *name)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(from, name, target, sizeof(target) - 1);

	if (n < 0)
		return -1;
	target[n] = '\0';
	if (symlinkat(target, to, name))
		return -1;
	return utimensat(to, name, no_times, AT_SYMLINK_NOFOLLOW);
}

static int move_folder(int from, int to);

static int move_below(int from, int to, const char *name, mode_t mode)
{
	int in = openat(from, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), out, status;

	if (in < 0 || mkdirat(to, name, mode & 07777))
		return -1;
	out = openat(to, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (out < 0)
		return -1;
	status = move_folder(in, out);
	futimens(out, no_times);
	close(out);
	/* A folder in which something was left stays. */
	if (!status && unlinkat(from, name, AT_REMOVEDIR) && errno != ENOTEMPTY)
		status = -1;
	return status;
}

static int move_entry(int from, int to, const char *name)
{
	struct stat entry;

	if (fstatat(from, name, &entry, AT_SYMLINK_NOFOLLOW))
		return -1;
	if (S_ISDIR(entry.st_mode))
		return move_below(from, to, name, entry.st_mode);
	/* The kernel's own /dev/console is open, and of no more use. */
	if (!S_ISREG(entry.st_mode) && !S_ISLNK(entry.st_mode))
		return 0;
	if (S_ISREG(entry.st_mode) ? copy_file(from, to, name, &entry) : copy_link(from, to, name))
		return -1;
	return unlinkat(from, name, 0);
}

/* Move what is in a folder, which is closed; name what could not be moved. */
static int move_folder(int from, int to)
{
	DIR *folder = fdopendir(from);
	struct dirent *entry;
	int status = 0;

	while (!status && folder && (entry = readdir(folder))) {
		const char *name = entry->d_name;

		if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, KEPT))
			continue;
		status = move_entry(from, to, name);
		if (status)
			say("error", "moving", name);
	}
	if (folder)
		closedir(folder);
	return folder ? status : -1;
}

static int move_all(void)
{
	int from = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), to;

	/* Whole: the files are there already, and nobody can add to them. */
	if (mkdir("/" KEPT, 0700) || mount("root", "/" KEPT, "tmpfs", 0, "mode=0700,size=100%") ||
	    mkdir("/" KEPT "/files", 0755) || mkdir("/" KEPT "/none", 0755))
		return -1;
	to = open("/" KEPT "/files", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (from < 0 || to < 0 || move_folder(from, to))
		return -1;
	futimens(to, no_times);
	return close(to);
}

/* Without an upper folder an overlay wants two lower ones. */
static int show_files(void)
{
	return mkdir("/" SHOWN, 0700) ||
	       mount("root", "/" SHOWN, "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV,
		     "lowerdir=/" KEPT "/files:/" KEPT "/none") ||
	       umount2("/" KEPT, MNT_DETACH) || rmdir("/" KEPT) ||
	       chdir("/" SHOWN) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") ||
	       chdir("/");
}

void leave_rootfs(char **argv)
{
	struct statfs root;
	mode_t mask;
	int status;

	if (statfs("/", &root) || (root.f_type != RAMFS_MAGIC && root.f_type != TMPFS_MAGIC))
		return;
	mask = umask(0);
	status = move_all() || show_files();
	umask(mask);
	/* This very program is still the one in rootfs. */
	if (!status)
		execve(argv[0], argv, environ);
	say("error", "leaving", "rootfs");
}

/* In a namespace of its own, get below the root and make what is there read-only. */
static int close_below(void)
{
	int here;

	if (unshare(CLONE_NEWNS))
		return -1;
	here = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (here < 0 || umount2("/", MNT_DETACH) || setns(here, CLONE_NEWNS) ||
	    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL))
		return -1;
	return 0;
}

void close_rootfs(void)
{
	pid_t child = fork();
	int status = -1;

	if (!child) {
		if (close_below())
			say("warning", "making read-only", "rootfs");
		_exit(0);
	}
	if (child > 0)
		waitpid(child, &status, 0);
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL))
		say("error", "making read-only", "/");
}
