/* From an array to its message. */
#ifndef SAMEMAP_REDUCE_H
#define SAMEMAP_REDUCE_H

#include "state.h"

extern PyType_Spec reducer_spec;

#endif
