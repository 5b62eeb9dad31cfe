/* What the parts of PID 1 share: root.c and setup.c run once at boot, init.c from then on. */
#ifndef GCS_INIT_H
#define GCS_INIT_H

/* Say one thing about one object; errno's text is added unless the level is "info". */
void say(const char *level, const char *what, const char *object);

/* Have a root other than the kernel's rootfs; starts argv anew from there if need be. */
void leave_rootfs(char **argv);

/* Make the root, and the rootfs below it, read-only; it needs /proc. */
void close_rootfs(void);

/*
 * Make the VM ready for its first process; entropy_port is NULL or a decimal number, and
 * is_writable asks for /etc and /var that can be written.
 */
void set_up(const char *entropy_port, int is_writable);

#endif
