#pragma once
// The pair of 8259A interrupt controllers of a PC with their edge/level control registers. Ports
// 20H-21H, A0H-A1H, 4D0H-4D1H. Facts: Intel 8259A data sheet.

#include "drivers/model/vbus.h"

struct vpic_chip {
    u8 irr, imr, isr, line; // one bit an input; `line` is the inputs' level
    u8 elcr;                // 1: level-triggered
    u8 elcr_mask;           // bits of `elcr` that can be written
    u8 vector;              // of input 0
    u8 lowest;              // input of lowest priority; the one after it is highest
    u8 init_step;           // next initialisation word expected, 0 when done
    bool need_icw4, single;
    bool auto_eoi, rotate_on_auto_eoi;
    bool special_mask, special_nested;
    bool read_isr, poll;
    bool master;
};

struct vpic {
    struct vpic_chip chip[2]; // master, slave
    struct irq_line intr;     // INTR, to LINT0 of the local APICs
    bool intr_level;
};

void vpic_init(struct vpic *pic, struct irq_line intr);
bool vpic_attach(struct vpic *pic, struct port_bus *bus);

// Sets the level of input `irq`, 0..15 (2 is the slave's own and is ignored).
void vpic_set_irq(struct vpic *pic, unsigned irq, bool level);

// The interrupt-acknowledge cycle: the vector of the highest request, which goes in service; the
// vector of input 7 if the request has gone (spurious).
u8 vpic_ack(struct vpic *pic);
