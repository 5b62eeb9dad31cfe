/*
 * PID 1 of the utility VM: mount, start the agent, start it again if it dies, reap, power off.
 *
 * /init [-e PORT] [-w] [PROGRAM ARGUMENT...]
 *
 * The host reads this console as a stream of JSON objects, so every message here is one line
 * of JSON, written by one write(2). Nothing but a failed mount stops the VM from starting: an
 * agent that runs without entropy or loopback can still say what is wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "dial.h"
#include "init.h"
#include "store.h"

#define VSOCKEXEC "/bin/vsockexec"
#define EXITS "/run/gcs/exits"
#define EXITS_MAX_BYTES (1 << 20)	/* some 40,000 lines; the older half is then dropped */
#define BACKOFF_MIN_MS 100		/* a first death is often a passing one */
#define BACKOFF_MAX_MS 5000
#define STABLE_MS 10000			/* an agent that lived this long starts afresh at once */
#define TERM_MS 2000			/* what processes get between SIGTERM and SIGKILL */
#define UNMOUNT_MS 10000		/* a dead 9p server must not keep the VM alive */
#define MOUNTS_MAX 1024			/* 128 layers, and some mounts for each of 100 containers */

static char *default_program[] = { "/bin/gcs", "-v4", "-log-format", "json",
				   "-loglevel", "info", NULL };
static char *environment[] = { "PATH=/sbin:/usr/sbin:/bin:/usr/bin", NULL };

/* Escape what JSON wants escaped; bytes above 0x7e may be no UTF-8, so they are shown as '?'. */
static void escape(char *out, size_t size, const char *text)
{
	size_t n = 0;

	for (; *text && n + 3 < size; text++) {
		if (*text == '"' || *text == '\\')
			out[n++] = '\\';
		out[n++] = *text < ' ' || *text > '~' ? '?' : *text;
	}
	out[n] = '\0';
}

/* Say one thing about one object; the text of errno is added for errors and warnings. */
void say(const char *level, const char *what, const char *object)
{
	const char *error = *level == 'i' ? "" : strerror(errno);
	char name[256], line[640], when[32];
	time_t seconds = time(NULL);
	struct tm utc;
	int n;

	gmtime_r(&seconds, &utc);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &utc);
	escape(name, sizeof(name), object);
	n = snprintf(line, sizeof(line), "{\"level\":\"%s\",\"msg\":\"init: %s %s%s%s\",\"time\":\"%s\"}\n",
		     level, what, name, *error ? ": " : "", error, when);
	if (write(STDERR_FILENO, line, n) < 0)
		return;	/* no console: there is nowhere else to say it */
}

/* Start the program in a session of its own; 0 when there is no process for it. */
static pid_t start(char **program)
{
	char store[STORE_TEXT];
	char *extended[] = { environment[0], store, NULL };
	sigset_t none;
	pid_t child;

	store_collect();
	child = fork();
	if (child < 0)
		say("error", "forking for", program[0]);
	if (child)
		return child < 0 ? 0 : child;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	/* Only vsockexec knows what to do with it, and closes it for what comes after. */
	if (!strcmp(program[0], VSOCKEXEC))
		store_bequeath(store);
	else
		extended[1] = NULL;
	execve(program[0], program, extended);
	say("error", "starting", program[0]);
	_exit(127);
}

/* When a process, still a zombie, was started, in clock ticks: field 22 of its stat. */
static unsigned long long start_time(pid_t pid)
{
	unsigned long long ticks = 0;
	char path[32], text[1024] = "", *field;
	FILE *stat;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	stat = fopen(path, "re");
	if (!stat)
		return 0;
	if (fread(text, 1, sizeof(text) - 1, stat) && (field = strrchr(text, ')')))
		/* The name may hold anything, so count from its closing bracket, field 2. */
		sscanf(field + 1, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s"
		       " %*s %*s %*s %*s %llu", &ticks);
	fclose(stat);
	return ticks;
}

