#include "drivers/screen.h"

#define ATTRIBUTE 0x0700

static volatile u16 *cell;
static unsigned columns, rows, x, y;

void screen_init(volatile u16 *cells, unsigned ncolumns, unsigned nrows)
{
    cell = cells;
    columns = ncolumns;
    rows = nrows;
    for (unsigned i = 0; i < columns * rows; i++)
        cell[i] = ATTRIBUTE | ' ';
}

static void scroll(void)
{
    volatile u64 *to = (volatile u64 *)cell;
    unsigned words = columns * (rows - 1) / 4, step = columns / 4;
    for (unsigned i = 0; i < words; i++)
        to[i] = to[i + step];
    for (unsigned i = 0; i < columns; i++)
        cell[(rows - 1) * columns + i] = ATTRIBUTE | ' ';
}

static void line_feed(void)
{
    x = 0;
    if (++y == rows) {
        scroll();
        y = rows - 1;
    }
}

void screen_put(char c)
{
    if (!cell)
        return;
    if (c == '\r') {
        x = 0;
    } else if (c == '\n') {
        line_feed();
    } else {
        cell[y * columns + x] = (u16)(ATTRIBUTE | (u8)c);
        if (++x == columns)
            line_feed();
    }
}
