// Stands in for libcuda.so.1: two devices, contexts and modules that are numbers, and a record of what was called.
#include "driver/driver.h"

#include <cstring>

namespace {

Record record;
void* current = nullptr;

void* context_of(int device) { return &record.contexts[device]; }

}  // namespace

extern "C" {

Record* driver_record() { return &record; }

int cuInit(unsigned) { return 0; }

int cuGetErrorName(int error, const char** name) {
  *name = error == kDriverError ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : "CUDA_ERROR_UNKNOWN";
  return 0;
}

int cuGetErrorString(int, const char** text) {
  *text = "no kernel image is available";
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : device;  // compute capability 9.<device>
  return 0;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = context_of(device);
  ++record.contexts[device];
  return 0;
}

int cuCtxGetCurrent(void** context) {
  *context = current;
  return 0;
}

int cuCtxSetCurrent(void* context) {
  current = context;
  return 0;
}

int cuCtxGetDevice(int* device) {
  if (current == nullptr) return 201;
  *device = current == context_of(1) ? 1 : 0;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  if (std::strcmp(static_cast<const char*>(image), "wrong architecture") == 0) return kDriverError;
  ++record.modules;
  *module = &record;
  return 0;
}

int cuModuleGetFunction(void** function, void*, const char* symbol) {
  *function = const_cast<char*>(symbol[0] == 'f' ? "function" : "other");
  return 0;
}

int cuFuncSetAttribute(void*, int attribute, int value) {
  record.shared_attribute = attribute;
  record.shared_limit = value;
  return 0;
}

int cuLaunchKernel(void*, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, void* stream, void** arguments, void**) {
  ++record.launches;
  const unsigned extents[] = {grid_x, grid_y, grid_z, block_x, block_y, block_z};
  std::memcpy(record.extents, extents, sizeof(extents));
  record.shared_bytes = shared_bytes;
  record.stream = stream;
  std::memcpy(&record.argument, arguments[0], sizeof(record.argument));
  return cuCtxGetDevice(&record.device);
}
}
