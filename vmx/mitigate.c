#include "vmx/mitigate.h"

#include "libc/bits.h"
#include "libc/string.h"

#define EDX(bit) (cpu->leaf7_edx >> (bit)&1)
#define EBX(bit) (cpu->leaf7_ebx >> (bit)&1)
#define CAP(bit) (cpu->arch_caps >> (bit)&1)
#define ON(name) (1u << BOUNDARY_##name)

#define IBRS_ALL 1

struct mitigations mitigate_select(const struct speculation *cpu)
{
    struct mitigations m = {.ibrs = EDX(26) && CAP(IBRS_ALL)};
#define BARRIER(name, text, need, boundaries)                                                      \
    for (unsigned b = 0; b < BOUNDARY_COUNT; b++)                                                  \
        if ((need) && (boundaries) >> b & 1)                                                       \
            m.at[b] |= BARRIER_##name;
#include "vmx/mitigate.def"
#undef BARRIER
    return m;
}

static void append(char *text, unsigned size, const char *word)
{
    unsigned n = (unsigned)strlen(text);
    const char *parts[] = {n ? ", " : "", word};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        for (const char *c = parts[i]; *c && n + 1 < size; c++)
            text[n++] = *c;
    text[n] = 0;
}

const char *mitigate_names(const struct mitigations *m, char *text, unsigned size)
{
    unsigned used = 0;
    for (unsigned b = 0; b < BOUNDARY_COUNT; b++)
        used |= m->at[b];
    text[0] = 0;
#define BARRIER(name, word, need, boundaries)                                                      \
    if (used & BARRIER_##name)                                                                     \
        append(text, size, word);
#include "vmx/mitigate.def"
#undef BARRIER
    if (m->ibrs)
        append(text, size, "enhanced IBRS");
    return text[0] ? text : "none";
}
