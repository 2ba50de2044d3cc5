/* From a reference in a message to a mapping in this process. */
#ifndef SAMEMAP_ATTACH_H
#define SAMEMAP_ATTACH_H

#include "wire/reference.h"

/* A descriptor on the file, which is the right one and long enough; the caller
 * closes it. -1 with an exception. */
int attach_open(State *state, const Reference *reference, bool writable);

/* New reference: the mmap.mmap that all messages of this process share which
 * name this mapping: found again, or made. NULL with an exception. */
PyObject *attach_shared(State *state, const Reference *reference);

/* New reference: a new mmap.mmap of the file open at `fd` that no other message
 * gets: private and writable, or shared as the sender's. NULL with an
 * exception. */
PyObject *attach_own(State *state, const Reference *reference, int fd,
                     bool private);

/* The exception that is set says that a map could not be made for want of
 * memory, or of the address space that the process may have. */
bool attach_lacks_memory(void);

/* The mmap.mmap made for such a message keeps a descriptor. */
bool attach_keeps_descriptor(State *state, const Reference *reference);

/* Finds the values that mmap.mmap is called with: 0 or -1. */
int attach_init(State *state);

#endif
