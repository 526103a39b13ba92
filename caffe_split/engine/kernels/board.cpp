// A board on which the processes of one machine show each other a few values, in memory that they share.
//
// A part for each process: a counter, and two places for values, used in turns. A process writes its values, sets its
// counter to the number of the exchange, and reads the others' when their counters have come as far. It can be at most
// one exchange ahead, so that nobody writes to a place that another still reads.

#include "common.h"

#include <atomic>
#include <ctime>
#include <sched.h>

namespace {

// Of a counter, which has a line of the cache to itself.
const int64_t HEAD = 64;
// How often a process looks before it lets others run in between, and before it sleeps in between.
const int64_t LOOKS = 1000, YIELDS = 100000;

void wait_for(const std::atomic<uint64_t> &counter, uint64_t number) {
    for (int64_t tries = 0; counter.load(std::memory_order_acquire) < number; ++tries) {
        if (tries < LOOKS) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else if (tries < YIELDS) sched_yield();
        else {
            const timespec moment{0, 50000};
            nanosleep(&moment, nullptr);
        }
    }
}

}  // namespace

extern "C" {

// Bytes for `size` processes that exchange up to `most` bytes each, a multiple of 64.
int64_t board_bytes(int64_t size, int64_t most) { return size * (HEAD + 2 * most); }

// Exchange number `number`, from 1, of process `rank`: `bytes` bytes of each process go into `all`, in order. The memory
// is full of zeros before the first one.
void board_exchange(char *memory, int64_t rank, int64_t size, int64_t most, uint64_t number, const char *mine,
                    int64_t bytes, char *all) {
    const int64_t part = HEAD + 2 * most, place = HEAD + static_cast<int64_t>(number % 2) * most;
    std::memcpy(memory + rank * part + place, mine, bytes);
    reinterpret_cast<std::atomic<uint64_t> *>(memory + rank * part)->store(number, std::memory_order_release);
    for (int64_t each = 0; each < size; ++each) {
        wait_for(*reinterpret_cast<const std::atomic<uint64_t> *>(memory + each * part), number);
        std::memcpy(all + each * bytes, memory + each * part + place, bytes);
    }
}
}
