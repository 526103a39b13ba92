// How cuda_host.hpp runs the threads of a launch.
#include "cuda_host.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "device_memory.hpp"

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace cuda_host {

namespace {

const unsigned int kBlocksAtOnce = 2;
const size_t kStack = 64 << 10;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "CUDA on the host: %s\n", what.c_str());
  std::abort();
}

uint64_t Seed() {
  const char* text = std::getenv("CUDA_HOST_SEED");
  return text == NULL ? 0 : std::strtoull(text, NULL, 10);
}

bool UsesThreads() {
  const char* text = std::getenv("CUDA_HOST_MODE");
  return text != NULL && std::string(text) == "threads";
}

struct SharedArena {
  alignas(64) char bytes[kSharedVariable * kSharedVariables];
  // What no thread has written is NaN.
  void Reset() { std::memset(bytes, 0xff, sizeof(bytes)); }
};

std::vector<unsigned int> Order(const unsigned int count, std::mt19937_64* random) {
  std::vector<unsigned int> order(count);
  std::iota(order.begin(), order.end(), 0u);
  if (random != NULL) { std::shuffle(order.begin(), order.end(), *random); }
  return order;
}

// ---- Fibers.

struct Block {
  SharedArena shared;
  unsigned int index;
  std::vector<int> waiting;  // Fibers at a barrier.
  int line;                  // Whose line is this.
  unsigned int done;
};

// Where a thread of the host was left. A change to another one takes system
// calls with ucontext, and there are hundreds of millions of them.
struct Place {
  ucontext_t context;
  void* stack;
};

#ifdef __x86_64__
extern "C" void cuda_host_change(void** from, void* to);
asm(".text\n"
    "cuda_host_change:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n"
    "  push %r15\n"
    "  mov %rsp, (%rdi)\n"
    "  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n"
    "  pop %rbp\n"
    "  ret\n");

void Change(Place* from, Place* to) {
  cuda_host_change(&from->stack, to->stack);
}

void Prepare(Place* place, char* stack, const size_t size, void (*entry)()) {
  // The stack of a function that has just been called, below six registers.
  void** top = reinterpret_cast<void**>(stack + size) - 2;
  top[0] = reinterpret_cast<void*>(entry);
  top[1] = NULL;
  std::fill(top - 6, top, static_cast<void*>(NULL));
  place->stack = top - 6;
}
#else
void Change(Place* from, Place* to) {
  swapcontext(&from->context, &to->context);
}

void Prepare(Place* place, char* stack, const size_t size, void (*entry)()) {
  getcontext(&place->context);
  place->context.uc_stack.ss_sp = stack;
  place->context.uc_stack.ss_size = size;
  place->context.uc_link = NULL;
  makecontext(&place->context, entry, 0);
}
#endif

struct Fiber {
  Place place;
  Block* block;
  unsigned int thread;
  enum { WAITS, YIELDS, DONE } state;
  int line;
};

class Scheduler {
 public:
  Scheduler() : current_(-1) {}

  void Run(const unsigned int grid, const unsigned int threads,
      const std::function<void()>& work) {
    if (current_ >= 0) { Die("a kernel is launched by a kernel"); }
    static uint64_t launches = 0;
    const uint64_t seed = Seed();
    std::mt19937_64 random(seed * 1000003 + ++launches);
    const std::vector<unsigned int> order = Order(grid, seed ? &random : NULL);
    const unsigned int slots = seed ? std::min(grid, kBlocksAtOnce) : 1;
    work_ = &work;
    blockDim = threads;
    gridDim = grid;
    while (blocks_.size() < slots) { blocks_.emplace_back(new Block()); }
    while (fibers_.size() < slots * threads) { AddFiber(); }
    size_t next = 0;
    ready_.clear();
    for (unsigned int slot = 0; slot < slots; ++slot) {
      Begin(slot, threads, order[next++]);
    }
    size_t first = 0;
    while (first < ready_.size()) {
      // In their order, or any of those that are ready.
      if (seed) {
        std::swap(ready_[first],
            ready_[first + random() % (ready_.size() - first)]);
      }
      const int number = ready_[first++];
      if (first > 65536) {
        ready_.erase(ready_.begin(), ready_.begin() + first);
        first = 0;
      }
      Resume(number);
      Fiber& fiber = *fibers_[number];
      Block* block = fiber.block;
      if (fiber.state == Fiber::YIELDS) {
        ready_.push_back(number);
      } else if (fiber.state == Fiber::WAITS) {
        if (block->waiting.empty()) { block->line = fiber.line; }
        if (block->line != fiber.line) {
          Die("threads of a block meet different barriers");
        }
        block->waiting.push_back(number);
      } else {
        ++block->done;
      }
      if (block->waiting.size() + block->done < threads) { continue; }
      if (!block->waiting.empty()) {
        if (block->done) {
          Die("threads of a block have ended, and others wait for them");
        }
        ready_.insert(ready_.end(), block->waiting.begin(),
            block->waiting.end());
        block->waiting.clear();
      } else if (next < order.size()) {
        Begin(number / threads, threads, order[next++]);
      }
    }
    current_ = -1;
  }

  void Leave(const int state, const int line) {
    Fiber& fiber = *fibers_[current_];
    fiber.state = static_cast<decltype(fiber.state)>(state);
    fiber.line = line;
    Change(&fiber.place, &home_);
  }

