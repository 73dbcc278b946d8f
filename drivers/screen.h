#pragma once
// The 80x25 text screen, where the boot loader left one.

#include "libc/addr.h"

// `cells` is L0's pointer to the text buffer (2 bytes a cell).
void screen_init(volatile u16 *cells, unsigned columns, unsigned rows);

// One character, or a line break; the screen scrolls. Nothing before screen_init().
void screen_put(char c);
