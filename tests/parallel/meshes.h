/// Every mesh of the worlds that matter to property tests.
#pragma once

#include <vector>

#include "parallel/mesh.h"

namespace hysparse::testing {

inline std::vector<Mesh> meshes_of(int world) {
  std::vector<Mesh> meshes;
  const auto divides = [&](int product) { return product <= world && world % product == 0; };
  for (int pp = 1; pp <= world; ++pp) {
    for (int tp = 1; divides(pp) && tp <= world; ++tp) {
      for (int cp = 1; cp <= world; ++cp) {
        if (!divides(pp * tp * cp)) continue;
        for (int ep = 1; ep <= world; ++ep) {
          for (int etp = 1; etp <= world; ++etp) {
            if (divides(pp * ep * etp)) meshes.emplace_back(MeshConfig{tp, pp, cp, ep, etp}, world);
          }
        }
      }
    }
  }
  return meshes;
}

inline std::vector<Mesh> all_meshes() {
  std::vector<Mesh> meshes;
  for (const int world : {1, 2, 3, 4, 6, 8, 12}) {
    for (const Mesh& m : meshes_of(world)) meshes.push_back(m);
  }
  return meshes;
}

}  // namespace hysparse::testing
