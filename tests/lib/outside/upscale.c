/* A program outside of fastsr's tree: upscale_c MODEL < pixels, 20 x 15 RGB, > pixels. */
#include <fastsr/fastsr.h>
#include <stdio.h>
#include <stdlib.h>

enum { W = 20, H = 15 };

int main(int argc, char** argv) {
  static unsigned char small[3 * W * H];
  unsigned char* large = NULL;
  const fastsr_api* sr = fastsr_get_api(FASTSR_API_VERSION);
  fastsr_model* model = NULL;
  fastsr_context* context = NULL;
  fastsr_model_info info;
  info.size = sizeof info;
  if (!sr || argc != 2 || fread(small, 1, sizeof small, stdin) != sizeof small) return 2;
  int failed = sr->model_open(argv[1], NULL, &model) || sr->model_info(model, &info) ||
               sr->context_create(model, NULL, &context);
  if (!failed) {
    const size_t bytes = sizeof small * (size_t)(info.scale * info.scale);
    large = malloc(bytes);
    if (!large) return 2;
    fastsr_image in = fastsr_packed(FASTSR_RGB, W, H, small);
    fastsr_image out = fastsr_packed(FASTSR_RGB, W * info.scale, H * info.scale, large);
    failed = sr->upscale(context, &in, &out, NULL) || fwrite(large, 1, bytes, stdout) != bytes;
  }
  if (failed) fprintf(stderr, "%s\n", sr->message());
  sr->context_release(context);
  sr->model_release(model);
  free(large);
  return failed;
}
