#include "launch/run_log.h"
