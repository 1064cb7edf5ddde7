// What a stranger may send to a transport's door: a frame's head, then the body of any kind. What
// is accepted must read back the same once it is written.
#include <algorithm>
#include <span>

#include "fuzz_target.h"
#include "transport/ucx/protocol.h"

namespace {

using namespace causeway::ucx;

template <typename Value, typename Decode>
void round_trip(const Value& value, Decode decode) {
  const auto written = frame(value);
  const auto bytes = std::span(written);
  const auto head = decode_frame_head(bytes.first(kFrameHeadBytes));
  if (!head) causeway_fuzz::fail("what was written has no head", {});
  const auto again = decode(bytes.subspan(kFrameHeadBytes));
  if (!again || frame(*again) != written)
    causeway_fuzz::fail("what was written reads back different", {});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span input(reinterpret_cast<const std::byte*>(data), size);
  (void)decode_header(input.first(std::min(size, kHeaderBytes)));
  if (const auto head = decode_stream_head(input.first(std::min(size, kStreamHeadBytes))))
    if (std::ranges::equal(encode(*head), input.first(kStreamHeadBytes)) == false)
      causeway_fuzz::fail("a stream's head reads back different", {});
  if (size < kFrameHeadBytes) return 0;
  const auto head = decode_frame_head(input.first(kFrameHeadBytes));
  if (!head) return 0;
  if (head->body_bytes > kMaxBodyBytes) causeway_fuzz::fail("a body beyond the limit", {});
  const auto body =
      input.subspan(kFrameHeadBytes, std::min(size - kFrameHeadBytes, head->body_bytes));
  if (const auto greeting = decode_greeting(body)) round_trip(*greeting, decode_greeting);
  if (const auto welcome = decode_welcome(body)) round_trip(*welcome, decode_welcome);
  if (const auto join = decode_join(body)) round_trip(*join, decode_join);
  if (const auto failure = decode_failure(body)) round_trip(*failure, decode_failure);
  return 0;
}
