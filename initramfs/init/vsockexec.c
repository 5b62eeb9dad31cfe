/*
 * vsockexec [-i PORT] [-o PORT] [-e PORT] [-r] PROGRAM [ARGUMENT...]
 *
 * Run a program whose standard streams are connections to ports of the host: how hosts in use
 * start the agent (vsockexec -e 109 /bin/gcs ...). Equal ports are one connection. When PID 1
 * starts the program again it gets the connections that it had before, see store.h. With -r the
 * output goes through a relay that outlives its connection, see relay.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "dial.h"
#include "relay.h"
#include "store.h"

#define DIAL_MS 10000	/* the device is there at boot; a host listens before it starts a VM */
#define STREAMS 3

int fail(const char *what)
{
	time_t seconds = time(NULL);
	char when[32];

	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime(&seconds));
	fprintf(stderr, "{\"level\":\"error\",\"msg\":\"vsockexec: %s: %m\",\"time\":\"%s\"}\n", what,
		when);
	return 1;
}

/* Return the connection of a stream: an earlier one's to the same port, or a new one. */
static int connection(const unsigned long ports[], const int connections[], int stream)
{
	struct timeval none = { 0 };
	int fd;

	for (int i = 0; i < stream; i++)
		if (connections[i] >= 0 && ports[i] == ports[stream])
			return connections[i];
	fd = store_find(ports[stream]);
	if (fd >= 0)
		return fd;
	fd = dial(ports[stream], DIAL_MS);
	if (fd < 0)
		return -1;
	/* The program's reads have no deadline. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	store_keep(ports[stream], fd);
	return fd;
}

int main(int argc, char **argv)
{
	unsigned long ports[STREAMS] = { 0 };
	int asked[STREAMS] = { 0 }, connections[STREAMS] = { -1, -1, -1 }, option, relays = 0;

	store_inherit();
	/* "+": what follows the program's name is the program's. */
	while ((option = getopt(argc, argv, "+i:o:e:r")) != -1) {
		int stream = option == 'i' ? 0 : option == 'o' ? 1 : 2;

		if (option == '?')
			return 1;
		if (option == 'r') {
			relays = 1;
			continue;
		}
		asked[stream] = 1;
		ports[stream] = strtoul(optarg, NULL, 0);
	}
	if (optind >= argc) {
		errno = EINVAL;
		return fail("no program to run");
	}
	if (relays && asked[1] && asked[2] && ports[1] != ports[2]) {
		errno = EINVAL;
		return fail("two ports for one relay");
	}
	if (relays && (asked[1] || asked[2]))
		return relay(argv + optind, ports[asked[2] ? 2 : 1], asked[1], asked[2]);
	for (int i = 0; i < STREAMS; i++)
		if (asked[i] && !relays && (connections[i] = connection(ports, connections, i)) < 0)
			return fail("dialling the host");
	for (int i = 0; i < STREAMS; i++)
		if (connections[i] >= 0 && dup2(connections[i], i) < 0)
			return fail("dup2");
	execvp(argv[optind], argv + optind);
	return fail(argv[optind]);
}
