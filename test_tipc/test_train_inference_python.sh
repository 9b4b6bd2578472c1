#!/usr/bin/env bash
# Usage, at the root: bash test_tipc/test_train_inference_python.sh <txt> <MODE> [GPU ids of whole_infer]
source test_tipc/harness/entry.sh
run_tipc train_infer "$@"
