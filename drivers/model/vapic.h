#pragma once
// The local APICs of a VM as receivers of messages: IPIs, the I/O APIC's and MSIs. SDM volume 3,
// "Advanced Programmable Interrupt Controller".
//
// Delivery takes no lock: it reads the receivers' registers and leaves the message in their posted
// interrupts (see vlapic.h).

#include "drivers/model/layout.h"
#include "libc/types.h"

enum vapic_mode {
    VAPIC_FIXED,
    VAPIC_LOWEST,
    VAPIC_SMI,
    VAPIC_NMI = 4,
    VAPIC_INIT,
    VAPIC_STARTUP,
    VAPIC_EXTINT,
};

#define VAPIC_BROADCAST  0xffffffffu // destination in a message
#define VAPIC_BROADCAST8 0xffu       // the same where a destination has 8 bits

struct vapic_msg {
    u32 dest;
    enum vapic_mode mode;
    u8 vector;
    bool logical; // destination mode
    bool level;   // trigger mode
};

struct vlapic;

struct vapic_bus {
    struct vlapic *cpu[MACHINE_MAX_CPUS]; // by APIC ID
    unsigned count;
    // End of a level-triggered interrupt, to the I/O APIC. Called from the EOI of a local APIC.
    void (*eoi)(void *ctx, u8 vector);
    void *ctx;
};

// Delivers to every local APIC that `msg` addresses (to one of them, in VAPIC_LOWEST). True if one
// accepted it.
bool vapic_deliver(struct vapic_bus *bus, const struct vapic_msg *msg);

// Delivers to all but `except` (NULL: to all), whatever the destination says.
bool vapic_broadcast(struct vapic_bus *bus, const struct vapic_msg *msg,
                     const struct vlapic *except);

// Delivers a message-signalled interrupt in compatibility format. False if `address` is none, or no
// local APIC accepted.
bool vapic_msi(struct vapic_bus *bus, u64 address, u32 data);
