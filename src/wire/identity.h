/* The identity of a file in a message. */
#ifndef SAMEMAP_IDENTITY_H
#define SAMEMAP_IDENTITY_H

#include "core.h"
#include "os/fileid.h"

/* New reference: bytes, or NULL. */
PyObject *identity_encode(const FileId *id);

/* 0, or -1 with ValueError or TypeError. */
int identity_decode(PyObject *py_id, FileId *id);

#endif
