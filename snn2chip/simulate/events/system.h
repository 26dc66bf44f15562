// What the engine takes from the system: memory, threads that wait for work, a clock, errors. In a browser
// (WebAssembly) there is one thread and no clock, and whoever runs out of memory ends the engine.

#include <atomic>
#include <cstdint>
#include <cstdlib>

#ifndef __wasm__
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <unistd.h>
#include <vector>
#endif

namespace {

#ifdef __wasm__
[[noreturn]] INLINE void out_of_memory() { __builtin_trap(); }

template <class Work> int guarded(const Work &work, int) { return work(); }
#else
[[noreturn]] INLINE void out_of_memory() { throw std::bad_alloc(); }

// What `work` gives, or `failed` if memory or threads ran out.
template <class Work> int guarded(const Work &work, int failed) {
    try {
        return work();
    } catch (...) {
        return failed;
    }
}
#endif

// Memory on cache lines.
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { free(memory_); }
    template <class T> T *get(size_t count) {
        const size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
        if (bytes > size_) {
            free(memory_);
            memory_ = nullptr, size_ = 0;
            if (posix_memalign(&memory_, 64, bytes)) {
                memory_ = nullptr;
                out_of_memory();
            }
            size_ = bytes;
        }
        return static_cast<T *>(memory_);
    }

  private:
    void *memory_ = nullptr;
    size_t size_ = 0;
};

#ifdef __wasm__

struct Barrier {
    explicit Barrier(int) {}
    void wait() {}
};

INLINE int64_t now() { return 0; }

struct Pool {
    explicit Pool(int) {}
    bool here() const { return true; }
    template <class Work> void run(const Work &work) { work(0); }
};

#else

INLINE void pause() {
#ifdef X86
    _mm_pause();
#endif
}

// Until what another thread announces: threads wait for each other for a moment only, so they look for a while; then they
// sleep, as the processor may have gone to somebody else, and looking would keep it from the one that is waited for.
class Waiting {
  public:
    template <class Done> void until(const Done &done) {
        for (int spin = 0; spin < 4000; ++spin) {
            if (done()) return;
            pause();
        }
        std::unique_lock<std::mutex> hold(lock_);
        wake_.wait(hold, done);
    }
    template <class Do> void announce(const Do &change) {
        {
            std::lock_guard<std::mutex> hold(lock_);
            change();
        }
        wake_.notify_all();
    }

  private:
    std::mutex lock_;
    std::condition_variable wake_;
};

// All threads of a team wait for each other.
class Barrier {
  public:
    explicit Barrier(int count) : count_(count) {}
    void wait() {
        if (count_ == 1) return;
        const int turn = turn_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            waiting_.announce([&] { turn_.store(turn + 1, std::memory_order_release); });
            return;
        }
        waiting_.until([&] { return turn_.load(std::memory_order_acquire) != turn; });
    }

  private:
    const int count_;
    std::atomic<int> arrived_{0}, turn_{0};
    Waiting waiting_;
};

int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// Threads that wait for work between runs.
class Pool {
  public:
    explicit Pool(int threads) : process_(getpid()) {
        for (int rank = 1; rank < threads; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
    }
    ~Pool() {
        {
            std::lock_guard<std::mutex> hold(lock_);
            ending_ = true;
        }
        wake_.notify_all();
        for (std::thread &thread : threads_) thread.join();
    }
    bool here() const { return process_ == getpid(); }
    int size() const { return (int)threads_.size() + 1; }
    template <class Work> void run(const Work &work) {
        call_ = [](const void *what, int rank) { (*static_cast<const Work *>(what))(rank); };
        what_ = &work;
        left_.store((int)threads_.size(), std::memory_order_relaxed);
        if (!threads_.empty()) {
            {
                std::lock_guard<std::mutex> hold(lock_);
                ++turn_;
            }
            wake_.notify_all();
        }
        work(0);
        done_.until([&] { return !left_.load(std::memory_order_acquire); });
    }

  private:
    void serve(int rank) {
        for (int seen = 0;;) {
            std::unique_lock<std::mutex> hold(lock_);
            wake_.wait(hold, [&] { return ending_ || turn_ != seen; });
            if (ending_) return;
            seen = turn_;
            hold.unlock();
            call_(what_, rank);
            done_.announce([&] { left_.fetch_sub(1, std::memory_order_acq_rel); });
        }
    }
    const pid_t process_;
    std::vector<std::thread> threads_;
    std::mutex lock_;
    std::condition_variable wake_;
    int turn_ = 0;
    bool ending_ = false;
    void (*call_)(const void *, int) = nullptr;
    const void *what_ = nullptr;
    std::atomic<int> left_{0};
    Waiting done_;
};

#endif

}  // namespace
