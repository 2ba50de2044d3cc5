/* The identity of a file in a message: 28 bytes, in the order of this machine,
 * which both ends share.
 *
 *   device  8
 *   inode   8
 *   birth   8  seconds since 1970, signed
 *           4  nanoseconds; all 0 where the file system keeps no birth
 */
#ifndef SAMEMAP_IDENTITY_H
#define SAMEMAP_IDENTITY_H

#include "core.h"
#include "os/fileid.h"

/* New reference: bytes, or NULL. */
PyObject *identity_encode(const FileId *id);

/* 0, or -1 with ValueError or TypeError. */
int identity_decode(PyObject *py_id, FileId *id);

#endif
