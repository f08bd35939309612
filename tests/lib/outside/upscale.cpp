// A program outside of fastsr's tree: upscale_cpp MODEL < pixels, 20 x 15 RGB, > pixels.
#include <cstdio>
#include <fastsr/fastsr.hpp>
#include <vector>

int main(int argc, char** argv) try {
  constexpr int kW = 20, kH = 15;
  std::vector<unsigned char> small(3 * kW * kH);
  if (argc != 2 || std::fread(small.data(), 1, small.size(), stdin) != small.size()) return 2;
  const fastsr::Model model(argv[1]);
  fastsr::Context context(model);
  const int s = model.scale();
  std::vector<unsigned char> large(small.size() * s * s);
  context.upscale(fastsr_packed(FASTSR_RGB, kW, kH, small.data()),
                  fastsr_packed(FASTSR_RGB, kW * s, kH * s, large.data()));
  return std::fwrite(large.data(), 1, large.size(), stdout) != large.size();
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
