// Puts the tensors of a model in order: layers, roles, parameters, and what is not as expected.
#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <map>
#include <set>
#include <utility>

#include "causeway/model_description.h"
#include "runtime/sharding/models/expected_tensors.h"
#include "runtime/sharding/models/gguf_architecture.h"
#include "runtime/sharding/models/model_files.h"
#include "runtime/sharding/models/tensor_names.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

using Expected = std::map<std::string, ExpectedTensor, std::less<>>;

Expected by_name(std::vector<ExpectedTensor> tensors) {
  Expected expected;
  for (auto& tensor : tensors) {
    auto name = tensor.name;
    expected.emplace(std::move(name), std::move(tensor));
  }
  return expected;
}

// The last two components: engines write the same tensor below "transformer." or "language_model.".
std::string_view tail_of(std::string_view name) {
  const auto last = name.rfind('.');
  if (last == std::string_view::npos || last == 0) return name;
  const auto before = name.rfind('.', last - 1);
  return before == std::string_view::npos ? name : name.substr(before + 1);
}

bool is_packed(DType type) {
  return type == DType::u8 || type == DType::i8 || type == DType::i32 || type == DType::u32 ||
         type == DType::i16 || type == DType::i64 || type == DType::f4;
}

class Describer {
 public:
  explicit Describer(ModelFiles files) : files_(std::move(files)) {
    model_.name = files_.name;
    model_.origin = files_.origin;
    model_.architecture = files_.architecture;
    model_.notes = files_.notes;
    // A GGUF file names its tensors alike in all families, and all of them are there.
    has_expectations_ =
        model_.architecture && !files_.is_gguf && is_known_family(model_.architecture->family);
    if (has_expectations_) learn_outer();
  }

  ModelDescription run() {
    if (files_.tensors.empty() && files_.only_named.empty()) {
      make_all();
    } else {
      find_main_stack();
      for (auto& tensor : files_.tensors) place(std::move(tensor));
      place_only_named();
      correct_tied();
      note_absent();
    }
    order();
    note_unknown();
    check_total();
    return std::move(model_);
  }

 private:
  // The names of what stands around the blocks, by their tails.
  void learn_outer() {
    const auto learn = [this](std::vector<ExpectedTensor> tensors, bool is_front) {
      for (auto& tensor : tensors) {
        auto tail = std::string(tail_of(tensor.name));
        outer_.emplace(std::move(tail), std::pair(std::move(tensor), is_front));
      }
    };
    learn(expected_front(*model_.architecture), true);
    learn(expected_back(*model_.architecture), false);
  }

  const Expected& expected_of(const LayerShape& layer) {
    for (const auto& [shape, expected] : kinds_)
      if (shape == layer) return expected;
    kinds_.emplace_back(layer, by_name(expected_block(*model_.architecture, layer)));
    return kinds_.back().second;
  }

  // The blocks that the architecture numbers: those of the language model, whatever is before them.
  void find_main_stack() {
    if (!model_.architecture) return;
    const auto wanted = files_.is_gguf ? std::string("blk") : block_stack(*model_.architecture);
    const auto last = wanted.substr(wanted.rfind('.') + 1);
    std::map<std::string, std::size_t> sizes;
    const auto count = [&](const std::string& name) {
      const auto block = block_name(name);
      if (!block || stack_order(block->stack) == 0) return;
      if (block->stack.substr(block->stack.rfind('.') + 1) == last) ++sizes[block->stack];
    };
    for (const auto& tensor : files_.tensors) count(tensor.name);
    for (const auto& name : files_.only_named) count(name);
    const auto most = std::ranges::max_element(sizes, {}, [](const auto& e) { return e.second; });
    main_stack_ = most == sizes.end() ? wanted : most->first;
  }

  // Where a tensor of that name belongs, and what the family says of it.
  struct Found {
    std::optional<BlockName> block;
    bool is_main = false;  // Of the architecture's blocks.
    const ExpectedTensor* expected = nullptr;
    bool is_front = false;
    bool is_expert = false;  // One of those that `expected` counts in its first extent.
  };
  Found find(const std::string& name) {
    Found found;
    found.block = block_name(name);
    const auto plain = unquantised_name(name);
    if (found.block) {
      const auto& layers =
          model_.architecture ? model_.architecture->layers : std::vector<LayerShape>();
      found.is_main = found.block->stack == main_stack_ && found.block->number < layers.size();
      if (!found.is_main || !has_expectations_) return found;
      const auto rest = unquantised_name(found.block->rest);
      const auto key = with_any_expert(rest);
      const auto& expected = expected_of(layers[found.block->number]);
      if (const auto at = expected.find(key); at != expected.end()) found.expected = &at->second;
      found.is_expert = key != rest;
      return found;
    }
    if (const auto at = outer_.find(tail_of(plain)); at != outer_.end()) {
      found.expected = &at->second.first;
      found.is_front = at->second.second;
    }
    return found;
  }

