/* Random operations on files, each compared with a model of the files in memory.
 *
 *   filecheck make DIR               make the files that the other two begin with
 *   filecheck run DIR SEED COUNT     change and read them; says what it has left
 *   filecheck look DIR SEED COUNT    only read them
 *
 * It ends with 1, and says which operation it was, at the first difference or error. What the
 * file system says that it can't do (EOPNOTSUPP, ENODEV, EINVAL of a shared mapping) is not done
 * again, and listed at the end. The same seed makes the same operations.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 8, FOLDERS = 2, LIMIT = 192 * 1024, CHUNK = 20000 };

static struct file {
	bool exists;
	int folder;
	size_t size;
	unsigned mode;
	unsigned char data[LIMIT];
} files[FILES];

static const char *top;
static uint64_t state;
static long number;
static const char *doing = "nothing";
static unsigned char buffer[LIMIT + 1];

/* splitmix64, which is in the public domain */
static uint64_t draw(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static size_t below(size_t limit) { return limit ? draw() % limit : 0; }

static void die(const char *format, ...)
{
	va_list arguments;
	printf("operation %ld, %s: ", number, doing);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	puts("");
	exit(1);
}

static const char *path_of(int which, int folder)
{
	static char paths[4][4096];
	static int next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof paths[0], "%s/d%d/f%d", top, folder, which);
	return path;
}

static const char *path(int which) { return path_of(which, files[which].folder); }

static int open_file(int which, int flags)
{
	int fd = open(path(which), flags | O_CLOEXEC, 0644);
	if (fd < 0)
		die("open %s: %s", path(which), strerror(errno));
	return fd;
}

static void close_file(int fd)
{
	if (close(fd))
		die("close: %s", strerror(errno));
}

static void same(int which, const unsigned char *found, size_t offset, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (found[i] != files[which].data[offset + i])
			die("f%d at %zu is %02x, not %02x", which, offset + i, found[i],
			    files[which].data[offset + i]);
}

static void check_status(int which, const struct stat *found)
{
	struct file *file = &files[which];
	if ((size_t)found->st_size != file->size)
		die("f%d has %lld bytes, not %zu", which, (long long)found->st_size, file->size);
	if ((found->st_mode & 07777) != file->mode)
		die("f%d has mode %o, not %o", which, found->st_mode & 07777, file->mode);
}

/* -- what is done to one file; each returns an errno, or 0 ------------------------------- */

static int do_read(int which)
{
	size_t offset = below(files[which].size + 1), wanted = below(CHUNK) + 1;
	size_t there = files[which].size - offset;
	int fd = open_file(which, O_RDONLY);
	ssize_t got = pread(fd, buffer, wanted, offset);
	if (got < 0)
		die("pread: %s", strerror(errno));
	if ((size_t)got != (wanted < there ? wanted : there))
		die("f%d: read %zd of %zu at %zu, size %zu", which, got, wanted, offset,
		    files[which].size);
	same(which, buffer, offset, got);
	close_file(fd);
	return 0;
}

