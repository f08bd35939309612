// SPDX-License-Identifier: Apache-2.0
#include "core/images.h"

#include "core/status.h"

namespace fastsr {
namespace {

Domain domain_of(const Graph& graph) {
  const int64_t channels = graph.values[0].channels;
  const Extent made = graph.extent(graph.out(), 1, 1);
  if (graph.inputs != 1 || (channels != 1 && channels != 3) || made.channels != channels)
    fail(Status::kBadInput, "a network of ", graph.inputs, " inputs, ", channels, " channels and ", made.channels,
         " out does not take images");
  return channels == 1 ? Domain::kY : Domain::kRgb;
}

}  // namespace

Images::Images(std::shared_ptr<const Program> program)
    : program_(std::move(program)), domain_(domain_of(program_->graph)) {}

bool Images::run(Session& session, const Pixels& in, const Pixels& out, const Watch& watch, Executor& executor) {
  check_pixels(in, out, program_->graph.scale);
  const Pixels& shown = visible(in, executor);
  bind(shown, out);
  sink_->hold(colors_bytes_ ? colors_bytes_ + spread_.bytes() : 0);
  session.run(inputs_, in.height, in.width, *sink_, watch, executor);
  sink_->finish(program_->threads, executor);
  if (!sink_->finite()) return false;
  if (&shown != &in) keep_hidden(in, out, program_->threads, executor);
  return true;
}

// `in`, or a copy of it where hidden pixels have the colours of those beside them.
const Pixels& Images::visible(const Pixels& in, Executor& executor) {
  if (!has_alpha(in.colors) || !has_hidden(in, program_->threads, executor)) return in;
  const size_t bytes = bytes_of(in);
  if (colors_bytes_ < bytes) {
    colors_bytes_ = 0;
    colors_ = allocate(bytes);
    colors_bytes_ = bytes;
  }
  visible_ = in;
  const int count = channels_of(in.colors);
  const int64_t size = static_cast<int64_t>(bytes) / (in.height * in.width * count);
  for (int k = 0; k < count; ++k)
    visible_.channels[k] = {colors_.get() + k * size, in.width * count * size, count * size};
  spread_(in, visible_, program_->radius + kPixelReach);
  return visible_;
}

void Images::bind(const Pixels& in, const Pixels& out) {
  if (source_ && alike(in, in_) && alike(out, out_)) {
    source_->set(in);
    sink_->set(in, out);
    return;
  }
  // Strict again: a failure leaves none behind.
  source_.reset();
  sink_.reset();
  source_ = make_source(in, domain_, program_->isa);
  sink_ = make_sink(in, out, domain_, program_->graph.scale, program_->isa);
  inputs_ = {source_.get()};
  in_ = in;
  out_ = out;
}

size_t Images::memory(const Pixels& in) const {
  static unsigned char nowhere[1];
  Pixels from = in;
  for (Channel& channel : from.channels) channel.data = nowhere;
  Pixels to = from;
  to.height *= program_->graph.scale;
  to.width *= program_->graph.scale;
  const auto source = make_source(from, domain_, program_->isa);
  const auto sink = make_sink(from, to, domain_, program_->graph.scale, program_->isa);
  const Ends ends{sink.get(), source->bytes() + sink->bytes()};
  return bytes(*program_, choose_layout(*program_, in.height, in.width, ends), ends);
}

}  // namespace fastsr
