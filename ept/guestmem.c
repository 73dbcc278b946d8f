#include "ept/guestmem.h"

#include "libc/string.h"

static const struct ram_range *find(const struct guest_mem *mem, gpa_t gpa)
{
    for (unsigned i = 0; i < mem->count; i++)
        if (gpa.v - mem->range[i].gpa.v < mem->range[i].size)
            return &mem->range[i];
    return NULL;
}

bool guest_to_host(const struct guest_mem *mem, gpa_t gpa, hpa_t *hpa, u64 *left)
{
    const struct ram_range *r = find(mem, gpa);
    if (!r)
        return false;
    u64 offset = gpa.v - r->gpa.v;
    *hpa = HPA(r->hpa.v + offset);
    if (left)
        *left = r->size - offset;
    return true;
}

static bool all_ram(const struct guest_mem *mem, gpa_t gpa, u64 len)
{
    while (len) {
        hpa_t hpa;
        u64 left;
        if (!guest_to_host(mem, gpa, &hpa, &left))
            return false;
        u64 n = MIN(left, len);
        gpa.v += n;
        len -= n;
    }
    return true;
}

enum direction { FROM_GUEST, TO_GUEST, FILL };

static bool transfer(const struct guest_mem *mem, gpa_t gpa, void *buf, u64 len, enum direction dir,
                     u8 byte)
{
    if (!all_ram(mem, gpa, len))
        return false;
    for (u64 done = 0; done < len;) {
        hpa_t hpa = HPA(0);
        u64 left = 0;
        guest_to_host(mem, GPA(gpa.v + done), &hpa, &left);
        u64 n = MIN(left, len - done);
        if (dir == FROM_GUEST)
            memcpy((u8 *)buf + done, phys_ptr(hpa), n);
        else if (dir == TO_GUEST)
            memcpy(phys_ptr(hpa), (u8 *)buf + done, n);
        else
            memset(phys_ptr(hpa), byte, n);
        done += n;
    }
    return true;
}

bool guest_read(const struct guest_mem *mem, void *to, gpa_t from, u64 len)
{
    return transfer(mem, from, to, len, FROM_GUEST, 0);
}

bool guest_write(const struct guest_mem *mem, gpa_t to, const void *from, u64 len)
{
    return transfer(mem, to, (void *)from, len, TO_GUEST, 0);
}

bool guest_fill(const struct guest_mem *mem, gpa_t to, u8 byte, u64 len)
{
    return transfer(mem, to, NULL, len, FILL, byte);
}
