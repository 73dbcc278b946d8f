#pragma once
// Interrupt vectors of L0.

enum { VECTOR_TIMER = 0x40, VECTOR_COM1 = 0x41, VECTOR_WAKE = 0x42 };
