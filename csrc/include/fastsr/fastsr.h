/* SPDX-License-Identifier: Apache-2.0
 *
 * fastsr: super-resolution of images and video frames, in C. This file is the manual; docs/embedding.md is the tour.
 *
 *   #include <fastsr/fastsr.h>
 *   #include <stdio.h>
 *
 *   static unsigned char small_frame[360][640][3], large_frame[1080][1920][3];
 *
 *   int main(void) {
 *     const fastsr_api* sr = fastsr_get_api(FASTSR_API_VERSION);
 *     fastsr_model* model = NULL;
 *     fastsr_context* context = NULL;
 *     if (!sr) return 1;  // a library older than this header
 *     int failed = sr->model_open("annet_x3", NULL, &model) || sr->context_create(model, NULL, &context);
 *     if (!failed) {
 *       fastsr_image in = fastsr_packed(FASTSR_RGB, 640, 360, small_frame);
 *       fastsr_image out = fastsr_packed(FASTSR_RGB, 1920, 1080, large_frame);
 *       failed = sr->upscale(context, &in, &out, NULL);
 *     }
 *     if (failed) fprintf(stderr, "%s\n", sr->message());
 *     sr->context_release(context);
 *     sr->model_release(model);
 *     return failed;
 *   }
 *
 * Rules that hold everywhere:
 * - fastsr_get_api is the only symbol. The table it returns grows at its end; a library serves programs that were built
 *   with an older header.
 * - Structs that the caller fills begin with their size, which says what the caller knows of them: set it to sizeof, and
 *   all else to 0, which is the default of every field. Null stands for all defaults.
 * - A function returns FASTSR_OK, or a status whose reason message() gives.
 * - Memory of pixels is the caller's. What the library allocates, it frees. No exception leaves it, and none of the
 *   caller's may pass through it.
 * - Text is UTF-8, names of files too, on Windows as well.
 * - A model never changes: any number of threads may use it. A context serves one call at a time; have one per thread that
 *   upscales at the same time. Contexts share the weights of their model.
 * - When an image is like the one before, in format and size, a call allocates nothing.
 */
#ifndef FASTSR_FASTSR_H_
#define FASTSR_FASTSR_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(FASTSR_STATIC)
#define FASTSR_EXPORT
#elif defined(_WIN32)
#if defined(FASTSR_BUILDING)
#define FASTSR_EXPORT __declspec(dllexport)
#else
#define FASTSR_EXPORT __declspec(dllimport)
#endif
#else
#define FASTSR_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define FASTSR_API_VERSION 1

/* What a function returns. The numbers are the exit codes of the fastsr command. */
typedef int32_t fastsr_status;
enum {
  FASTSR_OK = 0,
  FASTSR_INTERNAL = 1,  /* a fault of the library's */
  FASTSR_BAD_INPUT = 2, /* the image or an argument cannot be used */
  FASTSR_BAD_MODEL = 3, /* there is no such model, or its file is wrong */
  FASTSR_LIMIT = 4,     /* the work would exceed a limit that the caller may raise */
  FASTSR_DEVICE = 6,    /* the instruction set or precision asked for is not available here */
  FASTSR_STOPPED = 7,   /* progress or cancel ended the run */
  FASTSR_NO_MEMORY = 8
};

/* ---- Images ---------------------------------------------------------------------------------------------------- */

typedef int32_t fastsr_format;
enum {
  /* Packed: the samples of a pixel lie side by side in plane 0. */
  FASTSR_GRAY = 1,
  FASTSR_GRAY_ALPHA = 2,
  FASTSR_RGB = 3,
  FASTSR_RGBA = 4,
  FASTSR_BGR = 5,
  FASTSR_BGRA = 6,
  /* A plane a channel: R, G, B and of the second alpha. */
  FASTSR_RGB_PLANES = 16,
  FASTSR_RGBA_PLANES = 17,
  /* YUV 4:2:0. Chroma planes have half the width and height, rounded up. */
  FASTSR_YUV420 = 32, /* planes Y, U, V; depth 8 is I420, depth 10 in uint16 what ffmpeg calls yuv420p10 */
  FASTSR_NV12 = 33,   /* planes Y, UV in turns; 8 bits */
  FASTSR_P010 = 34    /* as NV12, 10 bits in the upper ones of uint16 */
};

