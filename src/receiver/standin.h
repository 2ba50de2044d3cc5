/* An array in the place of one that can't be had. */
#ifndef SAMEMAP_STANDIN_H
#define SAMEMAP_STANDIN_H

#include "wire/layout.h"

/* Array of zeros in place of one that can't be had. What it is a part of may
 * look at it when it is built (`__setstate__`), so it is contiguous in the same
 * order, unless it would be too large for the memory.
 * Steals nothing; NULL with an exception when there can't be one. */
PyObject *standin_make(PyArray_Descr *descr, const Layout *layout);

#endif
