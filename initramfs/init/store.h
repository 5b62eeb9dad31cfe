/*
 * Connections that outlive the program that made them: a host listens once for the log, so when
 * the agent is started again it must write to the connection that the last one had.
 *
 * PID 1 gives vsockexec one end of a socket pair. vsockexec sends each connection that it makes
 * there, as a descriptor with its port. PID 1 takes them off when it starts the program again
 * (until then they wait in the socket) and has it inherit them. What is inherited is told by an
 * environment variable: the socket, then the connections, as in "GCS_STORE=3 109=4".
 */
#ifndef GCS_STORE_H
#define GCS_STORE_H

#define STORE_VARIABLE "GCS_STORE"
#define STORE_MAX 3		/* one connection for each standard stream */
#define STORE_TEXT 96		/* the variable: four numbers of 10 digits, three of 10 more */

/* PID 1: take what the last program left; make the store if there is none. */
void store_collect(void);

/* The child of PID 1: let the program inherit all; text gets the variable, "" without a store. */
void store_bequeath(char text[STORE_TEXT]);

/* vsockexec: take over what is inherited. To be called once, before anything else. */
void store_inherit(void);

/* vsockexec: take out the connection to a port, if the host has not closed it; else -1. */
int store_find(unsigned int port);

/* vsockexec: have a connection kept. */
void store_keep(unsigned int port, int fd);

#endif
