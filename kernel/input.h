#pragma once
// Bytes typed on the serial line that no VM has taken yet.

#include "libc/types.h"

#define INPUT_BYTES 4096

struct input {
    u8 byte[INPUT_BYTES];
    u32 first, count;
};

// False, and the byte is lost, if nobody took the last INPUT_BYTES.
bool input_put(struct input *in, u8 byte);

// Gives the bytes to `take`, the oldest first, until it refuses one (which stays) or none is left.
void input_feed(struct input *in, bool (*take)(void *ctx, u8 byte), void *ctx);
