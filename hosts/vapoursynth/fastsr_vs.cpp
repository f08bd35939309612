// SPDX-License-Identifier: Apache-2.0
// core.fastsr.Upscale(clip, model="annet_x3", threads=1): a VapourSynth filter over fastsr.h.
//
// VapourSynth asks for many frames at once, each on a thread of its own; each takes a context with one thread, and gives it
// back for the next.
#include <VapourSynth4.h>

#include <fastsr/fastsr.hpp>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

class Filter {
 public:
  Filter(VSNode* node, const VSVideoInfo& from, const std::string& model, int threads)
      : node(node), info(from), model_(model), options_(fastsr::sized<fastsr_context_options>()) {
    options_.threads = threads;
    info.width *= model_.scale();
    info.height *= model_.scale();
    give(take());  // says what is wrong with the options before the first frame
  }

  std::unique_ptr<fastsr::Context> take() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<fastsr::Context> context = std::move(idle_.back());
        idle_.pop_back();
        return context;
      }
    }
    return std::make_unique<fastsr::Context>(model_, &options_);
  }
  void give(std::unique_ptr<fastsr::Context> context) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(context));
  }

  VSNode* const node;
  VSVideoInfo info;  // of the result

 private:
  const fastsr::Model model_;
  fastsr_context_options options_;
  std::mutex mutex_;  // of idle_
  std::vector<std::unique_ptr<fastsr::Context>> idle_;
};

// What is wrong with a clip; null: nothing.
const char* wrong(const VSVideoInfo& info) {
  const VSVideoFormat& format = info.format;
  if (format.colorFamily == cfUndefined || info.width <= 0) return "the clip must have one format and size";
  if (format.sampleType == stFloat && format.bitsPerSample != 32) return "floats must have 32 bits";
  if (format.sampleType == stInteger && format.bitsPerSample > 16) return "integers must have 8 to 16 bits";
  if (format.colorFamily == cfYUV &&
      (format.sampleType == stFloat || format.subSamplingW != 1 || format.subSamplingH != 1))
    return "YUV must be 4:2:0 of 8 to 16 bits: convert it by core.resize";
  return nullptr;
}

int64_t property(const VSMap* map, const char* key, int64_t otherwise, const VSAPI* vs) {
  int error = 0;
  const int64_t value = vs->mapGetInt(map, key, 0, &error);
  return error ? otherwise : value;
}

// A frame's planes and what its properties say of its colors.
fastsr_image view(const VSFrame* frame, const VSMap* properties, const VSAPI* vs) {
  const VSVideoFormat& format = *vs->getVideoFrameFormat(frame);
  auto image = fastsr::sized<fastsr_image>();
  image.format = format.colorFamily == cfGray  ? FASTSR_GRAY
                 : format.colorFamily == cfRGB ? FASTSR_RGB_PLANES
                                               : FASTSR_YUV420;
  image.sample = format.sampleType == stFloat ? FASTSR_FLOAT
                 : format.bytesPerSample == 1 ? FASTSR_UINT8
                                              : FASTSR_UINT16;
  image.depth = format.sampleType == stFloat ? 0 : format.bitsPerSample;
  image.width = vs->getFrameWidth(frame, 0);
  image.height = vs->getFrameHeight(frame, 0);
  const int64_t matrix = property(properties, "_Matrix", 2, vs);
  image.matrix = matrix == 5 || matrix == 6 ? FASTSR_BT601 : matrix == 9 ? FASTSR_BT2020 : FASTSR_BT709;
  // Newer scripts say _Range, 1 full; older ones _ColorRange, 0 full.
  const bool full = property(properties, "_Range", property(properties, "_ColorRange", 1, vs) == 0, vs) == 1;
  image.range = full ? FASTSR_FULL : FASTSR_LIMITED;
  image.siting = property(properties, "_ChromaLocation", 0, vs) == 1 ? FASTSR_CENTER : FASTSR_LEFT;
  for (int plane = 0; plane < format.numPlanes; ++plane) {
    image.planes[plane] = const_cast<uint8_t*>(vs->getReadPtr(frame, plane));
    image.strides[plane] = vs->getStride(frame, plane);
  }
  return image;
}

const VSFrame* VS_CC get_frame(int n, int reason, void* data, void**, VSFrameContext* asked, VSCore* core,
                               const VSAPI* vs) {
  Filter& filter = *static_cast<Filter*>(data);
  if (reason == arInitial) {
    vs->requestFrameFilter(n, filter.node, asked);
    return nullptr;
  }
  if (reason != arAllFramesReady) return nullptr;
  const VSFrame* const from = vs->getFrameFilter(n, filter.node, asked);
  VSFrame* const to = vs->newVideoFrame(&filter.info.format, filter.info.width, filter.info.height, from, core);
  bool good = true;
  try {
    const VSMap* const properties = vs->getFramePropertiesRO(from);
    const fastsr_image in = view(from, properties, vs);
    fastsr_image out = view(to, properties, vs);
    for (int plane = 0; plane < filter.info.format.numPlanes; ++plane) out.planes[plane] = vs->getWritePtr(to, plane);
    std::unique_ptr<fastsr::Context> context = filter.take();
    context->upscale(in, out);
    filter.give(std::move(context));
  } catch (const std::exception& e) {
    vs->setFilterError((std::string("fastsr.Upscale: ") + e.what()).c_str(), asked);
    good = false;
  }
  vs->freeFrame(from);
  if (good) return to;
  vs->freeFrame(to);
  return nullptr;
}

void VS_CC free_filter(void* data, VSCore*, const VSAPI* vs) {
  Filter* const filter = static_cast<Filter*>(data);
  vs->freeNode(filter->node);
  delete filter;
}

void VS_CC create(const VSMap* in, VSMap* out, void*, VSCore* core, const VSAPI* vs) {
  VSNode* const node = vs->mapGetNode(in, "clip", 0, nullptr);
  int error = 0;
  const char* const name = vs->mapGetData(in, "model", 0, &error);
  const std::string model = error ? "annet_x3" : name;
  const int threads = static_cast<int>(property(in, "threads", 1, vs));
  try {
    const VSVideoInfo& info = *vs->getVideoInfo(node);
    if (const char* reason = wrong(info)) throw std::invalid_argument(reason);
    auto filter = std::make_unique<Filter>(node, info, model, threads);
    const VSFilterDependency dependency{node, rpStrictSpatial};
    const VSVideoInfo made = filter->info;
    vs->createVideoFilter(out, "Upscale", &made, get_frame, free_filter, fmParallel, &dependency, 1, filter.release(),
                          core);
  } catch (const std::exception& e) {
    vs->mapSetError(out, (std::string("fastsr.Upscale: ") + e.what()).c_str());
    vs->freeNode(node);
  }
}

}  // namespace

VS_EXTERNAL_API(void) VapourSynthPluginInit2(VSPlugin* plugin, const VSPLUGINAPI* vs) {
  vs->configPlugin("org.fastsr", "fastsr", "Super-resolution networks on the CPU", VS_MAKE_VERSION(1, 0),
                   VAPOURSYNTH_API_VERSION, 0, plugin);
  vs->registerFunction("Upscale", "clip:vnode;model:data:opt;threads:int:opt;", "clip:vnode;", create, nullptr, plugin);
}
