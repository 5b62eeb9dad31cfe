/* Dialling the host, for PID 1 and for vsockexec. */
#ifndef GCS_DIAL_H
#define GCS_DIAL_H
#include <time.h>

#define DIAL_EVERY_MS 100	/* the pace at which the agent dials its host, too */

static inline long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}


/*
 * Connect to a port of the host within so many milliseconds, as the device may appear only
 * later; -1 with errno when that failed. Reads from the connection end after that time, too.
 */
int dial(unsigned int port, long ms);
#endif
