#include "tests/host/test.h"

#include "kernel/input.h"

struct taker {
    u32 room, taken;
    u8 last;
};

static bool take(void *ctx, u8 byte)
{
    struct taker *t = ctx;
    if (!t->room)
        return false;
    t->room--;
    t->taken++;
    t->last = byte;
    return true;
}

TEST(bytes_wait_for_room_and_keep_their_order)
{
    static struct input in;
    struct taker t = {.room = 1};
    input_feed(&in, take, &t);
    CHECK_EQ(t.taken, 0);
    for (u8 i = 1; i <= 3; i++)
        CHECK(input_put(&in, i));
    input_feed(&in, take, &t);
    CHECK_EQ(t.taken, 1);
    CHECK_EQ(t.last, 1);
    t.room = 1;
    input_feed(&in, take, &t);
    CHECK_EQ(t.last, 2);
    t.room = 5;
    input_feed(&in, take, &t);
    CHECK_EQ(t.last, 3);
    CHECK_EQ(t.taken, 3);
}

TEST(a_full_buffer_refuses_and_wraps_around)
{
    static struct input in;
    struct taker t = {.room = 100};
    for (u32 i = 0; i < INPUT_BYTES; i++)
        CHECK(input_put(&in, (u8)i));
    CHECK(!input_put(&in, 0xff));
    input_feed(&in, take, &t);
    CHECK_EQ(t.last, 99);
    for (u32 i = 0; i < 100; i++)
        CHECK(input_put(&in, (u8)(200 + i % 2)));
    CHECK(!input_put(&in, 0xff));
    t.room = 2 * INPUT_BYTES;
    input_feed(&in, take, &t);
    CHECK_EQ(t.taken, INPUT_BYTES + 100);
    CHECK_EQ(t.last, 201);
}
