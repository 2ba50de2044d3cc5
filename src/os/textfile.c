/* Owns the reading of what the system tells as lines of text. */
#include "os/textfile.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool
textfile_read(const char *path, char text[TEXTFILE_SIZE])
{
    size_t length = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    for (ssize_t n; length < TEXTFILE_SIZE - 1; length += (size_t)n) {
        n = read(fd, text + length, TEXTFILE_SIZE - 1 - length);
        if (n <= 0) {
            break;
        }
    }
    close(fd);
    text[length] = '\0';
    return true;
}

int64_t
textfile_number(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = text; line != NULL;) {
        if (strncmp(line, name, length) == 0) {
            return strtoll(line + length, NULL, 10);
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return -1;
}
