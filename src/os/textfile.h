/* Small files by which the system tells something: those of /proc, /sys. */
#ifndef SAMEMAP_TEXTFILE_H
#define SAMEMAP_TEXTFILE_H

#include <stdbool.h>
#include <stdint.h>

#define TEXTFILE_SIZE 8192

/* The content as text, cut where it is longer; false: it can't be opened. */
bool textfile_read(const char *path, char text[TEXTFILE_SIZE]);

/* The number behind `name` at the beginning of a line, or -1. */
int64_t textfile_number(const char *text, const char *name);

#endif
