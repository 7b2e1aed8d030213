// Runs a sequence of requests through PyTorch's own caching allocator. Arguments: the device's capacity for segments
// and its memory in all, in bytes, and whether its addresses descend, 0 or 1. Standard input has a request a line: "m NUMBER BYTES", "f NUMBER" or "e"
// (empty_cache). Each is answered by whether it ran out of memory, then allocated, reserved and the peaks of both.
#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdio>
#include <map>
#include <unistd.h>

extern "C" void stand_in(size_t capacity, size_t total, int addresses_descend);

int main(int, char **arguments) {
  namespace allocator = c10::cuda::CUDACachingAllocator;
  stand_in(std::stoull(arguments[1]), std::stoull(arguments[2]), std::stoi(arguments[3]));
  allocator::init(1);
  std::map<int, void *> live;
  char action;
  int number;
  size_t bytes;
  while (std::scanf(" %c", &action) == 1) {
    bool failed = false;
    if (action == 'e') {
      allocator::emptyCache();
    } else if (action == 'm' && std::scanf("%d %zu", &number, &bytes) == 2) {
      try {
        live[number] = allocator::raw_alloc(bytes);
      } catch (const c10::OutOfMemoryError &) {
        failed = true;
      }
    } else if (action == 'f' && std::scanf("%d", &number) == 1) {
      auto found = live.find(number);  // not there if it ran out of memory
      if (found != live.end()) {
        allocator::raw_delete(found->second);
        live.erase(found);
      }
    }
    auto stats = allocator::getDeviceStats(0);
    std::printf("%d %ld %ld %ld %ld\n", failed, stats.allocated_bytes[0].current, stats.reserved_bytes[0].current,
                stats.allocated_bytes[0].peak, stats.reserved_bytes[0].peak);
  }
  std::fflush(stdout);
  _exit(0);  // without the teardown of a runtime that is not there
}
