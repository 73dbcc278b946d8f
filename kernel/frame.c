#include "kernel/frame.h"

#include "ept/pool.h"
#include "libc/string.h"

static void insert(struct frames *f, unsigned at, u64 start, u64 end)
{
    if (f->count == FRAME_RANGES)
        return; // the memory is lost, nothing else
    memmove(&f->range[at + 1], &f->range[at], (f->count - at) * sizeof(f->range[0]));
    f->range[at] = (struct frame_range){start, end};
    f->count++;
}

static void erase(struct frames *f, unsigned at)
{
    f->count--;
    memmove(&f->range[at], &f->range[at + 1], (f->count - at) * sizeof(f->range[0]));
}

void frames_add(struct frames *f, hpa_t hpa, u64 size)
{
    u64 start = align_up(hpa.v, PAGE_SIZE), end = align_down(hpa.v + size, PAGE_SIZE);
    if (end <= start)
        return;
    frames_remove(f, HPA(start), end - start); // so that adding twice counts once
    unsigned at = 0;
    while (at < f->count && f->range[at].start < start)
        at++;
    if (at < f->count && f->range[at].start == end) {
        f->range[at].start = start;
        if (at && f->range[at - 1].end == start) {
            f->range[at - 1].end = f->range[at].end;
            erase(f, at);
        }
    } else if (at && f->range[at - 1].end == start) {
        f->range[at - 1].end = end;
    } else {
        insert(f, at, start, end);
    }
    f->total += end - start;
}

void frames_remove(struct frames *f, hpa_t hpa, u64 size)
{
    u64 start = align_down(hpa.v, PAGE_SIZE), end = align_up(hpa.v + size, PAGE_SIZE);
    for (unsigned i = 0; i < f->count;) {
        struct frame_range *r = &f->range[i];
        if (r->end <= start || r->start >= end) {
            i++;
        } else if (r->start < start && r->end > end) {
            u64 tail = r->end;
            r->end = start;
            insert(f, i + 1, end, tail);
            return;
        } else if (r->start < start) {
            r->end = start;
            i++;
        } else if (r->end > end) {
            r->start = end;
            i++;
        } else {
            erase(f, i);
        }
    }
}

hpa_t frames_take(struct frames *f, u64 size, u64 align, u64 limit)
{
    size = align_up(size, PAGE_SIZE);
    for (unsigned i = f->count; i-- > 0;) {
        u64 end = MIN(f->range[i].end, limit);
        if (end < size)
            continue;
        u64 start = align_down(end - size, align);
        if (start < f->range[i].start)
            continue;
        frames_remove(f, HPA(start), size);
        return HPA(start);
    }
    return HPA_NONE;
}

u64 frames_free_bytes(const struct frames *f)
{
    u64 sum = 0;
    for (unsigned i = 0; i < f->count; i++)
        sum += f->range[i].end - f->range[i].start;
    return sum;
}

u64 frames_largest(const struct frames *f, u64 align)
{
    u64 best = 0;
    for (unsigned i = 0; i < f->count; i++) {
        u64 start = align_up(f->range[i].start, align), end = align_down(f->range[i].end, align);
        if (end > start && end - start > best)
            best = end - start;
    }
    return best;
}
