/* Dialling the host over vsock. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

#include "dial.h"

int dial(unsigned int port, long ms)
{
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST,
				    .svm_port = port };
	struct timeval limit = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
	long deadline = now_ms() + ms;

	do {
		int why, fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

		/* A vsock connect has a deadline of its own, 2 s by default. */
		if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) &&
		    !connect(fd, (struct sockaddr *)&host, sizeof(host)))
			return fd;
		why = errno;
		if (fd >= 0)
			close(fd);
		errno = why;
		poll(NULL, 0, DIAL_EVERY_MS);
	} while (now_ms() < deadline);
	return -1;
}
