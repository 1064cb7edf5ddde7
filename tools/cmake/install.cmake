# What `cmake --install` puts down, and what find_package(causeway) finds:
#   bin/causeway, bin/causewayd, bin/causeway-bench
#   include/causeway-VERSION/causeway/*.h, and the two allocator headers that they include
#   lib/libcauseway_*.a, lib/cmake/causeway/
include(CMakePackageConfigHelpers)

set(include_folder ${CMAKE_INSTALL_INCLUDEDIR}/causeway-${PROJECT_VERSION})
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/causeway)

add_library(causeway_causeway INTERFACE)
add_library(causeway::causeway ALIAS causeway_causeway)
set_target_properties(causeway_causeway PROPERTIES EXPORT_NAME causeway)
target_link_libraries(causeway_causeway INTERFACE runtime)

# The public headers name nothing of their own beside the standard library, so one include folder
# on the top target is all that a user needs.
target_include_directories(runtime PUBLIC $<INSTALL_INTERFACE:${include_folder}>)

install(TARGETS causeway causewayd causeway-bench RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS allocator transport runtime causeway_causeway
        EXPORT causewayTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/runtime/include/causeway DESTINATION ${include_folder}
        FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_SOURCE_DIR}/allocator/error.h ${PROJECT_SOURCE_DIR}/allocator/device_name.h
        DESTINATION ${include_folder}/allocator)
install(EXPORT causewayTargets NAMESPACE causeway:: DESTINATION ${package_folder})

configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/causewayConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/causewayConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/causewayConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/causewayConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/causewayConfigVersion.cmake
        DESTINATION ${package_folder})
