/* samemap._core.Reducer: what a pickler's dispatch table has for arrays. */
#ifndef SAMEMAP_REDUCER_H
#define SAMEMAP_REDUCER_H

#include "state.h"

extern PyType_Spec reducer_spec;

#endif