  static std::vector<std::uint64_t> shape_of(const Found& found) {
    const auto& shape = found.expected->shape;
    return {shape.begin() + (found.is_expert ? 1 : 0), shape.end()};
  }

  void place(TensorSpec spec) {
    const auto found = find(spec.name);
    ModelTensor tensor{std::move(spec), TensorRole::weight, 0, true};
    tensor.role = role_of(tensor.spec);
    const bool has_values = tensor.role != TensorRole::buffer && tensor.role != TensorRole::scale;
    if (has_values) tensor.parameters = tensor.spec.elements();
    if (found.expected != nullptr && has_values) {
      tensor.role = found.expected->role;
      const TensorSpec whole{tensor.spec.name, tensor.spec.dtype, shape_of(found)};
      if (whole.shape != tensor.spec.shape && is_packed(tensor.spec.dtype))
        tensor.parameters = whole.elements();
      else if (whole.elements() != tensor.parameters)
        note_shape(whole, tensor.spec);
    } else if (has_expectations_ && has_values && (found.is_main || !found.block)) {
      tensor.is_known = false;
    } else if (files_.is_gguf) {
      tensor.is_known = is_gguf_tensor_name(tensor.spec.name);
    }
    put(found, std::move(tensor));
  }

  void put(const Found& found, ModelTensor tensor) {
    if (found.expected != nullptr) ++seen_[found.expected];
    if (found.block) {
      auto& layer =
          blocks_[{stack_order(found.block->stack), found.block->stack, found.block->number}];
      if (layer.tensors.empty())
        layer.name = fmt::format("{}.{}", found.block->stack, found.block->number);
      if (found.is_main) layer.block = found.block->number;
      layer.tensors.push_back(std::move(tensor));
      return;
    }
    const auto where = place_of(tensor.spec.name);
    const bool front = found.expected != nullptr ? found.is_front
                       : where == Place::unknown ? blocks_.empty()
                                                 : where == Place::front;
    (front ? front_ : back_).tensors.push_back(std::move(tensor));
  }

  // From the architecture alone. The experts of a block stand as one tensor.
  void make_all() {
    const auto& shape = *model_.architecture;
    for (auto& tensor : expected_front(shape))
      front_.tensors.push_back(make(tensor, tensor.name, false));
    for (std::uint32_t i = 0; i < shape.layers.size(); ++i) {
      const auto prefix = fmt::format("{}.{}.", block_stack(shape), i);
      auto& layer = blocks_[{1, block_stack(shape), i}];
      layer.name = prefix.substr(0, prefix.size() - 1);
      layer.block = i;
      for (const auto& [name, expected] : expected_of(shape.layers[i])) {
        layer.tensors.push_back(make(expected, prefix + name, false));
        if (is_fp8(expected)) layer.tensors.push_back(make_scale(layer.tensors.back()));
      }
    }
    for (auto& tensor : expected_back(shape))
      back_.tensors.push_back(make(tensor, tensor.name, false));
  }

  // Of the matrices in the blocks; routers and what stands around the blocks stay as they are.
  [[nodiscard]] bool is_fp8(const ExpectedTensor& expected) const {
    return files_.config.fp8_block && expected.shape.size() > 1 &&
           expected.role != TensorRole::router && expected.role != TensorRole::embedding;
  }
  ModelTensor make(const ExpectedTensor& expected, const std::string& name, bool is_expert) const {
    ModelTensor tensor{{name, files_.config.type, expected.shape}, expected.role, 0, true};
    if (is_expert) tensor.spec.shape.erase(tensor.spec.shape.begin());
    if (is_fp8(expected) && block_name(name)) tensor.spec.dtype = DType::f8_e4m3;
    if (is_mxfp4(expected)) tensor.spec.dtype = DType::mxfp4;
    tensor.parameters = tensor.spec.elements();
    return tensor;
  }
  // Matrices of experts, not their biases.
  [[nodiscard]] bool is_mxfp4(const ExpectedTensor& expected) const {
    return files_.config.has_mxfp4_experts && expected.role == TensorRole::expert &&
           expected.shape.size() == 3 && expected.shape[1] * expected.shape[2] % 32 == 0;
  }
  ModelTensor make_scale(const ModelTensor& matrix) const {
    ModelTensor scale = matrix;
    scale.spec.name += "_scale_inv";
    scale.spec.dtype = DType::f32;
    scale.role = TensorRole::scale;
    scale.parameters = 0;
    auto& shape = scale.spec.shape;
    for (std::size_t i = 0; i < 2; ++i) {
      auto& extent = shape[shape.size() - 2 + i];
      extent =
          extent / (*files_.config.fp8_block)[i] + (extent % (*files_.config.fp8_block)[i] != 0);
    }
    return scale;
  }

