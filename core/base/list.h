/* SPDX-License-Identifier: MIT */
/* Intrusive doubly linked lists. The head is a node of its own; an unlinked node points to itself. */
#ifndef VD_BASE_LIST_H
#define VD_BASE_LIST_H

#include "core/base/base.h"

struct vd_list {
    struct vd_list *next, *prev;
};

static inline void vd_list_init(struct vd_list *l)
{
    l->next = l->prev = l;
}

static inline bool vd_list_empty(const struct vd_list *l)
{
    return l->next == l;
}

static inline void vd_list_push(struct vd_list *head, struct vd_list *n)
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}

static inline void vd_list_push_front(struct vd_list *head, struct vd_list *n)
{
    vd_list_push(head->next, n);
}

static inline void vd_list_remove(struct vd_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    vd_list_init(n);
}

/* First node taken off, or NULL. */
static inline struct vd_list *vd_list_pop(struct vd_list *head)
{
    struct vd_list *n = head->next;
    if (n == head)
        return NULL;
    vd_list_remove(n);
    return n;
}

/* All nodes of `from`, in order, to the end of `head`. */
static inline void vd_list_push_all(struct vd_list *head, struct vd_list *from)
{
    if (vd_list_empty(from))
        return;
    head->prev->next = from->next;
    from->next->prev = head->prev;
    from->prev->next = head;
    head->prev = from->prev;
    vd_list_init(from);
}

#define vd_list_each(it, head) \
    for (struct vd_list *it = (head)->next; it != (head); it = it->next)
#define vd_list_each_safe(it, head) \
    for (struct vd_list *it = (head)->next, *it##_next = it->next; it != (head); \
         it = it##_next, it##_next = it->next)

#endif
