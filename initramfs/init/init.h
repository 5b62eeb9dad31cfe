/* What the two halves of PID 1 share: setup.c runs once at boot, init.c from then on. */
#ifndef GCS_INIT_H
#define GCS_INIT_H

/* Say one thing about one object; errno's text is added unless the level is "info". */
void say(const char *level, const char *what, const char *object);

/*
 * Make the VM ready for its first process; entropy_port is NULL or a decimal number, and
 * is_writable asks for /etc and /var that can be written.
 */
void set_up(const char *entropy_port, int is_writable);

#endif
