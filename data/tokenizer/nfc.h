/// Unicode normalization form C.
#pragma once

#include <string>
#include <string_view>

namespace hysparse {

/// `text` in form C: `text` itself when it is already, else `room`, filled. Bytes that are no characters stay.
std::string_view normalize_nfc(std::string_view text, std::string& room);

}  // namespace hysparse
