/* Owns the words for the reasons. */
#include "reason.h"

#define REASON_KEY(name, key, sentence) [REASON_##name] = key,
#define REASON_SENTENCE(name, key, sentence) [REASON_##name] = sentence,

const char *
reason_key(Reason reason)
{
    static const char *const keys[REASON_COUNT] = {[REASON_NONE] = "",
                                                   REASON_LIST(REASON_KEY)};
    return keys[reason];
}

const char *
reason_sentence(Reason reason)
{
    static const char *const sentences[REASON_COUNT] = {
        [REASON_NONE] = "", REASON_LIST(REASON_SENTENCE)};
    return sentences[reason];
}
