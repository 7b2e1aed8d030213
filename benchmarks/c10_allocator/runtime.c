// A stand-in for the CUDA runtime and driver: hands out addresses without memory behind them and counts their
// bytes against a capacity. Only what PyTorch's caching allocator calls on one stream is here.
#include <stdlib.h>
#include <string.h>

#include <cuda.h>
#include <cuda_runtime_api.h>

static size_t used, capacity, total;
static int descending;  // addresses of segments, as a real driver hands them out; ranges ascend always
static size_t *handles, handle_count = 1;
static struct { char *address; size_t size; } segments[1 << 16];
static int segment_count;
static char *next_segment = (char *)0x700000000000;
static CUdeviceptr next_range = 0x100000000000;

void stand_in(size_t device_capacity, size_t device_total, int addresses_descend) {
  capacity = device_capacity;
  total = device_total;
  descending = addresses_descend;
}

static int take(size_t size) {
  if (used + size > capacity) return 0;
  used += size;
  return 1;
}

cudaError_t cudaMalloc(void **address, size_t size) {
  if (!take(size)) return cudaErrorMemoryAllocation;
  if (descending) next_segment -= size;
  *address = segments[segment_count].address = next_segment;
  segments[segment_count++].size = size;
  if (!descending) next_segment += size;
  return cudaSuccess;
}

cudaError_t cudaFree(void *address) {
  int i = segment_count;
  while (segments[--i].address != address) {}
  used -= segments[i].size;
  segments[i] = segments[--segment_count];
  return cudaSuccess;
}

static CUresult create(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *p, unsigned long long f) {
  if (!take(size)) return CUDA_ERROR_OUT_OF_MEMORY;
  handles = realloc(handles, (handle_count + 1) * sizeof *handles);
  handles[handle_count] = size;
  *handle = handle_count++;
  return CUDA_SUCCESS;
}

static CUresult release(CUmemGenericAllocationHandle handle) {
  used -= handles[handle];
  return CUDA_SUCCESS;
}

static CUresult reserve(CUdeviceptr *address, size_t size, size_t a, CUdeviceptr h, unsigned long long f) {
  *address = next_range;
  next_range += size;
  return CUDA_SUCCESS;
}

static CUresult attribute(int *value, CUdevice_attribute a, CUdevice d) {
  *value = 0;
  return CUDA_SUCCESS;
}

CUresult nothing(void) { return CUDA_SUCCESS; }

// Up to torch 2.7 the allocator looks the driver's functions up by name, in libcuda.so.1 and libnvidia-ml.so.1.
#define NAMED(name, function) __asm__(".globl " #name "\n.set " #name ", " #function);
NAMED(cuMemCreate, create) NAMED(cuMemRelease, release) NAMED(cuMemAddressReserve, reserve)
NAMED(cuDeviceGetAttribute, attribute) NAMED(cuMemAddressFree, nothing) NAMED(cuMemMap, nothing)
NAMED(cuMemUnmap, nothing) NAMED(cuMemSetAccess, nothing) NAMED(cuMemGetAllocationGranularity, nothing)
NAMED(cuMemExportToShareableHandle, nothing) NAMED(cuMemImportFromShareableHandle, nothing)
NAMED(cuMulticastAddDevice, nothing) NAMED(cuMulticastBindMem, nothing) NAMED(cuMulticastCreate, nothing)
NAMED(cuMulticastUnbind, nothing) NAMED(cuMemsetD32Async, nothing) NAMED(cuStreamWriteValue32, nothing)
NAMED(cuGetErrorString, nothing) NAMED(nvmlInit_v2, nothing) NAMED(nvmlDeviceGetHandleByPciBusId_v2, nothing)
NAMED(nvmlDeviceGetComputeRunningProcesses, nothing)

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **entry, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
  *entry = !strcmp(name, "cuMemCreate")            ? (void *)create
           : !strcmp(name, "cuMemRelease")         ? (void *)release
           : !strcmp(name, "cuMemAddressReserve")  ? (void *)reserve
           : !strcmp(name, "cuDeviceGetAttribute") ? (void *)attribute
                                                   : (void *)nothing;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  memset(properties, 0, sizeof *properties);
  properties->totalGlobalMem = total;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *all) {
  *free = capacity - used;
  *all = total;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return cudaSuccess; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { return cudaSuccess; }
