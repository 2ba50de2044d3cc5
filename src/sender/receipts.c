/* Owns the list of files that a worker has open for the caller.
 *
 * A message is read after all that this process has written before it: so a
 * receipt tells that the older messages have been read as well.
 */
#include "sender/receipts.h"

#include "wire/identity.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define PATH_SIZE 64

int
receipts_expect(Export *export, uint64_t message)
{
    State *state = export->state;
    Receipt *larger = core_grow(state->receipts, state->receipt_count,
                                &state->receipt_room, sizeof(*larger));
    if (larger == NULL) {
        return -1;
    }
    state->receipts = larger;
    state->receipts[state->receipt_count++] =
        (Receipt){Py_NewRef((PyObject *)export), message};
    return 0;
}

typedef bool Chosen(const Receipt *receipt, uint64_t message);

/* Lets go of what is chosen; closing releases the GIL, and so comes last. */
static void
drop_chosen(State *state, Chosen *chosen, uint64_t message)
{
    size_t kept = 0, count = 0;
    PyObject *gone[32];
    for (size_t i = 0; i < state->receipt_count; i++) {
        Receipt receipt = state->receipts[i];
        if (count < sizeof(gone) / sizeof(*gone) && chosen(&receipt, message)) {
            gone[count++] = receipt.export;
        } else {
            state->receipts[kept++] = receipt;
        }
    }
    state->receipt_count = kept;
    if (count == 0) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        Py_DECREF(gone[i]);
    }
    drop_chosen(state, chosen, message); /* what found no place */
}

static bool
is_of_message(const Receipt *receipt, uint64_t message)
{
    return receipt->message == message;
}

static bool
is_read(const Receipt *receipt, uint64_t message)
{
    return receipt->message <= message;
}

PyObject *
receipts_of_message(State *state, uint64_t message)
{
    PyObject *list = PyList_New(0), *result = NULL;
    if (list == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < state->receipt_count; i++) {
        const Export *export = (const Export *)state->receipts[i].export;
        if (state->receipts[i].message != message) {
            continue;
        }
        PyObject *receipt =
            Py_BuildValue("liN", (long)getpid(), export->file.fd,
                          identity_encode(&export->id));
        int added = receipt != NULL ? PyList_Append(list, receipt) : -1;
        Py_XDECREF(receipt);
        if (added < 0) {
            goto done;
        }
    }
    result = PyList_AsTuple(list);
done:
    Py_DECREF(list);
    return result;
}

void
receipts_discard(State *state, uint64_t message)
{
    drop_chosen(state, is_of_message, message);
}

/* 0, or errno. */
static int
acknowledge(const char *path, const FileId *id)
{
    FileStatus status;
    int error = 0, fd = fileid_open(path, true, &status);
    if (fd < 0) {
        return errno;
    }
    if (fileid_equal(&status.id, id)) {
        MemFile file = {fd, status.size, true, true};
        error = memfile_seal(&file, true) < 0 ? errno : 0;
    }
    close(fd);
    return error;
}

PyObject *
receipts_acknowledge(PyObject *Py_UNUSED(module), PyObject *args)
{
    long pid;
    int fd, error;
    PyObject *identity;
    FileId id;
    char path[PATH_SIZE];
    if (!PyArg_ParseTuple(args, "liO:acknowledge", &pid, &fd, &identity) ||
        identity_decode(identity, &id) < 0) {
        return NULL;
    }
    snprintf(path, sizeof(path), "/proc/%ld/fd/%d", pid, fd);
    Py_BEGIN_ALLOW_THREADS
    error = acknowledge(path, &id);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(error != EMFILE && error != ENFILE &&
                           error != ENOMEM);
}

PyObject *
receipts_close(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    State *state = PyModule_GetState(module);
    uint64_t newest = 0;
    for (size_t i = 0; i < state->receipt_count; i++) {
        const Receipt *receipt = &state->receipts[i];
        /* Each file of a message has its own receipt, all at once given. */
        if (receipt->message > newest &&
            memfile_is_sealed(((const Export *)receipt->export)->file.fd)) {
            newest = receipt->message;
        }
    }
    if (newest > 0) {
        drop_chosen(state, is_read, newest);
    }
    return PyLong_FromSize_t(state->receipt_count);
}

void
receipts_clear(State *state)
{
    size_t count = state->receipt_count;
    Receipt *receipts = state->receipts;
    state->receipts = NULL;
    state->receipt_count = state->receipt_room = 0;
    for (size_t i = 0; i < count; i++) {
        Py_DECREF(receipts[i].export);
    }
    PyMem_Free(receipts);
}
