/*
 * vsockexec -r: the program's output goes through a pipe, so that it survives the loss of its
 * connection: the host of a VM that was moved listens again.
 *
 * A host reads records, line by line, and reads no more after a broken one. So what was cut by
 * the loss is sent again from the start of its line if that is still here, and else left out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dial.h"
#include "relay.h"
#include "store.h"

#define CHUNK (64 * 1024)	/* what a pipe holds */
#define DIAL_MS 10000		/* of one attempt; there is always another */
#define SEND_S 1		/* how often a host that does not read is thought about */

static int host = -1;	/* the connection */
static int program = -1;	/* the program's pidfd; it is there to the end of all output */
static int is_inside_line;	/* the last byte that was sent was no line end */
static int is_leaving_out;	/* the start of this line is lost, and so is the rest of it */

static int has_ended(void)
{
	struct pollfd wait = { .fd = program, .events = POLLIN };

	return poll(&wait, 1, 0) > 0;
}

/* Find or make the connection; for as long as it takes, but not for a program that has ended. */
static int connect_to(unsigned int port)
{
	struct timeval none = { 0 }, limit = { .tv_sec = SEND_S };

	while (host < 0) {
		host = store_find(port);
		if (host < 0 && (host = dial(port, DIAL_MS)) >= 0)
			store_keep(port, host);
		if (host < 0 && has_ended())
			return -1;
	}
	setsockopt(host, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	setsockopt(host, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return 0;
}

/* Where to go on after a loss: `sent` bytes of this chunk are gone, maybe within a line. */
static size_t resume_at(const char *chunk, size_t size, size_t sent)
{
	const char *end = memrchr(chunk, '\n', sent);

	if (end || !is_inside_line)
		return end ? (size_t)(end + 1 - chunk) : 0;
	end = memchr(chunk, '\n', size);
	is_leaving_out = !end;
	return end ? (size_t)(end + 1 - chunk) : size;
}

/* Send all of it; -1 when the program has ended and the host does not take it. */
static int send_chunk(const char *chunk, size_t size, unsigned int port)
{
	const char *end = is_leaving_out ? memchr(chunk, '\n', size) : chunk - 1;
	size_t sent;

	if (!end)
		return 0;
	is_leaving_out = 0;
	sent = end + 1 - chunk;
	while (sent < size) {
		ssize_t n = send(host, chunk + sent, size - sent, MSG_NOSIGNAL);

		if (n >= 0) {
			sent += n;
		} else if (errno == EAGAIN || errno == EINTR) {
			if (has_ended())
				return -1;
		} else {
			close(host);
			host = -1;
			if (connect_to(port))
				return -1;
			sent = resume_at(chunk, size, sent);
		}
	}
	is_inside_line = !is_leaving_out && chunk[size - 1] != '\n';
	return 0;
}

/* Start the program; it does not outlive us, or two would run after the next start. */
static pid_t start(char **argv, const int pipes[2], int has_stdout, int has_stderr)
{
	pid_t parent = getpid(), child = fork();

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	if ((has_stdout && dup2(pipes[1], STDOUT_FILENO) < 0) ||
	    (has_stderr && dup2(pipes[1], STDERR_FILENO) < 0))
		_exit(126);
	execvp(argv[0], argv);
	fail(argv[0]);
	_exit(127);
}

int relay(char **argv, unsigned int port, int has_stdout, int has_stderr)
{
	static char chunk[CHUNK];
	int pipes[2], status;
	ssize_t n;
	pid_t child;

	if (pipe2(pipes, O_CLOEXEC) || (child = start(argv, pipes, has_stdout, has_stderr)) < 0)
		return 1;
	close(pipes[1]);
	program = syscall(SYS_pidfd_open, child, 0);
	while (!connect_to(port)) {
		struct pollfd wait[] = { { .fd = pipes[0], .events = POLLIN },
					 { .fd = program, .events = POLLIN } };

		/* The end of the program is the end, whoever else still has the pipe. */
		if ((poll(wait, 2, -1) < 0 && errno != EINTR) || !(wait[0].revents & POLLIN) ||
		    (n = read(pipes[0], chunk, sizeof(chunk))) <= 0 || send_chunk(chunk, n, port))
			break;
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
