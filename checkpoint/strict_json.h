#pragma once

#include "core/strict_json.h"