static int do_map(int which)
{
	if (!files[which].size)
		return 0;
	int fd = open_file(which, O_RDONLY);
	unsigned char *found = mmap(NULL, files[which].size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (found == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	size_t offset = below(files[which].size), there = files[which].size - offset;
	same(which, found + offset, offset, there < CHUNK ? there : CHUNK);
	munmap(found, files[which].size);
	close_file(fd);
	return 0;
}

static int do_status(int which)
{
	struct stat found;
	if (stat(path(which), &found))
		die("stat %s: %s", path(which), strerror(errno));
	check_status(which, &found);
	return 0;
}

static void write_at(int which, int fd, size_t offset, size_t length)
{
	struct file *file = &files[which];
	if (offset > file->size)
		memset(file->data + file->size, 0, offset - file->size);
	for (size_t i = 0; i < length; i++)
		file->data[offset + i] = (unsigned char)draw();
	for (size_t done = 0; done < length;) {
		ssize_t put = pwrite(fd, file->data + offset + done, length - done, offset + done);
		if (put <= 0)
			die("pwrite: %s", strerror(errno));
		done += put;
	}
	if (offset + length > file->size)
		file->size = offset + length;
}

static int do_write(int which)
{
	size_t offset = below(LIMIT), room = LIMIT - offset;
	int fd = open_file(which, O_RDWR);
	write_at(which, fd, offset, below(room < CHUNK ? room : CHUNK) + 1 - (room == 0));
	if (below(8) == 0 && fsync(fd))
		die("fsync: %s", strerror(errno));
	close_file(fd);
	return 0;
}

static int do_append(int which)
{
	struct file *file = &files[which];
	size_t length = below(4096) + 1;
	if (file->size + length > LIMIT)
		return 0;
	int fd = open_file(which, O_WRONLY | O_APPEND);
	for (size_t i = 0; i < length; i++)
		file->data[file->size + i] = (unsigned char)draw();
	if (write(fd, file->data + file->size, length) != (ssize_t)length)
		die("append: %s", strerror(errno));
	file->size += length;
	close_file(fd);
	return 0;
}

static int do_truncate(int which)
{
	struct file *file = &files[which];
	size_t size = below(LIMIT + 1);
	if (below(4) == 0)
		size = 0;
	if (truncate(path(which), size))
		die("truncate: %s", strerror(errno));
	if (size > file->size)
		memset(file->data + file->size, 0, size - file->size);
	file->size = size;
	return 0;
}

static int do_map_write(int which)
{
	struct file *file = &files[which];
	if (!file->size)
		return 0;
	int fd = open_file(which, O_RDWR);
	unsigned char *map = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		int why = errno;
		close_file(fd);
		return why;
	}
	size_t offset = below(file->size), room = file->size - offset;
	size_t length = below(room < CHUNK ? room : CHUNK) + 1;
	for (size_t i = 0; i < length && i < room; i++)
		map[offset + i] = file->data[offset + i] = (unsigned char)draw();
	if (below(2) && msync(map, file->size, MS_SYNC))
		die("msync: %s", strerror(errno));
	munmap(map, file->size);
	close_file(fd);
	return 0;
}

static int do_punch(int which)
{
	struct file *file = &files[which];
	if (!file->size)
		return 0;
	size_t offset = below(file->size), length = below(CHUNK) + 1;
	int fd = open_file(which, O_RDWR);
	int why = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
		? errno : 0;
	close_file(fd);
	if (!why) {
		size_t room = file->size - offset;
		memset(file->data + offset, 0, length < room ? length : room);
	}
	return why;
}

static int do_mode(int which)
{
	unsigned mode = 0600 | below(0200);
	if (chmod(path(which), mode))
		die("chmod: %s", strerror(errno));
	files[which].mode = mode;
	return 0;
}

static int do_unlink(int which)
{
	if (unlink(path(which)))
		die("unlink: %s", strerror(errno));
	files[which].exists = false;
	return 0;
}

static int do_orphan(int which)
{
	int fd = open_file(which, O_RDWR);
	do_unlink(which);
	write_at(which, fd, below(CHUNK), 100);
	size_t size = files[which].size;
	if (pread(fd, buffer, size, 0) != (ssize_t)size)
		die("reading what has no name: %s", strerror(errno));
	same(which, buffer, 0, size);
	close_file(fd);
	return 0;
}

static int move(int which, bool by_link)
{
	int to = below(FILES), folder = below(FOLDERS);
	if (to == which)
		return 0;
	const char *target = path_of(to, folder);
	if (by_link && files[to].exists)
		return 0;
	if (by_link) {
		if (link(path(which), target))
			return errno;
		if (unlink(path(which)))
			die("unlink: %s", strerror(errno));
	} else {
		if (files[to].exists && files[to].folder != folder)
			do_unlink(to);
		if (rename(path(which), target))
			die("rename %s to %s: %s", path(which), target, strerror(errno));
	}
	files[to] = files[which];
	files[to].folder = folder;
	files[which].exists = false;
	return 0;
}

static int do_rename(int which) { return move(which, false); }
static int do_link(int which) { return move(which, true); }

static void create(int which)
{
	struct file *file = &files[which];
	file->folder = below(FOLDERS);
	int fd = open(path(which), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		die("create %s: %s", path(which), strerror(errno));
	file->exists = true;
	file->size = 0;
	file->mode = 0600;
	write_at(which, fd, 0, below(CHUNK));
	close_file(fd);
}

/* -- all files --------------------------------------------------------------------------- */

static void check_names(void)
{
	int found = 0, expected = 0;
	for (int folder = 0; folder < FOLDERS; folder++) {
		char name[4096];
		snprintf(name, sizeof name, "%s/d%d", top, folder);
		DIR *listing = opendir(name);
		if (!listing)
			die("opendir %s: %s", name, strerror(errno));
		for (struct dirent *entry; (entry = readdir(listing));) {
			int which = entry->d_name[1] - '0';
			if (entry->d_name[0] == '.')
				continue;
			if (which < 0 || which >= FILES || !files[which].exists ||
			    files[which].folder != folder)
				die("%s has an entry %s", name, entry->d_name);
			found++;
		}
		closedir(listing);
	}
	for (int which = 0; which < FILES; which++)
		expected += files[which].exists;
	if (found != expected)
		die("%d files are listed, not %d", found, expected);
}

static void check_all(void)
{
	doing = "comparing all";
	check_names();
	for (int which = 0; which < FILES; which++) {
		if (!files[which].exists)
			continue;
		int fd = open_file(which, O_RDONLY);
		ssize_t size = read(fd, buffer, sizeof buffer);
		if (size != (ssize_t)files[which].size)
			die("f%d: read %zd bytes, not %zu", which, size, files[which].size);
		same(which, buffer, 0, size);
		do_status(which);
		close_file(fd);
	}
}

static void make_model(void)
{
	state = 1;
	for (int which = 0; which < FILES / 2; which++) {
		struct file *file = &files[which];
		*file = (struct file){.exists = true, .folder = which % FOLDERS, .mode = 0640};
		file->size = LIMIT - below(LIMIT / 2);
		for (size_t i = 0; i < file->size; i++)
			file->data[i] = (unsigned char)draw();
	}
}

static void make_files(void)
{
	for (int folder = 0; folder < FOLDERS; folder++) {
		char name[4096];
		snprintf(name, sizeof name, "%s/d%d", top, folder);
		if (mkdir(name, 0755))
			die("mkdir %s: %s", name, strerror(errno));
	}
	for (int which = 0; which < FILES; which++) {
		struct file *file = &files[which];
		if (!file->exists)
			continue;
		int fd = open_file(which, O_CREAT | O_WRONLY);
		if (write(fd, file->data, file->size) != (ssize_t)file->size ||
		    fchmod(fd, file->mode))
			die("write: %s", strerror(errno));
		close_file(fd);
	}
}

/* -- the run ----------------------------------------------------------------------------- */

static struct operation {
	const char *name;
	int (*function)(int which);
	int weight;
	bool changes;
	bool is_impossible;
	long count;
} operations[] = {
	{"read", do_read, 6, false, false, 0},
	{"map", do_map, 4, false, false, 0},
	{"status", do_status, 3, false, false, 0},
	{"write", do_write, 8, true, false, 0},
	{"append", do_append, 3, true, false, 0},
	{"truncate", do_truncate, 3, true, false, 0},
	{"map-write", do_map_write, 4, true, false, 0},
	{"punch", do_punch, 2, true, false, 0},
	{"mode", do_mode, 1, true, false, 0},
	{"unlink", do_unlink, 1, true, false, 0},
	{"orphan", do_orphan, 1, true, false, 0},
	{"rename", do_rename, 2, true, false, 0},
	{"link", do_link, 1, true, false, 0},
};
enum { OPERATIONS = sizeof operations / sizeof operations[0] };

static struct operation *pick(bool may_change)
{
	int total = 0;
	for (int i = 0; i < OPERATIONS; i++)
		if ((may_change || !operations[i].changes) && !operations[i].is_impossible)
			total += operations[i].weight;
	int left = below(total);
	for (int i = 0;; i++) {
		if ((!may_change && operations[i].changes) || operations[i].is_impossible)
			continue;
		left -= operations[i].weight;
		if (left < 0)
			return &operations[i];
	}
}

static void step(bool may_change)
{
	int which = below(FILES);
	if (!files[which].exists) {
		doing = "create";
		if (may_change)
			create(which);
		else if (access(path(which), F_OK) == 0 || errno != ENOENT)
			die("f%d is there", which);
		return;
	}
	struct operation *operation = pick(may_change);
	doing = operation->name;
	int why = operation->function(which);
	if (why == EOPNOTSUPP || why == ENODEV || (why == EINVAL && operation->function == do_map_write))
		operation->is_impossible = true;
	else if (why)
		die("%s", strerror(why));
	operation->count++;
}

static void report(void)
{
	for (int which = 0; which < FILES; which++) {
		uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
		for (size_t i = 0; i < files[which].size; i++)
			hash = (hash ^ files[which].data[i]) * 0x100000001b3;
		if (files[which].exists)
			printf("d%d/f%d %zu %016llx\n", files[which].folder, which,
			       files[which].size, (unsigned long long)hash);
	}
	for (int i = 0; i < OPERATIONS; i++)
		if (operations[i].is_impossible)
			printf("not possible: %s\n", operations[i].name);
		else
			fprintf(stderr, "%s %ld\n", operations[i].name, operations[i].count);
	printf("%ld operations\n", number);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	top = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	umask(0);
	make_model();
	if (!strcmp(argv[1], "make")) {
		make_files();
		return 0;
	}
	if (argc != 5)
		return 2;
	bool may_change = !strcmp(argv[1], "run");
	state = strtoull(argv[3], NULL, 0) ^ 0x5bd1e995;
	long count = atol(argv[4]);
	check_all();
	for (number = 1; number <= count; number++) {
		step(may_change);
		if (number % 500 == 0)
			check_all();
	}
	number = count;
	sync();
	check_all();
	report();
	return 0;
}