typedef int32_t fastsr_sample;
enum {
  FASTSR_DEFAULT_SAMPLE = 0, /* uint8; of P010 uint16 */
  FASTSR_UINT8 = 1,
  FASTSR_UINT16 = 2, /* in the machine's byte order */
  FASTSR_FLOAT = 3   /* 0 to 1; not of YUV */
};

typedef int32_t fastsr_matrix;
enum { FASTSR_BT709 = 0, FASTSR_BT601 = 1, FASTSR_BT2020 = 2 };
typedef int32_t fastsr_range;
enum { FASTSR_LIMITED = 0, FASTSR_FULL = 1 };
typedef int32_t fastsr_siting; /* where a chroma sample lies; rows are centred in both */
enum { FASTSR_LEFT = 0, FASTSR_CENTER = 1 };

/* An image in the caller's memory. */
typedef struct fastsr_image {
  size_t size; /* sizeof(fastsr_image) */
  fastsr_format format;
  fastsr_sample sample;
  int32_t width, height;
  int32_t depth;        /* bits of an integer sample that count, the lower ones; 0: all of them */
  fastsr_matrix matrix; /* of YUV, as are range and siting. Networks on Y read the Y plane as it is */
  fastsr_range range;
  fastsr_siting siting;
  void* planes[4];    /* the first pixel of the top row. Of an input, they are only read */
  int64_t strides[4]; /* bytes from a row to the next; negative where rows go up; 0: rows without gaps */
} fastsr_image;

/* ---- Models ---------------------------------------------------------------------------------------------------- */

typedef struct fastsr_model fastsr_model;

/* Takes a line about what the library does. Called on the thread that called the library. */
typedef void (*fastsr_log)(void* user, const char* line);

typedef struct fastsr_model_options {
  size_t size;
  fastsr_log log;
  void* user;
} fastsr_model_options;

/* A model file by the host's own functions, which are asked during the call and never later. */
typedef struct fastsr_reader {
  size_t size;
  uint64_t bytes; /* of the whole file */
  /* Copies `count` bytes from `offset` on to `to`. Anything but 0 gives up. */
  int32_t (*read)(void* user, uint64_t offset, void* to, size_t count);
  void* user;
} fastsr_reader;

/* Filled in by model_info. The text lives as long as the model. */
typedef struct fastsr_model_info {
  size_t size;
  const char* name;    /* "annet_x3" */
  const char* arch;    /* "annet" */
  const char* licence; /* of the weights */
  int32_t scale;       /* the output has `scale` times the width and height */
  int32_t channels;    /* what the network reads: 1, Y, chroma being enlarged by bicubic beside it; 3, RGB */
  int32_t radius;      /* how far in pixels of the input a pixel of the output reaches */
} fastsr_model_info;

/* ---- Contexts -------------------------------------------------------------------------------------------------- */

typedef struct fastsr_context fastsr_context;

/* The host's threads. Calls work(job, k) at most once for each k in [0, count), as many at the same time as the host likes,
 * and returns when all that have begun are over. The caller's thread may take part. Whoever works takes what is left, so
 * that a host with few threads free may call fewer. */
typedef void (*fastsr_work)(void* job, int32_t worker);
typedef void (*fastsr_executor)(void* user, fastsr_work work, void* job, int32_t count);

typedef int32_t fastsr_precision;
enum {
  FASTSR_FP32 = 0,
  FASTSR_BF16 = 1 /* products of bfloat16, summed in fp32, where that is faster; needs AVX-512 BF16 or AMX */
};