  // What the index names and no file describes: shapes by the family, the rest by what is left
  // over.
  void place_only_named() {
    constexpr std::string_view kScaleEnd = "_scale_inv";
    std::vector<std::pair<Found, std::string>> unknown;
    for (const auto& name : files_.only_named) {
      auto found = find(name);
      if (found.expected != nullptr) {
        auto tensor = make(*found.expected, name, found.is_expert);
        // The blocks' bytes without their scales, which have a name of their own.
        if (tensor.spec.dtype == DType::mxfp4 && name.ends_with("_blocks"))
          tensor.spec = {name, DType::u8, {tensor.parameters / 2}};
        put(found, std::move(tensor));
        continue;
      }
      if (constexpr std::string_view kScales = "_scales"; name.ends_with(kScales)) {
        const auto owner = find(name.substr(0, name.size() - kScales.size()) + "_blocks");
        if (owner.expected != nullptr && is_mxfp4(*owner.expected)) {
          const auto values = make(*owner.expected, name, owner.is_expert).parameters;
          put(found, {{name, DType::u8, {values / 32}}, TensorRole::scale, 0, true});
          continue;
        }
      }
      if (name.ends_with(kScaleEnd) && files_.config.fp8_block) {
        const auto matrix = name.substr(0, name.size() - kScaleEnd.size());
        const auto owner = find(matrix);
        if (owner.expected != nullptr && is_fp8(*owner.expected)) {
          put(found, make_scale(make(*owner.expected, matrix, owner.is_expert)));
          continue;
        }
      }
      unknown.emplace_back(std::move(found), name);
    }
    if (unknown.empty()) return;
    std::uint64_t known = 0;
    for_each_tensor([&](const ModelTensor& tensor) { known += tensor.spec.size_bytes(); });
    const auto rest =
        files_.total_bytes && *files_.total_bytes > known ? *files_.total_bytes - known : 0;
    const auto each = rest / unknown.size();
    for (auto& [found, name] : unknown)
      put(found, {{name, DType::u8, {each}}, TensorRole::weight, 0, false});
    model_.notes.push_back(fmt::format(
        "{} tensors of the index (such as '{}') have no size that config.json tells; {}.",
        unknown.size(), printable(unknown.front().second, 100),
        rest > 0 ? "they share what the index's total_size leaves over"
                 : "they are counted with 0 bytes, which is too little"));
  }

  template <typename Visit>
  void for_each_tensor(Visit visit) const {
    for (const auto& tensor : front_.tensors) visit(tensor);
    for (const auto& [key, layer] : blocks_)
      for (const auto& tensor : layer.tensors) visit(tensor);
    for (const auto& tensor : back_.tensors) visit(tensor);
  }

  // The files know better than a default whether there is a head of its own.
  void correct_tied() {
    if (!model_.architecture || files_.is_gguf) return;
    bool has_head = false;
    bool has_embedding = false;
    for_each_tensor([&](const ModelTensor& tensor) {
      const auto tail = tail_of(tensor.spec.name);
      has_head = has_head || tail == "lm_head.weight" || tail == "embed_out.weight";
      has_embedding = has_embedding || tensor.role == TensorRole::embedding;
    });
    auto& tied = model_.architecture->tied_embeddings;
    if (!tied && !has_head && has_embedding) {
      tied = true;
      model_.notes.emplace_back(
          "There is no tensor for the head: it is counted as tied to the embedding.");
    } else if (tied && has_head) {
      for (auto& tensor : back_.tensors)
        if (tail_of(tensor.spec.name) == "lm_head.weight" ||
            tail_of(tensor.spec.name) == "embed_out.weight") {
          tensor.parameters = 0;
          tensor.role = TensorRole::buffer;
          tensor.is_known = true;
        }
      model_.notes.emplace_back(
          "The head is tied to the embedding, and the files hold a copy of it, which is not "
          "counted.");
    }
  }

  void note_shape(const TensorSpec& expected, const TensorSpec& found) {
    if (shape_notes_++ > 0) return;
    first_shape_note_ =
        fmt::format("'{}' is [{}] where config.json tells [{}]", printable(found.name, 100),
                    fmt::join(found.shape, ", "), fmt::join(expected.shape, ", "));
  }