  bool in_kernel() const { return current_ >= 0; }
  char* shared() { return fibers_[current_]->block->shared.bytes; }

 private:
  void AddFiber() {
    fibers_.emplace_back(new Fiber());
    Fiber& fiber = *fibers_.back();
    void* stack = mmap(NULL, kStack, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) { Die("no memory for a thread's stack"); }
    Prepare(&fiber.place, static_cast<char*>(stack), kStack, &Entry);
  }

  static void Entry();

  void Begin(const unsigned int slot, const unsigned int threads,
      const unsigned int index) {
    Block* block = blocks_[slot].get();
    block->shared.Reset();
    block->index = index;
    block->done = 0;
    for (unsigned int t = 0; t < threads; ++t) {
      Fiber& fiber = *fibers_[slot * threads + t];
      fiber.block = block;
      fiber.thread = t;
      ready_.push_back(slot * threads + t);
    }
  }

  void Resume(const int number) {
    current_ = number;
    threadIdx.x = fibers_[number]->thread;
    blockIdx.x = fibers_[number]->block->index;
    Change(&home_, &fibers_[number]->place);
  }

  std::vector<std::unique_ptr<Block> > blocks_;
  std::vector<std::unique_ptr<Fiber> > fibers_;
  std::vector<int> ready_;
  const std::function<void()>* work_;
  Place home_;
  int current_;
};

Scheduler scheduler;

void Scheduler::Entry() {
  for (;;) {
    (*scheduler.work_)();
    scheduler.Leave(Fiber::DONE, 0);
  }
}

// ---- Threads.

struct ThreadBlock {
  SharedArena shared;
  pthread_barrier_t barrier;
  // The barrier that thread 0 waits at, of this meeting and the one before:
  // it may be on its way to the next while others still look.
  int lines[2];
};

thread_local ThreadBlock* thread_block = NULL;
thread_local uint64_t thread_random = 0;
thread_local bool fenced = false;
thread_local unsigned int meetings = 0;

void Delay() {
  // Xorshift. A third of the time another thread goes first.
  thread_random ^= thread_random << 13;
  thread_random ^= thread_random >> 7;
  thread_random ^= thread_random << 17;
  if (thread_random % 3 == 0) { sched_yield(); }
}

void Meet(const int line) {
  Delay();
  ThreadBlock* block = thread_block;
  int* first = &block->lines[meetings++ % 2];
  if (threadIdx.x == 0) { __atomic_store_n(first, line, __ATOMIC_RELAXED); }
  pthread_barrier_wait(&block->barrier);
  if (__atomic_load_n(first, __ATOMIC_RELAXED) != line) {
    Die("threads of a block meet different barriers");
  }
}

void RunThreads(const unsigned int grid, const unsigned int threads,
    const std::function<void()>& work) {
  static uint64_t launches = 0;
  const uint64_t seed = Seed() * 1000003 + ++launches;
  std::mt19937_64 random(seed);
  const std::vector<unsigned int> order = Order(grid, &random);
  const unsigned int slots = std::min(grid, kBlocksAtOnce);
  std::vector<std::unique_ptr<ThreadBlock> > blocks;
  for (unsigned int slot = 0; slot < slots; ++slot) {
    blocks.emplace_back(new ThreadBlock());
    pthread_barrier_init(&blocks.back()->barrier, NULL, threads);
  }
  std::vector<std::thread> running;
  const std::vector<unsigned int> starts = Order(slots * threads, &random);
  for (const unsigned int place : starts) {
    running.emplace_back([&, place] {
      thread_block = blocks[place / threads].get();
      thread_random = seed * 7919 + place + 1;
      threadIdx.x = place % threads;
      blockDim = threads;
      gridDim = grid;
      for (size_t i = place / threads; i < grid; i += slots) {
        blockIdx.x = order[i];
        // A block begins when the one before it in its place has ended.
        Meet(-1);
        if (threadIdx.x == 0) { thread_block->shared.Reset(); }
        Meet(-2);
        work();
        Meet(0);
      }
    });
  }
  for (std::thread& thread : running) { thread.join(); }
  for (auto& block : blocks) { pthread_barrier_destroy(&block->barrier); }
}

}  // namespace

void Run(const unsigned int grid, const unsigned int threads,
    const std::function<void()>& work) {
  if (grid == 0 || threads == 0 || threads > 1024) {
    Die("a launch of " + std::to_string(grid) + " blocks of " +
        std::to_string(threads) + " threads");
  }
  const DeviceAccess access;
  if (UsesThreads()) {
    RunThreads(grid, threads, work);
  } else {
    scheduler.Run(grid, threads, work);
  }
}

void Barrier(const int line) {
  if (thread_block != NULL) {
    Meet(line);
  } else {
    scheduler.Leave(Fiber::WAITS, line);
  }
}

void Fence() {
  if (thread_block != NULL) {
    fenced = true;
    Delay();
  } else {
    scheduler.Leave(Fiber::YIELDS, 0);
  }
}

bool BeginAtomic() {
  if (thread_block == NULL) {
    scheduler.Leave(Fiber::YIELDS, 0);
    return true;
  }
  Delay();
  const bool releases = fenced;
  fenced = false;
  return releases;
}

char* SharedMemory() {
  return thread_block != NULL ? thread_block->shared.bytes :
      scheduler.shared();
}

}  // namespace cuda_host
