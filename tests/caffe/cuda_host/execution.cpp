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
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device_memory.hpp"

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace cuda_host {

namespace {

const unsigned int kBlocksAtOnce = 2;
const size_t kStack = 64 << 10;
const size_t kColour = 320;

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
    // Not by ret: a processor foretells where that goes by the calls before.
    "  pop %rcx\n  jmp *%rcx\n");

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
  enum { WAITS, YIELDS, DONE };
};

class Scheduler {
 public:
  Scheduler() : current_(-1) {}

  void Run(const unsigned int grid, const unsigned int threads,
      const std::function<void()>& work) {
    if (current_ >= 0) { Die("a kernel is launched by a kernel"); }
    static uint64_t launches = 0;
    seed_ = Seed();
    random_.seed(seed_ * 1000003 + ++launches);
    order_ = Order(grid, seed_ ? &random_ : NULL);
    const unsigned int slots = seed_ ? std::min(grid, kBlocksAtOnce) : 1;
    work_ = &work;
    threads_ = threads;
    blockDim = threads;
    gridDim = grid;
    while (blocks_.size() < slots) { blocks_.emplace_back(new Block()); }
    while (fibers_.size() < slots * threads) { AddFiber(); }
    next_block_ = 0;
    ready_.clear();
    first_ = 0;
    for (unsigned int slot = 0; slot < slots; ++slot) { Begin(slot); }
    Change(&home_, Next());
  }

  // Leaves the thread that runs, for the next one that is ready.
  void Leave(const int state, const int line) {
    const int number = current_;
    Fiber& fiber = *fibers_[number];
    Block* block = fiber.block;
    if (state == Fiber::YIELDS) {
      ready_.push_back(number);
    } else if (state == Fiber::WAITS) {
      if (block->waiting.empty()) { block->line = line; }
      if (block->line != line) {
        Die("threads of a block meet different barriers");
      }
      block->waiting.push_back(number);
    } else {
      ++block->done;
    }
    if (block->waiting.size() + block->done == threads_) {
      if (block->done == threads_) {
        if (next_block_ < order_.size()) { Begin(number / threads_); }
      } else if (block->done) {
        Die("threads of a block have ended, and others wait for them");
      } else {
        ready_.insert(ready_.end(), block->waiting.begin(),
            block->waiting.end());
        block->waiting.clear();
      }
    }
    Place* next = Next();
    if (next != &fiber.place) { Change(&fiber.place, next); }
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
    // The tops of stacks that lie in step would share a few lines of the cache.
    const size_t shift = fibers_.size() % 64 * kColour;
    Prepare(&fiber.place, static_cast<char*>(stack), kStack - shift, &Entry);
  }

  static void Entry();

  void Begin(const unsigned int slot) {
    Block* block = blocks_[slot].get();
    block->shared.Reset();
    block->index = order_[next_block_++];
    block->done = 0;
    for (unsigned int t = 0; t < threads_; ++t) {
      Fiber& fiber = *fibers_[slot * threads_ + t];
      fiber.block = block;
      fiber.thread = t;
      ready_.push_back(slot * threads_ + t);
    }
  }

  // Where to go on: the threads that are ready in their order, or any of them;
  // the end of the launch where there is none.
  Place* Next() {
    if (first_ == ready_.size()) {
      current_ = -1;
      return &home_;
    }
    if (seed_) {
      std::swap(ready_[first_],
          ready_[first_ + random_() % (ready_.size() - first_)]);
    }
    current_ = ready_[first_++];
    if (first_ > 65536) {
      ready_.erase(ready_.begin(), ready_.begin() + first_);
      first_ = 0;
    }
    Fiber& fiber = *fibers_[current_];
    threadIdx.x = fiber.thread;
    blockIdx.x = fiber.block->index;
    return &fiber.place;
  }

  std::vector<std::unique_ptr<Block> > blocks_;
  std::vector<std::unique_ptr<Fiber> > fibers_;
  std::vector<int> ready_;  // From first_ on.
  size_t first_;
  int current_;
  Place home_;
  // Of the launch that runs.
  uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<unsigned int> order_;
  size_t next_block_;
  unsigned int threads_;
  const std::function<void()>* work_;
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

// The threads of launches of one size. They wait for the next launch: to make
// them anew would take most of the time.
class Threads {
 public:
  Threads(const unsigned int slots, const unsigned int threads)
      : slots_(slots), threads_(threads), is_over_(false) {
    for (unsigned int slot = 0; slot < slots; ++slot) {
      blocks_.emplace_back(new ThreadBlock());
      pthread_barrier_init(&blocks_.back()->barrier, NULL, threads);
    }
    pthread_barrier_init(&launch_, NULL, slots * threads + 1);
    for (unsigned int t = 0; t < slots * threads; ++t) {
      running_.emplace_back([this, t] { Wait(t); });
    }
  }

  ~Threads() {
    is_over_ = true;
    pthread_barrier_wait(&launch_);
    for (std::thread& thread : running_) { thread.join(); }
    pthread_barrier_destroy(&launch_);
    for (auto& block : blocks_) { pthread_barrier_destroy(&block->barrier); }
  }

  void Launch(const unsigned int grid, const uint64_t seed,
      const std::function<void()>& work) {
    std::mt19937_64 random(seed);
    work_ = &work;
    grid_ = grid;
    seed_ = seed;
    order_ = Order(grid, &random);
    places_ = Order(running_.size(), &random);
    pthread_barrier_wait(&launch_);  // It begins,
    pthread_barrier_wait(&launch_);  // and has ended.
  }

 private:
  void Wait(const unsigned int t) {
    for (;;) {
      pthread_barrier_wait(&launch_);
      if (is_over_) { return; }
      RunThread(places_[t]);
      pthread_barrier_wait(&launch_);
    }
  }

  void RunThread(const unsigned int place) {
    thread_block = blocks_[place / threads_].get();
    thread_random = seed_ * 7919 + place + 1;
    fenced = false;
    meetings = 0;
    threadIdx.x = place % threads_;
    blockDim = threads_;
    gridDim = grid_;
    for (size_t i = place / threads_; i < grid_; i += slots_) {
      blockIdx.x = order_[i];
      // A block begins when the one before it in its place has ended.
      Meet(-1);
      if (threadIdx.x == 0) { thread_block->shared.Reset(); }
      Meet(-2);
      (*work_)();
      Meet(0);
    }
  }

  const unsigned int slots_, threads_;
  bool is_over_;
  pthread_barrier_t launch_;
  std::vector<std::unique_ptr<ThreadBlock> > blocks_;
  std::vector<std::thread> running_;
  // Of the launch that runs.
  const std::function<void()>* work_;
  unsigned int grid_;
  uint64_t seed_;
  std::vector<unsigned int> order_, places_;
};

void RunThreads(const unsigned int grid, const unsigned int threads,
    const std::function<void()>& work) {
  static uint64_t launches = 0;
  static std::map<std::pair<unsigned int, unsigned int>,
      std::unique_ptr<Threads> > all;
  const unsigned int slots = std::min(grid, kBlocksAtOnce);
  std::unique_ptr<Threads>& ours = all[std::make_pair(slots, threads)];
  if (ours == nullptr) { ours.reset(new Threads(slots, threads)); }
  ours->Launch(grid, Seed() * 1000003 + ++launches, work);
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
