// SPDX-License-Identifier: Apache-2.0
// The filter in VapourSynth's own core: test_vs PLUGIN. Frames must be those that the library makes itself.
#include <VapourSynth4.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fastsr/fastsr.hpp>
#include <string>
#include <vector>

namespace {

const VSAPI* vs;

void require(bool good, const std::string& what) {
  if (good) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

// A function of a plugin; its result, or null and the error.
VSMap* call(VSCore* core, const char* space, const char* name, VSMap* arguments) {
  VSPlugin* const plugin = vs->getPluginByNamespace(space, core);
  require(plugin, std::string("no plugin ") + space);
  VSMap* const result = vs->invoke(plugin, name, arguments);
  vs->freeMap(arguments);
  return result;
}

VSNode* clip(VSCore* core, int format, int w, int h) {
  VSMap* map = vs->createMap();
  vs->mapSetInt(map, "format", format, maReplace);
  vs->mapSetInt(map, "width", w, maReplace);
  vs->mapSetInt(map, "height", h, maReplace);
  vs->mapSetInt(map, "length", 6, maReplace);
  const int bits = format >> 16 & 255;
  for (const double value : {60.0, 120.0, 170.0}) {
    vs->mapSetFloat(map, "color", (format >> 24 & 15) == stFloat ? value / 255 : value * (1 << (bits - 8)), maAppend);
    if (format >> 28 == cfGray) break;
  }
  map = call(core, "std", "BlankClip", map);
  require(!vs->mapGetError(map), vs->mapGetError(map) ? vs->mapGetError(map) : "");
  VSNode* const node = vs->mapGetNode(map, "clip", 0, nullptr);
  vs->freeMap(map);
  return node;
}

// The filter's result; what it says of a failure goes to `error`.
VSNode* upscaled(VSCore* core, VSNode* node, const char* model, std::string* error) {
  VSMap* map = vs->createMap();
  vs->mapSetNode(map, "clip", node, maReplace);
  vs->mapSetData(map, "model", model, -1, dtUtf8, maReplace);
  map = call(core, "fastsr", "Upscale", map);
  VSNode* made = nullptr;
  if (const char* text = vs->mapGetError(map)) {
    *error = text;
  } else {
    made = vs->mapGetNode(map, "clip", 0, nullptr);
  }
  vs->freeMap(map);
  return made;
}

void compare(VSCore* core, int format, const char* model) {
  constexpr int kW = 40, kH = 26;
  VSNode* const node = clip(core, format, kW, kH);
  std::string error;
  VSNode* const large = upscaled(core, node, model, &error);
  require(large, error);
  const fastsr::Model net(model);
  const int s = net.scale();
  const VSVideoInfo& info = *vs->getVideoInfo(large);
  require(info.width == kW * s && info.height == kH * s && info.numFrames == 6, "the clip has another size");
  char text[256] = "";
  for (int n = 0; n < 6; ++n) {
    const VSFrame* const frame = vs->getFrame(n, large, text, sizeof text);
    require(frame, text);
    // A frame of one color stays one, away from rounding.
    const VSFrame* const from = vs->getFrame(n, node, text, sizeof text);
    for (int p = 0; p < info.format.numPlanes; ++p) {
      const int bytes = info.format.bytesPerSample;
      double before = 0, after = 0;
      const auto value = [&](const uint8_t* at) {
        float f = 0;
        uint16_t u = 0;
        if (info.format.sampleType == stFloat) return std::memcpy(&f, at, 4), double(f) * 255;
        if (bytes == 2) return std::memcpy(&u, at, 2), u / double(1 << (info.format.bitsPerSample - 8));
        return double(*at);
      };
      const int x = vs->getFrameWidth(frame, p) / 2, y = vs->getFrameHeight(frame, p) / 2;
      before = value(vs->getReadPtr(from, p));
      after = value(vs->getReadPtr(frame, p) + y * vs->getStride(frame, p) + x * bytes);
      require(before - after < 6 && after - before < 6,
              std::string(model) + ", format " + std::to_string(format) + ", plane " + std::to_string(p) + ": " +
                  std::to_string(before) + " became " + std::to_string(after));
    }
    vs->freeFrame(from);
    vs->freeFrame(frame);
  }
  vs->freeNode(large);
  vs->freeNode(node);
}

}  // namespace

int main(int argc, char** argv) {
  vs = getVapourSynthAPI(VAPOURSYNTH_API_VERSION);
  require(vs && argc == 2, "no API of this version");
  VSCore* const core = vs->createCore(ccfDisableAutoLoading);
  VSMap* map = vs->createMap();
  vs->mapSetData(map, "path", argv[1], -1, dtUtf8, maReplace);
  map = call(core, "std", "LoadPlugin", map);
  require(!vs->mapGetError(map), vs->mapGetError(map) ? vs->mapGetError(map) : "");
  vs->freeMap(map);
  for (const int format : {pfGray8, pfGray16, pfGrayS, pfRGB24, pfRGB30, pfRGBS, pfYUV420P8, pfYUV420P10, pfYUV420P16})
    for (const char* model : {"annet_x3", "srcnn_915_rgb_x3"}) compare(core, format, model);
  std::string error;
  VSNode* const odd = clip(core, pfYUV444P8, 16, 16);
  require(!upscaled(core, odd, "annet_x3", &error) && error.find("4:2:0") != std::string::npos, error);
  VSNode* const good = clip(core, pfGray8, 16, 16);
  require(!upscaled(core, good, "no_such_model", &error) && error.find("no_such_model") != std::string::npos, error);
  vs->freeNode(odd);
  vs->freeNode(good);
  vs->freeCore(core);
  std::puts("the filter runs in VapourSynth");
}
