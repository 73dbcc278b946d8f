#pragma once
// Where the machine that a VM sees has its devices: the one list that the device models and the
// builder of the VM's ACPI tables share. Guest-physical addresses, I/O ports and GSIs.

#define MACHINE_MAX_CPUS 16 // APIC IDs are 0 .. cpus - 1

// Where adapters have their ROMs, which software scans: there are none.
#define LAYOUT_ROM_BASE    0xc0000ull
#define LAYOUT_ROM_SIZE    0x20000ull

#define LAYOUT_LAPIC_BASE  0xfee00000ull
#define LAYOUT_IOAPIC_BASE 0xfec00000ull
#define LAYOUT_IOAPIC_SIZE 0x1000ull
#define LAYOUT_IOAPIC_PINS 24 // GSIs 0..23; its APIC ID is the number of CPUs

// ISA interrupts. IRQ n is GSI n but for the PIT, whose IRQ 0 is GSI 2 (interrupt source override
// in the MADT, edge-triggered, active high).
#define LAYOUT_IRQ_PIT  0
#define LAYOUT_GSI_PIT  2
#define LAYOUT_IRQ_COM1 4
#define LAYOUT_IRQ_RTC  8
#define LAYOUT_IRQ_SCI  9 // level-triggered, active high (override in the MADT), also in the ELCR

// PCI INTA#..INTD# of device d, pin p (0..3) is GSI 16 + (d + p) % 4, level-triggered.
#define LAYOUT_GSI_PCI(dev, pin) (16 + ((dev) + (pin)) % 4)

#define LAYOUT_PORT_COM1         0x3f8
#define LAYOUT_PORT_RTC          0x70
#define LAYOUT_PORT_PCI_ADDRESS  0xcf8
#define LAYOUT_PORT_PCI_DATA     0xcfc
#define LAYOUT_PORT_RESET        0xcf9 // reset register of the FADT
#define LAYOUT_RESET_VALUE       0x06

// ACPI fixed hardware. SMI_CMD of the FADT is 0: the machine is always in ACPI mode.
#define LAYOUT_PM_BASE       0x600
#define LAYOUT_PM1A_EVT      (LAYOUT_PM_BASE + 0) // status and enable, 4 bytes
#define LAYOUT_PM1A_CNT      (LAYOUT_PM_BASE + 4) // 2 bytes
#define LAYOUT_PM_TIMER      (LAYOUT_PM_BASE + 8) // 4 bytes
#define LAYOUT_PM_TIMER_BITS 32                   // TMR_VAL_EXT is set in the FADT
#define LAYOUT_S5_SLP_TYP    5

// The local APIC timer counts 10^9 a second before its divider. A CPUID leaf 15H that the VM sees
// must not tell another crystal frequency.
#define LAYOUT_LAPIC_TIMER_HZ 1000000000ull
