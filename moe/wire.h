/// How a token travels to the experts and its gradient back: one row of the features' dtype.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace hysparse {

/// Columns of a row: D features; from `weights` on the k weights, in the accumulation dtype; from `ids` on the
/// k ids, an i32 each. Each of them takes slot_columns columns: one, or two bf16 (the lower half first). An f64
/// column holds an id as a number. In bf16 a row is filled up to 16 bytes, which are not defined.
struct WireRow {
  std::int64_t slot_columns, weights, ids, columns;

  static WireRow with_ids(std::int64_t width, std::int64_t slots, DType dtype) {
    return of(width, slots, dtype, true);
  }
  static WireRow without_ids(std::int64_t width, std::int64_t slots, DType dtype) {
    return of(width, slots, dtype, false);
  }

 private:
  static WireRow of(std::int64_t width, std::int64_t slots, DType dtype, bool has_ids) {
    const bool halves = dtype == DType::bf16;
    WireRow row{halves ? 2 : 1, width, 0, 0};
    row.ids = row.weights + slots * row.slot_columns;
    row.columns = has_ids ? row.ids + slots * row.slot_columns : row.ids;
    if (halves) row.columns = (row.columns + 7) / 8 * 8;
    return row;
  }
};

}  // namespace hysparse
