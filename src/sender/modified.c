/* Owns the collecting of modified pages, each once a message. */
#include "sender/modified.h"

#include "os/page.h"
#include "os/pagemap.h"
#include "sender/outgoing.h"
#include "wire/patches.h"

/* Borrowed: what of the backing's modified bytes the message has already. Not
 * to be kept over anything that may run a finaliser, which may send the same
 * map in a message of its own. */
static Ranges *
get_sent(Backing *backing, uint64_t message)
{
    if (backing->sent.message != message || message_is_implicit(message)) {
        ranges_clear(&backing->sent.ranges);
        backing->sent.message = message;
    }
    return &backing->sent.ranges;
}

int
modified_mark_sent(Backing *backing, char *low, char *high, uint64_t message)
{
    return ranges_add(get_sent(backing, message), low, high);
}

void
modified_clear(Backing *backing)
{
    ranges_clear(&backing->sent.ranges);
}

/* Appends the modified bytes of `gap` as long as *rest, which is reduced by
 * them, does not become negative: 0, or -1 with an exception. */
static int
patch_gap(PyObject *patches, const Backing *backing, const Range *gap,
          npy_intp *rest, Modified *modified)
{
    const uintptr_t page = page_size();
    uintptr_t low = (uintptr_t)gap->low / page * page;
    uintptr_t high = ((uintptr_t)gap->high + page - 1) / page * page;
    PageRange pages;
    int found;
    while ((found = pagemap_next_modified(backing->state->pagemap, low, high,
                                          &pages)) == 1) {
        char *start = (char *)pages.start, *end = (char *)pages.end;
        start = start < gap->low ? gap->low : start;
        end = end > gap->high ? gap->high : end;
        *rest -= end - start;
        modified->exceed_elements = *rest < 0;
        if (!mapping_is_writable(&backing->mapping)) {
            modified->reason = REASON_MODIFIED;
        }
        if (modified->exceed_elements || modified->reason != REASON_NONE) {
            return 0;
        }
        if (patches_encode(patches, start - backing->mapping.start, start,
                           end - start) < 0) {
            return -1;
        }
        low = pages.end;
    }
    if (found < 0) {
        modified->reason = REASON_NO_PAGEMAP;
    }
    return 0;
}

int
modified_collect(Backing *backing, char *low, char *high, npy_intp limit,
                 uint64_t message, Modified *modified)
{
    Range gap = {NULL, low};
    *modified = (Modified){REASON_NONE, NULL, false};
    PyObject *patches = PyList_New(0);
    if (patches == NULL) {
        return -1;
    }
    while (modified->reason == REASON_NONE && !modified->exceed_elements &&
           ranges_find_gap(get_sent(backing, message), gap.high, high, &gap)) {
        if (patch_gap(patches, backing, &gap, &limit, modified) < 0) {
            Py_DECREF(patches);
            return -1;
        }
    }
    if (modified->reason == REASON_NONE && !modified->exceed_elements &&
        PyList_Size(patches) > 0) {
        modified->patches = PyList_AsTuple(patches);
    }
    Py_DECREF(patches);
    return PyErr_Occurred() ? -1 : 0;
}
