/* vsockexec -r: stay, and carry the program's output to the host over one connection at a time. */
#ifndef GCS_RELAY_H
#define GCS_RELAY_H

/* Say on stderr, as a line of JSON, what failed and why (errno); return 1. */
int fail(const char *what);

/* Run the program with the given streams (1, 2) in a pipe to that port; return its status. */
int relay(char **argv, unsigned int port, int has_stdout, int has_stderr);

#endif
