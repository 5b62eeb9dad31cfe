/*
 * Hears and sends over every way that root has in a network namespace.
 *
 * Usage: raw_probe listen              until the end of stdin
 *        raw_probe send LETTER MAC IP
 *
 * The listener prints "ready", then "heard LETTER WAY" once for each sender and way. Its ways
 * are packet sockets (all frames of all links, which are promiscuous), raw IP sockets, a UDP
 * socket and an abstract unix socket. The sender tries each link with frames to the MAC address
 * and to all, raw IP, UDP to the address and to loopback, and the abstract socket; it prints
 * "sent WAY" for what the kernel took. Exit status: 0, or 2 when a socket can't be made.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MARK "gcs-raw-probe:"
#define PORT 7777
#define NAME "gcs-raw-probe"
/* Local experimental ethertype, IEEE 802. */
#define OWN_TYPE 0x88b5

enum { PACKET, ICMP, RAW_UDP, UDP, UNIX, WAYS };
static const char *const ways[WAYS] = { "packet", "icmp", "raw-udp", "udp", "unix" };

static int must(int fd, const char *what)
{
	if (fd < 0) {
		perror(what);
		exit(2);
	}
	return fd;
}

static socklen_t unix_name(struct sockaddr_un *name)
{
	memset(name, 0, sizeof(*name));
	name->sun_family = AF_UNIX;
	memcpy(name->sun_path + 1, NAME, strlen(NAME));
	return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(NAME);
}

static struct sockaddr_in inet_name(const char *ip)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(PORT) };

	if (inet_pton(AF_INET, ip, &name.sin_addr) != 1)
		exit(2);
	return name;
}

/* -- listening -------------------------------------------------------------------------------- */

static void make_promiscuous(int fd)
{
	struct if_nameindex *links = if_nameindex();

	for (struct if_nameindex *one = links; one && one->if_index; one++) {
		struct packet_mreq request = { .mr_ifindex = one->if_index, .mr_type = PACKET_MR_PROMISC };

		setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request));
	}
	if_freenameindex(links);
}

static void hear(int fd, int way, char seen[WAYS][256])
{
	static char data[65536];
	ssize_t size = recv(fd, data, sizeof(data) - 1, MSG_DONTWAIT);
	char *found = size > 0 ? memmem(data, size, MARK, strlen(MARK)) : NULL;
	unsigned char letter;

	if (!found)
		return;
	data[size] = 0;
	letter = found[strlen(MARK)];
	if (seen[way][letter]++ == 0) {
		printf("heard %c %s\n", letter, ways[way]);
		fflush(stdout);
	}
	seen[way][letter] = 1;
}

static int listen_to_all(void)
{
	static char seen[WAYS][256];
	struct sockaddr_in any = inet_name("0.0.0.0");
	struct sockaddr_un name;
	socklen_t length = unix_name(&name);
	struct pollfd fds[WAYS + 1];

	fds[PACKET].fd = must(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), "packet");
	fds[ICMP].fd = must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "icmp");
	fds[RAW_UDP].fd = must(socket(AF_INET, SOCK_RAW, IPPROTO_UDP), "raw udp");
	fds[UDP].fd = must(socket(AF_INET, SOCK_DGRAM, 0), "udp");
	fds[UNIX].fd = must(socket(AF_UNIX, SOCK_DGRAM, 0), "unix");
	fds[WAYS].fd = STDIN_FILENO;
	make_promiscuous(fds[PACKET].fd);
	must(bind(fds[UDP].fd, (struct sockaddr *)&any, sizeof(any)), "bind udp");
	must(bind(fds[UNIX].fd, (struct sockaddr *)&name, length), "bind unix");
	for (int i = 0; i <= WAYS; i++)
		fds[i].events = POLLIN;
	puts("ready");
	fflush(stdout);
	while (poll(fds, WAYS + 1, -1) >= 0 && !fds[WAYS].revents)
		for (int way = 0; way < WAYS; way++)
			if (fds[way].revents)
				hear(fds[way].fd, way, seen);
	return 0;
}

/* -- sending ---------------------------------------------------------------------------------- */

struct packet {
	struct iphdr ip;
	struct udphdr udp;
	char text[32];
} __attribute__((packed));

