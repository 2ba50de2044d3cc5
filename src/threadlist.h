/* A list of what threads are doing now, newest first. A reducer isn't told
 * which pickler has called it, nor a rebuild which task is being made ready:
 * the one finds its message here, the other its task, by thread. */
#ifndef SAMEMAP_THREADLIST_H
#define SAMEMAP_THREADLIST_H

#include "core.h"

/* First member of what is listed; whoever enters it takes it out again. */
typedef struct ThreadLink {
    struct ThreadLink *next;
    unsigned long thread;
} ThreadLink;

static inline void
threadlist_push(ThreadLink **list, ThreadLink *link)
{
    link->thread = PyThread_get_thread_ident();
    link->next = *list;
    *list = link;
}

/* No-op when it is not there. */
static inline void
threadlist_remove(ThreadLink **list, ThreadLink *link)
{
    for (; *list != NULL; list = &(*list)->next) {
        if (*list == link) {
            *list = link->next;
            return;
        }
    }
}

/* The newest of this thread, or NULL. */
static inline ThreadLink *
threadlist_current(ThreadLink *list)
{
    unsigned long thread = PyThread_get_thread_ident();
    while (list != NULL && list->thread != thread) {
        list = list->next;
    }
    return list;
}

/* In a forked child: what the parent's other threads do is not done here. */
static inline void
threadlist_after_fork(ThreadLink **list)
{
    unsigned long thread = PyThread_get_thread_ident();
    while (*list != NULL) {
        if ((*list)->thread != thread) {
            *list = (*list)->next;
        } else {
            list = &(*list)->next;
        }
    }
}

#endif
