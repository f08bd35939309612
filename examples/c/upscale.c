/* SPDX-License-Identifier: Apache-2.0
 * The smallest program: upscale MODEL < in.ppm > out.ppm */
#include <fastsr/fastsr.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  const fastsr_api* sr = fastsr_get_api(FASTSR_API_VERSION);
  fastsr_model* model = NULL;
  fastsr_context* context = NULL;
  fastsr_model_info info = {sizeof info, 0, 0, 0, 0, 0, 0};
  unsigned char *from = NULL, *to = NULL;
  int w, h, failed;
  if (!sr || argc != 2 || scanf("P6 %d %d 255", &w, &h) != 2 || getchar() == EOF || w < 1 || h < 1) {
    fprintf(stderr, "usage: %s MODEL < in.ppm > out.ppm\n", argv[0]);
    return 2;
  }
  failed = sr->model_open(argv[1], NULL, &model) || sr->model_info(model, &info) ||
           sr->context_create(model, NULL, &context);
  if (!failed) {
    const size_t pixels = (size_t)w * (size_t)h, larger = pixels * (size_t)info.scale * (size_t)info.scale;
    from = malloc(3 * pixels);
    to = malloc(3 * larger);
    if (!from || !to || fread(from, 3, pixels, stdin) != pixels) {
      fprintf(stderr, "the image was cut\n");
      return 2;
    }
    fastsr_image in = fastsr_packed(FASTSR_RGB, w, h, from);
    fastsr_image out = fastsr_packed(FASTSR_RGB, w * info.scale, h * info.scale, to);
    failed = sr->upscale(context, &in, &out, NULL);
    if (!failed) {
      printf("P6\n%d %d\n255\n", out.width, out.height);
      failed = fwrite(to, 3, larger, stdout) != larger;
    }
  }
  if (failed) fprintf(stderr, "%s\n", sr->message());
  sr->context_release(context);
  sr->model_release(model);
  free(from);
  free(to);
  return failed;
}
