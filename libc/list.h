#pragma once
// Doubly linked circular list; the head is a node that is no element.

#include "libc/types.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *head)
{
    head->next = head->prev = head;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

// Inserts `node` right after `at`: at the front if `at` is the head.
static inline void list_add(struct list *at, struct list *node)
{
    node->next = at->next;
    node->prev = at;
    at->next->prev = node;
    at->next = node;
}

static inline void list_del(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

#define LIST_FOR(node, head)                                                                       \
    for (struct list *node = (head)->next; node != (head); node = node->next)
