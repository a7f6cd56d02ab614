// The few Linux calls that Swift cannot import, and instructions that it cannot write.
#ifndef SCIFERRY_CLINUX_H
#define SCIFERRY_CLINUX_H

/// Columns of the terminal behind `fd`, or 0 when it is no terminal.
int sciferry_terminal_columns(int fd);

/// Executes, in a child process, an instruction that needs a step of this machine's architecture: of x86-64 the psABI level 2 to 4,
/// of AArch64 1 for the atomics of ARMv8.1 and 2 for SVE. Returns 1 when it ran, 0 when the CPU refused it, -1 when that cannot be
/// tried.
int sciferry_probe_instructions(int step);

/// Opens a path below the directory behind `directory` for reading; no link on the way is followed, none leads out (openat2(2)). A
/// descriptor, or -1 with errno.
int sciferry_open_beneath(int directory, const char *path);

/// Has the kernel begin to write bytes of a file to the disk (sync_file_range(2)). A hint: whether it is taken is not told.
void sciferry_begin_writeback(int fd, long long offset, long long count);

/// Makes a range of a file share the blocks of another's, where the file system can (FICLONERANGE, ioctl_ficlonerange(2)). 0, or -1.
int sciferry_clone_range(int from, long long from_offset, long long count, int to, long long to_offset);

/// Makes durable what was written to the file system of a file (syncfs(2)). 0, or -1 with errno.
int sciferry_sync_file_system(int fd);

/// Whether something is mounted at a path, which is not followed if it is a link; false where the kernel does not tell (before 5.8).
int sciferry_is_mount_point(const char *path);

/// As whom this thread alone opens files from now on (setfsuid(2)). Of no effect where the caller may not.
void sciferry_file_user(unsigned user, unsigned group);

/// Lets two paths change places in one step (renameat2(2), RENAME_EXCHANGE). 0, or -1 with errno.
int sciferry_exchange(const char *one, const char *other);

#endif
