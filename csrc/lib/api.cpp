// SPDX-License-Identifier: Apache-2.0
// The table of include/fastsr/fastsr.h.
#include <cstdio>

#include "lib/handles.h"

#if !defined(FASTSR_VERSION)
#define FASTSR_VERSION "0"
#endif

namespace fastsr {
namespace lib {

namespace {

// Of this thread, and in one piece, so that failing for want of memory needs none.
thread_local char t_message[1024];

template <typename T>
T& required(T* pointer, const char* what) {
  if (!pointer) fail(Status::kBadInput, what, " is null");
  return *pointer;
}

template <typename Read>
fastsr_status open(const fastsr_model_options* options, fastsr_model** model, Read read) {
  return guarded([&] {
    required(model, "model") = nullptr;
    const auto known = sized(options, "fastsr_model_options");
    auto made = std::make_shared<const Model>(read());
    const Log log{known.log, known.user};
    log("fastsr: model " + printable(made->file.metadata.at("name")) + ", scale " + std::to_string(made->graph.scale));
    *model = new fastsr_model{std::move(made)};
  });
}

fastsr_status model_open(const char* name, const fastsr_model_options* options, fastsr_model** model) {
  return open(options, model, [&] { return read_model(locate(&required(name, "name"))); });
}

fastsr_status model_from_memory(const void* data, size_t bytes, const char* name, const fastsr_model_options* options,
                                fastsr_model** model) {
  return open(options, model, [&] {
    if (!data && bytes) fail(Status::kBadInput, "data is null");
    return read_model(memory_bytes(data, bytes), name ? name : "");
  });
}

fastsr_status model_from_reader(const fastsr_reader* reader, const char* name, const fastsr_model_options* options,
                                fastsr_model** model) {
  return open(options, model, [&] {
    required(reader, "reader");
    const auto known = sized(reader, "fastsr_reader");
    if (!known.read) fail(Status::kBadInput, "fastsr_reader: read is null");
    if (known.bytes > static_cast<uint64_t>(INT64_MAX)) fail(Status::kBadModel, "a file of ", known.bytes, " bytes");
    return read_model({static_cast<int64_t>(known.bytes),
                       [&known](int64_t offset, void* to, size_t count) {
                         const int32_t failed = known.read(known.user, static_cast<uint64_t>(offset), to, count);
                         if (failed) fail(Status::kBadModel, "cannot be read: the host's reader gave ", failed);
                       }},
                      name ? name : "");
  });
}

void model_release(fastsr_model* model) { delete model; }

// Writes what the caller's struct has room for.
template <typename T>
void give(const T& known, T* out) {
  const size_t size = sized(out, "info").size;
  std::memcpy(out, &known, std::min(size, sizeof known));
  out->size = size;
}

fastsr_status model_info(const fastsr_model* model, fastsr_model_info* info) {
  return guarded([&] {
    const Model& m = *required(model, "model").model;
    required(info, "info");
    const auto text = [&m](const char* key) { return m.file.metadata.at(key).c_str(); };
    give(fastsr_model_info{0, text("name"), text("arch"), text("licence"), static_cast<int32_t>(m.graph.scale),
                           static_cast<int32_t>(m.graph.values[0].channels), static_cast<int32_t>(m.radius)},
         info);
  });
}

fastsr_status context_create(const fastsr_model* model, const fastsr_context_options* options,
                             fastsr_context** context) {
  return guarded([&] {
    required(context, "context") = nullptr;
    *context = new fastsr_context{{required(model, "model").model, sized(options, "fastsr_context_options")}};
  });
}

void context_release(fastsr_context* context) { delete context; }

fastsr_status context_info(const fastsr_context* context, fastsr_context_info* info) {
  return guarded([&] {
    const Program& program = required(context, "context").context.program();
    required(info, "info");
    give(fastsr_context_info{0, program.isa.c_str(), program.threads}, info);
  });
}

fastsr_status upscale(fastsr_context* context, const fastsr_image* in, const fastsr_image* out,
                      const fastsr_run_options* options) {
  return guarded([&] {
    required(in, "in");
    required(out, "out");
    required(context, "context")
        .context.upscale(sized(in, "fastsr_image"), sized(out, "fastsr_image"), sized(options, "fastsr_run_options"));
  });
}

void cancel(fastsr_context* context) {
  if (context) context->context.cancel();
}

fastsr_status memory(const fastsr_context* context, const fastsr_image* in, uint64_t* bytes) {
  return guarded([&] {
    required(in, "in");
    required(bytes, "bytes") = required(context, "context").context.memory(sized(in, "fastsr_image"));
  });
}

const char* version() { return FASTSR_VERSION; }

const fastsr_api kApi{sizeof(fastsr_api), version,       message,    model_open,     model_from_memory,
                      model_from_reader,  model_release, model_info, context_create, context_release,
                      context_info,       upscale,       cancel,     memory};

}  // namespace

void set_message(const char* text) { std::snprintf(t_message, sizeof t_message, "%s", text); }
const char* message() { return t_message; }

}  // namespace lib
}  // namespace fastsr

extern "C" const fastsr_api* fastsr_get_api(uint32_t version) {
  return version == FASTSR_API_VERSION ? &fastsr::lib::kApi : nullptr;
}
