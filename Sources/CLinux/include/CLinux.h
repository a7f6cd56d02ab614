// The few Linux calls that Swift cannot import because they are variadic.
#ifndef SCIFERRY_CLINUX_H
#define SCIFERRY_CLINUX_H

/// Columns of the terminal behind `fd`, or 0 when it is no terminal.
int sciferry_terminal_columns(int fd);

#endif
