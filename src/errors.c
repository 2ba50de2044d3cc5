/* Owns the raising of typed errors: which type, and in what words. */
#include "errors.h"

#include <errno.h>
#include <string.h>

PyObject *
errors_format_id(const FileId *id)
{
    char text[FILEID_TEXT_SIZE];
    fileid_format(id, text);
    return PyUnicode_FromString(text);
}

/* Sets `type(message, path, expected, found, errnum)`; steals `expected` and
 * `found` (str, or NULL with an exception already set). */
static void
set_error(PyObject *type, const char *message, const char *path,
          PyObject *expected, PyObject *found, int errnum)
{
    PyObject *py_path = NULL, *error = NULL;
    if (expected == NULL || found == NULL) {
        goto done;
    }
    py_path = PyUnicode_DecodeFSDefault(path);
    if (py_path == NULL) {
        goto done;
    }
    error = PyObject_CallFunction(type, "sOOOi", message, py_path, expected,
                                  found, errnum);
    if (error != NULL) {
        PyErr_SetObject(type, error);
    }
done:
    Py_XDECREF(error);
    Py_XDECREF(py_path);
    Py_XDECREF(expected);
    Py_XDECREF(found);
}

void
errors_set_open(State *state, const char *path, const FileId *expected,
                int errnum)
{
    PyObject *type = state->backing_error;
    const char *message = "the mapped file can't be opened";
    PyObject *found;
    if (errnum == EINVAL) {
        type = state->replaced_error;
        message = "the path of the mapped file leads elsewhere now";
        found = PyUnicode_FromString("not a regular file");
    } else {
        if (errnum == ENOENT || errnum == ENOTDIR) {
            type = state->not_found_error;
            message = "the mapped file is gone";
        } else if (errnum == EACCES || errnum == EPERM || errnum == EROFS) {
            type = state->permission_error;
            message = "the mapped file may not be opened";
        }
        found = PyUnicode_DecodeLocale(strerror(errnum), "surrogateescape");
    }
    set_error(type, message, path, errors_format_id(expected), found, errnum);
}

void
errors_set_replaced(State *state, const char *path, const FileId *expected,
                    const FileId *found)
{
    set_error(state->replaced_error,
              "the path of the mapped file leads elsewhere now", path,
              errors_format_id(expected), errors_format_id(found), 0);
}

void
errors_set_truncated(State *state, const char *path, int64_t expected,
                     int64_t found)
{
    set_error(state->truncated_error, "the mapped file has become shorter",
              path,
              PyUnicode_FromFormat("at least %lld bytes", (long long)expected),
              PyUnicode_FromFormat("%lld bytes", (long long)found), 0);
}

int
errors_init(State *state)
{
    struct {
        const char *name;
        PyObject **where;
    } errors[] = {
        {"BackingError", &state->backing_error},
        {"BackingNotFoundError", &state->not_found_error},
        {"BackingReplacedError", &state->replaced_error},
        {"BackingTruncatedError", &state->truncated_error},
        {"BackingPermissionError", &state->permission_error},
        {"StrictError", &state->strict_error},
        {"MessageVersionError", &state->version_error},
    };
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        *errors[i].where = state_import("samemap._errors", errors[i].name);
        if (*errors[i].where == NULL) {
            return -1;
        }
    }
    return 0;
}
