/*
 * The floor of a boot: PID 1 that dials the bridge's port of the host, and then does nothing.
 * Static, so that it is the whole image of a VM.
 */
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST,
				    .svm_port = 0x40000000 };

	for (;;) {
		int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

		if (fd >= 0 && !connect(fd, (struct sockaddr *)&host, sizeof(host)))
			for (;;)
				pause();
		if (fd >= 0)
			close(fd);
		usleep(1000);	/* the device may come later than PID 1 */
	}
}