/* Note the end of a process that was not ours, for the agent that adopts what runs. */
static void record(pid_t pid, unsigned long long started, int status)
{
	int fd = open(EXITS, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	struct stat file;

	if (fd < 0 || dprintf(fd, "%d %llu %d\n", pid, started, status) < 0)
		say("warning", "appending to", EXITS);
	else if (!fstat(fd, &file) && file.st_size > EXITS_MAX_BYTES)
		rename(EXITS, EXITS ".old");
	if (fd >= 0)
		close(fd);
}

/* Reap all that ended; say whether the program is among them, and its status. */
static int reap(pid_t program, int *program_status)
{
	siginfo_t info = { 0 };
	int found = 0, status;

	while (!waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid) {
		unsigned long long started = start_time(info.si_pid);

		if (waitpid(info.si_pid, &status, 0) == program) {
			*program_status = status;
			found = 1;
		} else {
			record(info.si_pid, started, status);
		}
		info.si_pid = 0;
	}
	return found;
}

/* Wait for one of the blocked signals; 0 when the time is over. A negative time is for ever. */
static int next_signal(const sigset_t *set, long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
	int number = ms < 0 ? sigwaitinfo(set, NULL) : sigtimedwait(set, NULL, &time);

	return number < 0 ? 0 : number;
}

/* Reap until nothing is left, at most so long; `only` narrows it to one child of ours. */
static void reap_until(const sigset_t *set, long ms, pid_t only)
{
	long deadline = now_ms() + ms, left;
	int status;

	while ((left = deadline - now_ms()) > 0) {
		if (reap(only, &status) || (only < 0 && waitpid(-1, NULL, WNOHANG) < 0))
			return;
		next_signal(set, left < BACKOFF_MIN_MS ? left : BACKOFF_MIN_MS);
	}
}

/* Unmount all, last first; what is busy is at least written out. */
static void unmount_all(void)
{
	static char *targets[MOUNTS_MAX];
	FILE *table = setmntent("/proc/self/mounts", "re");
	struct mntent *entry;
	int n = 0;

	sync();
	while (table && n < MOUNTS_MAX && (entry = getmntent(table)))
		targets[n++] = strdup(entry->mnt_dir);
	while (n-- > 0)
		if (targets[n] && umount2(targets[n], UMOUNT_NOFOLLOW))
			mount(NULL, targets[n], NULL, MS_REMOUNT | MS_RDONLY, NULL);
	sync();
}

/* End every process, write everything out, and leave: for power off or a new start. */
static void leave(const sigset_t *set, int how)
{
	pid_t child;

	say("info", "stopping for", how == RB_POWER_OFF ? "power off" : "reboot");
	kill(-1, SIGTERM);
	reap_until(set, TERM_MS, -1);
	kill(-1, SIGKILL);
	reap_until(set, TERM_MS, -1);
	/* In a child: sync(2) and umount(2) have no deadline of their own. */
	child = fork();
	if (!child) {
		unmount_all();
		_exit(0);
	}
	reap_until(set, UNMOUNT_MS, child);
	reboot(how);
	say("error", "reboot", "");
}

/* Keep the program running until a signal says otherwise. */
static void supervise(const sigset_t *set, char **program)
{
	long backoff = BACKOFF_MIN_MS, started = 0, wake = now_ms();
	pid_t child = 0;

	for (;;) {
		long left = wake - now_ms();
		int number, status;
		char ended[32];

		if (!child && left <= 0) {
			started = now_ms();
			child = start(program);
			wake = started + BACKOFF_MAX_MS;
			continue;
		}
		number = next_signal(set, child ? -1 : left);
		if (number == SIGTERM || number == SIGINT)
			return leave(set, number == SIGTERM ? RB_POWER_OFF : RB_AUTOBOOT);
		if (!reap(child, &status))
			continue;
		if (now_ms() - started > STABLE_MS)
			backoff = BACKOFF_MIN_MS;
		if (WIFSIGNALED(status))
			snprintf(ended, sizeof(ended), "signal %d", WTERMSIG(status));
		else
			snprintf(ended, sizeof(ended), "exit status %d", WEXITSTATUS(status));
		say("info", "starting the program again after its", ended);
		child = 0;
		wake = now_ms() + backoff;
		backoff = backoff * 2 < BACKOFF_MAX_MS ? backoff * 2 : BACKOFF_MAX_MS;
	}
}

int main(int argc, char **argv)
{
	const char *entropy_port = NULL;
	int i = 1, is_writable = 0;
	sigset_t set;

	if (getpid() != 1) {
		errno = EPERM;
		say("error", "not PID 1:", argv[0]);
		return 1;
	}
	leave_rootfs(argv);
	/* The kernel also passes parameters that it does not know: skip to what looks like ours. */
	for (; i < argc && argv[i][0] != '/'; i++)
		if (!strcmp(argv[i], "-e") && i + 1 < argc)
			entropy_port = argv[++i];
		else if (!strcmp(argv[i], "-w"))
			is_writable = 1;
		else if (!strcmp(argv[i], "-d") && i + 1 < argc)
			say("info", "no debug shell:", argv[++i]);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	set_up(entropy_port, is_writable);
	supervise(&set, i < argc ? argv + i : default_program);
	return 1;
}