  // What the family has and the files have not, in the blocks that are there and around them.
  void note_absent() {
    if (shape_notes_ > 0)
      model_.notes.push_back(fmt::format("{} tensors have another shape than expected: {}.",
                                         shape_notes_, first_shape_note_));
    if (!has_expectations_) return;
    const auto layers = model_.architecture->layers.size();
    std::set<std::uint32_t> there;
    for (const auto& [key, layer] : blocks_)
      if (layer.block) there.insert(*layer.block);
    if (there.size() < layers)
      model_.notes.push_back(fmt::format("{} of {} layers have no tensor in the files.",
                                         layers - there.size(), layers));
    std::uint64_t absent = 0;
    std::string first;
    const auto expect = [&](const ExpectedTensor& tensor, std::uint64_t count) {
      const auto at = seen_.find(&tensor);
      const auto seen = at == seen_.end() ? 0 : at->second;
      if (seen < count && absent == 0) first = tensor.name;
      absent += count - std::min(seen, count);
    };
    for (const auto& kind : kinds_) {
      const auto alike = static_cast<std::uint64_t>(std::ranges::count_if(
          there, [&](std::uint32_t i) { return model_.architecture->layers[i] == kind.first; }));
      for (const auto& [name, tensor] : kind.second)
        expect(tensor, alike * (name.find('*') == std::string::npos ? 1 : tensor.shape[0]));
    }
    const bool tied = model_.architecture->tied_embeddings;
    for (const auto& [tail, entry] : outer_)
      if (!tied || entry.second || entry.first.shape.size() == 1) expect(entry.first, 1);
    if (absent > 0)
      model_.notes.push_back(
          fmt::format("{} tensors that {} has are not in the files, such as '{}'.", absent,
                      model_.architecture->family, first));
  }

  void order() {
    front_.name = "embed";
    back_.name = "head";
    if (!front_.tensors.empty()) model_.layers.push_back(std::move(front_));
    for (auto& [key, layer] : blocks_) model_.layers.push_back(std::move(layer));
    // A tied head has work, if no tensor.
    if (!back_.tensors.empty() || (model_.architecture && model_.architecture->tied_embeddings))
      model_.layers.push_back(std::move(back_));
  }

  void note_unknown() {
    std::size_t count = 0;
    std::string first;
    for (const auto& layer : model_.layers)
      for (const auto& tensor : layer.tensors)
        if (!tensor.is_known && count++ == 0) first = tensor.spec.name;
    if (count == 0) return;
    const auto family =
        model_.architecture ? model_.architecture->family : std::string("the family");
    model_.notes.push_back(
        fmt::format("{} tensors have names that {} does not use, such as '{}'; they are "
                    "placed by number or place.",
                    count, family, printable(first, 100)));
    if (!model_.architecture) return;
    const auto beyond = std::ranges::count_if(model_.layers, [&](const ModelLayer& layer) {
      return !layer.block && layer.name.starts_with(main_stack_ + ".");
    });
    if (beyond > 0)
      model_.notes.push_back(
          fmt::format("{} layers are numbered past the {} that config.json counts.", beyond,
                      model_.architecture->layers.size()));
  }

  void check_total() {
    if (!files_.total_bytes || files_.only_named.empty()) return;
    std::uint64_t bytes = 0;
    for (const auto& layer : model_.layers)
      for (const auto& tensor : layer.tensors) bytes += tensor.spec.size_bytes();
    if (bytes != *files_.total_bytes)
      model_.notes.push_back(fmt::format("The tensors have {} bytes; the index counts {}.", bytes,
                                         *files_.total_bytes));
  }

  struct BlockKey {
    int order;
    std::string stack;
    std::uint32_t number;
    auto operator<=>(const BlockKey&) const = default;
  };

  ModelFiles files_;
  ModelDescription model_;
  bool has_expectations_ = false;
  std::string main_stack_;
  ModelLayer front_;
  std::map<BlockKey, ModelLayer> blocks_;
  ModelLayer back_;
  // Pairs stay where they are: seen_ points into them.
  std::list<std::pair<LayerShape, Expected>> kinds_;
  std::map<std::string, std::pair<ExpectedTensor, bool>, std::less<>> outer_;
  std::map<const ExpectedTensor*, std::uint64_t> seen_;  // How many of each are there.
  std::size_t shape_notes_ = 0;
  std::string first_shape_note_;
};

}  // namespace

ModelDescription ModelDescription::read(const std::string& path) {
  try {
    return Describer(read_model_files(path)).run();
  } catch (const Error& error) {
    // Sizes that overflow are the file's fault, not the caller's.
    if (error.code() != Errc::invalid_argument || std::string_view(error.what()).starts_with(path))
      throw;
    throw Error(Errc::parse, path + ": " + error.what());
  }
}

ModelDescription ModelDescription::from_architecture(const std::string& name,
                                                     const ModelArchitecture& architecture,
                                                     DType type) {
  architecture.validate();
  ModelFiles files;
  files.name = name;
  files.origin = "C++";
  files.architecture = architecture;
  files.config.type = type;
  return Describer(std::move(files)).run();
}

}  // namespace causeway