static unsigned short checksum(const void *data, size_t size)
{
	const unsigned short *words = data;
	unsigned long sum = 0;

	for (size_t i = 0; i < size / 2; i++)
		sum += words[i];
	sum = (sum >> 16) + (sum & 0xffff);
	sum += sum >> 16;
	return ~sum;
}

static struct packet make_packet(const char *text, struct in_addr to)
{
	struct packet packet = {
		.ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
			.tot_len = htons(sizeof(packet)), .daddr = to.s_addr },
		/* Without a checksum, which IPv4 allows. */
		.udp = { .source = htons(PORT), .dest = htons(PORT),
			 .len = htons(sizeof(packet.udp) + sizeof(packet.text)) },
	};

	inet_pton(AF_INET, "10.5.0.99", &packet.ip.saddr);
	strncpy(packet.text, text, sizeof(packet.text) - 1);
	packet.ip.check = checksum(&packet.ip, sizeof(packet.ip));
	return packet;
}

static void report(ssize_t sent, const char *way, const char *link)
{
	if (sent >= 0)
		printf("sent %s%s%s\n", way, *link ? " " : "", link);
	else
		printf("not sent %s %s: %s\n", way, link, strerror(errno));
}

static void send_frames(const struct packet *packet, const unsigned char *mac)
{
	static const unsigned char all[6] = { 255, 255, 255, 255, 255, 255 };
	static const unsigned short types[] = { ETH_P_IP, OWN_TYPE };
	int fd = must(socket(AF_PACKET, SOCK_DGRAM, 0), "packet");
	struct if_nameindex *links = if_nameindex();

	for (struct if_nameindex *one = links; one && one->if_index; one++) {
		for (int i = 0; i < 4; i++) {
			struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_halen = 6,
				.sll_ifindex = one->if_index, .sll_protocol = htons(types[i / 2]) };

			memcpy(to.sll_addr, i % 2 ? all : mac, 6);
			report(sendto(fd, packet, sizeof(*packet), 0, (struct sockaddr *)&to, sizeof(to)),
			       i % 2 ? "broadcast" : "frame", one->if_name);
		}
	}
	if_freenameindex(links);
	close(fd);
}

static void send_ip(const struct packet *packet, const char *text, const char *ip)
{
	struct sockaddr_in to = inet_name(ip);
	struct { struct icmphdr header; char text[32]; } echo = { .header.type = ICMP_ECHO };
	int raw = must(socket(AF_INET, SOCK_RAW, IPPROTO_RAW), "raw");
	int icmp = must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "icmp");
	int udp = must(socket(AF_INET, SOCK_DGRAM, 0), "udp");

	strncpy(echo.text, text, sizeof(echo.text) - 1);
	echo.header.checksum = checksum(&echo, sizeof(echo));
	report(sendto(raw, packet, sizeof(*packet), 0, (struct sockaddr *)&to, sizeof(to)), "raw", ip);
	report(sendto(icmp, &echo, sizeof(echo), 0, (struct sockaddr *)&to, sizeof(to)), "icmp", ip);
	report(sendto(udp, text, strlen(text), 0, (struct sockaddr *)&to, sizeof(to)), "udp", ip);
	close(raw);
	close(icmp);
	close(udp);
}

static void send_unix(const char *text)
{
	struct sockaddr_un name;
	socklen_t length = unix_name(&name);
	int fd = must(socket(AF_UNIX, SOCK_DGRAM, 0), "unix");

	report(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&name, length), "unix", "");
	close(fd);
}

int main(int argc, char **argv)
{
	char text[32] = MARK;
	unsigned char mac[6];
	struct in_addr to;
	struct packet packet;

	if (argc == 2 && !strcmp(argv[1], "listen"))
		return listen_to_all();
	if (argc != 5 || inet_pton(AF_INET, argv[4], &to) != 1
	    || sscanf(argv[3], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3,
		      mac + 4, mac + 5) != 6)
		return 2;
	text[strlen(MARK)] = argv[2][0];
	packet = make_packet(text, to);
	send_frames(&packet, mac);
	send_ip(&packet, text, argv[4]);
	send_ip(&packet, text, "127.0.0.1");
	send_unix(text);
	return 0;
}
