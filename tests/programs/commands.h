/* What these programs do, by the name that is their first argument. */
#ifndef SAMEMAP_TESTS_COMMANDS_H
#define SAMEMAP_TESTS_COMMANDS_H

#include <string.h>

typedef struct {
    const char *name;
    int args; /* how many follow the name */
    int (*run)(char **args);
} Command;

/* The end of `main`: the status of the command that is asked for, of `count`;
 * 2 if there is no such command. */
static int
run_command(const Command *commands, size_t count, int argc, char **argv)
{
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], commands[i].name) == 0 &&
            argc == 2 + commands[i].args) {
            return commands[i].run(argv + 2);
        }
    }
    return 2;
}

#endif
