/* Why an array travels by value. */
#ifndef SAMEMAP_REASON_H
#define SAMEMAP_REASON_H

/* name, sentence for people (after "because ...") */
#define REASON_LIST(X)                                                     \
    X(MEMORY, "memory",                                                    \
      "the array is in ordinary memory, not in a mapped file")             \
    X(OBJECTS, "objects", "the array holds references to Python objects")  \
    X(ANONYMOUS, "anonymous", "its memory is mapped, but from no file")    \
    X(OUTSIDE, "outside",                                                  \
      "the array reaches beyond the end of the mapped file")               \
    X(UNREACHABLE, "unreachable",                                          \
      "the mapped file has no path any more and no descriptor of this "    \
      "process that a worker could use is open on it")                     \
    X(UNPROVEN, "unproven",                                                \
      "the file system gives several files the same numbers, and nothing " \
      "proves that the path leads to the one that is mapped")              \
    X(DESCRIPTORS, "descriptors",                                          \
      "the mapped file has no path any more, and keeping a descriptor on " \
      "it would leave this process too few")                               \
    X(FORBIDDEN, "forbidden",                                              \
      "the mapped file can't be opened again with the access of the map")  \
    X(NO_MAPTABLE, "no map table",                                         \
      "the system does not tell which file is mapped (no /proc?)")         \
    X(NO_PAGEMAP, "no pagemap",                                            \
      "the map is private and the system does not tell which pages were "  \
      "modified")                                                          \
    X(MODIFIED, "modified",                                                \
      "the map is private and was modified, and it is read-only now: the " \
      "changes can't travel beside a reference")                           \
    X(TEMPORARY, "temporary",                                              \
      "the file is a temporary one that joblib deletes after the call")    \
    X(RESULT, "result",                                                    \
      "a result is the caller's own, unless it lies in an np.memmap")      \
    X(EXPORTED, "exported",                                                \
      "it is large: copied once, into memory that the other process maps") \
    X(NO_ROOM, "no room",                                                  \
      "there is no room for a copy that the other process could map")      \
    X(NO_MEMFILE, "no memory file",                                        \
      "the system gives no memory that the other process could open")

#define REASON_ENUM(name, key, sentence) REASON_##name,
typedef enum {
    REASON_NONE, /* by reference */
    REASON_LIST(REASON_ENUM) REASON_COUNT
} Reason;
#undef REASON_ENUM

/* A short key for counters, and a sentence; "" for REASON_NONE. */
const char *reason_key(Reason reason);
const char *reason_sentence(Reason reason);

#endif
