/*
 * Connects to vsock ports and says what came of it.
 *
 * Usage: probe CID FIRST LAST [CID FIRST LAST]...
 *
 * One line for each port that answered ("open CID PORT") and one for each range with the number
 * of refusals by their reason. Exit status: 0 nothing answered, 1 something did, 3 there are no
 * such sockets here.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

/* At once: below the usual limit of 1024 descriptors. */
#define BATCH 512
/* The kernel itself gives up after 2 s. */
#define WAIT_MS 15000

static int counts[256];
static int opened;

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void count(unsigned cid, unsigned port, int error)
{
	if (error == 0) {
		printf("open %u %u\n", cid, port);
		opened++;
	}
	counts[error & 255]++;
}

static int dial(unsigned cid, unsigned port, int *error)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port,
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0) {
		printf("socket: %s\n", strerror(errno));
		exit(3);
	}
	*error = connect(fd, (struct sockaddr *)&address, sizeof(address)) ? errno : 0;
	return fd;
}

static void finish(struct pollfd *fds, const unsigned *ports, int n, unsigned cid)
{
	long long end = now_ms() + WAIT_MS;
	int left = n;

	while (left > 0 && now_ms() < end) {
		if (poll(fds, n, 1000) < 0)
			break;
		for (int i = 0; i < n; i++) {
			int error = 0;
			socklen_t size = sizeof(error);

			if (fds[i].fd < 0 || !fds[i].revents)
				continue;
			getsockopt(fds[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
			count(cid, ports[i], error);
			close(fds[i].fd);
			fds[i].fd = -1;
			left--;
		}
	}
	for (int i = 0; i < n; i++) {
		if (fds[i].fd >= 0) {
			count(cid, ports[i], EINPROGRESS);
			close(fds[i].fd);
		}
	}
}

static void probe(unsigned cid, unsigned long long first, unsigned long long last)
{
	static struct pollfd fds[BATCH];
	static unsigned ports[BATCH];

	memset(counts, 0, sizeof(counts));
	while (first <= last) {
		int n = 0;

		for (int tried = 0; first <= last && tried < BATCH; first++, tried++) {
			int error, fd = dial(cid, first, &error);

			if (error != EINPROGRESS) {
				count(cid, first, error);
				close(fd);
				continue;
			}
			ports[n] = first;
			fds[n++] = (struct pollfd){.fd = fd, .events = POLLOUT};
		}
		finish(fds, ports, n, cid);
	}
	printf("cid %u:", cid);
	for (int error = 0; error < 256; error++)
		if (counts[error])
			printf(" %s=%d", error ? strerrorname_np(error) : "open", counts[error]);
	printf("\n");
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i + 2 < argc; i += 3)
		probe(strtoul(argv[i], NULL, 0), strtoull(argv[i + 1], NULL, 0),
		      strtoull(argv[i + 2], NULL, 0));
	return opened ? 1 : 0;
}
