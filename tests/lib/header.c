/* SPDX-License-Identifier: Apache-2.0
 * fastsr.h is C99, alone, without a warning. */
#include <fastsr/fastsr.h>

int main(void) {
  const fastsr_api* sr = fastsr_get_api(FASTSR_API_VERSION);
  fastsr_image image = fastsr_packed(FASTSR_GRAY, 1, 1, 0);
  return !(sr && sr->size >= sizeof(fastsr_api) && image.size == sizeof image && sr->version()[0]);
}
