/* Owns the name of the system. */
#include "os/system.h"

const char *
system_name(void)
{
    return "linux";
}
