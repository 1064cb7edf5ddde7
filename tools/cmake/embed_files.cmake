# Writes a .cpp with the text of tools/labs/*.yaml.
#   cmake -DOUTPUT=labs.cpp -DINPUTS=a.yaml;b.yaml -P embed_files.cmake
set(entries "")
foreach(input ${INPUTS})
  get_filename_component(name ${input} NAME_WE)
  file(READ ${input} text)
  string(APPEND entries "    {\"${name}\", R\"yaml(${text})yaml\"},\n")
endforeach()
file(WRITE ${OUTPUT}
"// Generated from tools/labs/*.yaml.
#include \"tools/lab.h\"

namespace causeway::tools {

std::span<const BuiltinLab> builtin_labs() noexcept {
  static constexpr BuiltinLab kLabs[] = {
${entries}  };
  return kLabs;
}

}  // namespace causeway::tools
")
