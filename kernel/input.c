#include "kernel/input.h"

bool input_put(struct input *in, u8 byte)
{
    if (in->count == INPUT_BYTES)
        return false;
    in->byte[(in->first + in->count++) % INPUT_BYTES] = byte;
    return true;
}

void input_feed(struct input *in, bool (*take)(void *ctx, u8 byte), void *ctx)
{
    while (in->count && take(ctx, in->byte[in->first])) {
        in->first = (in->first + 1) % INPUT_BYTES;
        in->count--;
    }
}
