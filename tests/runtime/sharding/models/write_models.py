"""Writes model files with the libraries of others, and what those libraries read back from them.

Usage: write_models.py FOLDER
FOLDER/expected.json lists each file with its tensors: name, dtype, shape, bytes, the sum of its bytes,
and the place of its data in the file (GGUF).
"""

import json
import os
import sys

import gguf
import numpy as np
import safetensors
import safetensors.numpy

folder = sys.argv[1]
random = np.random.default_rng(1)
expected = []


def path(name):
    os.makedirs(os.path.dirname(os.path.join(folder, name)) or ".", exist_ok=True)
    return os.path.join(folder, name)


def expect_safetensors(name, tensors):
    """By the reader's own words for types and shapes; `tensors`: what was written."""
    rows = []
    with safetensors.safe_open(path(name), framework="np") as file:
        for key in file.keys():
            part = file.get_slice(key)
            data = tensors[key]
            data = data if isinstance(data, bytes) else data.tobytes()
            rows.append({"name": key, "dtype": str(part.get_dtype()), "shape": list(part.get_shape()),
                         "bytes": len(data), "sum": sum(data)})
    expected.append({"file": name, "kind": "safetensors", "tensors": rows})


def write_safetensors(name, tensors, metadata=None):
    safetensors.numpy.save_file(tensors, path(name), metadata)
    expect_safetensors(name, tensors)


def llama_folder():
    """Two shards with an index, as transformers writes them."""
    hidden, width, words = 64, 128, 100
    shapes = {"model.embed_tokens.weight": (words, hidden), "model.norm.weight": (hidden,),
              "lm_head.weight": (words, hidden)}
    for i in range(3):
        at = f"model.layers.{i}."
        for name, shape in (("self_attn.q_proj", (64, hidden)), ("self_attn.k_proj", (32, hidden)),
                            ("self_attn.v_proj", (32, hidden)), ("self_attn.o_proj", (hidden, 64)),
                            ("mlp.gate_proj", (width, hidden)), ("mlp.up_proj", (width, hidden)),
                            ("mlp.down_proj", (hidden, width)), ("input_layernorm", (hidden,)),
                            ("post_attention_layernorm", (hidden,))):
            shapes[f"{at}{name}.weight"] = shape
    tensors = {name: random.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    names = sorted(tensors)
    weight_map = {}
    for k, part in enumerate((names[:14], names[14:])):
        file = f"model-{k + 1:05}-of-00002.safetensors"
        write_safetensors(f"llama/{file}", {name: tensors[name] for name in part}, {"format": "pt"})
        weight_map.update({name: file for name in part})
    total = sum(tensor.nbytes for tensor in tensors.values())
    with open(path("llama/model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, file, indent=2)
    with open(path("llama/config.json"), "w") as file:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
                   "intermediate_size": width, "num_hidden_layers": 3, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": words, "torch_dtype": "float16",
                   "rope_scaling": None, "rms_norm_eps": 1e-05}, file, indent=2)


def plain_types():
    tensors = {}
    for dtype in (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint64,
                  np.uint32, np.uint16, np.uint8, np.bool_):
        name = np.dtype(dtype).name
        tensors[f"of.{name}"] = (random.standard_normal((3, 5)) * 50).astype(dtype)
        tensors[f"scalar.{name}"] = np.array(1, dtype=dtype)
    tensors["empty"] = np.zeros((4, 0, 2), np.float32)
    tensors["näme \"quoted\""] = np.ones((2, 1, 1, 1, 1, 3), np.float32)
    write_safetensors("types.safetensors", tensors, {"ключ": "wert\n\"x\""})


def small_floats():
    """Types that numpy has no name for go in by their address; the last one has two values in a byte."""
    data = {}
    parts = {}
    for dtype, size in (("bfloat16", 24), ("float8_e4m3fn", 12), ("float8_e5m2", 12),
                        ("float8_e8m0fnu", 12), ("float4_e2m1fn_x2", 12)):
        name = f"of.{dtype}"
        data[name] = np.frombuffer(random.bytes(size), np.uint8)
        parts[name] = safetensors.TensorSpec(dtype=dtype, shape=[3, 4],
                                             data_ptr=data[name].ctypes.data, data_len=size)
    with open(path("floats.safetensors"), "wb") as file:
        file.write(safetensors.serialize(parts))
    expect_safetensors("floats.safetensors", data)


def expect_gguf(name):
    reader = gguf.GGUFReader(path(name))
    rows = []
    for tensor in reader.tensors:
        rows.append({"name": tensor.name, "dtype": tensor.tensor_type.name,
                     "shape": [int(extent) for extent in reversed(tensor.shape)],
                     "bytes": int(tensor.n_bytes), "at": int(tensor.data_offset)})
    keys = {}
    for key, field in reader.fields.items():
        if len(field.types) == 1 and not key.startswith("GGUF."):
            value = field.contents()
            keys[key] = value if isinstance(value, (str, bool, float)) else int(value)
    expected.append({"file": name, "kind": "gguf", "tensors": rows, "keys": keys,
                     "alignment": int(reader.alignment)})


def write_gguf(name, arch, fill, **options):
    writer = gguf.GGUFWriter(path(name), arch, **options)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_words(writer):
    writer.add_name("Größe \N{SNOWMAN}")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(5000)])
    writer.add_token_types([i % 3 for i in range(5000)])
    writer.add_chat_template("x" * 100000)
    writer.add_float32("some.float", 0.25)
    writer.add_int64("some.negative", -5)
    writer.add_uint64("some.large", 2**63)
    writer.add_bool("some.flag", True)
    writer.add_array("some.floats", [0.5, 1.5])
    writer.add_array("some.nested", ["a", "ü", ""])


