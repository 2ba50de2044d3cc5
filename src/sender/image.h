/* A memory file that has the bytes of ordinary memory.
 *
 * All of what one array owns, filled where views need it; or the elements of a
 * view that has wide gaps. A byte of the file is written once: readers have it
 * mapped privately, and would see it change in pages that they have not written
 * to.
 */
#ifndef SAMEMAP_IMAGE_H
#define SAMEMAP_IMAGE_H

#include "ranges.h"
#include "sender/compact.h"
#include "sender/export.h"

extern PyType_Spec image_spec;

typedef struct {
    PyObject_HEAD
    State *state;
    /* Writer of these two: images.c. */
    PyObject *owner_ref; /* weak, of the last array of the chain of bases; NULL
                          * when the image isn't listed any more */
    const void *owner;   /* that array, only to be compared */
    Export *export;      /* owned */
    char *low, *high;    /* the memory, or what the elements span */
    bool is_compact;     /* of a view's elements alone */
    Compact compact;     /* their layout */
    Ranges filled;       /* addresses whose bytes the file has */
    Ranges compared;     /* of these, what was the same after the watch began */
    uintptr_t watched_low, watched_high; /* equal: not watched */
    bool changes;     /* somebody writes there: watching would not pay */
    bool is_busy;     /* some thread works on it without the GIL */
    uint64_t message; /* the last one, and what was proven for that */
    Ranges proven;
} Image;

/* New reference: an image of [low, high), or of the elements of `compact` there
 * if that isn't NULL; nothing of it is filled yet. `folder` (bytes): see
 * export_new. NULL with an exception, or *reason: it can't be had. */
Image *image_new(State *state, PyObject *folder, char *low, char *high,
                 const Compact *compact, Reason *reason);

/* What the file has of the view is what the memory has now: 1, 0, or -1 with an
 * exception. Asked once a message, of bytes objects too: an array that was
 * unpickled is a writeable one on such. */
int image_prove(Image *image, const Outgoing *message, const Plan *plan);

/* Writes what the file has not of the view: REASON_NONE, or why not, or
 * REASON_COUNT with an exception. */
Reason image_fill(Image *image, const Outgoing *message, const Plan *plan);

/* The file has all of what the view spans as it is now, or has been since it
 * was given to be sent. */
bool image_is_proven(const Image *image, const Outgoing *message,
                     const Plan *plan);

/* The file has all of what the view spans. */
bool image_has_all(const Image *image, const Plan *plan);

/* The plan's layout becomes that of the view on the file. */
void image_use(const Image *image, Plan *plan);

/* Nobody asks for the proof any more. Before the memory is freed. */
void image_unwatch(Image *image);

#endif
