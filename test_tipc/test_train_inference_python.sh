#!/usr/bin/env bash
# Usage, at the root: bash test_tipc/test_train_inference_python.sh <txt> <MODE> [GPU ids of whole_infer]
source test_tipc/common_func.sh
tipc train_infer "$@"