def quantised(writer):
    """Every type of a file, in tensors of 6 rows of 512 values."""
    add_words(writer)
    writer.add_custom_alignment(128)
    for dtype, (elements, size) in gguf.GGML_QUANT_SIZES.items():
        # The library counts 40 bytes for Q8_1, ggml itself 36; it is never in a file.
        if dtype == gguf.GGMLQuantizationType.Q8_1:
            continue
        row = 512 // elements * size
        data = np.frombuffer(random.bytes(2 * 3 * row), np.uint8).reshape(2, 3, row)
        writer.add_tensor(f"t.{dtype.name}", data, raw_dtype=dtype)


def llama_gguf(writer):
    writer.add_block_count(3)
    writer.add_context_length(4096)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    writer.add_vocab_size(1000)
    q8, q4, f32 = (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_K,
                   gguf.GGMLQuantizationType.F32)

    def add(name, rows, columns, dtype):
        elements, size = gguf.GGML_QUANT_SIZES[dtype]
        row = columns // elements * size
        shape = (row,) if rows is None else (rows, row)
        writer.add_tensor(name, np.frombuffer(random.bytes(int(np.prod(shape))), np.uint8).reshape(shape),
                          raw_dtype=dtype)

    add("token_embd.weight", 1000, 256, q8)
    add("output_norm.weight", None, 256, f32)
    add("output.weight", 1000, 256, q8)
    for i in range(3):
        for name, rows, columns in (("attn_q", 256, 256), ("attn_k", 64, 256), ("attn_v", 64, 256),
                                    ("attn_output", 256, 256), ("ffn_gate", 512, 256),
                                    ("ffn_up", 512, 256), ("ffn_down", 256, 512)):
            add(f"blk.{i}.{name}.weight", rows, columns, q4)
        add(f"blk.{i}.attn_norm.weight", None, 256, f32)
        add(f"blk.{i}.ffn_norm.weight", None, 256, f32)


llama_folder()
plain_types()
small_floats()
write_gguf("types.gguf", "llama", quantised)
expect_gguf("types.gguf")
write_gguf("llama.gguf", "llama", llama_gguf)
expect_gguf("llama.gguf")
write_gguf("parts/llama.gguf", "llama", llama_gguf, split_max_tensors=12)
parts = sorted(os.listdir(path("parts")))
assert len(parts) == 3, parts
for part in parts:
    expect_gguf(f"parts/{part}")
with open(path("expected.json"), "w") as file:
    json.dump(expected, file)
