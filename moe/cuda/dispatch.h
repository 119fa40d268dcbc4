/// cpu/dispatch.h with device tensors: features f32 or bf16, weights f32.
#pragma once

#include "moe/cpu/dispatch.h"

namespace hysparse::cuda {

/// A counting sort in three launches; ids are not checked against the number of experts.
void order_by_expert(const Stream& stream, const cpu::OrderByExpert& args);

void list_owners(const Stream& stream, const Tensor& ids, std::int64_t local_experts, const Tensor& owners,
                 const Tensor& assignments);
void count_destinations(const Stream& stream, const Tensor& offsets, const Tensor& assignments,
                        std::int64_t copies, const Tensor& counts);
void plan_rows(const Stream& stream, const cpu::PlanRows& args);

void gather_rows(const Stream& stream, const Tensor& x, const Tensor& tokens, const Tensor& out);
void pack_rows(const Stream& stream, const Tensor& x, const Tensor& weights, const Tensor& ids,
               const Tensor& tokens, const Tensor& out);
void unpack_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& weights,
                  const Tensor& ids);
void combine_rows(const Stream& stream, const Tensor& rows, const Tensor& positions, const Tensor& out,
                  bool add);
void combine_slots(const Stream& stream, const Tensor& rows, std::int64_t width, const Tensor& positions,
                   const Tensor& out, bool add);
void take_values(const Stream& stream, const Tensor& values, const Tensor& positions, const Tensor& out,
                 bool add);
void pack_gradients(const Stream& stream, const Tensor& rows, const Tensor& values, const Tensor& positions,
                    const Tensor& out);

}  // namespace hysparse::cuda