typedef struct fastsr_context_options {
  size_t size;
  int32_t threads; /* 0: all CPUs that the process may use */
  fastsr_precision precision;
  int64_t memory_limit;     /* bytes that a call may hold, the image and its result included; 0: none */
  int32_t tile;             /* side of a tile in pixels of the input; 0: chosen. Pixels are the same for every tile */
  const char* isa;          /* null: the best this CPU has, or what the variable FASTSR_CPU_ISA says */
  fastsr_executor executor; /* null: threads of the context's own, started by its first call */
  void* executor_user;
  fastsr_log log;
  void* log_user;
} fastsr_context_options;

typedef struct fastsr_run_options {
  size_t size;
  /* Asked some 20 times a second with how much is done, 0 to 1, by worker 0: with the context's own threads this is the
   * thread that called. Anything but 0 stops the run. */
  int32_t (*progress)(void* user, double done);
  void* user;
  int32_t trusted; /* not 0: float samples are known to be numbers within 0 and 1 and are not looked at */
} fastsr_run_options;

typedef struct fastsr_context_info {
  size_t size;
  const char* isa; /* lives as long as the context */
  int32_t threads;
} fastsr_context_info;

/* ---- The table ------------------------------------------------------------------------------------------------- */

typedef struct fastsr_api {
  size_t size; /* bytes of this table that the library knows */
  const char* (*version)(void);
  /* Why the last call on this thread failed: one line, valid until the next call on this thread. */
  const char* (*message)(void);

  /* `name` is a path, or the name of a shipped model: annet_x3. Those are looked for in the folder that the variable
   * FASTSR_MODELS names, then where the library was installed. */
  fastsr_status (*model_open)(const char* name, const fastsr_model_options* options, fastsr_model** model);
  /* From memory, which is not needed after the call. `name` begins messages; it may be null. */
  fastsr_status (*model_from_memory)(const void* data, size_t bytes, const char* name,
                                     const fastsr_model_options* options, fastsr_model** model);
  fastsr_status (*model_from_reader)(const fastsr_reader* reader, const char* name, const fastsr_model_options* options,
                                     fastsr_model** model);
  /* Contexts keep what they need of a model, which may be released before them. Null is allowed. */
  void (*model_release)(fastsr_model* model);
  fastsr_status (*model_info)(const fastsr_model* model, fastsr_model_info* info);

  fastsr_status (*context_create)(const fastsr_model* model, const fastsr_context_options* options,
                                  fastsr_context** context);
  void (*context_release)(fastsr_context* context);
  fastsr_status (*context_info)(const fastsr_context* context, fastsr_context_info* info);

  /* Enlarges `in` into `out`, which has the same format, `scale` times the width and height, and memory of its own. Alpha
   * and, beside networks on Y, chroma are enlarged by bicubic. Colours under alpha 0 do not bleed into what is seen, and
   * are in the output as they were. What `out` holds after a failure is not defined. */
  fastsr_status (*upscale)(fastsr_context* context, const fastsr_image* in, const fastsr_image* out,
                           const fastsr_run_options* options);
  /* Stops the call that is going on in another thread; one that begins later is not stopped. */
  void (*cancel)(fastsr_context* context);
  /* Bytes that a call with such an image holds, weights and pixels included. */
  fastsr_status (*memory)(const fastsr_context* context, const fastsr_image* in, uint64_t* bytes);
} fastsr_api;

/* The table of this version, or null where the library does not have it. It never goes away. */
FASTSR_EXPORT const fastsr_api* fastsr_get_api(uint32_t version);

/* An 8-bit image of a packed format whose rows have no gaps. */
static inline fastsr_image fastsr_packed(fastsr_format format, int32_t width, int32_t height, void* pixels) {
  fastsr_image image;
  memset(&image, 0, sizeof image);
  image.size = sizeof image;
  image.format = format;
  image.width = width;
  image.height = height;
  image.planes[0] = pixels;
  return image;
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* FASTSR_FASTSR_H_ */
