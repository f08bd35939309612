# fastsr_json: the header-only nlohmann_json, from a CMake or Debian package, or else from the package of the Python index,
# which a wheel's build requires (pip install nlohmann-json).
find_package(nlohmann_json 3.11 CONFIG QUIET)
add_library(fastsr_json INTERFACE)
if(nlohmann_json_FOUND)
  target_link_libraries(fastsr_json INTERFACE nlohmann_json::nlohmann_json)
else()
  if(NOT FASTSR_JSON_INCLUDE)
    find_package(Python COMPONENTS Interpreter)
    if(Python_Interpreter_FOUND)
      execute_process(
        COMMAND "${Python_EXECUTABLE}" -c
                "import importlib.util as u; print(*u.find_spec('nlohmann_json').submodule_search_locations, sep=';')"
        OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
    find_path(FASTSR_JSON_INCLUDE nlohmann/json.hpp HINTS ${found} PATH_SUFFIXES include)
  endif()
  if(NOT FASTSR_JSON_INCLUDE)
    message(FATAL_ERROR "nlohmann_json is missing: install nlohmann-json3-dev, or pip install nlohmann-json, "
                        "or give -DFASTSR_JSON_INCLUDE=<the folder of nlohmann/json.hpp>")
  endif()
  target_include_directories(fastsr_json SYSTEM INTERFACE "${FASTSR_JSON_INCLUDE}")
endif()
