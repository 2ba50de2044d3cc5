/* Which mappings does this process know, and under which token? */
#ifndef SAMEMAP_REGISTRY_H
#define SAMEMAP_REGISTRY_H

#include "backing.h"

/* Borrowed: the first of the backings registered for `owner` (an mmap.mmap has
 * one), or NULL without an exception when there is none. */
Backing *registry_of_owner(State *state, PyObject *owner);

/* New reference: the mmap.mmap that was made in this process for another
 * message that names the token, if it still is what the message says; NULL
 * without an exception otherwise. Not one of the user's, who may close it. */
PyObject *registry_find_map(State *state, PyObject *py_token, intptr_t length,
                            uint64_t file_offset, const FileId *id);

/* New reference: the mmap.mmap that keeps the memory of `backing`, if it still
 * maps that; else NULL without an exception. */
PyObject *registry_get_owner(const Backing *backing);

/* Enters `backing` until `owner` dies: 0 or -1. `by_token`: shared mappings
 * are found again by messages that name them. */
int registry_add(State *state, Backing *backing, PyObject *owner,
                 bool by_token);

/* New reference: a token that no other mapping has, or NULL. */
PyObject *registry_new_token(State *state);

/* Names a new backing: by a token that no other has, and by that which a
 * message names. 0, or -1 with an exception. */
int registry_name(State *state, Backing *backing);
void registry_name_as(Backing *backing, PyObject *py_token);

/* For a backing that dies: what may be a part of a cycle, and the rest. */
void registry_clear_place(Place *place);
void registry_free_place(Place *place);

/* One more of the mappings in State.own_maps, until it is taken out. */
void registry_count(State *state, Backing *backing);

/* Takes `backing` out (its owner died, was closed or maps something else). */
void registry_remove(State *state, Backing *backing);

/* How many mappings are known. */
size_t registry_count_all(State *state);

/* In a forked child: messages are read on maps made here. Those of before the
 * fork may be missing (MADV_DONTFORK), and nobody has looked at their files
 * since. */
void registry_after_fork(State *state);

/* New random prefix for the tokens: at import, and in a forked child, whose
 * new mappings are not its parent's. 0 or -1. */
int registry_new_prefix(State *state);

/* An empty registry: 0 or -1. */
int registry_init(State *state);

#endif
