#!/usr/bin/env bash
# Usage, at the root: bash test_tipc/benchmark_train.sh <txt> benchmark_train [dynamic_bs8_fp32_DP_N1C1]
source test_tipc/harness/entry.sh
run_tipc benchmark "$@"
