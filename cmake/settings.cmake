# Language level, warnings, tuning and sanitizers, shared by every target through the interface library
# hysparse_settings, and the function that declares one library per folder.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

add_library(hysparse_settings INTERFACE)
target_include_directories(hysparse_settings INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(hysparse_settings INTERFACE HYSPARSE_CUDA_BUILD=$<BOOL:${HYSPARSE_CUDA}>)

# Options of the C++ compiler; device code has its own (cuda.cmake).
function(hysparse_cxx_options)
  target_compile_options(hysparse_settings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${ARGN}>")
endfunction()
hysparse_cxx_options(-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers)
if(HYSPARSE_WERROR)
  hysparse_cxx_options(-Werror)
endif()
# Floating point: contraction to fused multiply-add is fine, reassociation is not (results must not depend on the
# compiler's mood); errno and traps of the math library are never read.
hysparse_cxx_options(-ffp-contract=fast -fno-math-errno -fno-trapping-math)
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
if(HYSPARSE_NATIVE)
  hysparse_cxx_options(-march=native -mprefer-vector-width=512)
endif()
if(HYSPARSE_SANITIZE)
  # The instrumentation confuses GCC's warnings about what flows where: they are checked by the other builds.
  hysparse_cxx_options(-fsanitize=${HYSPARSE_SANITIZE} -fno-omit-frame-pointer -g1
    -Wno-array-bounds -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-stringop-overread)
  if(HYSPARSE_SANITIZE MATCHES "undefined")
    hysparse_cxx_options(-fno-sanitize-recover=all)
  endif()
  target_link_options(hysparse_settings INTERFACE -fsanitize=${HYSPARSE_SANITIZE})
endif()
if(HYSPARSE_FUZZ)
  hysparse_cxx_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
    -g1 -O1)
  target_link_options(hysparse_settings INTERFACE -fsanitize=address,undefined)
endif()

# hysparse_library(NAME SOURCES a.cpp ... [CUDA_SOURCES cuda/a.cu cuda/b.cpp ...] DEPENDS hysparse::core ...
# [PRIVATE_DEPENDS ...]): CUDA_SOURCES belong to builds with HYSPARSE_CUDA only.
function(hysparse_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;CUDA_SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  if(HYSPARSE_CUDA AND ARG_CUDA_SOURCES)
    list(APPEND ARG_SOURCES ${ARG_CUDA_SOURCES})
    list(APPEND ARG_PRIVATE_DEPENDS CUDA::cudart CUDA::cublasLt)
  endif()
  add_library(hysparse_${name} STATIC ${ARG_SOURCES})
  add_library(hysparse::${name} ALIAS hysparse_${name})
  target_link_libraries(hysparse_${name} PUBLIC hysparse_settings ${ARG_DEPENDS} PRIVATE ${ARG_PRIVATE_DEPENDS})
endfunction()
