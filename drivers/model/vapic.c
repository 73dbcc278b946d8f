#include "drivers/model/vapic.h"

#include "drivers/model/vlapic_internal.h"

#define MSI_BASE    0xfee00000ull
#define MSI_LOGICAL 0x4u // of the address
#define MSI_FORMAT  0x10u

bool vlapic_matches(const struct vlapic *l, const struct vapic_msg *msg)
{
    if (msg->dest == VAPIC_BROADCAST)
        return true;
    if (!msg->logical)
        return msg->dest == l->id;
    u32 ldr = vlapic_get(l, VLAPIC_LDR);
    if (vlapic_x2apic(l))
        return msg->dest >> 16 == ldr >> 16 && (msg->dest & ldr & 0xffff);
    ldr >>= 24;
    if (msg->dest > 0xff)
        return false;
    if (vlapic_get(l, VLAPIC_DFR) >> 28 == 0xf) // flat, else cluster
        return msg->dest & ldr;
    return (msg->dest >> 4 == ldr >> 4 || msg->dest >> 4 == 0xf) && (msg->dest & ldr & 0xf);
}

// The receiver among those addressed whose processor priority is lowest.
static bool deliver_lowest(struct vapic_bus *bus, const struct vapic_msg *msg)
{
    struct vlapic *best = NULL;
    for (unsigned i = 0; i < bus->count; i++) {
        struct vlapic *l = bus->cpu[i];
        bool takes = vlapic_enabled(l) && (vlapic_get(l, VLAPIC_SVR) & VLAPIC_SVR_ENABLE);
        if (takes && vlapic_matches(l, msg) &&
            (!best || vlapic_get(l, VLAPIC_PPR) < vlapic_get(best, VLAPIC_PPR)))
            best = l;
    }
    return best && vlapic_post(best, msg);
}

bool vapic_broadcast(struct vapic_bus *bus, const struct vapic_msg *msg,
                     const struct vlapic *except)
{
    bool accepted = false;
    for (unsigned i = 0; i < bus->count; i++)
        if (bus->cpu[i] != except)
            accepted |= vlapic_post(bus->cpu[i], msg);
    return accepted;
}

bool vapic_deliver(struct vapic_bus *bus, const struct vapic_msg *msg)
{
    if (msg->mode == VAPIC_LOWEST)
        return deliver_lowest(bus, msg);
    if (!msg->logical && msg->dest < bus->count)
        return vlapic_post(bus->cpu[msg->dest], msg);
    bool accepted = false;
    for (unsigned i = 0; i < bus->count; i++)
        if (vlapic_matches(bus->cpu[i], msg))
            accepted |= vlapic_post(bus->cpu[i], msg);
    return accepted;
}

bool vapic_msi(struct vapic_bus *bus, u64 address, u32 data)
{
    if ((address & ~0xfffffull) != MSI_BASE || (address & MSI_FORMAT))
        return false;
    u32 dest = (u32)(address >> 12) & 0xff;
    struct vapic_msg msg = {
        .dest = dest == VAPIC_BROADCAST8 ? VAPIC_BROADCAST : dest,
        .mode = (enum vapic_mode)(data >> 8 & 7),
        .vector = (u8)data,
        .logical = address & MSI_LOGICAL,
        .level = data & 0x8000,
    };
    return msg.mode != VAPIC_STARTUP && vapic_deliver(bus, &msg);
}
