/* Connections that outlive their program; see store.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "store.h"

static struct connection {
	unsigned int port;
	int fd;
} kept[STORE_MAX];
static int kept_count;
static int ours = -1, theirs = -1;	/* vsockexec has only the latter */

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

static void put(unsigned int port, int fd)
{
	for (int i = 0; i < kept_count; i++)
		if (kept[i].port == port) {
			close(kept[i].fd);
			kept[i].fd = fd;
			return;
		}
	if (kept_count == STORE_MAX)
		close(fd);
	else
		kept[kept_count++] = (struct connection){ port, fd };
}

void store_collect(void)
{
	int pair[2];

	if (ours < 0) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			return;	/* then nothing is kept, and all else goes on */
		ours = pair[0];
		theirs = pair[1];
	}
	for (;;) {
		unsigned int port = 0;
		union control control;
		struct iovec data = { &port, sizeof(port) };
		struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1,
					  .msg_control = &control,
					  .msg_controllen = sizeof(control) };
		struct cmsghdr *item;
		int fd;

		if (recvmsg(ours, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
			return;
		item = CMSG_FIRSTHDR(&message);
		if (item && item->cmsg_type == SCM_RIGHTS) {
			memcpy(&fd, CMSG_DATA(item), sizeof(fd));
			put(port, fd);
		}
	}
}

void store_bequeath(char text[STORE_TEXT])
{
	int n;

	text[0] = '\0';
	if (theirs < 0)
		return;
	fcntl(theirs, F_SETFD, 0);
	n = snprintf(text, STORE_TEXT, STORE_VARIABLE "=%d", theirs);
	for (int i = 0; i < kept_count; i++) {
		fcntl(kept[i].fd, F_SETFD, 0);
		n += snprintf(text + n, STORE_TEXT - n, " %u=%d", kept[i].port, kept[i].fd);
	}
}

void store_inherit(void)
{
	char *text = getenv(STORE_VARIABLE), *end;

	if (!text)
		return;
	theirs = strtol(text, &end, 10);
	fcntl(theirs, F_SETFD, FD_CLOEXEC);
	while (*end == ' ') {
		unsigned int port = strtoul(end + 1, &end, 10);
		int fd = *end == '=' ? (int)strtol(end + 1, &end, 10) : -1;

		/* None of these is the program's, but for what becomes a standard stream. */
		if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC))
			break;
		put(port, fd);
	}
	unsetenv(STORE_VARIABLE);
}

int store_find(unsigned int port)
{
	for (int i = 0; i < kept_count; i++)
		if (kept[i].port == port) {
			int fd = kept[i].fd;
			char byte;
			ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

			kept[i] = kept[--kept_count];
			if (n > 0 || (n < 0 && errno == EAGAIN))
				return fd;
			close(fd);
		}
	return -1;
}

void store_keep(unsigned int port, int fd)
{
	union control control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)),
					      .cmsg_level = SOL_SOCKET,
					      .cmsg_type = SCM_RIGHTS } };
	struct iovec data = { &port, sizeof(port) };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	/* Without a store, or with a full one, the connection ends with its program. */
	if (theirs >= 0)
		sendmsg(theirs, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}
