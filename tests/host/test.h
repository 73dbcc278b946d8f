#pragma once
// A minimal unit-test frame: TEST(name) { CHECK(...); } and nothing else in the file is needed.
// main() is here; every test file is a program of its own.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libc/types.h"

struct test_case {
    const char *name;
    void (*run)(void);
    struct test_case *next;
};

static struct test_case *test_list, **test_tail = &test_list;
static int test_failures;

#define TEST(name)                                                                                 \
    static void test_##name(void);                                                                 \
    static struct test_case case_##name = {#name, test_##name, NULL};                              \
    __attribute__((constructor)) static void add_##name(void)                                      \
    {                                                                                              \
        *test_tail = &case_##name;                                                                 \
        test_tail = &case_##name.next;                                                             \
    }                                                                                              \
    static void test_##name(void)

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #cond);                                      \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        unsigned long long a_ = (unsigned long long)(a), b_ = (unsigned long long)(b);             \
        if (a_ != b_) {                                                                            \
            printf("%s:%d: %s is 0x%llx, expected 0x%llx (%s)\n", __FILE__, __LINE__, #a, a_, b_,  \
                   #b);                                                                            \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)

int main(int argc, char **argv)
{
    int passed = 0, failed = 0;
    for (struct test_case *t = test_list; t; t = t->next) {
        if (argc > 1 && strcmp(argv[1], t->name))
            continue;
        test_failures = 0;
        t->run();
        if (test_failures)
            printf("FAIL %s\n", t->name);
        *(test_failures ? &failed : &passed) += 1;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed;
}
