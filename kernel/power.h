#pragma once
// Switching the machine off.

#include "drivers/acpi.h"

// Remembers how this machine's ACPI tables say that it is done.
void power_init(const struct acpi *acpi);

// Switches off, or resets where that is all that the tables tell. Comes back if neither works.
void power_off(void);
